"""ReLU and max pooling on the chip's answer codes, and gradients at the pool's winners alone.

After ``max_pool2d(relu(convolution), 2)`` at most one place in four has a gradient.  So the
backward pass goes from winner to winner instead of through whole convolutions, and between the
chip's codes and the pooled activations nothing is stored.  The same as ``ChipProduct``, ReLU and
pooling one after the other: activations bit for bit, gradients up to the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cimctl.analog.eights import EIGHT, add_scaled
from cimctl.analog.product import Geometry, Steps

Floats = npt.NDArray[np.float32]
#: an index that the compiler knows not to count from the end of an array
_at = np.uintp


class Winners(NamedTuple):
    """Places with a gradient, image by image and channel by channel.

    Attributes:
        starts: (images * outputs + 1,) where each channel's first winner stands in the others.
        pooled: index into the flat pooled activations.
        corner: index of the upper left pixel under the kernel, in one channel of one image.
        codes: answer codes.
    """

    starts: npt.NDArray[np.uint32]
    pooled: npt.NDArray[np.uint32]
    corner: npt.NDArray[np.uint32]
    codes: Floats


@dataclass(frozen=True, slots=True)
class Answer:
    """What the chip made of a batch of images.

    Attributes:
        codes: (batch, outputs, height, width) answer codes, integers.
        inputs: (batch, channels, height, width) input codes, integers.
        steps: what one code step of inputs and of answers stands for.
        geometry: of the convolution, whose dilation is 1.
    """

    codes: npt.NDArray[Any]
    inputs: npt.NDArray[Any]
    steps: Steps
    geometry: Geometry

    @property
    def padded(self) -> npt.NDArray[Any]:
        """The input codes with the zeros around them that the chip adds."""
        y, x = self.geometry.padding
        whole = ((0, 0), (0, 0), (y, y), (x, x))
        return np.pad(self.inputs, whole) if y or x else self.inputs


class PooledProduct(torch.autograd.Function):
    """``max_pool2d(relu(scale * (x * W) + bias), 2)``, differentiated on the digital copy."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, answer: Answer
    ) -> Tensor:
        """
        Args:
            inputs: (batch, channels, height, width); its gradient passes the quantiser straight.
            weight: (outputs, channels, kernel height, kernel width) digital copy.
            scale: () trainable factor of the layer.
            bias: (outputs,) digital bias.
            answer: what the chip made of the inputs.
        """
        width = inputs.shape[3] + 2 * answer.geometry.padding[1]
        down, right = answer.geometry.stride
        offsets = torch.zeros(len(weight)) if bias is None else bias
        factor = (scale * answer.steps.answer).item()
        out, winners = pooled(answer.codes, factor, offsets.numpy(), (down * width, right))
        ctx.save_for_backward(weight, scale)
        ctx.answer, ctx.winners, ctx.has_bias = answer, winners, bias is not None
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        answer: Answer = ctx.answer
        d_weight, d_images, sums = at_winners(
            gradients[0].numpy(), ctx.winners, answer.padded, weight.numpy(), scale.item(),
            (scale * answer.steps.inputs).item(), images=bool(ctx.needs_input_grad[0]),
        )  # fmt: skip
        d_inputs = None
        if ctx.needs_input_grad[0]:
            (y, x), (_, _, tall, wide) = answer.geometry.padding, answer.inputs.shape
            d_inputs = torch.from_numpy(d_images)[:, :, y : y + tall, x : x + wide]
        d_scale = torch.tensor(sums[:, 0].sum() * np.float32(answer.steps.answer))
        d_bias = torch.from_numpy(sums[:, 1].copy()) if ctx.has_bias else None
        return d_inputs, torch.from_numpy(d_weight), d_scale, d_bias, None


def poolable(module: nn.Module) -> bool:
    """Whether a module is the pooling that is made here: the maximum of 2 x 2, side by side."""
    if not isinstance(module, nn.MaxPool2d) or module.ceil_mode or module.return_indices:
        return False
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    wanted = ((2, (2, 2)), (2, (2, 2)), (0, (0, 0)), (1, (1, 1)))
    return all(size in allowed for size, allowed in zip(sizes, wanted, strict=True))


