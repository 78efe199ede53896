"""What the devices of one chip share that move by steps, as the compiled functions take it.

Where the factor is linear in the weight, ``F(w) = 1 + s w`` (constant step, linear step, soft
bounds), all is in single precision: weights, steps, slopes and noise.  A step moves a weight by
1e-4 of its range and more, rounding by 3e-8.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sim_backend.noise import UNIT, hash_at, lane_of, quantile_table

CONSTANT, LINEAR, SOFT, EXPONENTIAL, POWER, PIECEWISE, PHASE = range(7)
#: kinds up to this one have a linear factor
LAST_LINEAR = SOFT
#: lanes of the programming stream: write noise, and that of several pulses at once
WRITE_LANE, MOVE_LANE = 1, 2
#: noise of pulses has so many quantiles, which is what the fastest cache holds in single precision;
#: tails end at 3.84 standard deviations
PULSE_BITS = 13
PULSE_MASK = (1 << PULSE_BITS) - 1
#: columns of a device's own parameters
LOW, HIGH, UP, DOWN, SHAPE_UP, SHAPE_DOWN, REFERENCE = range(7)

_ONE = np.float32(1.0)


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


def deviate_table() -> npt.NDArray[np.float32]:
    """``2^PULSE_BITS`` quantiles of the normal distribution."""
    return (quantile_table(PULSE_BITS) * UNIT).astype(np.float32)


def cycle_table(law: Law) -> npt.NDArray[np.float32]:
    """What a pulse's noise multiplies a step by, or its constant part, for each of these."""
    return (1.0 + law.cycle_variation * (quantile_table(PULSE_BITS) * UNIT)).astype(np.float32)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def line(size, bound, shape, drive, upwards, law):  # type: ignore[no-untyped-def]
    """Compiled: step, negative downwards, and slope s of a linear factor.

    Takes what a device has of its own in that direction: its step, bound and shape.
    """
    slope = 0.0
    if law.kind == SOFT:
        slope = -1.0 / bound
    elif law.kind == LINEAR:
        slope = shape
    return np.float32(drive * size if upwards else -(drive * size)), np.float32(slope)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def moved(w, step, slope, cycle, low, high, additive):  # type: ignore[no-untyped-def]
    """Compiled: a weight after one pulse, all in single precision.

    ``w + a (1 + s w) (1 + sigma z)``, or ``w + a (1 + s w + sigma z)``, with w a factor: a chain of
    pulses waits for one product and one sum each.
    """
    change = step * cycle
    factor = _ONE + slope * (step if additive else change)
    return min(high, max(low, w * factor + change))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def deviate(table, hashed, lane):  # type: ignore[no-untyped-def]
    """Compiled: the normal deviate that one lane of a hash picks."""
    return table[lane_of(hashed, lane)] * UNIT


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def drawn(table, hashed, lane):  # type: ignore[no-untyped-def]
    """Compiled: the entry of one of the small tables that one lane of a hash picks."""
    return table[lane_of(hashed, lane) & np.uint64(PULSE_MASK)]


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def cycle_of(count, index, keys, noises):  # type: ignore[no-untyped-def]
    """Compiled: the noise of a cell's pulse number ``count``; four pulses share a hash."""
    hashed = hash_at(keys.pulse, np.uint64(count >> 2), np.uint64(index))
    return drawn(noises, hashed, count & 3)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def seen(w, count, index, law, reference, keys, normal):  # type: ignore[no-untyped-def]
    """Compiled: the 16-bit conductance of a weight, with its write noise."""
    g = law.zero + (w - reference) * law.unit
    if law.write_noise > 0.0:
        hashed = hash_at(keys.program, np.uint64(count), np.uint64(index))
        g += law.write_noise * law.unit * deviate(normal, hashed, WRITE_LANE)
    return min(65535.0, max(0.0, np.rint(g)))
