"""Layers of 4-bit weights and activations, whose gradients are powers (arXiv 2203.04821).

The weights that the optimizer moves are digital, in full precision; each product sees their 4-bit
integers, or the chip's copy of them, and each gradient passes the rounding straight.  A product is
on the chip (``cimctl.analog.plane_products``) or exact integer arithmetic of the same operands.
Bias and its gradient are digital and not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cimctl.analog.adaptability import PlaneConverters
from cimctl.analog.layers import AnalogConv2d, AnalogLayer, AnalogLinear, along
from cimctl.analog.plane_products import HeldMatrix, OuterProducts, TransposedMatrix
from cimctl.analog.product import Geometry
from cimctl.formats.integers import BITS, SIGNED, UNSIGNED, Clip, weight_unit
from cimctl.formats.integers import WEIGHTS as INT4
from cimctl.formats.powers import Powers
from cimctl.mapping.demand import Demand
from firmware_protocol.messages import Window

GradientScale = Literal["running", "batch", "mean-square"]
#: the largest gradient is forgotten by this factor a batch
_DECAY = 0.99
#: elements of a gradient that its scale is chosen on
_LOOKED_AT = 4096
#: integers that single precision holds one by one
_EXACT = 1 << 24


@dataclass(frozen=True, slots=True)
class Formats:
    """How numbers are rounded.

    Attributes:
        powers: of gradients; None leaves them as they are.
        phases: 2 for a grid of its own for each of the products of a gradient.
        scale: running or own maximum of a batch, or the smallest mean-square error of it.
        clip: scale of the weights.
        stochastic: whether activations are rounded up with the probability of the rest.
    """

    powers: Powers | None
    phases: int
    scale: GradientScale
    clip: Clip
    stochastic: bool


@dataclass(frozen=True, slots=True)
class OnChip:
    """The products of a layer that the chip makes; None: digital."""

    forward: HeldMatrix | None = None
    back: TransposedMatrix | None = None
    outer: OuterProducts | None = None

    def matrices(self) -> list[HeldMatrix]:
        """Weights that lie on the chip."""
        found = [self.forward] if self.forward else []
        return [*found, self.back.held] if self.back else found

    def converters(self) -> list[PlaneConverters]:
        """The converters of each product."""
        found = [matrix.converters for matrix in self.matrices()]
        return found + ([self.outer.converters] if self.outer else [])


class Rounded(NamedTuple):
    """Integers, and what one of them stands for."""

    codes: Tensor
    unit: float


class Int4Layer(AnalogLayer):
    """Base of the 4-bit layers.

    Integers get their unit in double precision, so that a product has the same last bit wherever it
    is made.

    Attributes:
        weight: master weights.
        formats, products: how numbers are rounded, and which products the chip makes.
    """

    largest_gradient: Tensor

    def __init__(self, source: nn.Conv2d | nn.Linear, name: str) -> None:
        super().__init__(source, name)
        self.scale.requires_grad_(False)
        self.register_buffer("largest_gradient", torch.zeros((), dtype=torch.float64))
        self.formats = Formats(Powers(), 2, "running", "max", stochastic=False)
        self.products = OnChip()

    # ------------------------------------------------------------------ weights

    def read_weights(self) -> Tensor:
        """The master weights; the chip has but their integers, and gets these again."""
        self.forget()
        return self.weight.detach().clone()

    def adopt(self, initial_gain: float) -> None:
        """Nothing: the chip gets the weights that there are."""

    def fit_window(self) -> None:
        """Nothing: a scale of its own goes with each batch's integers."""

    def put(self, cycles: int | None = None) -> None:
        """Has the weights written before their next product."""
        self.forget()

    def forget(self) -> None:
        """The cells may hold anything."""
        for matrix in self.products.matrices():
            matrix.held, matrix.doubted = None, True

    def demand(self, group: int = 0) -> Demand:
        return replace(super().demand(), group=group)

    # ------------------------------------------------------------------ rounding

    def activations(self, inputs: Tensor) -> Rounded:
        """Integers of the layer's inputs, on the scale of their running maximum."""
        if self.training or not self.ranges.largest:
            self.ranges.see_inputs(*map(float, torch.aminmax(inputs)))
        unit = self.ranges.input_step(BITS)
        grid = SIGNED if self.ranges.signed else UNSIGNED
        stochastic = self.formats.stochastic and self.training
        return Rounded(grid.codes(inputs, unit, stochastic=stochastic), unit)

    def integer_weights(self) -> Rounded:
        """Integers of the master weights."""
        weight = self.weight.detach()
        unit = weight_unit(weight, self.formats.clip)
        return Rounded(INT4.codes(weight, unit), unit)

    def gradient_units(self, outer: Tensor, powers: Powers) -> tuple[float, float]:
        """What 1 stands for in the gradient of W^T d, and in that of d a^T; follows a batch."""
        largest = float(outer.abs().max())
        if self.formats.scale == "running":
            kept = max(_DECAY * float(self.largest_gradient), largest)
            self.largest_gradient.fill_(kept)
            largest = kept
        unit = (largest or 1.0) / powers.top
        if self.formats.scale == "mean-square" and largest:
            flat = outer.reshape(-1)
            unit = powers.best_unit(flat[:: max(1, flat.numel() // _LOOKED_AT)], largest)
        return unit, unit * (powers.radix**0.5 if self.formats.phases == 2 else 1.0)

    # ------------------------------------------------------------------ products

    def _product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = Int4Product.apply(inputs, self.weight, self)  # type: ignore[no-untyped-call]
        return result if bias is None else result + along(bias, result)

    def forward_product(self, a: Rounded, w: Rounded) -> Tensor:
        """``W a`` in the layer's units."""
        chip = self.products.forward
        if chip is None:
            return (self._digital(a.codes, w.codes).double() * (a.unit * w.unit)).float()
        self.writes += chip.hold(w.codes.flatten(1).T.cpu().numpy())
        found = chip.multiply(
            a.codes.cpu().numpy(),
            self._window(a.codes),
            signed=self.ranges.signed,
            ternary=False,
            learning=self.training,
        )
        return _tensor(found * (a.unit * w.unit), a.codes)

    def gradients(
        self, a: Rounded, w: Rounded, outer: Tensor, *, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """``W^T d`` where it is wanted, and ``d a^T``."""
        powers = self.formats.powers
        if powers is None:
            back, update = self._digital_gradients(a.codes, w.codes, outer, outer, wanted=wanted)
            return None if back is None else back * w.unit, update * a.unit
        one, other = self.gradient_units(outer, powers)
        codes = powers.codes(outer, one)
        second = codes if other == one else powers.codes(outer, other)
        on_chip = self.products
        made_back = self._chip_back(w, codes, a.codes.shape) if wanted and on_chip.back else None
        made_update = self._chip_outer(a, second) if on_chip.outer else None
        digital_back = wanted and not on_chip.back
        if digital_back or made_update is None:
            kind = torch.float32 if self._fits(powers, codes) else torch.float64
            back, update = self._digital_gradients(
                a.codes.to(kind), w.codes.to(kind),
                powers.integers(codes, kind), powers.integers(second, kind), wanted=digital_back,
            )  # fmt: skip
            made_back = back if digital_back else made_back
            made_update = update if made_update is None else made_update
        assert made_update is not None
        found = None if made_back is None else (made_back.double() * (one * w.unit)).float()
        return found, (made_update.double() * (other * a.unit)).float()

    def _fits(self, powers: Powers, codes: Tensor) -> bool:
        """Whether single precision holds every sum that there may be."""
        vectors = codes.numel() // codes.shape[1]
        most = max(vectors * UNSIGNED.high, self.weight[:, 0].numel() * INT4.high)
        return most * powers.top < _EXACT

    def _digital_gradients(
        self, a: Tensor, w: Tensor, d_back: Tensor, d_update: Tensor, *, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """``W^T d`` where it is wanted, and ``d a^T``, of operands as they are."""
        raise NotImplementedError

    def _chip_back(self, w: Rounded, codes: Tensor, shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def _chip_outer(self, a: Rounded, codes: Tensor) -> Tensor:
        chip = self.products.outer
        assert chip is not None
        lines = codes.movedim(1, -1).reshape(-1, codes.shape[1]).cpu()
        vectors = self.vectors(a.codes).cpu().numpy()
        found = chip.multiply(lines, vectors, signed=self.ranges.signed)
        return torch.from_numpy(found).to(codes.device).reshape(self.weight.shape)

    def back_demand(self) -> tuple[int, int, int]:
        """(inputs, outputs, inputs of one channel) of W^T."""
        raise NotImplementedError


class Int4Linear(Int4Layer, AnalogLinear):
    """A linear layer; inputs (batch, inputs), outputs (batch, outputs)."""

    def back_demand(self) -> tuple[int, int, int]:
        return self.weight.shape[0], self.weight.shape[1], 1

    def _digital_gradients(
        self, a: Tensor, w: Tensor, d_back: Tensor, d_update: Tensor, *, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        return d_back @ w if wanted else None, d_update.T @ a

    def _chip_back(self, w: Rounded, codes: Tensor, shape: torch.Size) -> Tensor:
        chip = self.products.back
        assert chip is not None
        self.writes += chip.held.hold(w.codes.cpu().numpy())
        found = chip.multiply(codes.cpu(), None, learning=self.training)
        return _shaped(found, shape, codes)


class Int4Conv2d(Int4Layer, AnalogConv2d):
    """A convolution; W^T d is one with the kernels turned over, its places those of the inputs."""

    def back_demand(self) -> tuple[int, int, int]:
        area = self.weight[0, 0].numel()
        return self.weight.shape[0] * area, self.weight.shape[1], area

    def _digital_gradients(
        self, a: Tensor, w: Tensor, d_back: Tensor, d_update: Tensor, *, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        back = self._adjoint(d_back, a, w, (wanted, False, False))[0] if wanted else None
        return back, self._adjoint(d_update, a, w, (False, True, False))[1]

    def _adjoint(
        self, d: Tensor, a: Tensor, w: Tensor, asked: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        g: Geometry = self._geometry
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            d, a, w, None, g.stride, g.padding, g.dilation, False, (0, 0), 1, asked
        )
        return found

    def _chip_back(self, w: Rounded, codes: Tensor, shape: torch.Size) -> Tensor:
        chip = self.products.back
        assert chip is not None
        turned = w.codes.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, w.codes.shape[1])
        self.writes += chip.held.hold(turned.cpu().numpy())
        spread = self._spread(codes.cpu(), shape)
        kernel, dilation = w.codes.shape[2:], self._geometry.dilation
        window = Window(
            spread.shape[1], spread.shape[2], spread.shape[3], kernel[0], kernel[1],
            1, 1, *dilation, 0, 0, 0, 0,
        )  # fmt: skip
        return _shaped(chip.multiply(spread, window, learning=self.training), shape, codes)

    def _spread(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Gradients with a place for each of the inputs: stride filled up, and padded."""
        g: Geometry = self._geometry
        sizes, pads = [], []
        for i in range(2):
            size = (codes.shape[2 + i] - 1) * g.stride[i] + 1
            before = g.dilation[i] * (self.weight.shape[2 + i] - 1) - g.padding[i]
            sizes.append(size)
            pads.append((before, shape[2 + i] - size + g.padding[i]))
        filled = codes.new_zeros(*codes.shape[:2], *sizes)
        filled[:, :, :: g.stride[0], :: g.stride[1]] = codes
        return nn.functional.pad(filled, (*pads[1], *pads[0]))


class Int4Product(torch.autograd.Function):
    """Products of integers; gradients pass the rounding of weights and activations straight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: Int4Layer) -> Tensor:
        """
        Args:
            inputs: (batch, ...) input of the layer.
            weight: the master weights.
            layer: makes the products.
        """
        a, w = layer.activations(inputs), layer.integer_weights()
        ctx.layer, ctx.units = layer, (a.unit, w.unit)
        ctx.save_for_backward(a.codes, w.codes)
        return layer.forward_product(a, w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (outer,) = gradients
        (a, w), (a_unit, w_unit) = ctx.saved_tensors, ctx.units
        wanted = bool(ctx.needs_input_grad[0])
        back, update = ctx.layer.gradients(
            Rounded(a, a_unit), Rounded(w, w_unit), outer, wanted=wanted
        )
        return back, update, None


def _tensor(values: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, torch.float32)


def _shaped(found: np.ndarray[Any, Any], shape: torch.Size, like: Tensor) -> Tensor:
    if not found.size:
        return torch.zeros(shape, dtype=torch.float64, device=like.device)
    return torch.from_numpy(found).to(like.device).reshape(shape)
