"""Products of many vectors: exact in bytes and in single precision, converted as ever."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards.catalogue import load
from firmware_protocol.messages import Region
from sim_backend import chip as chips
from sim_backend import vectors
from sim_backend.chip import Chip
from sim_backend.converters import Converter, Positions
from sim_backend.feed import Product, Slot
from sim_backend.mismatch import LineErrors
from sim_backend.vector_converters import convert_vectors, convert_vectors_numpy

IN_BYTES = pytest.mark.skipif(
    not vectors.bytes_are_exact(), reason="this processor does not sum bytes exactly"
)


def float_lines(units: Any) -> vectors.Lines:
    import torch

    halves = np.concatenate([units >> 8, units & 255]).astype(np.float32)
    return vectors.FloatLines(torch.from_numpy(halves))


def total(lines: vectors.Lines, codes: Any) -> Any:
    """(vectors, conversions) whole sums."""
    digits = np.split(lines.sums(codes).astype(np.int64), lines.parts.digits, axis=1)
    whole = sum(digit << 8 * k for k, digit in enumerate(reversed(digits)))
    return whole + lines.parts.offset * vectors.moments(codes)[0].astype(np.int64)[:, None]


@pytest.mark.parametrize("make", [float_lines, pytest.param(vectors.lines, marks=IN_BYTES)])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("low", "high", "digits"),
    [
        (0, 65535, 2), (-32896, 32639, 2), (-32897, 32638, 2), (-32897, 32639, 3),
        (-65535, 65535, 3), (70000, 130000, 2),
    ],
)  # fmt: skip
def test_sums_are_those_of_integers(make: Any, kind: Any, low: int, high: int, digits: int) -> None:
    # Conductances beyond 16 bits are left to small arrays (``Arrays``).
    inputs = 256 if high < 1 << 16 else 100
    rng = np.random.default_rng(high)
    units = rng.integers(low, high, (24, inputs), endpoint=True).astype(np.int32)
    units[0], units[1], units[2, ::2], units[2, 1::2] = low, high, low, high
    ends = np.iinfo(kind)
    codes = rng.integers(ends.min, ends.max, (40, inputs), endpoint=True).astype(kind)
    codes[0], codes[1], codes[2, ::2], codes[2, 1::2] = ends.min, ends.max, ends.min, ends.max
    lines = make(units)
    assert lines.parts.digits == (2 if make is float_lines else digits)
    assert np.array_equal(total(lines, codes), codes.astype(np.int64) @ units.T.astype(np.int64))


def test_moments_are_sums_of_codes_and_of_their_squares() -> None:
    codes = np.array([[0, 1, -128], [127, -3, 2]], dtype=np.int8)
    sums, squares = vectors.moments(codes)
    assert sums.tolist() == [-127, 126]
    assert squares.tolist() == [1 + 128**2, 127**2 + 9 + 4]


@pytest.mark.parametrize(
    ("codes", "kind"),
    [([0, 255], np.uint8), ([-128, 127], np.int8), ([-1, 128], np.int16), ([256, 0], np.int16)],
)
def test_codes_take_a_byte_where_they_fit_one(codes: list[int], kind: Any) -> None:
    found = vectors.narrowed(np.array([codes]))
    assert found.dtype == kind
    assert found.tolist() == [codes]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 6),
    conversions=st.integers(1, 40),
    digits=st.sampled_from((2, 3)),
    offset=st.sampled_from((0, 32896, -77)),
    shift=st.integers(10, 40),
    read_variance=st.sampled_from((0.0, 7.3e5)),
    adc_variance=st.sampled_from((0.0, 0.37, 1e9)),
    column=st.integers(0, 255),
    first=st.integers(0, 2**64 - 1),
    stride=st.integers(1, 9),
    at=st.integers(0, 3),
    uneven=st.booleans(),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_conversion_of_vectors_has_the_bits_of_the_oracle(
    count: int, conversions: int, digits: int, offset: int, shift: int, read_variance: float,
    adc_variance: float, column: int, first: int, stride: int, at: int, uneven: bool, wide: bool,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    sums = rng.integers(-(2**23), 2**23, (count, digits * conversions)).astype(np.float32)
    known = tuple(rng.integers(0, 2**22, count).astype(np.float64) for _ in range(2))
    spreads = ((1.0, 0.1), (0.0, 5.0), (0.0, 3.0))
    errors = LineErrors(*(rng.normal(m, s, conversions) for m, s in spreads)) if uneven else None
    settings_ = Converter(40001, shift, -128, 127, read_variance, adc_variance)
    place = Positions(np.uint64(rng.integers(0, 2**63)), first, stride, column)
    shape = count, at + conversions + 2
    one = rng.integers(-99, 99, shape).astype(np.int32 if wide else np.int16)
    other = one.copy()
    asked: Any = (sums, vectors.Parts(digits, offset), known, settings_, place)
    found = convert_vectors(*asked, one, at, errors)
    assert found == convert_vectors_numpy(*asked, other, at, errors)
    assert np.array_equal(one, other)


@IN_BYTES
@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_bytes_and_blocks_of_vectors_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, differential: bool, transposed: bool, kind: Any
) -> None:
    """Two row blocks and two column blocks, every line with errors of its own."""
    profile = load("brram-256x64")
    faults = msgspec.structs.replace(
        profile.imperfections, adc_gain_variation=0.05, adc_offset_lsb=2.0
    )
    profile = msgspec.structs.replace(profile, imperfections=faults)
    last = Region(1, 99, 70, 10, 22)
    regions = (*(Region(t, 3, 70, 2 + 2 * t, 22) for t in range(3)), last)
    product = Product(Slot(200, 1023, 40000, 38), regions, 2, transposed, differential, None)
    inputs = 2 * (22 // (2 if differential else 1) if transposed else 70)
    ends = np.iinfo(kind)
    codes = np.random.default_rng(3).integers(ends.min, ends.max, (150, inputs), endpoint=True)
    answers = []
    monkeypatch.setattr(vectors, "_INPUTS", 1)
    for products, block in ((1 << 60, 1024), (1, 64), (1, 150)):
        monkeypatch.setattr(vectors, "_PRODUCTS", products)
        monkeypatch.setattr(chips, "_VECTORS", block)
        answers.append(Chip(profile, 5).multiply(product, codes.astype(kind)))
    assert len(np.unique(answers[0][0])) > 5
    for codes_found, saturated in answers[1:]:
        assert np.array_equal(codes_found, answers[0][0])
        assert saturated == answers[0][1]


@IN_BYTES
@pytest.mark.parametrize(
    ("shape", "cells", "prepared", "pays"),
    [
        ((4096, 256), 1 << 16, False, True),
        ((64, 256), 1 << 16, False, False),
        ((64, 256), 1 << 16, True, True),
        # Few inputs are slower in bytes by orders of magnitude, however many vectors there are.
        ((1 << 16, 16), 1 << 12, False, False),
        ((1 << 16, 16), 1 << 12, True, False),
    ],
)
def test_bytes_are_taken_where_they_pay(
    shape: tuple[int, int], cells: int, prepared: bool, pays: bool
) -> None:
    assert vectors.pays_in_bytes(np.zeros(shape, dtype=np.int8), cells, prepared=prepared) is pays
