"""From an ordinary ``torch.nn.Module`` to one whose products are made on a board."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from boards.board import Board
from boards.errors import UsageError
from cimctl.algorithms.settings import Settings
from cimctl.analog.layers import AnalogConv2d, AnalogLayer, AnalogLinear, WeightRule
from cimctl.analog.placement import place


def convert(
    model: nn.Module,
    board: Board,
    settings: Settings | None = None,
    *,
    digital: Collection[str] = (),
) -> nn.Module:
    """A copy of a model with its linear and convolutional layers on the chip.

    The weights of the copy are still those of the model; ``read_weights`` or ``program_weights``
    brings the two together.

    Args:
        model: any module; what is no linear or convolutional layer stays digital.
        board: an open board.
        settings: rules for weights; None takes the defaults.
        digital: names of layers that stay digital.

    Raises:
        UsageError: the layers do not fit the board, or one of them cannot be converted.
    """
    converted = copy.deepcopy(model)
    names = {name for name, _ in model.named_modules()}
    unknown = sorted(set(digital) - names)
    if unknown:
        raise UsageError(f"The model has no layer '{unknown[0]}'", next=f"It has: {sorted(names)}")
    for name, module in list(converted.named_modules()):
        if name in digital or not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        parent, _, own = name.rpartition(".")
        setattr(converted.get_submodule(parent), own, _analog(module, name))
    attach(converted, board, settings or Settings())
    return converted


def attach(model: nn.Module, board: Board, settings: Settings) -> None:
    """Places the analog layers of a model on a board."""
    layers = analog_layers(model)
    matrices = place([layer.demand() for layer in layers], board.description)
    if len(layers) >= board.description.slots:
        raise UsageError(
            f"{len(layers)} layers need as many configuration slots and one more; the board has "
            f"{board.description.slots}"
        )
    rule = weight_rule(board, settings)
    for slot, (layer, matrix) in enumerate(zip(layers, matrices, strict=True), start=1):
        layer.attach(board, matrix, slot, rule)


def analog_layers(model: nn.Module) -> list[AnalogLayer]:
    """The analog layers of a model, in order."""
    return [module for module in model.modules() if isinstance(module, AnalogLayer)]


def read_weights(model: nn.Module, initial_gain: float) -> None:
    """Takes the weights as the chip holds them, and scales each layer to a useful size.

    With weights of spread s and n inputs the factor is ``initial_gain / (s sqrt(n))`` [ours].
    """
    for layer in analog_layers(model):
        weights = layer.read_weights()
        layer.weight.data.copy_(weights)
        spread = float(weights.std()) or 1.0
        layer.scale.data.fill_(initial_gain / (spread * weights[0].numel() ** 0.5))


def program_weights(model: nn.Module, cycles: int | None = None) -> None:
    """Programs the digital weights of each layer, its largest at the end of the window."""
    for layer in analog_layers(model):
        weight = layer.weight.data
        largest = float(weight.abs().max()) or 1.0
        factor = layer.rule.weight_range / largest
        weight.mul_(factor)
        layer.scale.data.div_(factor)
        put_weights(layer, cycles)


def put_weights(layer: AnalogLayer, cycles: int | None = None) -> None:
    """Programs a layer's digital weights as they are."""
    import torch

    flat = layer.weight.detach().flatten()
    layer.program(torch.arange(flat.numel()), flat, cycles=cycles)


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


def _analog(module: nn.Conv2d | nn.Linear, name: str) -> AnalogLayer:
    if isinstance(module, nn.Linear):
        return AnalogLinear(module, name)
    plain = module.groups == 1 and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str):
        raise UsageError(
            f"Layer '{name}' cannot be converted: groups, padding modes and named paddings are not "
            "supported",
            next=f"Leave it digital: convert(model, board, digital=['{name}'])",
        )
    return AnalogConv2d(module, name)
