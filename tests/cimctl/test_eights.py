"""Eight additions at once give the bits of eight additions, and touch nothing beside them."""

from __future__ import annotations

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cimctl.analog.eights import EIGHT, add_scaled


@numba.njit  # type: ignore[misc, unused-ignore]
def added(target, at, factor, source, first):  # type: ignore[no-untyped-def]
    add_scaled(target, np.uintp(at), factor, source, np.uintp(first))


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.floats(-4, 4, width=32), st.integers(0, 99))
def test_the_same_bits_as_one_by_one(at: int, first: int, factor: float, seed: int) -> None:
    drawn = np.random.default_rng(seed).standard_normal((2, 12 + EIGHT)).astype(np.float32)
    target, source = drawn
    wanted = target.copy()
    wanted[at : at + EIGHT] += np.float32(factor) * source[first : first + EIGHT]
    added(target, at, np.float32(factor), source, first)
    assert target.tobytes() == wanted.tobytes()
