"""Coincidence updates of devices whose step is linear in the weight, many cells side by side.

No branch depends on a cell: ``simd.WIDTH`` cells are stepped at once in the processor's registers,
in single precision (``sim_backend.step_law``).

Pulse by pulse (``outer_lanes``): each lane keeps the directions of its next pulses as bits; updates
are appended until a lane of a vector could overflow, then its lanes that have a group of ``GROUP``
pulses take it in step.  Groups begin at a multiple of ``GROUP`` in a cell's count of pulses, so
that one hash serves four pulses of every lane.  Cells do not touch each other, and a lane's own
pulses keep their order, so the bits are those of ``steps._stepped`` called pulse after pulse.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sim_backend import simd
from sim_backend.noise import GAMMA, MIX_1, MIX_2
from sim_backend.outer import Trains, Words
from sim_backend.simd import WIDTH, gather, least, most, pointer, select, splat
from sim_backend.step_law import (
    DOWN,
    HIGH,
    LOW,
    PULSE_MASK,
    REFERENCE,
    SHAPE_DOWN,
    SHAPE_UP,
    UP,
    line,
    seen,
)  # fmt: skip

#: cells of a block, whose vectors take turns: the steps of one wait for each other
LANES = 128
#: pulses that lanes take in step, two hashes each
GROUP = 8
#: pulses that a lane may keep when another update, of 31 at most, is appended
_KEPT = 33
#: rows of fewer cells share vectors
_SHORT = 64
#: parts of a block's single-precision numbers, ``LANES`` of each
WEIGHT, OWN_LOW, OWN_HIGH, STEP_UP, STEP_DOWN, SLOPE_UP, SLOPE_DOWN = (LANES * i for i in range(7))
_PARTS = 7

_ONE = np.float32(1.0)
_U0, _U1 = np.uint32(0), np.uint32(1)


class Block(NamedTuple):
    """Cells side by side, a number of each lane in every array.

    Attributes:
        singles: weights, bounds, steps and slopes, ``LANES`` of each.
        places: sum behind the hash of the first four pulses of the next group.
        bits: directions of the pulses to come, 1 up.
        left: how many they are, those of the group that were given before included.
        skip: how many these are.
        taken: pulses taken, likewise.
        cells: theirs; -1 in lanes without one.
        row: where the words of a lane's row begin.
        column: a lane's column.
    """

    singles: npt.NDArray[np.float32]
    places: npt.NDArray[np.uint64]
    bits: npt.NDArray[np.uint64]
    left: npt.NDArray[np.uint32]
    skip: npt.NDArray[np.uint32]
    taken: npt.NDArray[np.uint32]
    cells: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]


def empty_block() -> Block:
    """Room for a block; what is left in it does not matter."""
    singles = simd.aligned(_PARTS * LANES, np.float32)
    longs = (simd.aligned(LANES, np.uint64) for _ in range(2))
    words = (simd.aligned(LANES, np.uint32) for _ in range(3))
    numbers = (simd.aligned(LANES, np.int32) for _ in range(3))
    return Block(singles, *longs, *words, *numbers)


class Lines(NamedTuple):
    """Cells and trains in the order of lanes.

    Attributes:
        cells: (lanes,) cells, -1 where a lane has none.
        rows: (rows * updates,) words, row by row.
        columns: (updates * stride,) words, update by update; 0 in lanes without a cell.
        stride: lanes of a row.
        updates, length: how many, and slots of a train.
    """

    cells: npt.NDArray[np.int32]
    rows: Words
    columns: Words
    stride: int
    updates: int
    length: int


def arranged(cells: npt.NDArray[np.int64], trains: Trains) -> Lines:
    """Puts cells, row by row, and their trains into lanes.

    Lanes of a vector wait for the one with the most pulses, so columns that fire alike come
    together; rows begin with a vector, short ones share it.
    """
    wide, updates = trains.columns.shape
    rows = np.ascontiguousarray(trains.rows).reshape(-1)
    if wide < _SHORT:
        words = np.ascontiguousarray(trains.columns.T).reshape(-1)
        return Lines(cells.astype(np.int32), rows, words, wide, updates, trains.length)
    slots = np.uint32((1 << trains.length) - 1)
    order = np.argsort(np.bitwise_count(trains.columns & slots).sum(1), kind="stable")
    words = simd.padded(trains.columns[order].T)
    index = np.full((trains.rows.shape[0], words.size // updates), -1, dtype=np.int32)
    # A command that a fault cuts short changes the first cells only.
    every = np.full(trains.rows.shape[0] * wide, -1, dtype=np.int32)
    every[: cells.size] = cells
    index[:, :wide] = every.reshape(-1, wide)[:, order]
    return Lines(index.reshape(-1), rows, words, index.shape[1], updates, trains.length)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def mixed_lanes(place):  # type: ignore[no-untyped-def]
    """Compiled: ``noise.mixed`` of each lane."""
    z = (place ^ (place >> splat(np.uint64(30)))) * splat(MIX_1)
    z = (z ^ (z >> splat(np.uint64(27)))) * splat(MIX_2)
    return z ^ (z >> splat(np.uint64(31)))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _stepped(w, own, up, now, bit, cycle, additive):  # type: ignore[no-untyped-def]
    """``step_law.moved`` of the lanes that get the pulse ``bit``."""
    low, high, step_up, step_down, slope_up, slope_down = own
    upwards = (up & splat(bit)) != splat(_U0)
    step, slope = select(upwards, step_up, step_down), select(upwards, slope_up, slope_down)
    change = step * cycle
    factor = splat(_ONE) + slope * (step if additive else change)
    after = least(high, most(low, w * factor + change))
    return select((now & splat(bit)) != splat(_U0), after, w)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _four(first, w, own, up, now, place, table, additive):  # type: ignore[no-untyped-def]
    """Four pulses from number ``first`` of a group on, which share a hash."""
    hashed = mixed_lanes(place)
    mask, half = splat(np.uint32(PULSE_MASK)), splat(np.uint32(16))
    early, late = simd.low_words(hashed), simd.high_words(hashed)
    cycle = gather(table, early & mask)
    w = _stepped(w, own, up, now, np.uint32(1 << first), cycle, additive)
    cycle = gather(table, (early >> half) & mask)
    w = _stepped(w, own, up, now, np.uint32(2 << first), cycle, additive)
    cycle = gather(table, late & mask)
    w = _stepped(w, own, up, now, np.uint32(4 << first), cycle, additive)
    cycle = gather(table, (late >> half) & mask)
    return _stepped(w, own, up, now, np.uint32(8 << first), cycle, additive)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _take(at, last, singles, places, bits, left, skip, taken, table, additive):  # type: ignore[no-untyped-def]
    """Takes the next group of a vector's lanes, or what is left of it; returns what is left."""
    kept, skipped = simd.load(left, at), simd.load(skip, at)
    zero, one, group = splat(_U0), splat(_U1), splat(np.uint32(GROUP))
    count = select(kept < group, kept if last else zero, group)
    given = count != zero
    directions, place = simd.load(bits, at), simd.load(places, at)
    up = simd.low_words(directions)
    now = (((one << count) - one) >> skipped) << skipped
    kept = kept - count
    simd.store(bits, at, directions >> simd.longs_of(count))
    simd.store(left, at, kept)
    simd.store(taken, at, simd.load(taken, at) + count)
    simd.store(skip, at, select(given, zero, skipped))
    second = place + splat(GAMMA)
    simd.store(places, at, select(given, second + splat(GAMMA), place))
    own = (
        simd.load(singles, OWN_LOW + at), simd.load(singles, OWN_HIGH + at),
        simd.load(singles, STEP_UP + at), simd.load(singles, STEP_DOWN + at),
        simd.load(singles, SLOPE_UP + at), simd.load(singles, SLOPE_DOWN + at),
    )  # fmt: skip
    w = simd.load(singles, at)
    w = _four(0, w, own, up, now, place, table, additive)
    w = _four(4, w, own, up, now, second, table, additive)
    simd.store(singles, at, w)
    return kept


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _append(at, row, column, length, bits, left):  # type: ignore[no-untyped-def]
    """Appends an update's pulses to a vector's lanes; returns how many these keep."""
    one, zero = splat(_U1), splat(_U0)
    found = simd.ones_of(row & column & splat(np.uint32((1 << length) - 1)))
    alike = ((row ^ column) & splat(np.uint32(1 << length))) == zero
    fresh = simd.longs_of(select(alike, (one << found) - one, zero))
    kept = simd.load(left, at)
    simd.store(bits, at, simd.load(bits, at) | (fresh << simd.longs_of(kept)))
    simd.store(left, at, kept + found)
    return kept + found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def place(begin, lines, block):  # type: ignore[no-untyped-def]
    """Cells, rows and columns of the lanes from ``begin`` on; returns how many, whole vectors."""
    # Taking an array out of a tuple, here and below, costs as much as a turn of the loop.
    index, row_at, column_at, cells = block.cells, block.row, block.column, lines.cells
    used, stride, updates = min(LANES, cells.size - begin), lines.stride, lines.updates
    row, column = begin // stride * updates, begin % stride
    for j in range(used):
        index[j], row_at[j], column_at[j] = cells[begin + j], row, column
        column += 1
        if column == stride:
            row, column = row + updates, 0
    whole = -(-used // WIDTH) * WIDTH
    index[used:whole] = -1
    row_at[used:whole] = 0
    column_at[used:whole] = 0
    return whole


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def load_cells(conductances, hidden, set_drive, reset_drive, law, own, used, block):  # type: ignore[no-untyped-def]
    """Weights and parameters of a block's cells; lanes without one stay at 0."""
    index, singles = block.cells, block.singles
    for j in range(used):
        i = np.int64(index[j])
        if i < 0:
            for part in range(_PARTS):
                singles[part * LANES + j] = 0.0
            continue
        singles[j] = (conductances[i] + hidden[i] - law.zero) / law.unit + own[i, REFERENCE]
        singles[OWN_LOW + j], singles[OWN_HIGH + j] = own[i, LOW], own[i, HIGH]
        up, down, shapes = own[i, UP], own[i, DOWN], (own[i, SHAPE_UP], own[i, SHAPE_DOWN])
        step, slope = line(up, own[i, HIGH], shapes[0], set_drive, True, law)
        singles[STEP_UP + j], singles[SLOPE_UP + j] = step, slope
        step, slope = line(down, own[i, LOW], shapes[1], reset_drive, False, law)
        singles[STEP_DOWN + j], singles[SLOPE_DOWN + j] = step, slope


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def store_cells(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, law, own, keys, normal, used, group, block, moved
):  # fmt: skip
    """Counts the pulses of a block, from a multiple of ``group`` on, and writes back what moved."""
    index, taken, singles = block.cells, block.taken, block.singles
    for j in range(used):
        i = np.int64(index[j])
        if i < 0:
            continue
        before = np.int64(pulses[i])
        count = before - before % group + np.int64(taken[j])
        if taken[j] == 0 or count == before:
            continue
        pulses[i] = np.uint32(count)
        if stuck[i] == 0 and moved[j]:
            w, reference = np.float64(singles[j]), own[i, REFERENCE]
            g = seen(w, count, i, law, reference, keys, normal)
            conductances[i] = np.uint16(g)
            hidden[i] = law.zero + (w - reference) * law.unit - g


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(pulses, key, used, block):  # type: ignore[no-untyped-def]
    """Empties the lanes; a cell's first group begins before its first pulse."""
    _, places, bits, left, skip, taken, index, _, _ = block
    for j in range(used):
        i = index[j]
        count = np.int64(pulses[i]) if i >= 0 else 0
        left[j] = skip[j] = np.uint32(count % GROUP)
        bits[j] = 0
        taken[j] = 0
        quad = np.uint64(count // GROUP * 2)
        places[j] = key + quad * GAMMA + np.uint64(max(i, 0)) * MIX_1 + GAMMA


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def silent(at, u, rows, stride, row_at, length):  # type: ignore[no-untyped-def]
    """Compiled: whether a vector is of one row, and that one's train has no pulse."""
    return stride % WIDTH == 0 and rows[row_at[at] + u] & np.uint32((1 << length) - 1) == 0


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def trains_of(at, u, rows, columns, stride, row_at, column_at):  # type: ignore[no-untyped-def]
    """Compiled: words of an update's rows and columns in a vector's lanes."""
    if stride % WIDTH:
        row = gather(rows, simd.load(row_at, at) + splat(np.int32(u)))
        start = splat(np.int32(u * stride))
        return row, gather(columns, simd.load(column_at, at) + start)
    return splat(rows[row_at[at] + u]), simd.load(columns, u * stride + column_at[at])


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _all_updates(lines, block, used, noises, additive):  # type: ignore[no-untyped-def]
    """All updates of a block's cells."""
    singles, places, bits = pointer(block.singles), pointer(block.places), pointer(block.bits)
    left, skip, taken = pointer(block.left), pointer(block.skip), pointer(block.taken)
    row_at, column_at, table = pointer(block.row), pointer(block.column), pointer(noises)
    rows, columns, stride = pointer(lines.rows), pointer(lines.columns), lines.stride
    updates, length = lines.updates, lines.length
    # After the last update what is left is taken.
    for u in range(updates + 1):
        last = u == updates
        limit = splat(np.uint32(0 if last else _KEPT))
        for at in range(0, used, WIDTH):
            if last:
                kept = simd.load(left, at)
            elif silent(at, u, rows, stride, row_at, length):
                continue
            else:
                row, column = trains_of(at, u, rows, columns, stride, row_at, column_at)
                kept = _append(at, row, column, length, bits, left)
            while simd.any_of(kept > limit):
                kept = _take(at, last, singles, places, bits, left, skip, taken, table, additive)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_lanes(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, lines, set_drive, reset_drive, law, own, keys, normal,
    table, block,
):  # fmt: skip
    """``steps._outer_all`` of a linear step, drives not 0; ``table``: ``step_law.cycle_table``."""
    for begin in range(0, lines.cells.size, LANES):
        used = place(begin, lines, block)
        load_cells(conductances, hidden, set_drive, reset_drive, law, own, used, block)
        _begin(pulses, keys.pulse, used, block)
        _all_updates(lines, block, used, table, law.additive)
        store_cells(
            conductances, hidden, pulses, stuck, law, own, keys, normal, used, GROUP, block,
            block.taken,
        )  # fmt: skip
