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
from sim_backend.step_law import HIGH, LOW, REFERENCE, line, moved, seen

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
    low, back = np.uint64(0xFFFF), np.uint64(2 - quad) * GAMMA
    for j in range(LANES):
        hashed[j] = mixed(places[j] - back)
    # Apart from the hashes, so that these are vector instructions.
    for j in range(LANES):
        word = hashed[j]
        drawn[j] = table[word & low]
        drawn[LANES + j] = table[(word >> np.uint64(16)) & low]
        drawn[2 * LANES + j] = table[(word >> np.uint64(32)) & low]
        drawn[3 * LANES + j] = table[word >> np.uint64(48)]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _step_all(pulse, w, own, up, now, cycle, additive):  # type: ignore[no-untyped-def]
    """One pulse of the group, for each lane that gets it."""
    place = np.uint32(pulse)
    for j in range(LANES):
        before, low, high = w[j], own[OWN_LOW + j], own[OWN_HIGH + j]
        # Read both before choosing: a choice of places is compiled to a gather.
        step_up, step_down = own[STEP_UP + j], own[STEP_DOWN + j]
        slope_up, slope_down = own[SLOPE_UP + j], own[SLOPE_DOWN + j]
        upwards = _bit(up[j], place)
        step = step_up if upwards else step_down
        slope = slope_up if upwards else slope_down
        after = moved(before, step, slope, cycle[j], low, high, additive)
        w[j] = after if _bit(now[j], place) else before


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


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _advance(all_left, block, table, additive):  # type: ignore[no-untyped-def]
    """Steps by a group each lane that has a whole one, or all that is left of one."""
    longest = _take(
        all_left, block.places, block.bits, block.left, block.skip, block.taken, block.up,
        block.now,
    )  # fmt: skip
    for k in range(longest):
        if k % 4 == 0:
            _draw(k // 4, table, block.places, block.hashed, block.cycle)
        cycle = block.cycle[(k % 4) * LANES : (k % 4 + 1) * LANES]
        _step_all(k, block.w, block.own, block.up, block.now, cycle, additive)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _append(word, columns, length, bits, left):  # type: ignore[no-untyped-def]
    """Appends an update's pulses to the lanes of one row; returns the largest number kept."""
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
def most(left):  # type: ignore[no-untyped-def]
    largest = np.int64(0)
    for j in range(LANES):
        largest = max(largest, left[j])
    return largest


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def load(conductances, hidden, cells, set_drive, reset_drive, law, own, block):  # type: ignore[no-untyped-def]
    """Weights and parameters of a block's cells; lanes beyond them get no pulse."""
    block.w[:] = 0.0
    block.own[:] = 1.0
    for j in range(cells.size):
        index = cells[j]
        me = own[index]
        block.w[j] = (conductances[index] + hidden[index] - law.zero) / law.unit + me[REFERENCE]
        block.own[OWN_LOW + j], block.own[OWN_HIGH + j] = me[LOW], me[HIGH]
        step, slope = line(me, set_drive, True, law)
        block.own[STEP_UP + j], block.own[SLOPE_UP + j] = step, slope
        step, slope = line(me, reset_drive, False, law)
        block.own[STEP_DOWN + j], block.own[SLOPE_DOWN + j] = step, slope


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(pulses, cells, keys, block):  # type: ignore[no-untyped-def]
    """Empties the lanes; a cell's first group begins before its first pulse."""
    block.bits[:] = 0
    block.left[:] = 0
    block.taken[:] = 0
    block.skip[:] = 0
    for j in range(cells.size):
        index, count = cells[j], np.int64(pulses[cells[j]])
        block.left[j] = block.skip[j] = count % GROUP
        quad = np.uint64(count // GROUP * 2)
        block.places[j] = keys.pulse + quad * GAMMA + np.uint64(index) * MIX_1 + GAMMA


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
    for begin in range(0, cells.size, LANES):
        part = cells[begin : begin + LANES]
        load(conductances, hidden, part, set_drive, reset_drive, law, own, block)
        _begin(pulses, part, keys, block)
        some = np.int64(0)
        for u in range(rows.shape[1]):
            at, largest = begin, np.int64(0)
            while at < begin + part.size:
                row, first = at // columns.shape[1], at % columns.shape[1]
                count = min(begin + part.size - at, columns.shape[1] - first)
                if rows[row, u]:
                    line_ = columns[u, first : first + count]
                    kept = _append(
                        rows[row, u], line_, length, block.bits[at - begin :],
                        block.left[at - begin :],
                    )  # fmt: skip
                    largest = max(largest, kept)
                at += count
            some |= largest
            while largest > _KEPT:
                _advance(False, block, table, law.additive)
                largest = most(block.left)
        if some == 0:
            continue
        while most(block.left):
            _advance(True, block, table, law.additive)
        for j in range(part.size):
            block.taken[j] += np.int64(pulses[part[j]]) // GROUP * GROUP
        store(conductances, hidden, pulses, stuck, part, law, own, keys, normal, block.w,
              block.taken)  # fmt: skip
