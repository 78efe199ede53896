"""What the devices of one chip share that move by steps, as the compiled functions take it."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from sim_backend.noise import UNIT, hash_at, lane_of

CONSTANT, LINEAR, SOFT, EXPONENTIAL, POWER, PIECEWISE, PHASE = range(7)
#: lanes of the pulse stream at one position
CYCLE_LANE, WRITE_LANE = 0, 1
#: columns of a device's own parameters
LOW, HIGH, UP, DOWN, SHAPE_UP, SHAPE_DOWN, REFERENCE = range(7)


class Law(NamedTuple):
    """What all devices of a chip share; weights are normalised, conductances 16-bit units."""

    kind: int
    additive: bool
    cycle_variation: float
    write_noise: float
    #: conductance of weight 0, and of a weight of 1 above it
    zero: float
    unit: float
    #: 16-bit conductance of one mean step
    step: float
    #: pulses that programming gives to a cell in one direction and cycle at most
    most: int
    programming_error: float
    reading_error: float
    #: of the exponential step: A and gamma up and down, scale, shift
    exponential: tuple[float, float, float, float, float, float]


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def deviate(table, hashed, lane):  # type: ignore[no-untyped-def]
    """Compiled: the normal deviate that one lane of a hash picks."""
    return table[lane_of(hashed, lane)] * UNIT


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def seen(w, count, index, law, own, keys, normal):  # type: ignore[no-untyped-def]
    """Compiled: the 16-bit conductance of a weight, with its write noise."""
    g = law.zero + (w - own[REFERENCE]) * law.unit
    if law.write_noise > 0.0:
        hashed = hash_at(keys.pulse, np.uint64(count), np.uint64(index))
        g += law.write_noise * law.unit * deviate(normal, hashed, WRITE_LANE)
    return min(65535.0, max(0.0, np.rint(g)))
