"""Several pulses of one direction at once: ``device.pulses: closed-form``.

Where a step is linear in the weight, ``F(w) = 1 + s w``, a pulse of step a (negative downwards)
with noise sigma z takes F to ``F (1 + s a (1 + sigma z))``, or, where noise is additive, to
``F (1 + s a) + s a sigma z``.  With ``d = 1 + s a``, n independent pulses give

    mean       w + a S_n F             S_n = 1 + d + ... + d^(n-1)
    variance   (a sigma F)^2 T_n       T_n = sum over k < n of q^k d^(2 (n-1-k))
               q = d^2 + (s a sigma)^2, the growth of F's second moment; with additive noise
               q = 1 and no F: the sum over k of d^(2 k)

by induction over n; for soft bounds the mean is ``b (1 - (1 - a/b)^n) + w (1 - a/b)^n``, for a
constant step ``w + n a``.  One normal deviate of that variance is added, and the result is kept
within the bounds [ours].  What is lost: the sum is taken for normal, and bounds act after the last
pulse instead of after each.  Write-verify counts its pulses one by one as ever.

Up to ``MOST`` pulses are one move, as many as an update by coincidence can give; PULSE with more is
several.  All is in single precision (``sim_backend.step_law``).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sim_backend import simd
from sim_backend.noise import GAMMA, MIX_1, hash_at
from sim_backend.simd import WIDTH, gather, least, most, pointer, select, splat
from sim_backend.step_lanes import (
    LANES,
    OWN_HIGH,
    OWN_LOW,
    SLOPE_DOWN,
    SLOPE_UP,
    STEP_DOWN,
    STEP_UP,
    load_cells,
    mixed_lanes,
    place,
    silent,
    store_cells,
    trains_of,
)  # fmt: skip
from sim_backend.step_law import (
    DOWN,
    HIGH,
    LOW,
    MOVE_LANE,
    PULSE_MASK,
    REFERENCE,
    SHAPE_DOWN,
    SHAPE_UP,
    UP,
    drawn,
    line,
    seen,
)  # fmt: skip

#: pulses of one move at most
MOST = 31
#: a vector's coefficients have a row for each count of pulses, those downwards after the others
_ROWS = 2 * MOST + 1
_ONE, _NONE = np.float32(1.0), np.float32(0.0)
_U0, _ALL = np.uint32(0), np.uint32(0xFFFFFFFF)


class Moves(NamedTuple):
    """What moves of a vector's cells need besides them.

    Attributes:
        pairs: (``_ROWS`` * ``WIDTH``,) two coefficients, of the mean and of the noise, as one word.
        lane: (``WIDTH``,) numbers of the lanes.
    """

    pairs: npt.NDArray[np.uint64]
    lane: npt.NDArray[np.uint32]


def empty_moves() -> Moves:
    """Room for a vector's moves; what is left in it does not matter."""
    lane = simd.aligned(WIDTH, np.uint32)
    lane[:] = np.arange(WIDTH)
    return Moves(simd.aligned(_ROWS * WIDTH, np.uint64), lane)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _grown(total, spread, power, decay, growth):  # type: ignore[no-untyped-def]
    """(S, T, d^2n) of one pulse more."""
    return total * decay + _ONE, spread * growth + power, power * (decay * decay)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _rates(step, slope, variation, additive):  # type: ignore[no-untyped-def]
    """(d, q); a step beyond the bound ends at it."""
    decay = max(np.float32(0.0), _ONE + slope * step)
    lost = slope * step * variation
    return decay, _ONE if additive else decay * decay + lost * lost


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _moved(w, slope, mean, noise, z, low, high, additive):  # type: ignore[no-untyped-def]
    change = mean + noise * z
    factor = _ONE + slope * (mean if additive else change)
    return min(high, max(low, w * factor + change))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _rates_lanes(step, slope, variation, additive):  # type: ignore[no-untyped-def]
    """``_rates`` of a vector."""
    one, lost = splat(_ONE), slope * step * variation
    decay = most(splat(_NONE), one + slope * step)
    return decay, one if additive else decay * decay + lost * lost


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _extended(row, pairs, sums, rates, step, size):  # type: ignore[no-untyped-def]
    """Writes the coefficients of one pulse more; returns its (S, T, d^2n)."""
    total, spread, power = sums
    decay, growth = rates
    total, spread = total * decay + splat(_ONE), spread * growth + power
    mean, noise = simd.words_of(step * total), simd.words_of(size * simd.roots_of(spread))
    pair = simd.longs_of(mean) | (simd.longs_of(noise) << splat(np.uint64(32)))
    simd.store(pairs, row * WIDTH, pair)
    return total, spread, power * (decay * decay)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _moved_lanes(w, low, high, slope, pair, z, additive):  # type: ignore[no-untyped-def]
    """``_moved`` of a vector."""
    mean, noise = simd.singles_of(simd.low_words(pair)), simd.singles_of(simd.high_words(pair))
    change = mean + noise * z
    factor = splat(_ONE) + slope * (mean if additive else change)
    return least(high, most(low, w * factor + change))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _all_moves(at, lines, block, moves, deviates, drives, variation, additive):  # type: ignore[no-untyped-def]
    """All updates of a vector's cells; ``block.left`` says which of them got a pulse that moves."""
    singles, pairs, lane = pointer(block.singles), pointer(moves.pairs), pointer(moves.lane)
    row_at, column_at, table = pointer(block.row), pointer(block.column), pointer(deviates)
    rows, columns, stride = pointer(lines.rows), pointer(lines.columns), lines.stride
    w, low, high = (
        simd.load(singles, at), simd.load(singles, OWN_LOW + at), simd.load(singles, OWN_HIGH + at)
    )  # fmt: skip
    step_up, step_down = simd.load(singles, STEP_UP + at), simd.load(singles, STEP_DOWN + at)
    slope_up, slope_down = simd.load(singles, SLOPE_UP + at), simd.load(singles, SLOPE_DOWN + at)
    spread = splat(variation)
    rates_up = _rates_lanes(step_up, slope_up, spread, additive)
    rates_down = _rates_lanes(step_down, slope_down, spread, additive)
    size_up, size_down = step_up * spread, splat(_NONE) - step_down * spread
    up = down = (splat(_NONE), splat(_NONE), splat(_ONE))
    known, zero = 0, splat(_U0)
    driven_up = splat(_ALL if drives[0] != 0.0 else _U0)
    driven_down = splat(_ALL if drives[1] != 0.0 else _U0)
    moved = zero
    places, taken = simd.load(pointer(block.places), at), zero
    slots, sign = splat(np.uint32((1 << lines.length) - 1)), splat(np.uint32(1 << lines.length))
    for u in range(lines.updates):
        if silent(at, u, rows, stride, row_at, lines.length):
            continue
        row, column = trains_of(at, u, rows, columns, stride, row_at, column_at)
        found = simd.ones_of(row & column & slots)
        if not simd.any_of(found != zero):
            continue
        upwards = ((row ^ column) & sign) == zero
        driven = found & select(upwards, driven_up, driven_down)
        while simd.any_of(found > splat(np.uint32(known))):
            known += 1
            up = _extended(known, pairs, up, rates_up, step_up, size_up)
            down = _extended(MOST + known, pairs, down, rates_down, step_down, size_down)
        count = select(upwards, found, found + splat(np.uint32(MOST)))
        pair = gather(pairs, count * splat(np.uint32(WIDTH)) + simd.load(lane, 0))
        z = gather(table, simd.high_words(mixed_lanes(places)) & splat(np.uint32(PULSE_MASK)))
        slope = select(upwards, slope_up, slope_down)
        w = select(driven != zero, _moved_lanes(w, low, high, slope, pair, z, additive), w)
        places, taken, moved = places + simd.longs_of(found), taken + found, moved | driven
    simd.store(singles, at, w)
    simd.store(pointer(block.taken), at, taken)
    simd.store(pointer(block.left), at, moved)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(pulses, key, used, block):  # type: ignore[no-untyped-def]
    places, index = block.places, block.cells
    for j in range(used):
        i = index[j]
        count = np.uint64(pulses[i]) if i >= 0 else np.uint64(0)
        places[j] = key + count + np.uint64(max(i, 0)) * MIX_1 + GAMMA


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_closed(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, lines, set_drive, reset_drive, law, own, keys, normal,
    table, block, moves,
):  # fmt: skip
    """``steps._outer_all`` in closed form, update by update; ``table``: ``deviate_table``."""
    variation, drives = np.float32(law.cycle_variation), (set_drive, reset_drive)
    for begin in range(0, lines.cells.size, LANES):
        used = place(begin, lines, block)
        load_cells(conductances, hidden, set_drive, reset_drive, law, own, used, block)
        _begin(pulses, keys.program, used, block)
        for at in range(0, used, WIDTH):
            _all_moves(at, lines, block, moves, table, drives, variation, law.additive)
        store_cells(
            conductances, hidden, pulses, stuck, law, own, keys, normal, used, 1, block, block.left
        )


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def pulse_closed(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, counts, set_drive, reset_drive, law, own, keys,
    normal, table,
):  # fmt: skip
    """``steps._pulse_all`` in closed form, in moves of at most ``MOST`` pulses."""
    variation = np.float32(law.cycle_variation)
    for i in range(cells.size):
        index, wanted = cells[i], np.int64(counts[i])
        n, left = np.int64(pulses[index]), np.int64(abs(wanted))
        pulses[index] = np.uint32(n + left)
        upwards = wanted > 0
        drive = set_drive if upwards else reset_drive
        if stuck[index] or wanted == 0 or drive == 0.0:
            continue
        way = (UP, HIGH, SHAPE_UP) if upwards else (DOWN, LOW, SHAPE_DOWN)
        step, slope = line(
            own[index, way[0]], own[index, way[1]], own[index, way[2]], drive, upwards, law
        )
        decay, growth = _rates(step, slope, variation, law.additive)
        w = np.float32(
            (conductances[index] + hidden[index] - law.zero) / law.unit + own[index, REFERENCE]
        )
        low, high = np.float32(own[index, LOW]), np.float32(own[index, HIGH])
        while left:
            now = left if left < MOST else np.int64(MOST)
            total, spread, power = np.float32(0.0), np.float32(0.0), _ONE
            for _ in range(now):
                total, spread, power = _grown(total, spread, power, decay, growth)
            hashed = hash_at(keys.program + np.uint64(n), np.uint64(0), np.uint64(index))
            z = drawn(table, hashed, MOVE_LANE)
            noise = abs(step) * variation * np.sqrt(spread)
            w = _moved(w, slope, step * total, noise, z, low, high, law.additive)
            n, left = n + now, left - now
        weight = np.float64(w)
        g = seen(weight, n, index, law, own[index, REFERENCE], keys, normal)
        conductances[index] = np.uint16(g)
        hidden[index] = law.zero + (weight - own[index, REFERENCE]) * law.unit - g
