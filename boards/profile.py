"""Board profiles: what a chip is, as data.

A profile is a YAML file. Keys carry their units; every value is checked when the file is read, and
a message names the file, the key and what was expected. ``extends: other`` takes another profile's
values where the file says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from boards import device_settings
from boards.device_settings import (
    DeviceSettings,
    Fraction,
    NonNegative,
    Positive,
    StepSettings,
)
from firmware_protocol.geometry import conversion_ends, plane_weights

if TYPE_CHECKING:
    _AnyDevice = DeviceSettings
else:
    # Which struct it is depends on the model, also on one of another package; see ``decode``.
    _AnyDevice = Any

Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
ColumnWeight = Annotated[int, Meta(ge=-128, le=127)]
CapabilityName = Literal[
    "TRANSPOSED", "IMAGES", "ROW_BLOCK_SUMS", "SIGNED_INPUTS", "SNAPSHOT", "DIFFERENTIAL", "LOAD",
    "WAIT", "OUTER", "GROUPS", "TERNARY",
]  # fmt: skip
#: inputs of 8 bits and conductances of 16 whose sums are exact in the emulator's single-precision
#: products, where the whole code is converted at once
_EXACT_ROWS = 256


class LinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the board is reached when no ``--port`` says otherwise."""

    kind: Literal["in-process", "tcp", "serial", "native", "qemu"]
    #: requests in flight at most
    window: Annotated[int, Meta(ge=1, le=64)]
    #: bytes of a payload at most
    max_payload: Annotated[int, Meta(ge=256, le=1 << 24)]
    #: seconds to wait for an answer before the request is sent again
    timeout_s: Positive
    baud: Count = 115200


class ChipSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Geometry and converters."""

    tiles: Annotated[int, Meta(ge=1, le=65535)]
    #: of bit cells, 3,000 are summed exactly in the emulator's single-precision products; of others
    #: see ``_EXACT_ROWS``
    rows: Annotated[int, Meta(ge=1, le=3000)]
    columns: Annotated[int, Meta(ge=2, le=256, multiple_of=2)]
    input_bits: Annotated[int, Meta(ge=1, le=8)]
    adc_bits: Annotated[int, Meta(ge=2, le=12)]
    columns_per_adc: Count
    #: inputs as one-bit pulses one after the other, or as one pulse as long as the code; the sums
    #: are the same, the time is not (``Profile.step_ns``); or as bit planes that are converted each
    #: by itself, and then shifted and added
    input_coding: Literal["bit-serial", "pulse-width", "bit-planes"]
    pair_conversions: Literal[1, 2]
    slots: Annotated[int, Meta(ge=1, le=255)]
    #: microsiemens that the 16-bit conductance 65535 stands for
    conductance_full_scale_uS: Positive
    capabilities: tuple[CapabilityName, ...]
    #: smallest and largest settable span of the ADC, microamperes from its lowest to highest code
    adc_span_uA: tuple[Positive, Positive] | None = None
    #: the same of a converter of charge, in cells of full conductance at inputs of 1
    adc_span_cells: tuple[Positive, Positive] | None = None
    #: significance of each column of a group, whose codes the chip adds
    column_weights: Annotated[tuple[ColumnWeight, ...], Meta(max_length=8)] = ()


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What firmware and host refuse to pass; a device without pulses leaves theirs out."""

    read_voltage_mV: Annotated[int, Meta(ge=1, le=5000)]
    amplitude_mV: tuple[Whole, Whole] = (0, 0)
    width_ns: tuple[Whole, Whole] = (0, 0)
    pulses_per_command: Annotated[int, Meta(ge=0, le=32767)] = 0
    cycles: Annotated[int, Meta(ge=1, le=255)]
    #: pulses of a cell in its life; 0: no budget
    lifetime_pulses: Annotated[int, Meta(ge=0, lt=1 << 32)]
    #: pulses from which a cell counts as worn, and the user is told; 0: none
    lifetime_soft: Annotated[int, Meta(ge=0, lt=1 << 32)]
    #: silence of the host after which the supplies go to ground; 0: never
    lease_ms: Annotated[int, Meta(ge=0, lt=1 << 32)]


class ProgrammingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Write-verify, and the window of conductances that weights use.

    A device without pulses leaves ramp and width out.
    """

    read_voltage_mV: Count
    word_line: Annotated[int, Meta(ge=0, le=1023)]
    window_uS: tuple[NonNegative, Positive]
    ramp_mV: tuple[Whole, Whole] = (0, 0)
    ramp_step_mV: Whole = 0
    width_ns: Whole = 0
    tolerance_uS: Positive
    cycles_training: Count
    cycles_characterising: Count
    #: levels of the programming step: a step is the window divided by levels - 1
    levels: Annotated[int, Meta(ge=2, le=65536)]


class Imperfections(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each can be switched off by setting it to 0; those that may be left out are off then."""

    #: of one reading of a cell, and of each cell of a product
    read_noise_uS: NonNegative
    #: by which a cell relaxes after it was programmed
    programming_error_uS: NonNegative
    #: of one conversion
    adc_noise_lsb: NonNegative
    #: spread of a device's step, relative
    device_variation: NonNegative
    #: spread of a step from pulse to pulse, relative
    cycle_variation: NonNegative
    #: share of the cells that do not move
    stuck_fraction: Fraction
    #: spread of what products see of a cell, relative and for good; no reading shows it
    cell_mismatch: Annotated[float, Meta(ge=0, le=0.2)] = 0.0
    #: of one conversion whatever its inputs (kT/C of a column), in cells at an input of 1
    column_noise_uS: NonNegative = 0.0
    #: spread of the gain of the columns' converters, relative
    adc_gain_variation: Annotated[float, Meta(ge=0, le=0.2)] = 0.0
    #: spread of their offset, in steps of the ADC
    adc_offset_lsb: NonNegative = 0.0
    #: spread of the largest deviation of their bow from a straight line, in steps of the ADC
    adc_inl_lsb: NonNegative = 0.0
    #: spread of the gain of the rows' input drivers, relative
    dac_gain_variation: Annotated[float, Meta(ge=0, le=0.2)] = 0.0
    #: wire between neighbouring cells along a row and along a column
    row_wire_ohm: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    column_wire_ohm: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    #: conductance of an unselected cell, as a share of its own, while another one is read
    sneak_ratio: Fraction = 0.0
    #: change of conductances, and of the converters' gain, by a kelvin
    conductance_ppm_per_K: Annotated[float, Meta(ge=-10000, le=10000)] = 0.0
    adc_gain_ppm_per_K: Annotated[float, Meta(ge=-10000, le=10000)] = 0.0
    #: temperature of the chip; parameters hold at 25
    temperature_C: Annotated[float, Meta(ge=-100, le=200)] = 25.0


class CostSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time and energy of one operation; the chip's counters and every estimate use these."""

    #: one clock cycle of a conversion
    cycle_ns: NonNegative
    tile_operation_nJ: NonNegative
    #: of a pulse, and of a write where cells hold bits
    pulse_ns: NonNegative
    pulse_pJ: NonNegative
    #: of one conversion, beside the tile's operation: the converter, the charge of its column,
    #: and adding up its code
    conversion_pJ: NonNegative = 0.0
    column_charge_pJ: NonNegative = 0.0
    shift_add_pJ: NonNegative = 0.0


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A board: everything that the stack knows of it before HELLO."""

    #: HELLO carries it, so it is short
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    summary: str
    link: LinkSettings
    chip: ChipSettings
    limits: LimitSettings
    device: _AnyDevice
    programming: ProgrammingSettings
    imperfections: Imperfections
    costs: CostSettings

    @property
    def step_ns(self) -> float:
        """Time of one array operation: a cycle for each bit, or each length of a pulse, and one to
        convert, for each column that shares a converter (arXiv 2305.14547: 8 x 9 x 10 ns).

        Bit planes are an operation each, of one cycle and one to convert.
        """
        bits = self.chip.input_bits
        cycles = {"bit-serial": bits + 1, "pulse-width": 1 << bits, "bit-planes": 2}
        return self.chip.columns_per_adc * cycles[self.chip.input_coding] * self.costs.cycle_ns

    @property
    def plane_conversions(self) -> bool:
        """Whether each bit plane of the inputs is converted by itself."""
        return self.chip.input_coding == "bit-planes"

    @property
    def answer_bits(self) -> int:
        """Bits that hold the answer of one row block: of one conversion or of several."""
        chip = self.chip
        ways = [(False, False), (True, False), (True, True)] if self.plane_conversions else [None]
        most = 0
        for way in ways:
            digits = [1] if way is None else plane_weights(chip.input_bits, *way)
            ends = conversion_ends(chip.adc_bits, unsigned=way is not None and not way[1])
            terms = [w * c for w in digits for c in chip.column_weights or (1,)]
            high = sum(max(t * end for end in ends) for t in terms)
            low = sum(min(t * end for end in ends) for t in terms)
            most = max(most, high.bit_length(), (~low).bit_length())
        return most + 1

    def units(self, microsiemens: float) -> int:
        """A conductance in the chip's 16-bit integers, rounded to nearest."""
        return round(microsiemens / self.chip.conductance_full_scale_uS * 65535)

    def microsiemens(self, units: float) -> float:
        """The conductance that a 16-bit integer stands for."""
        return units * self.chip.conductance_full_scale_uS / 65535

    @property
    def unit_current_uA(self) -> float:
        """Current of one input code step times one conductance unit, at the read voltage.

        Bit-serial inputs weigh bit k of b with 2^(k - b), so the whole code stands for
        code / 2^b of the read voltage (arXiv 2305.14547, bit-serial VMM).
        """
        volts = self.programming.read_voltage_mV / 1000
        code = volts / (1 << self.chip.input_bits)
        return code * self.chip.conductance_full_scale_uS / 65535

    @property
    def adc_span(self) -> tuple[float, float]:
        """Smallest and largest settable span of the ADC, in ``span_unit``."""
        span = self.chip.adc_span_uA or self.chip.adc_span_cells
        assert span is not None  # ``contradictions``
        return span

    @property
    def span_unit(self) -> str:
        """Unit of the ADC's span: uA, or cells of full conductance."""
        return "uA" if self.chip.adc_span_uA else "cells"

    def gain(self, span: float) -> float:
        """ADC codes for each unit of the integer sum, at that span."""
        unit = self.unit_current_uA if self.chip.adc_span_uA else 1 / 65535
        return unit * ((1 << self.chip.adc_bits) - 1) / span


