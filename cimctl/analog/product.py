"""The product on the chip as a torch function: forward there, backward on the digital copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Geometry:
    """Stride, padding and dilation of a convolution; None of it for a linear layer."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


class ChipProduct(torch.autograd.Function):
    """Takes the chip's product as it is; differentiates ``scale * (x * W) + bias`` digitally.

    ``delta_l = W_FP^T delta_(l+1)`` and the weight gradient use the digital copy of the weights and
    the activations as they were on the chip (arXiv 2305.14547, mixed-precision training).
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        product: Tensor,
        quantised: Tensor,
        geometry: Geometry | None,
    ) -> Tensor:
        """
        Args:
            inputs: (batch, ...) input of the layer; its gradient passes the quantiser straight.
            weight: digital copy of the weights, in weight units.
            scale: () trainable factor of the layer.
            bias: (outputs,) digital bias.
            product: (batch, outputs, ...) the chip's product, in weight units times input units.
            quantised: (batch, ...) inputs as the chip saw them.
            geometry: of a convolution; None for a linear layer.
        """
        ctx.save_for_backward(weight, scale, product, quantised)
        ctx.geometry = geometry
        ctx.has_bias = bias is not None
        shape = (1, -1) + (1,) * (product.dim() - 2)
        result = product * scale
        return result if bias is None else result.add_(bias.reshape(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        weight, scale, product, quantised = ctx.saved_tensors
        d_scale = torch.dot(outer.reshape(-1), product.reshape(-1)) if scale.requires_grad else None
        spatial = tuple(range(2, outer.dim()))
        d_bias = outer.sum((0, *spatial)) if ctx.has_bias else None
        scaled = outer * scale
        need_inputs = bool(ctx.needs_input_grad[0])
        if ctx.geometry is None:
            d_weight = scaled.T @ quantised
            d_inputs = scaled @ weight if need_inputs else None
        else:
            d_inputs, d_weight, _ = torch.ops.aten.convolution_backward(
                scaled,
                quantised,
                weight,
                None,
                ctx.geometry.stride,
                ctx.geometry.padding,
                ctx.geometry.dilation,
                False,
                (0, 0),
                1,
                (need_inputs, True, False),
            )
        return d_inputs, d_weight, d_scale, d_bias, None, None, None
