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


@dataclass(frozen=True, slots=True)
class Steps:
    """Input value of one input code step; product, in weight times input units, of one answer's."""

    inputs: float
    answer: float


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
        answer: Tensor,
        codes: Tensor,
        steps: Steps,
        geometry: Geometry | None,
    ) -> Tensor:
        """
        Args:
            inputs: (batch, ...) input of the layer; its gradient passes the quantiser straight.
            weight: digital copy of the weights, in weight units.
            scale: () trainable factor of the layer.
            bias: (outputs,) digital bias.
            answer: (batch, outputs, ...) the chip's answer codes.
            codes: (batch, ...) input codes, as the chip got them, of any type.
            steps: what one code step of inputs and of answers stands for.
            geometry: of a convolution; None for a linear layer.
        """
        ctx.save_for_backward(weight, scale, answer, codes)
        ctx.steps, ctx.geometry, ctx.has_bias = steps, geometry, bias is not None
        result = answer * (scale * steps.answer)
        if bias is not None:
            result.add_(bias.reshape((1, -1) + (1,) * (answer.dim() - 2)))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        weight, scale, answer, codes = ctx.saved_tensors
        codes = codes.to(outer.dtype)
        d_scale = torch.dot(outer.reshape(-1), answer.reshape(-1)) * ctx.steps.answer
        d_bias = outer.sum((0, *range(2, outer.dim()))) if ctx.has_bias else None
        need_inputs = bool(ctx.needs_input_grad[0])
        # The factors go to the small tensors, not to the large ones.
        if ctx.geometry is None:
            d_weight = outer.T @ codes
            d_inputs = outer @ (weight * scale) if need_inputs else None
        else:
            d_inputs, d_weight, _ = torch.ops.aten.convolution_backward(
                outer,
                codes,
                weight * scale,
                None,
                ctx.geometry.stride,
                ctx.geometry.padding,
                ctx.geometry.dilation,
                False,
                (0, 0),
                1,
                (need_inputs, True, False),
            )
        d_weight = d_weight * (scale * ctx.steps.inputs)
        return d_inputs, d_weight, d_scale, d_bias, None, None, None, None
