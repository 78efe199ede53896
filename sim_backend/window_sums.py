"""Exact sums under a window for images of few channels, which convolutions of torch are slow at.

Conductances times codes are added in double precision, whole, where everything is an integer below
2^53.  A plane of pixels is taken as one line, so that the inner loops are long: places that hang
over the right edge are worked out with the others, and left out of the result.
"""

from __future__ import annotations

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
#: products that are added before a sum is stored
_TAPS = 4
#: an index that the compiler knows not to count from the end of an array
_at = np.uintp


def window_sums(images: Images, weight: Weights, window: Window) -> Sums:
    """What a window makes of images, times weights.

    Args:
        images: (batch, channels, height, width), padded already; integers.
        weight: (lines, channels * kernel height * kernel width) integers.
        window: kernel, stride and dilation.

    Returns:
        (batch, lines, places).
    """
    height, width = output_size(window)
    lines, taps = weight.shape
    filled = np.zeros((lines + lines % 2, -(-taps // _TAPS) * _TAPS))
    filled[:lines, :taps] = weight
    offsets = np.zeros(filled.shape[1], dtype=np.int64)
    offsets[:taps] = _offsets(images, window)
    out = np.empty((len(images), lines, height * width))
    _sums(
        np.ascontiguousarray(images), filled, offsets, (window.stride_y, window.stride_x),
        (height, width), out,
    )  # fmt: skip
    return out


def window_sums_numpy(images: Images, weight: Weights, window: Window) -> Sums:
    """The oracle of ``window_sums``: same arguments, same bits."""
    w = window
    reach = (w.dilation_y * (w.kernel_height - 1) + 1, w.dilation_x * (w.kernel_width - 1) + 1)
    views = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), reach, axis=(2, 3))
    taken = views[:, :, :: w.stride_y, :: w.stride_x, :: w.dilation_y, :: w.dilation_x]
    vectors = taken.transpose(0, 1, 4, 5, 2, 3).reshape(len(images), weight.shape[1], -1)
    return np.asarray(weight @ vectors)


def _offsets(images: Images, window: Window) -> npt.NDArray[np.int64]:
    """(inputs,) where in an image each input of the first place is."""
    _, channels, height, width = images.shape
    channel = np.arange(channels)[:, None, None] * (height * width)
    row = np.arange(window.kernel_height)[:, None] * (window.dilation_y * width)
    column = np.arange(window.kernel_width) * window.dilation_x
    offsets: npt.NDArray[np.int64] = (channel + row + column).reshape(-1)
    return offsets


# Where all numbers are integers a multiplication fused with an addition is exact as well.
@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _sums(images, weight, offsets, stride, size, out):  # type: ignore[no-untyped-def]
    lines, across, down = out.shape[1], stride[1], images.shape[3] * stride[0]
    span = (size[0] - 1) * down + (size[1] - 1) * across + 1
    pixels = np.empty(images[0].size, dtype=np.float64)
    # Two lines at a time share what is loaded.
    one, two = np.empty(span, dtype=np.float64), np.empty(span, dtype=np.float64)
    for b in range(len(images)):
        pixels[:] = images[b].reshape(-1)
        for j in range(0, lines, 2):
            one[:] = 0
            two[:] = 0
            for t in range(0, offsets.size, _TAPS):
                i0, i1 = _at(offsets[t]), _at(offsets[t + 1])
                i2, i3 = _at(offsets[t + 2]), _at(offsets[t + 3])
                u0, u1 = weight[j, t], weight[j, t + 1]
                u2, u3 = weight[j, t + 2], weight[j, t + 3]
                v0, v1 = weight[j + 1, t], weight[j + 1, t + 1]
                v2, v3 = weight[j + 1, t + 2], weight[j + 1, t + 3]
                for x in range(_at(span)):
                    p0, p1, p2, p3 = pixels[x + i0], pixels[x + i1], pixels[x + i2], pixels[x + i3]
                    one[x] += u0 * p0 + u1 * p1 + u2 * p2 + u3 * p3
                    two[x] += v0 * p0 + v1 * p1 + v2 * p2 + v3 * p3
            _keep(one, out[b, j], size, down, across)
            if j + 1 < lines:
                _keep(two, out[b, j + 1], size, down, across)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _keep(line, out, size, down, across):  # type: ignore[no-untyped-def]
    """Copies the places that count."""
    for y in range(size[0]):
        first, place = _at(y * down), _at(y * size[1])
        # A loop of its own without a stride, which is copied many numbers at a time.
        if across == 1:
            for x in range(_at(size[1])):
                out[place + x] = line[first + x]
        else:
            for x in range(_at(size[1])):
                out[place + x] = line[first + x * _at(across)]
