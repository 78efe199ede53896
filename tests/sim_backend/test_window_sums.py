"""Sums under a window for images of few channels, beside their plain twin."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol.messages import Window
from sim_backend.power import window_power
from sim_backend.window_sums import (
    MOST_CHANNELS,
    image_sums,
    prepare,
    shape_of,
    window_sums_numpy,
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Windows without padding that fit their images."""
    kernel, stride, dilation = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    size = [
        d * (k - 1) + 1 + draw(st.integers(0, 9)) for k, d in zip(kernel, dilation, strict=True)
    ]
    channels = draw(st.integers(1, MOST_CHANNELS))
    return Window(channels, *size, *kernel, *stride, *dilation, 0, 0, 0, 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(window=windows(), lines=st.integers(1, 5), seed=st.integers(0, 99))
def test_sums_and_powers_have_the_bits_of_their_twins(
    window: Window, lines: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (2, window.channels, window.height, window.width)
    images = random.integers(-255, 256, shape).astype(np.float32)
    inputs = window.channels * window.kernel_height * window.kernel_width
    weight = random.integers(-65535, 65536, (lines, inputs)).astype(np.float64)
    expected = window_sums_numpy(images, weight, window)
    one, found = shape_of(window), np.empty_like(expected)
    prepared = prepare(images, weight, one)
    for image, sums in zip(images, found, strict=True):
        image_sums(image, one, prepared, sums)
    assert np.array_equal(found, expected)
    height = (window.height - window.dilation_y * (window.kernel_height - 1) - 1) // window.stride_y
    width = (window.width - window.dilation_x * (window.kernel_width - 1) - 1) // window.stride_x
    squares = window_sums_numpy(images**2, np.ones((1, inputs)), window)[:, 0]
    assert np.array_equal(window_power(images, window, height + 1, width + 1), squares)
