"""Parameters of the device models: what a cell is, as data.

The equations are in ``sim_backend`` (``steps`` for all models that move in steps); the names are
the field's.  A weight here is the normalised state of a device: ``bounds`` says which weights the
conductances ``low_uS`` and ``high_uS`` stand for.  Spreads are relative standard deviations unless
said otherwise; each of them, and each noise, is off at 0.  The spread of the step from device to
device and from pulse to pulse is ``imperfections.device_variation`` and ``cycle_variation``, as for
every model.

A package outside this repository adds a model by an entry point of the group
``cimctl.device_models``: its name is the model's, its object has ``Settings``, a subclass of
``DeviceSettings`` tagged with that name, and ``build(profile, seed)``, which gives a
``sim_backend.device.Device``.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Annotated, Any, ClassVar, Literal, Union

import msgspec
from msgspec import Meta

ENTRY_POINTS = "cimctl.device_models"
#: more states are no model of anything, and programming them would take for ever
_MOST_STATES = 1e6

# The upper bound keeps infinity out, which YAML can write.
Positive = Annotated[float, Meta(gt=0, le=1e12)]
NonNegative = Annotated[float, Meta(ge=0, le=1e12)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]


class Aging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What time does to a cell; equations in ``sim_backend.aging``."""

    #: nu of ``g(t) = g * (t / drift_start_s) ^ -nu``, t since the cell was written
    drift_exponent: NonNegative = 0.0
    #: spread of nu from device to device, absolute
    drift_variation: NonNegative = 0.0
    #: age before which a cell does not drift
    drift_start_s: Positive = 1.0
    #: time constant with which a cell relaxes to ``rest_uS``; 0: it keeps its state
    retention_s: NonNegative = 0.0
    rest_uS: NonNegative = 0.0
    #: random walk: standard deviation after one second, growing with the root of time
    diffusion_uS: NonNegative = 0.0

    @property
    def moves(self) -> bool:
        """Whether time changes anything."""
        return bool(self.drift_exponent or self.drift_variation or self.retention_s
                    or self.diffusion_uS)  # fmt: skip


class PulseResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the step of a pulse depends on its amplitude and width [ours].

    A pulse moves a device by ``max(0, V - threshold) / (amplitude - threshold) * t / width`` steps.
    """

    #: amplitude and width of the pulse that moves a device by one step
    amplitude_mV: Positive
    width_ns: Positive
    #: amplitude that does nothing yet
    threshold_mV: NonNegative = 0.0


class DeviceSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="model"
):
    """What all models have.

    Attributes:
        low_uS, high_uS: nominal bounds of the conductance.
        initial_uS: conductances as the chip is found, uniform between the two.
        aging: what time does.
    """

    #: whether the model keeps a finer state than the 16-bit conductance
    FINE: ClassVar[bool] = False
    #: whether open-loop pulses move its cells
    PULSED: ClassVar[bool] = True
    #: conductances that a cell holds, evenly from ``low_uS`` to ``high_uS``; 0: any between them
    LEVELS: ClassVar[int] = 0

    low_uS: NonNegative
    high_uS: Positive
    initial_uS: tuple[NonNegative, NonNegative]
    aging: Aging = Aging()

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(type(self).__struct_config__.tag)

    def contradictions(self) -> list[tuple[str, str, bool]]:
        """Further checks of a model: (key, what is expected, whether it holds)."""
        return []


class IdealSteps(DeviceSettings, frozen=True, kw_only=True, tag="ideal-steps"):
    """The ideal device of the specification: its bounds are all there is."""


class BulkRram(DeviceSettings, frozen=True, kw_only=True, tag="bulk-rram"):
    """The cell of the bulk-switching memristor SoC; equations in ``sim_backend.bulk_rram``."""

    threshold_mV: Positive
    set_step: Fraction
    reset_step: Fraction
    nominal_width_ns: Positive


class BitCells(DeviceSettings, frozen=True, kw_only=True, tag="bit-cells"):
    """Memory cells of one bit, each with a capacitor that it puts to its column or not."""

    PULSED: ClassVar[bool] = False
    LEVELS: ClassVar[int] = 2


class StepSettings(DeviceSettings, frozen=True, kw_only=True):
    """What all models share that move by a step a pulse (``sim_backend.steps``).

    Attributes:
        bounds: weights that ``low_uS`` and ``high_uS`` stand for.
        bound_variation: spread of the lower and of the upper bound from device to device.
        step: mean change of weight by one pulse where the model's own factor is 1 (delta).
        step_distribution: how ``imperfections.device_variation`` spreads the step.
        asymmetry: share by which the mean step downwards is smaller than the step, or, when it is
            negative, the one upwards.
        asymmetry_variation: what a device's step upwards gains and the one downwards loses, spread
            from device to device, as a share of the step.
        cycle_noise: whether ``imperfections.cycle_variation`` scales the step as it is
            (multiplicative) or the step at weight 0 (additive).
        write_noise: standard deviation, in steps, of what the converters see around the state after
            each pulse.
        pulse: amplitude and width.
        pulses: whether several pulses of one direction are simulated one by one, or in closed form
            (``sim_backend.closed_form``).
    """

    FINE: ClassVar[bool] = True
    #: whether the model's step is linear in the weight, so that there is a closed form
    CLOSED_FORM: ClassVar[bool] = False

    bounds: tuple[Finite, Finite]
    step: Positive
    pulse: PulseResponse
    bound_variation: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    step_distribution: Literal["normal", "log-normal"] = "normal"
    asymmetry: Annotated[float, Meta(ge=-1, le=1)] = 0.0
    asymmetry_variation: NonNegative = 0.0
    cycle_noise: Literal["multiplicative", "additive"] = "multiplicative"
    write_noise: NonNegative = 0.0
    pulses: Literal["each", "closed-form"] = "each"

    def contradictions(self) -> list[tuple[str, str, bool]]:
        low, high = self.bounds
        return [
            ("device.bounds", "low below high", low < high),
            ("device.step", "smaller than the distance of device.bounds", self.step < high - low),
            (
                "device.step",
                f"at least the distance of device.bounds / {_MOST_STATES:g}",
                self.step * _MOST_STATES >= high - low,
            ),
            (
                "device.pulse.threshold_mV",
                "below device.pulse.amplitude_mV",
                self.pulse.threshold_mV < self.pulse.amplitude_mV,
            ),
            (
                "device.pulses",
                f"each: there is no closed form of {self.model}",
                self.pulses == "each" or self.CLOSED_FORM,
            ),
        ]


class ConstantStep(StepSettings, frozen=True, kw_only=True, tag="constant-step"):
    """Every pulse moves the device by the same step."""

    CLOSED_FORM: ClassVar[bool] = True


class LinearStep(StepSettings, frozen=True, kw_only=True, tag="linear-step"):
    """The step falls linearly with the weight.

    Attributes:
        slope: share of the step that is lost at the bound (of ``bounds``) that pulses upwards, and
            those downwards, lead to; 0 is a constant step, 1 a soft bound.
        slope_variation: its spread from device to device, absolute; up and down.
    """

    CLOSED_FORM: ClassVar[bool] = True

    slope: tuple[NonNegative, NonNegative]
    slope_variation: tuple[NonNegative, NonNegative] = (0.0, 0.0)

    def contradictions(self) -> list[tuple[str, str, bool]]:
        return [*super().contradictions(), _around_zero(self)]


class SoftBounds(StepSettings, frozen=True, kw_only=True, tag="soft-bounds"):
    """The step falls linearly to zero at the device's own bound."""

    CLOSED_FORM: ClassVar[bool] = True

    def contradictions(self) -> list[tuple[str, str, bool]]:
        return [*super().contradictions(), _around_zero(self)]


class SoftBoundsReference(StepSettings, frozen=True, kw_only=True, tag="soft-bounds-reference"):
    """Soft bounds, seen as the difference from a reference device.

    Attributes:
        reference: weight that is subtracted.
        reference_variation: its spread from device to device, absolute.
        subtract_symmetry_point: whether the device's own symmetry point is subtracted, too.
    """

    CLOSED_FORM: ClassVar[bool] = True

    reference: Finite = 0.0
    reference_variation: NonNegative = 0.0
    subtract_symmetry_point: bool = False

    def contradictions(self) -> list[tuple[str, str, bool]]:
        return [*super().contradictions(), _around_zero(self)]


