"""What a network asks of a chip, found by sending one image through it digitally."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boards.errors import UsageError
from cimctl.mapping.demand import Demand

_KINDS = (nn.Conv2d, nn.Linear, nn.LSTMCell)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that goes to the chip, and its work for one image.

    Attributes:
        demand: its matrix.
        vectors: vectors that it multiplies: places of a convolution, time steps of a cell.
        backward: those whose gradient is wanted by what lies before it.
        signed: whether its inputs may be negative.
        places: places of its inputs, 1 of a layer that is no convolution: vectors of a transposed
            convolution.
    """

    demand: Demand
    vectors: int
    backward: int
    signed: bool
    places: int = 1

    @property
    def weights(self) -> int:
        return self.demand.inputs * self.demand.outputs

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each weight and vector."""
        return 2 * self.weights * self.vectors


@dataclass
class _Seen:
    vectors: int = 0
    backward: int = 0
    signed: bool = False
    places: int = 1

    def note(self, vectors: int, inputs: Tensor, places: int = 1) -> None:
        self.places = places
        self.vectors += vectors
        self.backward += vectors * inputs.requires_grad
        self.signed |= bool(inputs.detach().min() < 0)


def layers_of(model: nn.Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """The layers of a model that go to the chip, in its order.

    Args:
        model: any module.
        input_shape: of one image: channels, height, width.

    Raises:
        UsageError: the model takes no such images, or no layer of it goes to the chip.
    """
    named = [(name, m) for name, m in model.named_modules() if isinstance(m, _KINDS)]
    seen = {name: _Seen() for name, _ in named}
    hooks = [module.register_forward_hook(_noting(seen[name])) for name, module in named]
    image = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        model.eval()(image)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"The model does not take images of {tuple(input_shape)}: {error}",
            left="Nothing was done",
            next="Say the shape of its images: --input-shape CHANNELS,HEIGHT,WIDTH",
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    found = [layer for name, module in named for layer in _layers(name, module, seen[name])]
    if not found:
        raise UsageError(
            "The model has no linear, convolutional or LSTM cell layer for the chip",
            left="Nothing was done",
        )
    return found


def _noting(seen: _Seen) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        inputs = arguments[0]
        if isinstance(module, nn.Conv2d):
            size = inputs.shape[-2] * inputs.shape[-1]
            seen.note(output.shape[-2] * output.shape[-1], inputs, size)
        elif isinstance(module, nn.Linear):
            seen.note(inputs.numel() // module.in_features, inputs)
        else:
            state = arguments[1] if len(arguments) > 1 else None
            both = inputs if state is None else torch.cat([inputs.flatten(), state[0].flatten()])
            seen.note(1, both)

    return hook


def _layers(name: str, module: nn.Module, seen: _Seen) -> list[Layer]:
    work = seen.vectors, seen.backward, seen.signed, seen.places
    if isinstance(module, nn.LSTMCell):
        inputs = module.input_size + module.hidden_size
        return [Layer(Demand(f"{name}.gates", inputs, 4 * module.hidden_size, 1), *work)]
    if isinstance(module, nn.Linear):
        return [Layer(Demand(name, module.in_features, module.out_features, 1), *work)]
    assert isinstance(module, nn.Conv2d)
    # Each group is a matrix of its own.
    area, groups = module.kernel_size[0] * module.kernel_size[1], module.groups
    inputs, outputs = module.in_channels // groups * area, module.out_channels // groups
    names = [name] if groups == 1 else [f"{name}.{i}" for i in range(groups)]
    return [Layer(Demand(own, inputs, outputs, area), *work) for own in names]
