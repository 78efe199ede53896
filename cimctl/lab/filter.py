"""The likelihood of pulse responses: a Kalman filter along each device's pulses.

The state w moves by ``a F(w) (1 + sigma z)`` a pulse, or ``a (F(w) + sigma z)`` with additive
noise, and stays within its bounds; a reading is w plus noise of standard deviation r.  Both noises
are taken for what they are: what a pulse does stays in the state, what a reading does is gone.
The filter carries mean and variance of the state; a bent F is averaged over three points
(Gauss-Hermite), and a bound cuts the distribution (mean and variance of a Gaussian that is cut).
The first reading of a device starts it: nothing is assumed of where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cimctl.lab.models import Floats, Model, sides

#: standard deviations from the bound at which cutting is no longer felt
_FAR = 6.0
_ROOT_3 = 3.0**0.5
_LEAST = 1e-18


@dataclass(frozen=True)
class Trains:
    """Pulses of all devices, one row a pulse, padded to the longest.

    Attributes:
        directions: (pulses, devices), 1 up, -1 down, 0 no pulse.
        readings: (pulses, devices) weights after each pulse, nan where there is none.
        start: (devices,) first reading.
    """

    directions: npt.NDArray[np.int8]
    readings: Floats
    start: Floats


@dataclass(frozen=True)
class Innovations:
    """(pulses, variants, devices): readings minus what was expected, and its variance.

    Where there is no reading the deviation is 0 and the variance 1.
    """

    deviation: Floats
    variance: Floats


def innovations(
    model: Model, trains: Trains, own: Floats, shared: Floats, *, additive: bool
) -> Innovations:
    """Runs the filter for several sets of parameters at once.

    Args:
        model: which model.
        trains: the pulses.
        own: (variants, devices, parameters).
        shared: (variants, devices, parameters), the same for all devices unless differentiated.
        additive: whether cycle noise is.
    """
    both = np.stack(sides(model, own, shared))
    noise, sigma = np.exp(2 * shared[..., 0]), np.exp(shared[..., 1])
    mean = trains.start + np.zeros_like(noise)
    variance = noise + 0.0
    deviations = np.zeros((len(trains.readings), *mean.shape))
    variances = np.ones_like(deviations)
    seen = ~np.isnan(trains.readings)
    for k, direction in enumerate(trains.directions):
        mean, variance = _predict(model, both, direction, mean, variance, sigma, additive)
        if not seen[k].any():
            continue
        total = variance + noise
        off = trains.readings[k] - mean
        gain = variance / total
        if seen[k].all():
            deviations[k], variances[k] = off, total
            mean, variance = mean + gain * off, variance - gain * variance
        else:
            deviations[k] = np.where(seen[k], off, 0.0)
            variances[k] = np.where(seen[k], total, 1.0)
            gain = np.where(seen[k], gain, 0.0)
            mean, variance = mean + gain * deviations[k], variance - gain * variance
    return Innovations(deviations, variances)


def _predict(
    model: Model,
    both: Floats,
    direction: npt.NDArray[np.int8],
    mean: Floats,
    variance: Floats,
    sigma: Floats,
    additive: bool,
) -> tuple[Floats, Floats]:
    """Mean and variance of the states after one pulse."""
    first = direction[0]
    alike = first != 0 and bool((direction == first).all())
    sign: Floats = direction.astype(np.float64)
    if alike:
        side = both[0 if first > 0 else 1]
    else:
        side = np.where(direction > 0, both[0], both[1])
        still = direction == 0
        sign = np.where(still, 1.0, sign)
        # A device that gets no pulse: no step.
        side[0] = np.where(still, 0.0, side[0])
    after, spread = _moved(model, side, sign * mean, variance, sigma, additive)
    if not alike:
        after, spread = np.where(still, sign * mean, after), np.where(still, variance, spread)
    return sign * after, spread


def _moved(
    model: Model, side: Floats, u: Floats, variance: Floats, sigma: Floats, additive: bool
) -> tuple[Floats, Floats]:
    step, ahead = side[0], side[1]
    if model.straight:
        factor = model.factor(u, *side[1:])
        # F is linear: its slope is the difference of two values one apart.
        slope = 1.0 + step * (model.factor(u + 1.0, *side[1:]) - factor)
        mean, spread = u + step * factor, slope**2 * variance
        squared = factor**2
    else:
        wide = _ROOT_3 * np.sqrt(variance)
        places = np.minimum(np.stack([u - wide, u, u + wide]), ahead)
        factors = model.factor(places, *side[1:])
        ends = places + step * factors
        mean = (ends[0] + 4 * ends[1] + ends[2]) / 6
        spread = ((ends[0] - mean) ** 2 + 4 * (ends[1] - mean) ** 2 + (ends[2] - mean) ** 2) / 6
        squared = (factors[0] ** 2 + 4 * factors[1] ** 2 + factors[2] ** 2) / 6
    spread = spread + (sigma * step) ** 2 * (1.0 if additive else squared)
    return _cut(mean, np.maximum(spread, _LEAST), ahead)


def _cut(mean: Floats, variance: Floats, bound: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of min(x, bound) for a Gaussian x."""
    deviation = np.sqrt(variance)
    room = bound - mean
    far = room / deviation
    if (far > _FAR).all():
        return mean, variance
    from scipy.special import ndtr

    below = ndtr(far)
    density = deviation * np.exp(-0.5 * far**2) / np.sqrt(2 * np.pi)
    rest = room * below + density
    square = (room**2 + variance) * below + room * density
    return bound - rest, np.maximum(square - rest**2, _LEAST)