class ExponentialStep(StepSettings, frozen=True, kw_only=True, tag="exponential-step"):
    """The step falls by an exponential near the bounds.

    With ``z = 2 scale w / (w_max - w_min) + shift`` the step has the factor
    ``max(0, 1 - A exp(gamma z))`` upwards and ``max(0, 1 - A exp(-gamma z))`` downwards.

    Attributes:
        amplitude: A upwards and downwards.
        exponent: gamma upwards and downwards.
        scale, shift: a and b of z.
    """

    amplitude: tuple[Finite, Finite]
    exponent: tuple[Finite, Finite]
    scale: Finite = 1.0
    shift: Finite = 0.0


class PowerStep(StepSettings, frozen=True, kw_only=True, tag="power-step"):
    """The step is a power of the distance from the bound, relative to the device's range.

    Attributes:
        exponent: mean of the exponent.
        exponent_variation: its spread from device to device, relative.
        exponent_asymmetry, exponent_asymmetry_variation: of the exponent, as ``asymmetry`` and
            ``asymmetry_variation`` are of the step.
    """

    exponent: NonNegative
    exponent_variation: NonNegative = 0.0
    exponent_asymmetry: Finite = 0.0
    exponent_asymmetry_variation: NonNegative = 0.0


class PiecewiseStep(StepSettings, frozen=True, kw_only=True, tag="piecewise-step"):
    """The step's factor is read from a table, linear between its entries.

    Attributes:
        up, down: factors at equal distances from the device's lower to its upper bound.
    """

    up: Annotated[tuple[NonNegative, ...], Meta(min_length=2, max_length=64)]
    down: Annotated[tuple[NonNegative, ...], Meta(min_length=2, max_length=64)]

    def contradictions(self) -> list[tuple[str, str, bool]]:
        alike = len(self.up) == len(self.down)
        return [*super().contradictions(), ("device.down", "as long as device.up", alike)]


class PhaseChange(StepSettings, frozen=True, kw_only=True, tag="phase-change"):
    """SET pulses crystallise little by little; a RESET pulse melts and leaves the low state [ours].

    The step upwards falls linearly to zero at the upper bound; downwards one pulse of nominal
    strength goes to the lower bound.  Its drift is in ``aging``.
    """


BUILT_IN: tuple[type[DeviceSettings], ...] = (
    IdealSteps, BulkRram, BitCells, ConstantStep, LinearStep, SoftBounds, SoftBoundsReference,
    ExponentialStep, PowerStep, PiecewiseStep, PhaseChange,
)  # fmt: skip


def _around_zero(device: StepSettings) -> tuple[str, str, bool]:
    low, high = device.bounds
    return ("device.bounds", "the lower below 0 and the upper above", low < 0 < high)


def kinds() -> dict[str, type[DeviceSettings]]:
    """The settings of every model, by its name: built in, and from other packages."""
    found = {str(kind.__struct_config__.tag): kind for kind in BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        found.setdefault(entry.name, entry.load().Settings)
    return found


def decode(values: Any) -> DeviceSettings:
    """Checks the parameters of a device.

    Raises:
        msgspec.ValidationError: names the first key at fault, as ``$.device.key``.
    """
    model = values.get("model") if isinstance(values, dict) else None
    built_in = {kind.__struct_config__.tag for kind in BUILT_IN}
    known = BUILT_IN if model in built_in else tuple(kinds().values())
    device: DeviceSettings = msgspec.convert(
        {"device": values}, _around(known), strict=False
    ).device
    return device


@functools.cache
def _around(known: tuple[type[DeviceSettings], ...]) -> Any:
    """A struct with a device of one of these kinds; it takes a millisecond to make."""
    return msgspec.defstruct("_Around", [("device", Union[known])])  # noqa: UP007
