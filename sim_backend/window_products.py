"""Products under a window, converted image by image while their sums are in the fastest cache."""

from __future__ import annotations

import numba
import numpy as np

from firmware_protocol.messages import Window
from sim_backend.converters import (
    Adding,
    Codes,
    Converter,
    Positions,
    Sums,
    arguments,
    convert_compiled,
)
from sim_backend.mismatch import LineErrors
from sim_backend.window_sums import Images, Weights, image_sums, prepare, shape_of


def convert_windows(
    images: Images,
    weight: Weights,
    window: Window,
    power: Sums,
    settings: Converter,
    positions: Positions,
    out: Codes,
    errors: LineErrors | None = None,
    adding: Adding | None = None,
) -> int:
    """``converters.convert_planes`` of ``window_sums_numpy``: their arguments, their bits."""
    shared = arguments(len(weight), settings, positions, errors, adding, 1)
    first, images = np.uint64(positions.first), np.ascontiguousarray(images)
    return int(_convert(images, weight, shape_of(window), power, out, first, shared))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _convert(images, weight, shape, power, out, first, shared):  # type: ignore[no-untyped-def]
    prepared = prepare(images, weight, shape)
    sums = np.empty((1, len(weight), shape.size[0] * shape.size[1]), dtype=np.float64)
    saturated = 0
    for b in range(len(images)):
        image_sums(images[b], shape, prepared, sums[0])
        one = slice(b, b + 1)
        saturated += convert_compiled(sums, power[one], out[one], first, *shared)
        first += np.uint64(sums.shape[2]) * shared[2]
    return saturated
