"""From estimates of single devices to what devices are like: means and spreads, with intervals.

Device i has ``y_i = mu + tau z_i + error_i`` with an error whose covariance is known from its
likelihood.  The spread tau is what is left of the estimates' spread: that for which

    Q(tau) = sum (y_i - mean)^2 / (tau^2 + v_i)

has its expected value n - 1 (Paule and Mandel 1982); its interval holds every tau at which Q is
not unlikely as a chi square (Viechtbauer 2007), exact for Gaussian devices.  The mean weighs each
device by the inverse of its whole covariance; its interval is Student's (Hartung and Knapp 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cimctl.lab.models import Floats

LEVEL = 0.95


@dataclass(frozen=True)
class Population:
    """What devices are like.

    Attributes:
        mean: (m,) of each parameter; covariance: (m, m) of that estimate.
        spread: (m, 3) standard deviation from device to device: estimate, low, high.
        weights: (devices, m, m) what each device's estimate contributes to the mean.
        devices: how many.
    """

    mean: Floats
    covariance: Floats
    spread: Floats
    weights: Floats
    devices: int

    @property
    def quantile(self) -> float:
        """Standard errors from the mean to the end of an interval."""
        return quantile(self.devices)


def quantile(devices: int) -> float:
    """Student's for that many devices; the Gaussian's for one, which stands for itself."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(devices - 1, 0.5 + LEVEL / 2) if devices > 1 else ndtri(0.5 + LEVEL / 2))


def population(values: Floats, covariances: Floats) -> Population:
    """Mean and spread of the devices.

    Args:
        values: (devices, m) estimates.
        covariances: (devices, m, m) of their errors.
    """
    devices, count = values.shape
    own = np.einsum("dii->id", covariances)
    spread = np.array([_spread(values[:, i], own[i]) for i in range(count)])
    whole = covariances + np.diag(np.where(np.isnan(spread[:, 0]), 0.0, spread[:, 0]) ** 2)
    inverse = np.linalg.inv(whole)
    covariance = np.linalg.inv(inverse.sum(axis=0))
    weights = covariance @ inverse
    mean = np.einsum("dij,dj->i", weights, values)
    return Population(mean, covariance, spread, weights, devices)


def _spread(values: Floats, own: Floats) -> tuple[float, float, float]:
    from scipy.special import chdtri

    free = len(values) - 1
    if not free:
        return (np.nan,) * 3
    tail = (1 - LEVEL) / 2
    aims = (float(free), float(chdtri(free, tail)), float(chdtri(free, 1 - tail)))
    found = [_root(values, own, aim) for aim in aims]
    return found[0], found[1], found[2]


def _root(values: Floats, own: Floats, aim: float) -> float:
    """The spread at which Q has that value; 0 where it is smaller without any."""
    from scipy.optimize import brentq

    def excess(square: float) -> float:
        weights = 1 / (own + square)
        mean = (weights * values).sum() / weights.sum()
        return float((weights * (values - mean) ** 2).sum() - aim)

    if excess(0.0) <= 0:
        return 0.0
    top = float(np.var(values) + own.max())
    while excess(top) > 0:
        top *= 4
    return float(np.sqrt(brentq(excess, 0.0, top, xtol=1e-14, rtol=1e-8, maxiter=1000)))
