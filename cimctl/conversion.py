"""From an ordinary ``torch.nn.Module`` to one whose products are made on a board."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace

from torch import nn

from boards.board import Board
from boards.errors import UsageError
from cimctl.algorithms.settings import Settings
from cimctl.analog.compensation import Compensations
from cimctl.analog.fast_array import FastArray
from cimctl.analog.in_memory import (
    InMemoryConv2d,
    InMemoryLayer,
    InMemoryLinear,
    SingleSided,
    step_device,
)
from cimctl.analog.layers import (
    AnalogConv2d,
    AnalogLayer,
    AnalogLinear,
    Chain,
    GroupedConv2d,
    WeightRule,
    ungrouped,
)
from cimctl.analog.lstm import AnalogLSTMCell, stacked
from cimctl.analog.pulsed_array import Pulse
from cimctl.calibration import record
from cimctl.mapping.choose import mapped
from cimctl.mapping.demand import read_avoid

#: of linear layers and of convolutions
Kinds = tuple[type[AnalogLinear], type[AnalogConv2d]]


def convert(
    model: nn.Module,
    board: Board,
    settings: Settings | None = None,
    *,
    digital: Collection[str] = (),
    in_memory: bool = False,
    arrays: int = 0,
) -> nn.Module:
    """A copy of a model with its linear, convolutional and LSTM layers on the chip.

    The weights of the copy are still those of the model; ``read_weights`` or ``program_weights``
    brings the two together.

    Args:
        model: any module; what is no linear, convolutional or LSTM cell layer stays digital.
        board: an open board.
        settings: rules for weights; None takes the defaults.
        digital: names of layers, or of blocks of layers, that stay digital, beside those that the
            settings name.
        in_memory: whether weights live on the chip only (``cimctl.analog.in_memory``); otherwise
            the layers have a digital copy that their gradients are made with.
        arrays: further arrays of each in-memory layer: 1 for a fast array.

    Raises:
        UsageError: the layers do not fit the board, or one of them cannot be converted.
        UnsupportedError: the board's device has no step in units of weight, or lacks what a
            compensation needs.
    """
    settings = settings or Settings()
    kinds = (InMemoryLinear, InMemoryConv2d) if in_memory else (AnalogLinear, AnalogConv2d)
    converted = with_layers(model, kinds, settings, digital)
    attach(converted, board, settings, in_memory=in_memory, arrays=arrays)
    for module in converted.modules():
        if type(module) is nn.Sequential:
            # The same modules under the same names: hooks, parameters and indices stay.
            module.__class__ = Chain
    return converted


def with_layers(
    model: nn.Module, kinds: Kinds, settings: Settings, digital: Collection[str] = ()
) -> nn.Module:
    """A copy of a model with layers of another kind, which are on no board yet.

    Args:
        model: any module.
        kinds: of linear layers and of convolutions.
        settings: name layers that stay as they are, and normalisations.
        digital: further layers that stay as they are.

    Raises:
        UsageError: there is no layer of such a name.
    """
    digital = {*digital, *settings.digital}
    converted = copy.deepcopy(model)
    names = {name for name, _ in model.named_modules()}
    unknown = sorted(set(digital) - names)
    if unknown:
        raise UsageError(
            f"The model has no layer '{unknown[0]}'",
            next=f"It has: {', '.join(sorted(names - {''}))}",
        )
    for name, module in list(converted.named_modules()):
        kept = any(f"{name}.".startswith(f"{each}.") for each in digital)
        if kept or not isinstance(module, nn.Conv2d | nn.Linear | nn.LSTMCell):
            continue
        parent, _, own = name.rpartition(".")
        setattr(converted.get_submodule(parent), own, _analog(module, name, kinds))
    for layer in analog_layers(converted):
        layer.normalise(inputs=settings.input_normalisation, outputs=settings.output_normalisation)
    return converted


def attach(
    model: nn.Module,
    board: Board,
    settings: Settings,
    *,
    in_memory: bool = False,
    arrays: int = 0,
) -> None:
    """Places the analog layers of a model on a board."""
    layers = analog_layers(model)
    demands = [layer.demand() for layer in layers]
    further = [replace(demand, name=f"{demand.name}, A") for demand in demands] * arrays
    plan = mapped(
        [*demands, *further], board.description, settings.mapping, avoid=read_avoid(settings.avoid)
    )
    matrices = plan.matrices
    places = _slots(model)
    count = max(places, default=0)
    needed = count * (1 + in_memory) + len(layers) * arrays
    if needed >= board.description.slots:
        raise UsageError(
            f"{len(layers)} layers need {needed} configuration slots and one more; the board has "
            f"{board.description.slots}"
        )
    rule = single_sided(board, settings) if in_memory else weight_rule(board, settings)
    rules = compensations(settings, in_memory=in_memory)
    known = known_calibration(board) if settings.calibration == "on" else None
    owners: dict[int, AnalogLayer] = {}
    for slot, layer, matrix in zip(places, layers, matrices, strict=False):
        layer.attach(board, matrix, (slot, slot + count * in_memory), rule, rules, known)
        layer.share_converters(owners.setdefault(slot, layer))
    for slot, (layer, matrix) in enumerate(
        zip(layers, matrices[len(layers) :], strict=False), start=2 * count + 1
    ):
        assert isinstance(layer, InMemoryLayer) and isinstance(rule, SingleSided)
        bounds = rule.low, rule.high
        layer.fast = FastArray(board, matrix, slot, rule.pulse, bounds, rule.unit, rule.tolerance)


def _slots(model: nn.Module) -> list[int]:
    """The configuration slot of each analog layer, from 1; groups of a convolution share one."""
    shared = {
        id(part): number
        for number, module in enumerate(model.modules())
        if isinstance(module, GroupedConv2d)
        for part in module.parts
    }
    slots: list[int] = []
    known: dict[int, int] = {}
    for layer in analog_layers(model):
        slots.append(known.setdefault(shared.get(id(layer), id(layer)), len(known) + 1))
    return slots


def known_calibration(board: Board) -> record.Calibration:
    """The calibration that is kept for a chip.

    Raises:
        UsageError: there is none, or it does not hold any more.
    """
    known = record.load(record.usual_path(board))
    known.check(board)
    return known


def analog_layers(model: nn.Module) -> list[AnalogLayer]:
    """The analog layers of a model, in order."""
    return [module for module in model.modules() if isinstance(module, AnalogLayer)]


def read_weights(model: nn.Module, initial_gain: float) -> None:
    """Takes the weights as the chip holds them (``AnalogLayer.adopt``)."""
    for layer in analog_layers(model):
        layer.adopt(initial_gain)


def draw_weights(model: nn.Module, bound: float) -> None:
    """Draws the weights of layers for the chip, uniform to ``bound / sqrt(inputs)``."""
    for module in model.modules():
        if isinstance(module, nn.LSTMCell):
            most = bound / (module.input_size + module.hidden_size) ** 0.5
            nn.init.uniform_(module.weight_ih, -most, most)
            nn.init.uniform_(module.weight_hh, -most, most)
        if isinstance(module, nn.Conv2d | nn.Linear):
            most = bound / module.weight[0].numel() ** 0.5
            nn.init.uniform_(module.weight, -most, most)


def program_weights(model: nn.Module, cycles: int | None = None) -> None:
    """Programs the digital weights of each layer, scaled to the window."""
    for layer in analog_layers(model):
        layer.fit_window()
        layer.put(cycles)


def weight_rule(board: Board, settings: Settings) -> WeightRule:
    """The rule of a board's profile and the settings."""
    programming = board.profile.programming
    return WeightRule(
        weight_range=settings.weight_range,
        low=board.profile.units(programming.window_uS[0]),
        high=board.profile.units(programming.window_uS[1]),
        cycles=programming.cycles_training,
        tolerance=board.profile.units(programming.tolerance_uS),
        split=settings.weight_rule == "split",
        saturation=settings.saturation,
    )


