"""Sums of squared inputs under a window: the read noise of a conversion grows with their root."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from firmware_protocol.messages import Window

Images = npt.NDArray[np.float32]


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
    out = np.zeros((len(images), height, width), dtype=np.float32)
    _window_power(
        images,
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
    squares = np.zeros((rows, columns), dtype=np.float32)
    lines = np.zeros((rows, width), dtype=np.float32)
    for b in range(batch):
        squares[:] = 0
        for c in range(channels):
            for y in range(rows):
                for x in range(columns):
                    squares[y, x] += images[b, c, y, x] * images[b, c, y, x]
        lines[:] = 0
        for y in range(rows):
            for k in range(kernel[1]):
                for x in range(width):
                    lines[y, x] += squares[y, x * stride[1] + k * dilation[1]]
        for y in range(height):
            for k in range(kernel[0]):
                for x in range(width):
                    out[b, y, x] += lines[y * stride[0] + k * dilation[0], x]
