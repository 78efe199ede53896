"""Products under a window, image by image, are the sums converted all at once."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_protocol.geometry import output_size
from firmware_protocol.messages import Window
from sim_backend.converters import Adding, Converter, Positions, convert_planes_numpy
from sim_backend.mismatch import LineErrors
from sim_backend.window_products import convert_windows
from sim_backend.window_sums import window_sums_numpy


@pytest.mark.parametrize("lines", [1, 4, 6])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("read_variance", [0.0, 3.7])
@pytest.mark.parametrize(
    "window",
    [
        Window(1, 9, 8, 5, 5, 1, 1, 1, 1, 0, 0, 0, 0),
        Window(2, 7, 9, 2, 3, 2, 3, 2, 1, 0, 0, 0, 0),
        Window(3, 4, 4, 1, 4, 3, 1, 1, 1, 0, 0, 0, 0),
    ],
)
def test_the_bits_and_the_count_of_the_twins(
    window: Window, read_variance: float, uneven: bool, lines: int
) -> None:
    random = np.random.default_rng(lines)
    height, width = output_size(window)
    inputs = window.channels * window.kernel_height * window.kernel_width
    shape = (3, window.channels, window.height, window.width)
    images = random.integers(-255, 256, shape).astype(np.float32)
    weight = random.integers(-65535, 65536, (lines, inputs)).astype(np.float64)
    power = random.integers(0, 1 << 20, (3, height * width)).astype(np.float32)
    converter = Converter(47_000, 32, -128, 127, read_variance, 1e9)
    place = Positions(np.uint64(99), (1 << 64) - 5, 3, 2)
    errors = LineErrors(*random.normal(1.0, 0.1, (3, lines))) if uneven else None
    adding = Adding(2, np.array([1, 2] * (lines // 2), dtype=np.int32)) if lines == 4 else None
    one = np.ones((3, lines // 2 if adding else lines, height * width), dtype=np.int16)
    other = one.copy()
    found = convert_windows(images, weight, window, power, converter, place, one, errors, adding)
    sums = window_sums_numpy(images, weight, window)
    expected = convert_planes_numpy(sums, power, converter, place, other, errors, adding, 1)
    assert found == expected
    assert np.array_equal(one, other)
    assert len(np.unique(one)) > 2