def pooled(
    codes: npt.NDArray[Any], factor: float, bias: Floats, steps: tuple[int, int]
) -> tuple[Floats, Winners]:
    """``max_pool2d(relu(codes * factor + bias), 2)`` in single precision; the first of equals wins.

    Args:
        codes: (batch, outputs, height, width) integers.
        factor: of all codes.
        bias: (outputs,).
        steps: pixels between the corners of the kernel at two places: one below, one beside.

    Returns:
        (batch, outputs, height // 2, width // 2), and the winners above 0.
    """
    batch, outputs, height, width = codes.shape
    out = np.empty((batch, outputs, height // 2, width // 2), dtype=np.float32)
    places, starts = (np.empty(n, dtype=np.uint32) for n in (2 * out.size, batch * outputs + 1))
    first, second = places.reshape(2, -1)
    winners = Winners(starts, first, second, np.empty(out.size, dtype=np.float32))
    _pool(np.ascontiguousarray(codes), np.float32(factor), bias, steps[0], steps[1], out, winners)
    return out, winners


def at_winners(
    gradient: Floats,
    winners: Winners,
    inputs: npt.NDArray[Any],
    weight: Floats,
    scale: float,
    step: float,
    *,
    images: bool,
) -> tuple[Floats, Floats, Floats]:
    """Gradients of a convolution whose outputs have one at the winners only.

    Args:
        gradient: that of the pooled activations.
        winners: where it comes from.
        inputs: (batch, channels, height, width) integers, padded already.
        weight: (outputs, channels, kernel height, kernel width).
        scale: factor of the weights.
        step: factor of the gradient of the weights, which is that of integer inputs.
        images: whether the gradient of the inputs is wanted.

    Returns:
        Gradients of the weights; of the inputs; and (outputs, 2) the sums of gradient times code,
        and of the gradient.
    """
    d_weight, sums = np.empty_like(weight), np.zeros((len(weight), 2), dtype=np.float32)
    d_images = np.empty(inputs.shape if images else (0, 0, 0, 0), dtype=np.float32)
    _at_winners(
        np.ascontiguousarray(gradient), winners, np.ascontiguousarray(inputs),
        np.ascontiguousarray(weight), np.float32(scale), np.float32(step), images,
        d_weight, d_images, sums,
    )  # fmt: skip
    return d_weight, d_images, sums


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _pool(codes, factor, bias, down, right, out, winners):  # type: ignore[no-untyped-def]
    batch, outputs, height, width = codes.shape
    sign = np.int32(1) if factor >= 0 else np.int32(-1)
    flat, values, below = codes.reshape(-1), out.reshape(-1), _at(width)
    place, found = _at(0), _at(0)
    for channel in range(batch * outputs):
        offset = bias[channel % outputs]
        winners.starts[channel] = found
        for y in range(out.shape[2]):
            first = _at((channel * height + 2 * y) * width)
            for x in range(_at(out.shape[3])):
                k = first + _at(2) * x
                # No branch: which of the four it is cannot be foretold, nor whether it is above 0.
                high, where = sign * np.int32(flat[k]), np.int32(0)
                other = sign * np.int32(flat[k + _at(1)])
                where = np.int32(right) if other > high else where
                high = max(high, other)
                other = sign * np.int32(flat[k + below])
                where = np.int32(down) if other > high else where
                high = max(high, other)
                other = sign * np.int32(flat[k + below + _at(1)])
                where = np.int32(down + right) if other > high else where
                high = max(high, other)
                code = np.float32(sign * high)
                value = code * factor + offset
                lives = value > np.float32(0)
                values[place] = value if lives else np.float32(0)
                # Written in any case, and kept by moving on.
                winners.pooled[found] = place
                winners.corner[found] = where + np.int32(2) * (y * down + np.int32(x) * right)
                winners.codes[found] = code
                found += _at(lives)
                place += _at(1)
    winners.starts[batch * outputs] = found


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _at_winners(  # type: ignore[no-untyped-def]
    gradient, winners, inputs, weight, scale, step, images, d_weight, d_images, sums
):
    channels, height, width = inputs.shape[1:]
    outputs, _, kernel, across = weight.shape
    # Rows of a kernel, channels last, take whole eights: what the last one has too many is zeros.
    wide = _at(-(-across * channels // EIGHT) * EIGHT)
    rows = np.zeros((outputs, kernel, wide), dtype=np.float32)
    d_rows = np.zeros_like(rows)
    for x in range(across):
        for c in range(channels):
            rows[:, :, x * channels + c] = weight[:, c, :, x] * scale
    pixels = np.zeros(height * width * channels + EIGHT, dtype=np.float32)
    d_pixels = np.empty_like(pixels)
    area, each, line = _at(height * width), _at(channels), _at(width * channels)
    slopes, flat, d_flat = gradient.reshape(-1), inputs.reshape(-1), d_images.reshape(-1)
    one, d_one = rows.reshape(-1), d_rows.reshape(-1)
    for b in range(len(inputs)):
        image = _at(b) * each * area
        for c in range(each):
            for i in range(area):
                pixels[i * each + c] = flat[image + c * area + i]
        d_pixels[:] = 0
        for o in range(outputs):
            with_code, alone = np.float32(0), np.float32(0)
            for n in range(winners.starts[b * outputs + o], winners.starts[b * outputs + o + 1]):
                slope = slopes[winners.pooled[n]]
                with_code += slope * winners.codes[n]
                alone += slope
                pixel, row = _at(winners.corner[n]) * each, _at(o * kernel) * wide
                for _ in range(kernel):
                    for i in range(_at(0), wide, _at(EIGHT)):
                        add_scaled(d_one, row + i, slope, pixels, pixel + i)
                        if images:
                            add_scaled(d_pixels, pixel + i, slope, one, row + i)
                    pixel += line
                    row += wide
            sums[o, 0] += with_code
            sums[o, 1] += alone
        if images:
            for c in range(each):
                for i in range(area):
                    d_flat[image + c * area + i] = d_pixels[i * each + c]
    for x in range(across):
        for c in range(channels):
            d_weight[:, c, :, x] = d_rows[:, :, x * channels + c] * step
