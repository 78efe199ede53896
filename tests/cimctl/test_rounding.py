"""Input codes of the layers whose inputs go to the chip as they are."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cimctl.analog.quantiser import rounded, rounded_numpy
from cimctl.memory import keep_freed

VALUES = arrays(np.float32, (3, 5), elements=st.floats(-3, 3, width=32))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    values=VALUES,
    step=st.floats(1e-3, 0.5),
    bits=st.integers(2, 8),
    signed=st.booleans(),
)
def test_codes_have_the_bits_of_their_twin_and_of_torch(
    values: np.ndarray, step: float, bits: int, signed: bool
) -> None:
    codes = rounded(values, step, bits, signed=signed)
    assert codes.dtype == (np.int8 if signed else np.uint8)
    assert np.array_equal(codes, rounded_numpy(values, step, bits, signed=signed))
    top = 2 ** (bits - signed) - 1
    torchs = (torch.from_numpy(values) * (1 / step)).round().clamp(-top if signed else 0, top)
    assert np.array_equal(codes, torchs.numpy())


def test_halves_go_to_the_even_code() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5], dtype=np.float32)
    assert rounded(values, 1.0, 8, signed=True).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc has this setting alone")
def test_freed_memory_can_be_kept() -> None:
    assert keep_freed()
