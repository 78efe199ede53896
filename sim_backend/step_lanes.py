"""Coincidence updates of devices whose step is linear in the weight, many cells side by side.

No branch depends on a cell, so ``LANES`` cells are stepped at once by the processor's vector
instructions, in single precision (``sim_backend.step_law``).

Pulse by pulse (``outer_lanes``): each lane keeps the directions of its next pulses as bits; updates
are appended until a lane could overflow, then all lanes that have a group of ``GROUP`` pulses take
it in step.  Groups begin at a multiple of ``GROUP`` in a cell's count of pulses, so that one hash
serves four pulses of every lane.  Cells do not touch each other, and a lane's own pulses keep their
order, so the bits are those of ``steps._stepped`` called pulse after pulse.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from sim_backend.noise import GAMMA, MIX_1, mixed
from sim_backend.outer import ones
from sim_backend.step_law import HIGH, LOW, PULSE_MASK, REFERENCE, line, moved, seen

#: cells side by side
LANES = 128
#: pulses that lanes take in step, two hashes each
GROUP = 8
#: pulses that a lane may keep when another update, of 31 at most, is appended
_KEPT = 33
#: parts of a block's parameters
OWN_LOW, OWN_HIGH, STEP_UP, STEP_DOWN, SLOPE_UP, SLOPE_DOWN = (LANES * i for i in range(6))


class Block(NamedTuple):
    """Cells side by side; a number of each lane in every array but ``own`` and ``cycle``.

    Attributes:
        w: weights.
        own: bounds, steps and slopes, ``LANES`` of each.
        places: sum behind the hash of the first four pulses of the next group.
        hashed: hashes of four pulses.
        cycle: what these draw from a table, ``LANES`` for each pulse.
        bits: directions of the pulses to come, 1 up.
        left: how many they are, those of the group that were given before included.
        skip: how many these are.
        taken: pulses taken, likewise.
        up: directions of the pulses that are taken now.
        now: which these are, bit by bit.
    """

    w: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]
    places: npt.NDArray[np.uint64]
    hashed: npt.NDArray[np.uint64]
    cycle: npt.NDArray[np.float32]
    bits: npt.NDArray[np.uint64]
    left: npt.NDArray[np.int64]
    skip: npt.NDArray[np.int64]
    taken: npt.NDArray[np.int64]
    up: npt.NDArray[np.uint32]
    now: npt.NDArray[np.uint32]


def empty_block() -> Block:
    """Room for a block; what is left in it does not matter."""
    return Block(
        np.zeros(LANES, dtype=np.float32), np.ones(6 * LANES, dtype=np.float32),
        np.zeros(LANES, dtype=np.uint64), np.zeros(LANES, dtype=np.uint64),
        np.zeros(4 * LANES, dtype=np.float32), np.zeros(LANES, dtype=np.uint64),
        np.zeros(LANES, dtype=np.int64), np.zeros(LANES, dtype=np.int64),
        np.zeros(LANES, dtype=np.int64), np.zeros(LANES, dtype=np.uint32),
        np.zeros(LANES, dtype=np.uint32),
    )  # fmt: skip


@intrinsic  # type: ignore[misc, unused-ignore]
def _bit(context, word, place):  # type: ignore[no-untyped-def]
    """Whether a bit is set, in 32 bits; numba's arithmetic would widen it to 64."""
    del context, word, place

    def generate(_, builder, __, arguments):  # type: ignore[no-untyped-def]
        shifted = builder.lshr(*arguments)
        return builder.trunc(shifted, builder.icmp_unsigned("==", shifted, shifted).type)

    return types.boolean(types.uint32, types.uint32), generate


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _draw(quad, table, places, hashed, drawn):  # type: ignore[no-untyped-def]
    """What four pulses of each lane draw, of the group that was taken last."""
    low, back = np.uint64(PULSE_MASK), np.uint64(2 - quad) * GAMMA
    for j in range(LANES):
        hashed[j] = mixed(places[j] - back)
    # Apart from the hashes, so that these are vector instructions.
    for j in range(LANES):
        word = hashed[j]
        drawn[j] = table[word & low]
        drawn[LANES + j] = table[(word >> np.uint64(16)) & low]
        drawn[2 * LANES + j] = table[(word >> np.uint64(32)) & low]
        drawn[3 * LANES + j] = table[(word >> np.uint64(48)) & low]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _step_all(first, last, w, own, up, now, cycle, additive):  # type: ignore[no-untyped-def]
    """Pulses ``first`` to ``last`` - 1 of the group, for each lane that gets them."""
    for k in range(first, last):
        place, drawn = np.uint32(k), (k & 3) * LANES
        for j in range(LANES):
            before, low, high = w[j], own[OWN_LOW + j], own[OWN_HIGH + j]
            # Read both before choosing: a choice of places is compiled to a gather.
            step_up, step_down = own[STEP_UP + j], own[STEP_DOWN + j]
            slope_up, slope_down = own[SLOPE_UP + j], own[SLOPE_DOWN + j]
            upwards: bool = _bit(up[j], place)  # type: ignore[call-arg, unused-ignore]
            step = step_up if upwards else step_down
            slope = slope_up if upwards else slope_down
            after = moved(before, step, slope, cycle[drawn + j], low, high, additive)
            given: bool = _bit(now[j], place)  # type: ignore[call-arg, unused-ignore]
            w[j] = after if given else before


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _take(all_left, places, bits, left, skip, taken, up, now):  # type: ignore[no-untyped-def]
    """Takes each lane's next group, or what is left of it; returns the longest one's pulses."""
    longest = np.int64(0)
    one, group = np.int64(1), np.int64(GROUP)
    for j in range(LANES):
        count = min(left[j], group)
        count = count if all_left or count == group else np.int64(0)
        up[j] = np.uint32(bits[j])
        now[j] = np.uint32(((one << count) - one) >> skip[j] << skip[j])
        bits[j] = bits[j] >> np.uint64(count)
        left[j] -= count
        taken[j] += count
        skip[j] = np.int64(0) if count else skip[j]
        places[j] += np.uint64(2) * GAMMA if count else np.uint64(0)
        longest = max(longest, count)
    return longest


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _append(word, columns, length, bits, left):  # type: ignore[no-untyped-def]
    """Appends an update's pulses to the lanes of one row; returns the most that one keeps."""
    slots, sign = np.uint32((1 << length) - 1), np.uint32(1 << length)
    largest = np.int64(0)
    for j in range(columns.size):
        found = ones(word & columns[j] & slots)
        up = np.int64(0) if (word ^ columns[j]) & sign else np.int64(-1)
        bits[j] |= np.uint64(((np.int64(1) << found) - 1) & up) << np.uint64(left[j])
        left[j] += found
        largest = max(largest, left[j])
    return largest


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _append_each(rows, columns, u, begin, count, length, row, column, bits, left):  # type: ignore[no-untyped-def]
    """``_append`` of an update to ``count`` lanes of many short rows; ``row``, ``column``: room."""
    wide, slots = columns.shape[1], np.uint32((1 << length) - 1)
    i, k = begin // wide, begin % wide
    for j in range(count):
        row[j], column[j] = rows[i, u], columns[u, k]
        k += 1
        i, k = (i + 1, 0) if k == wide else (i, k)
    largest = np.int64(0)
    for j in range(count):
        found = ones(row[j] & column[j] & slots)
        up = np.int64((row[j] ^ column[j]) >> np.uint32(length) & np.uint32(1)) - 1
        bits[j] |= np.uint64(((np.int64(1) << found) - 1) & up) << np.uint64(left[j])
        left[j] += found
        largest = max(largest, left[j])
    return largest


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def most(left):  # type: ignore[no-untyped-def]
    largest = np.int64(0)
    for j in range(LANES):
        largest = max(largest, left[j])
    return largest


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def load(conductances, hidden, cells, set_drive, reset_drive, law, own, w, lanes):  # type: ignore[no-untyped-def]
    """Weights and parameters of a block's cells; lanes beyond them get no pulse."""
    w[:] = 0.0
    lanes[:] = 1.0
    for j in range(cells.size):
        index = cells[j]
        me = own[index]
        w[j] = (conductances[index] + hidden[index] - law.zero) / law.unit + me[REFERENCE]
        lanes[OWN_LOW + j], lanes[OWN_HIGH + j] = me[LOW], me[HIGH]
        lanes[STEP_UP + j], lanes[SLOPE_UP + j] = line(me, set_drive, True, law)
        lanes[STEP_DOWN + j], lanes[SLOPE_DOWN + j] = line(me, reset_drive, False, law)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(pulses, cells, keys, places, bits, left, skip, taken):  # type: ignore[no-untyped-def]
    """Empties the lanes; a cell's first group begins before its first pulse."""
    bits[:] = 0
    left[:] = 0
    taken[:] = 0
    skip[:] = 0
    for j in range(cells.size):
        index, count = cells[j], np.int64(pulses[cells[j]])
        left[j] = skip[j] = count % GROUP
        quad = np.uint64(count // GROUP * 2)
        places[j] = keys.pulse + quad * GAMMA + np.uint64(index) * MIX_1 + GAMMA


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def store(conductances, hidden, pulses, stuck, cells, law, own, keys, normal, w, count):  # type: ignore[no-untyped-def]
    """Writes back the cells of a block that got pulses, ``count`` in their lives."""
    for j in range(cells.size):
        index, n = cells[j], count[j]
        if n == np.int64(pulses[index]):
            continue
        pulses[index] = np.uint32(n)
        if stuck[index] == 0:
            me = own[index]
            weight = np.float64(w[j])
            g = seen(weight, n, index, law, me, keys, normal)
            conductances[index] = np.uint16(g)
            hidden[index] = law.zero + (weight - me[REFERENCE]) * law.unit - g


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_lanes(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, rows, columns, length, set_drive, reset_drive, law,
    own, keys, normal, table, block,
):  # fmt: skip
    """``steps._outer_all`` of a linear step, drives not 0.

    ``columns`` is (updates, columns), ``table`` has the noise (``step_law.cycle_table``).
    """
    # Taking an array out of the block costs as much as stepping it.
    w, own_lanes, places, hashed, cycle, bits, left, skip, taken, up, now = block
    wide, additive = columns.shape[1], law.additive
    for begin in range(0, cells.size, LANES):
        part = cells[begin : begin + LANES]
        end = begin + part.size
        load(conductances, hidden, part, set_drive, reset_drive, law, own, w, own_lanes)
        _begin(pulses, part, keys, places, bits, left, skip, taken)
        some = np.int64(0)
        # After the last update what is left is taken.
        for u in range(rows.shape[1] + 1):
            at, largest, last = begin, np.int64(0), u == rows.shape[1]
            if wide < LANES and not last:
                size = end - begin
                largest = _append_each(rows, columns, u, begin, size, length, up, now, bits, left)
                at = end
            while at < end and not last:
                row, first = at // wide, at % wide
                count = min(end - at, wide - first)
                if rows[row, u]:
                    line_ = columns[u, first : first + count]
                    kept = _append(
                        rows[row, u], line_, length, bits[at - begin :], left[at - begin :]
                    )
                    largest = max(largest, kept)
                at += count
            some |= largest
            if last:
                largest = most(left) if some else np.int64(0)
            while largest > (0 if last else _KEPT):
                longest = _take(last, places, bits, left, skip, taken, up, now)
                for quad in range(0, longest, 4):
                    _draw(quad // 4, table, places, hashed, cycle)
                    stop = min(quad + 4, longest)
                    _step_all(quad, stop, w, own_lanes, up, now, cycle, additive)
                largest = most(left)
        if some:
            for j in range(part.size):
                taken[j] += np.int64(pulses[part[j]]) // GROUP * GROUP
            store(conductances, hidden, pulses, stuck, part, law, own, keys, normal, w, taken)
