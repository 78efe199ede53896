"""Vectors in registers: each lane has what numpy has."""

from __future__ import annotations

import operator
from types import FunctionType
from typing import Any

import numba
import numpy as np
import pytest

from sim_backend import simd
from sim_backend.simd import WIDTH, load, pointer, select, splat, store

SIZE = 8 * WIDTH
_WORDS = np.random.default_rng(0).integers(0, 2**32, (2, SIZE), dtype=np.uint32)
_SINGLES = np.random.default_rng(1).standard_normal((2, SIZE)).astype(np.float32)
_LONGS = np.random.default_rng(2).integers(0, 2**64, (2, SIZE), dtype=np.uint64)


def lanes_of(function: Any, out: np.dtype[Any], *arrays: np.ndarray[Any, Any]) -> Any:
    """A function of vectors, vector by vector."""
    compiled = numba.njit(function) if isinstance(function, FunctionType) else function
    if len(arrays) == 1:

        @numba.njit
        def one(a, found):  # type: ignore[no-untyped-def]
            for at in range(0, a.size, WIDTH):
                store(pointer(found), at, compiled(load(pointer(a), at)))

        run = one
    else:

        @numba.njit
        def two(a, b, found):  # type: ignore[no-untyped-def]
            for at in range(0, a.size, WIDTH):
                mine, other = load(pointer(a), at), load(pointer(b), at)
                store(pointer(found), at, compiled(mine, other))

        run = two
    found = np.empty(SIZE, dtype=out)
    run(*(np.ascontiguousarray(a) for a in arrays), found)
    return found


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize("values", [_WORDS, _SINGLES, _LONGS], ids=["words", "singles", "longs"])
def test_arithmetic_is_that_of_numpy(name: str, values: Any) -> None:
    operation = getattr(operator, name)
    found = lanes_of(operation, values.dtype, *values)
    assert np.array_equal(found, operation(*values))


@pytest.mark.parametrize("name", ["and_", "or_", "xor"])
@pytest.mark.parametrize("values", [_WORDS, _LONGS], ids=["words", "longs"])
def test_bits_are_those_of_numpy(name: str, values: Any) -> None:
    operation = getattr(operator, name)
    assert np.array_equal(lanes_of(operation, values.dtype, *values), operation(*values))


@pytest.mark.parametrize("name", ["lshift", "rshift"])
def test_shifts_are_without_sign(name: str) -> None:
    operation, by = getattr(operator, name), _LONGS[1] % 64
    assert np.array_equal(lanes_of(operation, by.dtype, _LONGS[0], by), operation(_LONGS[0], by))


@pytest.mark.parametrize("values", [_WORDS, _SINGLES, _LONGS], ids=["words", "singles", "longs"])
@pytest.mark.parametrize("name", ["lt", "gt", "eq", "ne"])
def test_comparisons_choose_as_numpy_does(name: str, values: Any) -> None:
    operation = getattr(operator, name)
    a, b = values[0], np.where(np.arange(SIZE) % 3, values[1], values[0])
    found = lanes_of(lambda x, y: select(operation(x, y), x, y), values.dtype, a, b)
    assert np.array_equal(found, np.where(operation(a, b), a, b))


def test_lesser_and_greater_are_those_of_numpy() -> None:
    kind = _SINGLES.dtype
    assert np.array_equal(lanes_of(simd.least, kind, *_SINGLES), np.minimum(*_SINGLES))
    assert np.array_equal(lanes_of(simd.most, kind, *_SINGLES), np.maximum(*_SINGLES))


def test_bits_are_counted_and_reach_words_longs_and_singles() -> None:
    words, longs, singles = _WORDS[0], _LONGS[0], _SINGLES[0]
    word, long, single = words.dtype, longs.dtype, singles.dtype
    assert np.array_equal(lanes_of(simd.ones_of, word, words), np.bitwise_count(words))
    assert np.array_equal(lanes_of(simd.low_words, word, longs), longs.astype(np.uint32))
    assert np.array_equal(lanes_of(simd.high_words, word, longs), longs >> np.uint64(32))
    assert np.array_equal(lanes_of(simd.longs_of, long, words), words.astype(np.uint64))
    assert np.array_equal(lanes_of(simd.words_of, word, singles), singles.view(np.uint32))
    assert np.array_equal(lanes_of(simd.singles_of, single, singles.view(np.uint32)), singles)
    assert np.array_equal(
        lanes_of(simd.roots_of, single, np.abs(singles)), np.sqrt(np.abs(singles))
    )


@pytest.mark.parametrize("table", [_SINGLES[0], _WORDS[0], _LONGS[0]], ids=["f32", "u32", "u64"])
def test_lanes_are_gathered_each_from_its_own_place(table: Any) -> None:
    places = np.random.default_rng(3).integers(0, SIZE, SIZE).astype(np.uint32)

    @numba.njit
    def run(table, places, found):  # type: ignore[no-untyped-def]
        for at in range(0, places.size, WIDTH):
            vector = simd.gather(pointer(table), load(pointer(places), at))
            store(pointer(found), at, vector)

    found = np.empty_like(table)
    run(table, places, found)
    assert np.array_equal(found, table[places])


def test_a_mask_says_whether_it_has_a_lane() -> None:
    @numba.njit
    def run(values, least):  # type: ignore[no-untyped-def]
        return simd.any_of(load(pointer(values), 0) > splat(np.uint32(least)))

    values = np.zeros(WIDTH, dtype=np.uint32)
    assert not run(values, 0)
    for lane in range(WIDTH):
        values[:] = 0
        values[lane] = 7
        assert run(values, 6) and not run(values, 7)


def test_room_for_vectors_does_not_cross_lines_of_the_cache() -> None:
    for size in (1, 5, 300):
        assert simd.aligned(size, np.uint32).ctypes.data % 64 == 0
    table = np.arange(34, dtype=np.uint32).reshape(2, 17)
    padded = simd.padded(table).reshape(2, 2 * WIDTH)
    assert np.array_equal(padded[:, :17], table) and not padded[:, 17:].any()
