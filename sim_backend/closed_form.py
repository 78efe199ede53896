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

from sim_backend.noise import GAMMA, MIX_1, hash_at, mixed
from sim_backend.outer import ones
from sim_backend.step_lanes import (
    LANES,
    OWN_HIGH,
    OWN_LOW,
    SLOPE_DOWN,
    SLOPE_UP,
    STEP_DOWN,
    STEP_UP,
    load,
    store,
)  # fmt: skip
from sim_backend.step_law import HIGH, LOW, MOVE_LANE, REFERENCE, drawn, line, seen

#: pulses of one move at most
MOST = 31
#: a block's coefficients have a row for each count of pulses, negative ones being ``count & _ROW``,
#: and in it a pair for each lane, of the mean and of the noise
_ROW = 2 * MOST + 1
_ONE = np.float32(1.0)


class Moves(NamedTuple):
    """What moves of a block's cells need besides it.

    Attributes:
        table: ``_ROW + 1`` rows of coefficients.
        sums: S, T and d^2n of the counts that are in the table, upwards and downwards.
        net: pulses of each lane's next move.
        chosen: their pairs of coefficients.
        z: what is drawn.
    """

    table: npt.NDArray[np.float32]
    sums: npt.NDArray[np.float32]
    net: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.float32]
    z: npt.NDArray[np.float32]


def empty_moves() -> Moves:
    """Room for a block's moves; what is left in it does not matter."""
    sizes = 2 * (_ROW + 1), 6, 2, 1
    table, sums, chosen, z = (np.zeros(size * LANES, dtype=np.float32) for size in sizes)
    return Moves(table, sums, np.zeros(LANES, dtype=np.int32), chosen, z)


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
    factor = _ONE + slope * w
    away = noise * z
    return min(high, max(low, w + mean * factor + (away if additive else away * factor)))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _extend(first, last, own, sums, table, variation, additive):  # type: ignore[no-untyped-def]
    """Coefficients of ``first`` to ``last`` pulses."""
    for way in range(2):
        step_at = STEP_UP if way == 0 else STEP_DOWN
        slope_at = SLOPE_UP if way == 0 else SLOPE_DOWN
        steps, slopes = own[step_at : step_at + LANES], own[slope_at : slope_at + LANES]
        part = sums[3 * way * LANES : 3 * (way + 1) * LANES]
        for n in range(first, last + 1):
            row = 2 * LANES * (n if way == 0 else _ROW + 1 - n)
            pairs = table[row : row + 2 * LANES]
            for j in range(LANES):
                decay, growth = _rates(steps[j], slopes[j], variation, additive)
                total, spread, power = _grown(
                    part[j], part[LANES + j], part[2 * LANES + j], decay, growth
                )
                part[j], part[LANES + j], part[2 * LANES + j] = total, spread, power
                pairs[2 * j] = steps[j] * total
                pairs[2 * j + 1] = abs(steps[j]) * variation * np.sqrt(spread)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _net(word, columns, length, net):  # type: ignore[no-untyped-def]
    """Signed pulses of one row's lanes; returns their counts, joined bit by bit."""
    slots, sign = np.uint32((1 << length) - 1), np.uint32(1 << length)
    joined = np.int32(0)
    for j in range(columns.size):
        found = np.int32(ones(word & columns[j] & slots))
        net[j] = -found if (word ^ columns[j]) & sign else found
        joined |= found
    return joined


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _largest(net):  # type: ignore[no-untyped-def]
    """Largest count of pulses of a lane."""
    largest = np.int32(0)
    for j in range(LANES):
        largest = max(largest, np.int32(abs(net[j])))
    return np.int64(largest)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _draw(places, table, hashed, z):  # type: ignore[no-untyped-def]
    """What each lane draws for its next move."""
    for j in range(LANES):
        hashed[j] = mixed(places[j])
    for j in range(LANES):
        z[j] = drawn(table, hashed[j], MOVE_LANE)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _look_up(net, pairs, found):  # type: ignore[no-untyped-def]
    """Coefficients of each lane's count of pulses, two of them as one word."""
    for j in range(LANES):
        found[j] = pairs[np.uint64((net[j] & _ROW) * LANES + j)]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _move(w, net, pairs, z, own, additive):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        slope_up, slope_down = own[SLOPE_UP + j], own[SLOPE_DOWN + j]
        slope = slope_up if net[j] > 0 else slope_down
        low, high, before = own[OWN_LOW + j], own[OWN_HIGH + j], w[j]
        mean, noise = pairs[2 * j], pairs[2 * j + 1]
        after = _moved(before, slope, mean, noise, z[j], low, high, additive)
        w[j] = after if net[j] != 0 else before


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _count(net, taken, places):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        count = abs(np.int64(net[j]))
        taken[j] += count
        places[j] += np.uint64(count)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(pulses, cells, keys, places, taken, net, sums):  # type: ignore[no-untyped-def]
    taken[:] = 0
    net[:] = 0
    for j in range(cells.size):
        index, count = np.uint64(cells[j]), pulses[cells[j]]
        taken[j] = count
        places[j] = keys.program + np.uint64(count) + index * MIX_1 + GAMMA
    for way in range(2):
        sums[3 * way * LANES : (3 * way + 2) * LANES] = 0.0
        sums[(3 * way + 2) * LANES : 3 * (way + 1) * LANES] = 1.0


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_closed(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, rows, columns, length, set_drive, reset_drive, law,
    own, keys, normal, table, block, moves,
):  # fmt: skip
    """``steps._outer_all`` in closed form, update by update.

    ``columns`` is (updates, columns), ``table`` has the deviates (``step_law.deviate_table``).
    """
    # Taking an array out of these costs as much as a move.
    w, lanes, places, hashed, _, _, _, _, taken, _, _ = block
    pairs, sums, net, chosen, z = moves
    packed, packed_chosen = pairs.view(np.uint64), chosen.view(np.uint64)
    additive, variation = law.additive, np.float32(law.cycle_variation)
    wide = columns.shape[1]
    for begin in range(0, cells.size, LANES):
        part = cells[begin : begin + LANES]
        end = begin + part.size
        load(conductances, hidden, part, set_drive, reset_drive, law, own, w, lanes)
        _begin(pulses, part, keys, places, taken, net, sums)
        known = np.int64(0)
        for u in range(rows.shape[1]):
            at, joined = begin, np.int64(0)
            while at < end:
                row, first = at // wide, at % wide
                count = min(end - at, wide - first)
                line_ = columns[u, first : first + count]
                joined |= _net(rows[row, u], line_, length, net[at - begin :])
                at += count
            if joined == 0:
                continue
            if joined > known:
                largest = _largest(net)
                _extend(known + 1, largest, lanes, sums, pairs, variation, additive)
                known = max(known, largest)
            _draw(places, table, hashed, z)
            _look_up(net, packed, packed_chosen)
            _move(w, net, chosen, z, lanes, additive)
            _count(net, taken, places)
        store(conductances, hidden, pulses, stuck, part, law, own, keys, normal, w, taken)


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
        me = own[index]
        step, slope = line(me, drive, upwards, law)
        decay, growth = _rates(step, slope, variation, law.additive)
        w = np.float32((conductances[index] + hidden[index] - law.zero) / law.unit + me[REFERENCE])
        low, high = np.float32(me[LOW]), np.float32(me[HIGH])
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
        g = seen(weight, n, index, law, me, keys, normal)
        conductances[index] = np.uint16(g)
        hidden[index] = law.zero + (weight - me[REFERENCE]) * law.unit - g
