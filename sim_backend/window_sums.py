"""Exact sums under a window for images of few channels, which convolutions of torch are slow at.

Conductances times codes are added in double precision, whole, where everything is an integer below
2^53.  For each column of the kernel the pixels that it meets are copied one behind the other, so
that the inner loops run over all places at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from firmware_protocol.geometry import output_size
from firmware_protocol.messages import Window

Images = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]
Sums = npt.NDArray[np.float64]
#: beyond so many channels torch's blocked convolutions are faster (measured: 3 as fast, 4 slower)
MOST_CHANNELS = 3
#: products that are added before a sum is stored, and lines that are worked on at a time
_TAPS, _LINES = 5, 4
#: an index that the compiler knows not to count from the end of an array
_at = np.uintp


class Shape(NamedTuple):
    """A window, and the places that it takes: rows first."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]


def shape_of(window: Window) -> Shape:
    """What the compiled functions want to know of a window."""
    w = window
    return Shape(
        (w.kernel_height, w.kernel_width), (w.stride_y, w.stride_x), (w.dilation_y, w.dilation_x),
        output_size(w),
    )  # fmt: skip


def window_sums_numpy(images: Images, weight: Weights, window: Window) -> Sums:
    """What a window makes of images, times weights; the oracle of ``image_sums``.

    Args:
        images: (batch, channels, height, width), padded already; integers.
        weight: (lines, channels * kernel height * kernel width) integers.
        window: kernel, stride and dilation.

    Returns:
        (batch, lines, places).
    """
    w = window
    reach = (w.dilation_y * (w.kernel_height - 1) + 1, w.dilation_x * (w.kernel_width - 1) + 1)
    views = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), reach, axis=(2, 3))
    taken = views[:, :, :: w.stride_y, :: w.stride_x, :: w.dilation_y, :: w.dilation_x]
    vectors = taken.transpose(0, 1, 4, 5, 2, 3).reshape(len(images), weight.shape[1], -1)
    return np.asarray(weight @ vectors)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def prepare(images, weight, shape):  # type: ignore[no-untyped-def]
    """Compiled: whole fives of fours of weights, and where inputs and rows of an image go."""
    (lines, taps), (_, channels, height, _) = weight.shape, images.shape
    filled = np.zeros((-(-lines // _LINES) * _LINES, -(-taps // _TAPS) * _TAPS))
    filled[:lines, :taps] = weight
    # Rows that follow each other in an output stand below each other, those between them after.
    apart, wide = shape.stride[0], shape.size[1]
    rows = -(-height // apart)
    row = np.empty(height, dtype=np.int64)
    for y in range(height):
        row[y] = ((y % apart) * rows + y // apart) * wide
    plane = rows * apart * wide
    offsets = np.zeros(filled.shape[1], dtype=np.int64)
    for t in range(taps):
        channel, place = divmod(t, shape.kernel[0] * shape.kernel[1])
        y, x = divmod(place, shape.kernel[1])
        offsets[t] = (channel * shape.kernel[1] + x) * plane + row[y * shape.dilation[0]]
    pixels = np.zeros(channels * shape.kernel[1] * plane, dtype=np.float64)
    return filled, offsets, row, pixels, np.empty(shape.size[0] * wide, dtype=np.float64)


# A multiplication fused with an addition rounds once instead of twice; of integers below 2^53
# neither rounds, so the bits are the same with and without.
@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[misc, unused-ignore]
def image_sums(image, shape, prepared, out):  # type: ignore[no-untyped-def]
    """Compiled: (lines, places) sums of one image, by what ``prepare`` gave."""
    filled, offsets, row, pixels, spare = prepared
    (channels, height, across), wide, lines = image.shape, _at(shape.size[1]), len(out)
    flat, plane = image.reshape(-1), pixels.size // (channels * shape.kernel[1])
    for c in range(channels):
        for y in range(height):
            for k in range(shape.kernel[1]):
                start = _at((c * shape.kernel[1] + k) * plane + row[y])
                first = _at((c * height + y) * across + k * shape.dilation[1])
                # A loop of its own without a stride, which is copied many numbers at a time.
                if shape.stride[1] == 1:
                    for x in range(wide):
                        pixels[start + x] = flat[first + x]
                else:
                    for x in range(wide):
                        pixels[start + x] = flat[first + x * _at(shape.stride[1])]
    # Four lines at a time share what is loaded.
    for j in range(0, lines, _LINES):
        one, two = out[j], out[j + 1] if j + 1 < lines else spare
        three = out[j + 2] if j + 2 < lines else spare
        four = out[j + 3] if j + 3 < lines else spare
        one[:], two[:], three[:], four[:] = 0, 0, 0, 0
        for t in range(0, offsets.size, _TAPS):
            i0, i1, i2 = _at(offsets[t]), _at(offsets[t + 1]), _at(offsets[t + 2])
            i3, i4 = _at(offsets[t + 3]), _at(offsets[t + 4])
            u, v = _five(filled[j], t), _five(filled[j + 1], t)
            y, z = _five(filled[j + 2], t), _five(filled[j + 3], t)
            for x in range(_at(one.size)):
                p = (
                    pixels[x + i0], pixels[x + i1], pixels[x + i2], pixels[x + i3],
                    pixels[x + i4],
                )  # fmt: skip
                one[x] += _dot(u, p)
                two[x] += _dot(v, p)
                three[x] += _dot(y, p)
                four[x] += _dot(z, p)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _five(line, t):  # type: ignore[no-untyped-def]
    return line[t], line[t + 1], line[t + 2], line[t + 3], line[t + 4]


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _dot(u, p):  # type: ignore[no-untyped-def]
    return u[0] * p[0] + u[1] * p[1] + u[2] * p[2] + u[3] * p[3] + u[4] * p[4]
