"""Coincidence updates of devices whose step is linear in the weight, many cells side by side.

With ``F(w) = 1 + s w`` (constant step, linear step, soft bounds) no branch depends on a cell, so
``LANES`` cells are stepped at once by the processor's vector instructions.

Pulse by pulse (``outer_lanes``): each lane keeps the directions of its next pulses as bits; updates
are appended until a lane could overflow, then all lanes take their next pulses in step.  Cells do
not touch each other, and a lane's own pulses keep their order, so the bits are those of
``steps._stepped`` called pulse after pulse.
"""

from __future__ import annotations

import numba
import numpy as np

from sim_backend.noise import GAMMA, MIX_1, UNIT, mixed
from sim_backend.outer import ones
from sim_backend.step_law import (
    DOWN,
    HIGH,
    LINEAR,
    LOW,
    REFERENCE,
    SHAPE_DOWN,
    SHAPE_UP,
    SOFT,
    UP,
    seen,
)  # fmt: skip

#: cells side by side
LANES = 128
#: pulses that a lane may keep when another update, of 31 at most, is appended
_KEPT = 32
#: parts of the integer state of a block: directions of the pulses to come, how many they are, and
#: pulses that were given
BITS, LEFT, GIVEN = (LANES * i for i in range(3))
#: parts of a block's parameters
OWN_LOW, OWN_HIGH, OWN_UP, OWN_DOWN, OWN_SHAPE_UP, OWN_SHAPE_DOWN = (LANES * i for i in range(6))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def draw(k, places, picked, deviates, z):  # type: ignore[no-untyped-def]
    """Deviates of pulse ``k``.  Apart from the hashes, so that these are vector instructions."""
    for j in range(LANES):
        picked[j] = mixed(places[j] + np.uint64(k) * GAMMA) & np.uint64(0xFFFF)
    for j in range(LANES):
        z[j] = deviates[picked[j]]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _step_all(k, w, state, z, own, soft, additive, variation):  # type: ignore[no-untyped-def]
    """Pulse ``k`` of those that lanes keep, for each lane that has as many."""
    for j in range(LANES):
        before = w[j]
        # Exact, and faster than a choice, which is compiled to a gather.
        up = np.float64((state[BITS + j] >> k) & 1)
        down = 1.0 - up
        shape = own[OWN_SHAPE_UP + j] * up + own[OWN_SHAPE_DOWN + j] * down
        step = own[OWN_UP + j] * up + own[OWN_DOWN + j] * down
        factor = 1.0 - before / shape if soft else 1.0 + shape * before
        cycle = variation * z[j]
        factor = factor + cycle if additive else factor * (1.0 + cycle)
        moved = min(own[OWN_HIGH + j], max(own[OWN_LOW + j], before + step * factor))
        w[j] = moved if state[LEFT + j] > k else before


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _take(count, state, places):  # type: ignore[no-untyped-def]
    """Drops the pulses that were given."""
    for j in range(LANES):
        taken = min(np.int64(count), state[LEFT + j])
        state[BITS + j] = np.int64(np.uint64(state[BITS + j]) >> np.uint64(taken))
        state[LEFT + j] -= taken
        state[GIVEN + j] += taken
        places[j] += np.uint64(taken) * GAMMA


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _append(word, columns, length, bits, left):  # type: ignore[no-untyped-def]
    """Appends an update's pulses to the lanes of one row."""
    slots = np.uint32((1 << length) - 1)
    for j in range(columns.size):
        found = ones(word & columns[j] & slots)
        up = np.int64(((word ^ columns[j]) >> np.uint32(length)) & np.uint32(1)) - 1
        bits[j] |= (((np.int64(1) << found) - 1) & up) << left[j]
        left[j] += found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def most(left):  # type: ignore[no-untyped-def]
    largest = np.int64(0)
    for j in range(LANES):
        largest = max(largest, left[j])
    return largest


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def load(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, cells, set_drive, reset_drive, law, own, keys, w, state, places,
    lanes,
):  # fmt: skip
    """Fills a block with its cells; lanes beyond them get no pulse."""
    state[:] = 0
    w[:] = 0.0
    lanes[:] = 1.0
    for j in range(cells.size):
        index = cells[j]
        me = own[index]
        w[j] = (conductances[index] + hidden[index] - law.zero) / law.unit + me[REFERENCE]
        places[j] = keys.pulse + np.uint64(pulses[index]) * GAMMA + np.uint64(index) * MIX_1 + GAMMA
        lanes[OWN_LOW + j], lanes[OWN_HIGH + j] = me[LOW], me[HIGH]
        lanes[OWN_UP + j], lanes[OWN_DOWN + j] = set_drive * me[UP], -(reset_drive * me[DOWN])
        if law.kind == SOFT:
            lanes[OWN_SHAPE_UP + j], lanes[OWN_SHAPE_DOWN + j] = me[HIGH], me[LOW]
        elif law.kind == LINEAR:
            lanes[OWN_SHAPE_UP + j], lanes[OWN_SHAPE_DOWN + j] = me[SHAPE_UP], me[SHAPE_DOWN]
        else:
            lanes[OWN_SHAPE_UP + j], lanes[OWN_SHAPE_DOWN + j] = 0.0, 0.0


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def store(conductances, hidden, pulses, stuck, cells, law, own, keys, normal, w, state):  # type: ignore[no-untyped-def]
    """Writes back the cells of a block that got pulses."""
    for j in range(cells.size):
        given = state[GIVEN + j]
        if given == 0:
            continue
        index = cells[j]
        n = np.int64(pulses[index]) + given
        pulses[index] = np.uint32(n)
        if stuck[index] == 0:
            me = own[index]
            g = seen(w[j], n, index, law, me, keys, normal)
            conductances[index] = np.uint16(g)
            hidden[index] = law.zero + (w[j] - me[REFERENCE]) * law.unit - g


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def outer_lanes(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, rows, columns, length, set_drive, reset_drive, law,
    own, keys, normal,
):  # fmt: skip
    """``steps._outer_all`` of a linear step, drives not 0; ``columns`` is (updates, columns)."""
    w, places = np.zeros(LANES), np.zeros(LANES, dtype=np.uint64)
    state, lanes = np.zeros(3 * LANES, dtype=np.int64), np.ones(6 * LANES)
    bits, left = state[BITS : BITS + LANES], state[LEFT : LEFT + LANES]
    picked, z = np.zeros(LANES, dtype=np.uint64), np.zeros(LANES, dtype=np.float32)
    deviates = (normal * UNIT).astype(np.float32)
    soft, additive = law.kind == SOFT, law.additive
    for begin in range(0, cells.size, LANES):
        part = cells[begin : begin + LANES]
        load(conductances, hidden, pulses, part, set_drive, reset_drive, law, own, keys,
              w, state, places, lanes)  # fmt: skip
        for u in range(rows.shape[1]):
            at = begin
            while at < begin + part.size:
                row, first = at // columns.shape[1], at % columns.shape[1]
                count = min(begin + part.size - at, columns.shape[1] - first)
                if rows[row, u]:
                    line = columns[u, first : first + count]
                    _append(rows[row, u], line, length, bits[at - begin :], left[at - begin :])
                at += count
            spare = most(left) - _KEPT
            if spare > 0:
                for k in range(spare):
                    draw(k, places, picked, deviates, z)
                    _step_all(k, w, state, z, lanes, soft, additive, law.cycle_variation)
                _take(spare, state, places)
        rest = most(left)
        for k in range(rest):
            draw(k, places, picked, deviates, z)
            _step_all(k, w, state, z, lanes, soft, additive, law.cycle_variation)
        _take(rest, state, places)
        store(conductances, hidden, pulses, stuck, part, law, own, keys, normal, w, state)
