"""Sums of squared inputs under a window: the read noise of a conversion grows with their root."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from firmware_protocol.messages import Window

Images = npt.NDArray[np.float32]
#: an index that the compiler knows not to count from the end of an array
_at = np.uintp


def window_power(
    images: Images, window: Window, height: int, width: int
) -> npt.NDArray[np.float32]:
    """Adds the squares of all channels, then of the window, rows before columns.

    Args:
        images: (batch, channels, height, width), padded already; integers, so that every sum is
            exact as long as it stays below 2^24.
        window: kernel, stride and dilation.
        height, width: of the result.

    Returns:
        (batch, height * width) float32.
    """
    out = np.empty((len(images), height, width), dtype=np.float32)
    _window_power(
        np.ascontiguousarray(images),
        (window.kernel_height, window.kernel_width),
        (window.stride_y, window.stride_x),
        (window.dilation_y, window.dilation_x),
        out,
    )
    return out.reshape(len(images), height * width)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _window_power(images, kernel, stride, dilation, out):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = images.shape
    _, height, width = out.shape
    # A plane is one line, so that loops are long; places over the right edge are left out below.
    size, down = rows * columns, dilation[0] * columns
    squares, lines = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    beside = size - (kernel[1] - 1) * dilation[1]
    below = beside - (kernel[0] - 1) * down
    for b in range(batch):
        squares[:] = 0
        for c in range(channels):
            plane = images[b, c].reshape(-1)
            for i in range(_at(size)):
                squares[i] += plane[i] * plane[i]
        lines[:] = 0
        for k in range(kernel[1]):
            ahead = _at(k * dilation[1])
            for i in range(_at(beside)):
                lines[i] += squares[i + ahead]
        squares[:] = 0
        for k in range(kernel[0]):
            ahead = _at(k * down)
            for i in range(_at(below)):
                squares[i] += lines[i + ahead]
        for y in range(height):
            first = _at(y * stride[0] * columns)
            for x in range(_at(width)):
                out[b, y, x] = squares[first + x * _at(stride[1])]