def contradictions(profile: Profile) -> list[tuple[str, str]]:
    """What the types cannot say: (key, what was expected) of each pair of values at odds."""
    p = profile
    checks = [
        *_contradictions_of_chip(p.chip),
        *(_contradictions_of_pulses(p) if p.device.PULSED else ()),
        (
            "chip.capabilities",
            "no OUTER: the device takes no pulses",
            p.device.PULSED or "OUTER" not in p.chip.capabilities,
        ),
        (
            "limits.lifetime_soft",
            "at most limits.lifetime_pulses",
            not p.limits.lifetime_pulses or p.limits.lifetime_soft <= p.limits.lifetime_pulses,
        ),
        ("device.high_uS", "above device.low_uS", p.device.low_uS < p.device.high_uS),
        (
            "device.high_uS",
            "at most chip.conductance_full_scale_uS",
            p.device.high_uS <= p.chip.conductance_full_scale_uS,
        ),
        (
            "device.initial_uS",
            "low to high, within device.low_uS and device.high_uS",
            p.device.low_uS <= p.device.initial_uS[0] <= p.device.initial_uS[1] <= p.device.high_uS,
        ),
        (
            "programming.window_uS",
            "low below high, within device.low_uS and device.high_uS",
            p.device.low_uS
            <= p.programming.window_uS[0]
            < p.programming.window_uS[1]
            <= p.device.high_uS,
        ),
        (
            "programming.read_voltage_mV",
            "at most limits.read_voltage_mV",
            p.programming.read_voltage_mV <= p.limits.read_voltage_mV,
        ),
        (
            "programming.cycles_training",
            "at most limits.cycles",
            p.programming.cycles_training <= p.limits.cycles,
        ),
        (
            "programming.cycles_characterising",
            "at most limits.cycles",
            p.programming.cycles_characterising <= p.limits.cycles,
        ),
    ]
    checks += p.device.contradictions()
    if isinstance(p.device, StepSettings):
        low, high = p.limits.amplitude_mV
        amplitude = p.device.pulse.amplitude_mV
        within = low <= amplitude <= high
        checks.append(("device.pulse.amplitude_mV", "within limits.amplitude_mV", within))
        low, high = p.limits.width_ns
        within = low <= p.device.pulse.width_ns <= high
        checks.append(("device.pulse.width_ns", "within limits.width_ns", within))
    return [(key, expected) for key, expected, holds in checks if not holds]


def _contradictions_of_chip(chip: ChipSettings) -> list[tuple[str, str, bool]]:
    spans = [s for s in (chip.adc_span_uA, chip.adc_span_cells) if s is not None]
    key = "chip.adc_span_uA" if chip.adc_span_cells is None else "chip.adc_span_cells"
    planes = chip.input_coding == "bit-planes"
    offered = chip.capabilities
    return [
        (key, "this or the other span, adc_span_uA or adc_span_cells", len(spans) == 1),
        (key, "low below high", all(low <= high for low, high in spans)),
        (
            "chip.rows",
            f"at most {_EXACT_ROWS} where the whole code is converted at once",
            planes or chip.rows <= _EXACT_ROWS,
        ),
        (
            "chip.column_weights",
            "weights with the capability GROUPS, none without, none of them 0",
            bool(chip.column_weights) == ("GROUPS" in offered) and 0 not in chip.column_weights,
        ),
        (
            "chip.capabilities",
            "no DIFFERENTIAL where planes are converted each by itself",
            not (planes and "DIFFERENTIAL" in offered),
        ),
        (
            "chip.capabilities",
            "TERNARY with SIGNED_INPUTS and the input coding bit-planes alone",
            "TERNARY" not in offered or (planes and "SIGNED_INPUTS" in offered),
        ),
    ]


def _contradictions_of_pulses(p: Profile) -> list[tuple[str, str, bool]]:
    amplitudes, widths, ramp = p.limits.amplitude_mV, p.limits.width_ns, p.programming.ramp_mV
    return [
        ("limits.amplitude_mV", "low below high", 1 <= amplitudes[0] <= amplitudes[1]),
        ("limits.width_ns", "low below high", 1 <= widths[0] <= widths[1]),
        ("limits.pulses_per_command", "at least 1", p.limits.pulses_per_command >= 1),
        (
            "programming.ramp_mV",
            "start below stop, within limits.amplitude_mV",
            amplitudes[0] <= ramp[0] < ramp[1] <= amplitudes[1],
        ),
        ("programming.ramp_step_mV", "at least 1", p.programming.ramp_step_mV >= 1),
        ("programming.width_ns", "at least 1", p.programming.width_ns >= 1),
    ]


def decode(values: dict[str, Any]) -> Profile:
    """Checks the types and ranges of a profile's values.

    Raises:
        msgspec.ValidationError: names the first key at fault.
    """
    known = msgspec.convert(values, Profile, strict=False)
    return msgspec.structs.replace(known, device=device_settings.decode(known.device))