def single_sided(board: Board, settings: Settings) -> SingleSided:
    """The rule of weights that live on the chip only, from the device of a board's profile.

    Raises:
        UnsupportedError: the device has no step in units of weight.
    """
    profile, device = board.profile, step_device(board)
    low, high = profile.units(device.low_uS), profile.units(device.high_uS)
    first, last = device.bounds
    return SingleSided(
        weight_range=last - first,
        low=low,
        high=high,
        cycles=profile.programming.cycles_training,
        tolerance=profile.units(profile.programming.tolerance_uS),
        split=False,
        saturation=settings.saturation,
        zero=round(low - first / (last - first) * (high - low)),
        scaling="tensor" if settings.weight_scaling == "auto" else settings.weight_scaling,
        omega=settings.weight_scaling_omega,
        zero_shift=settings.zero_shift,
        pulse=Pulse(
            set_mV=round(device.pulse.amplitude_mV),
            width_ns=round(device.pulse.width_ns),
            most=min(profile.limits.pulses_per_command, board.description.pulses_per_command),
        ),
    )


def compensations(settings: Settings, *, in_memory: bool) -> Compensations | None:
    """What the settings ask for; None: inputs go to the chip as they are, scaled by ``Ranges``."""
    plain = Compensations("running-maximum", bound="off", saturation=settings.saturation)
    own = Compensations(saturation=settings.saturation) if in_memory else plain
    noise, bound = settings.noise_management, settings.bound_management
    value = settings.noise_threshold if noise == "threshold" else settings.noise_constant
    wanted = replace(
        own,
        noise=own.noise if noise == "auto" else noise,
        noise_value=value if noise in ("constant", "threshold") else 1.0,
        bound=own.bound if bound == "auto" else bound,
        stochastic_rounding=settings.stochastic_rounding,
    )
    return None if wanted == plain and not in_memory else wanted


def _analog(
    module: nn.Conv2d | nn.Linear | nn.LSTMCell, name: str, kinds: Kinds
) -> AnalogLayer | AnalogLSTMCell | GroupedConv2d:
    linear, conv = kinds
    if isinstance(module, nn.LSTMCell):
        return AnalogLSTMCell(linear(stacked(module), f"{name}.gates"))
    if isinstance(module, nn.Linear):
        return linear(module, name)
    if module.groups == 1:
        return conv(module, name)
    return GroupedConv2d([conv(p, f"{name}.{n}") for n, p in enumerate(ungrouped(module))])
