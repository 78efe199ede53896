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
several.  Coefficients are kept in single precision, states are not.
"""

from __future__ import annotations

import numba
import numpy as np

from sim_backend.noise import GAMMA, UNIT, hash_at
from sim_backend.outer import ones
from sim_backend.step_lanes import (
    BITS,
    GIVEN,
    LANES,
    OWN_DOWN,
    OWN_HIGH,
    OWN_LOW,
    OWN_SHAPE_DOWN,
    OWN_SHAPE_UP,
    OWN_UP,
    draw,
    load,
    store,
)  # fmt: skip
from sim_backend.step_law import (
    CYCLE_LANE,
    DOWN,
    HIGH,
    LINEAR,
    LOW,
    REFERENCE,
    SHAPE_DOWN,
    SHAPE_UP,
    SOFT,
    UP,
    deviate,
    seen,
)  # fmt: skip

#: pulses of one move at most
MOST = 31
#: a block's coefficients have a row for each count of pulses, negative ones being ``count & _ROW``,
#: and in it a pair for each lane, of the mean and of the noise
_ROW = 2 * MOST + 1


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _grown(total, spread, power, decay, growth):  # type: ignore[no-untyped-def]
    """(S, T, d^2n) of one pulse more."""
    return total * decay + 1.0, spread * growth + power, power * (decay * decay)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _rates(step, slope, variation, additive):  # type: ignore[no-untyped-def]
    """(d, q); a step beyond the bound ends at it."""
    decay = max(0.0, 1.0 + slope * step)
    lost = slope * step * variation
    return decay, 1.0 if additive else decay * decay + lost * lost


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _noise(step, variation, spread):  # type: ignore[no-untyped-def]
    # The root of a single is twice as fast, and as good as the coefficient.
    return np.float32(abs(step) * variation) * np.sqrt(np.float32(spread))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _moved(w, slope, mean, noise, z, low, high, additive):  # type: ignore[no-untyped-def]
    factor = 1.0 + slope * w
    away = np.float64(noise) * z
    return min(
        high, max(low, w + np.float64(mean) * factor + (away if additive else away * factor))
    )


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _extend(first, last, own, sums, table, variation, additive):  # type: ignore[no-untyped-def]
    """Coefficients of ``first`` to ``last`` pulses; ``sums``: S, T and d^2n, up and down."""
    for way in range(2):
        steps = own[OWN_UP : OWN_UP + LANES] if way == 0 else own[OWN_DOWN : OWN_DOWN + LANES]
        shape = OWN_SHAPE_UP if way == 0 else OWN_SHAPE_DOWN
        slopes = own[shape : shape + LANES]
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
                pairs[2 * j + 1] = _noise(steps[j], variation, spread)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _net(word, columns, length, net):  # type: ignore[no-untyped-def]
    """Signed pulses of one row's lanes; returns their counts, joined bit by bit."""
    joined = np.int64(0)
    for j in range(columns.size):
        found = ones(word & columns[j] & np.uint32((1 << length) - 1))
        # -1 where the signs differ
        differ = -np.int64(((word ^ columns[j]) >> np.uint32(length)) & np.uint32(1))
        net[j] = (found ^ differ) - differ
        joined |= found
    return joined


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _largest(net):  # type: ignore[no-untyped-def]
    """Largest count of pulses of a lane."""
    largest = np.int64(0)
    for j in range(LANES):
        largest = max(largest, abs(net[j]))
    return largest


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _look_up(net, table, mean, noise):  # type: ignore[no-untyped-def]
    """Coefficients of each lane's count of pulses."""
    for j in range(LANES):
        place = np.uint64(2 * ((net[j] & _ROW) * LANES + j))
        mean[j] = table[place]
        noise[j] = table[place + np.uint64(1)]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _move(w, net, mean, noise, z, own, additive):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        up = 1.0 if net[j] > 0 else 0.0
        slope = own[OWN_SHAPE_UP + j] * up + own[OWN_SHAPE_DOWN + j] * (1.0 - up)
        low, high, before = own[OWN_LOW + j], own[OWN_HIGH + j], w[j]
        moved = _moved(before, slope, mean[j], noise[j], z[j], low, high, additive)
        w[j] = moved if net[j] != 0 else before


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _count(net, given, places):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        differ = net[j] >> 63
        count = (net[j] ^ differ) - differ
        given[j] += count
        places[j] += np.uint64(count) * GAMMA


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_closed(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, rows, columns, length, set_drive, reset_drive, law,
    own, keys, normal,
):  # fmt: skip
    """``steps._outer_all`` in closed form, update by update; ``columns`` is (updates, columns)."""
    w, places = np.zeros(LANES), np.zeros(LANES, dtype=np.uint64)
    state, lanes = np.zeros(3 * LANES, dtype=np.int64), np.ones(6 * LANES)
    net, given = state[BITS : BITS + LANES], state[GIVEN : GIVEN + LANES]
    picked, z = np.zeros(LANES, dtype=np.uint64), np.zeros(LANES, dtype=np.float32)
    table, sums = np.zeros(2 * (_ROW + 1) * LANES, dtype=np.float32), np.zeros(6 * LANES)
    mean, noise = np.zeros(LANES, dtype=np.float32), np.zeros(LANES, dtype=np.float32)
    deviates = (normal * UNIT).astype(np.float32)
    additive, variation = law.additive, law.cycle_variation
    for begin in range(0, cells.size, LANES):
        part = cells[begin : begin + LANES]
        load(conductances, hidden, pulses, part, set_drive, reset_drive, law, own, keys,
             w, state, places, lanes)  # fmt: skip
        if law.kind == SOFT:
            for j in range(2 * LANES):
                lanes[OWN_SHAPE_UP + j] = -1.0 / lanes[OWN_SHAPE_UP + j]
        known = 0
        for way in range(2):
            sums[3 * way * LANES : (3 * way + 2) * LANES] = 0.0
            sums[(3 * way + 2) * LANES : 3 * (way + 1) * LANES] = 1.0
        for u in range(rows.shape[1]):
            at, joined = begin, np.int64(0)
            while at < begin + part.size:
                row, first = at // columns.shape[1], at % columns.shape[1]
                count = min(begin + part.size - at, columns.shape[1] - first)
                line = columns[u, first : first + count]
                joined |= _net(rows[row, u], line, length, net[at - begin :])
                at += count
            if joined == 0:
                continue
            if joined > known:
                largest = _largest(net)
                _extend(known + 1, largest, lanes, sums, table, variation, additive)
                known = max(known, largest)
            draw(0, places, picked, deviates, z)
            _look_up(net, table, mean, noise)
            _move(w, net, mean, noise, z, lanes, additive)
            _count(net, given, places)
        store(conductances, hidden, pulses, stuck, part, law, own, keys, normal, w, state)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def pulse_closed(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, counts, set_drive, reset_drive, law, own, keys,
    normal,
):  # fmt: skip
    """``steps._pulse_all`` in closed form, in moves of at most ``MOST`` pulses."""
    for i in range(cells.size):
        index, wanted = cells[i], np.int64(counts[i])
        n, left = np.int64(pulses[index]), np.int64(abs(wanted))
        pulses[index] = np.uint32(n + left)
        upwards = wanted > 0
        drive = set_drive if upwards else reset_drive
        if stuck[index] or wanted == 0 or drive == 0.0:
            continue
        me = own[index]
        step = drive * me[UP] if upwards else -(drive * me[DOWN])
        slope = 0.0
        if law.kind == SOFT:
            slope = -1.0 / (me[HIGH] if upwards else me[LOW])
        elif law.kind == LINEAR:
            slope = me[SHAPE_UP] if upwards else me[SHAPE_DOWN]
        decay, growth = _rates(step, slope, law.cycle_variation, law.additive)
        w = (conductances[index] + hidden[index] - law.zero) / law.unit + me[REFERENCE]
        while left:
            now = left if left < MOST else np.int64(MOST)
            total, spread, power = 0.0, 0.0, 1.0
            for _ in range(now):
                total, spread, power = _grown(total, spread, power, decay, growth)
            z = deviate(normal, hash_at(keys.pulse, np.uint64(n), np.uint64(index)), CYCLE_LANE)
            mean = np.float32(step * total)
            noise = _noise(step, law.cycle_variation, spread)
            w = _moved(w, slope, mean, noise, z, me[LOW], me[HIGH], law.additive)
            n, left = n + now, left - now
        g = seen(w, n, index, law, me, keys, normal)
        conductances[index] = np.uint16(g)
        hidden[index] = law.zero + (w - me[REFERENCE]) * law.unit - g
