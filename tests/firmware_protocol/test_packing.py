"""Codes packed at their own width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol.packing import fitting_count, pack_codes, packed_size, unpack_codes

widths = st.integers(1, 24)


def limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def random_codes(count: int, bits: int, signed: bool, seed: int) -> Any:
    low, high = limits(bits, signed)
    codes = np.random.default_rng(seed).integers(low, high + 1, count)
    codes[:2] = (low, high)[:count]
    return codes


def reference(codes: list[int], bits: int) -> bytes:
    """The layout as the specification words it, one bit at a time."""
    packed = b""
    for low in range(0, bits // 8 * 8, 8):
        packed += bytes((code >> low) & 255 for code in codes)
    for bit in range(bits // 8 * 8, bits):
        plane = bytearray((len(codes) + 7) // 8)
        for i, code in enumerate(codes):
            plane[i // 8] |= ((code >> bit) & 1) << (i % 8)
        packed += bytes(plane)
    return packed


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 25))
def test_every_width_round_trips_in_its_size_and_layout(bits: int, signed: bool) -> None:
    for count in (0, 1, 7, 8, 9, 64, 1000):
        codes = random_codes(count, bits, signed, bits)
        packed = bytes(pack_codes(codes, bits))
        assert len(packed) == packed_size(count, bits)
        assert packed == reference(codes.tolist(), bits)
        assert unpack_codes(packed, count, bits, signed=signed).tolist() == codes.tolist()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bits=widths, signed=st.booleans(), count=st.integers(0, 70), seed=st.integers(0, 2**32 - 1))
def test_narrow_types_pack_as_wide_ones_do(bits: int, signed: bool, count: int, seed: int) -> None:
    codes = random_codes(count, bits, signed, seed)
    packed = bytes(pack_codes(codes, bits))
    size = 8 if bits <= 8 else 16 if bits <= 16 else 32
    narrow = codes.astype(f"{'i' if signed else 'u'}{size // 8}")
    assert bytes(pack_codes(narrow, bits)) == packed
    assert bytes(pack_codes(np.repeat(narrow, 2)[::2], bits)) == packed
    unpacked = unpack_codes(packed, count, bits, signed=signed)
    assert unpacked.dtype == narrow.dtype


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bits=st.integers(1, 16), count=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_what_a_code_has_beyond_its_width_is_dropped(bits: int, count: int, seed: int) -> None:
    wide = np.random.default_rng(seed).integers(-(2**20), 2**20, count)
    packed = bytes(pack_codes(wide, bits))
    assert unpack_codes(packed, count, bits, signed=False).tolist() == (wide % 2**bits).tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(bits=widths, count=st.integers(0, 100), by=st.sampled_from((-3, -1, 1, 2, 9)))
def test_a_wrong_number_of_bytes_is_a_value_error(bits: int, count: int, by: int) -> None:
    size = packed_size(count, bits) + by
    if size >= 0:
        with pytest.raises(ValueError, match="codes of"):
            unpack_codes(bytes(size), count, bits, signed=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bits=widths, size=st.integers(-5, 3000))
def test_the_fitting_count_fits_and_one_more_does_not(bits: int, size: int) -> None:
    count = fitting_count(size, bits)
    assert count >= 0
    assert count == 0 or packed_size(count, bits) <= size
    assert packed_size(count + 1, bits) > size


def test_the_size_grows_with_every_code() -> None:
    """``fitting_count`` relies on it."""
    for bits in range(1, 25):
        sizes = [packed_size(count, bits) for count in range(200)]
        assert sizes == sorted(sizes)


def test_eight_bit_codes_are_passed_on_without_a_copy() -> None:
    codes = np.arange(100, dtype=np.uint8)
    packed = pack_codes(codes, 8)
    codes[3] = 77
    assert packed[3] == 77


def test_codes_of_any_shape_are_packed_in_their_order() -> None:
    codes = np.arange(24).reshape(2, 3, 4)
    assert bytes(pack_codes(codes, 5)) == bytes(pack_codes(codes.reshape(-1), 5))
    turned = codes.transpose(2, 0, 1)
    assert bytes(pack_codes(turned, 5)) == reference(turned.reshape(-1).tolist(), 5)
