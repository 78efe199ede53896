"""Maximum likelihood by Fisher scoring, all devices at once.

With deviations v and variances S of the readings (``filter``), the log-likelihood of a device is
``-sum(log 2 pi S + v^2 / S) / 2``, its score and its information

    g = -sum(v v' / S + S' / 2S - v^2 S' / 2S^2)     J = sum(v' v'^T / S + S' S'^T / 2S^2)

with derivatives from central differences.  Devices share some parameters, so the information of
all has the shape of an arrow; it is solved by its Schur complement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cimctl.lab.filter import Trains, innovations
from cimctl.lab.models import OWN, Floats, Model, natural

#: difference of a derivative, as a share of the parameter's standard error; at most this much
_SHARE, _LARGEST = 0.1, 1e-3
_SMALLEST = 1e-7
#: log-likelihood that one more step would gain when it is the last
_DONE = 1e-4
_STEPS = 80
#: steps to the maximum of the corrected likelihood
_CORRECTIONS = 3
#: a bound moves by this much in a step at most: past it, it may no longer be felt
_STRIDE, _SHARED_STRIDE = 0.1, 1.0
#: what keeps the information of a parameter that the data say nothing of from being none
RIDGE = 1e-4
#: logarithms beyond which a parameter is 0, or as good as infinite
_LOG_LOW, _LOG_HIGH = -16.0, 5.0
#: bounds may lie this far out, in weights
FARTHEST = 20.0


@dataclass(frozen=True)
class Point:
    """Parameters, and what the data say there.

    Attributes:
        own: (devices, p) parameters of each device as they are fitted.
        shared: (q,) those of all.
        values: (devices,) log-likelihoods.
        score: (devices, p + q).
        information: (devices, p + q, p + q).
    """

    own: Floats
    shared: Floats
    values: Floats
    score: Floats
    information: Floats

    @property
    def value(self) -> float:
        return float(self.values.sum())

    def own_information(self) -> Floats:
        """(devices, p, p), never singular."""
        p = self.own.shape[1]
        return self.information[:, :p, :p] + RIDGE * np.eye(p)


@dataclass(frozen=True)
class Prior:
    """What the other devices say of one: its natural parameters (``models.natural``) are Gaussian.

    Attributes:
        mean: (m,); precision: (m, m).
    """

    mean: Floats
    precision: Floats

    def pull(self, model: Model, own: Floats) -> tuple[float, Floats, Floats]:
        """Logarithm of the density, its (devices, p) score, its (devices, p, p) information."""
        values, turned = natural(model, own)
        off = values - self.mean
        weighed = off @ self.precision
        information = np.swapaxes(turned, 1, 2) @ self.precision @ turned
        score = -np.einsum("dij,di->dj", turned, weighed)
        return -0.5 * float((weighed * off).sum()), score, information


class Likelihood:
    """The likelihood of a model for the trains of all devices.

    Args:
        model: which model.
        trains: pulses and readings, in weights.
        additive: whether cycle noise is.
    """

    def __init__(self, model: Model, trains: Trains, *, additive: bool) -> None:
        self.model, self._trains, self._additive = model, trains, additive
        self.readings = int((~np.isnan(trains.readings)).sum())
        reached = np.vstack([trains.start, trains.readings])
        self._ends = np.nanmin(reached, axis=0), np.nanmax(reached, axis=0)

    def at(self, own: Floats, shared: Floats, apart: Floats | None = None) -> Point:
        """The likelihood with its derivatives.

        Args:
            own, shared: parameters (``Point``).
            apart: (devices, p + q) differences to take derivatives with.
        """
        devices, p = own.shape
        joint = np.hstack([own, np.tile(shared, (devices, 1))])
        count = joint.shape[1]
        apart = np.full_like(joint, _LARGEST) if apart is None else apart
        moves = np.eye(count)[:, None, :] * apart
        variants = np.concatenate([joint[None], joint + moves, joint - moves])
        seen = innovations(
            self.model, self._trains, variants[..., :p], variants[..., p:], additive=self._additive
        )
        off, total = seen.deviation[:, 0], seen.variance[:, 0]
        width = 2 * apart.T
        bent_off = (seen.deviation[:, 1 : count + 1] - seen.deviation[:, count + 1 :]) / width
        bent = (seen.variance[:, 1 : count + 1] - seen.variance[:, count + 1 :]) / width
        bent = bent / total[:, None]
        root = np.sqrt(total)
        relative = off / root
        first = np.moveaxis(bent_off / root[:, None], 2, 0)
        second = np.moveaxis(bent, 2, 0)
        score = -np.einsum("dki,kd->di", first, relative)
        score -= 0.5 * np.einsum("dki,kd->di", second, 1.0 - relative**2)
        information = np.swapaxes(first, 1, 2) @ first + 0.5 * np.swapaxes(second, 1, 2) @ second
        there = ~np.isnan(self._trains.readings)
        values = -0.5 * (np.log(2 * np.pi * total) + relative**2)
        return Point(own, shared, (values * there).sum(axis=0), score, information)

    def maximum(
        self,
        own: Floats,
        shared: Floats,
        prior: Prior | None = None,
        said: Callable[[float], None] | None = None,
        steps: int = _STEPS,
    ) -> Point:
        """The parameters of the largest likelihood, or posterior density, from a first guess.

        Args:
            own, shared: the guess.
            prior: of the devices' parameters.
            said: called with the log-likelihood after each step.
        steps: at most.
        """
        here = self.at(*self.within(own, shared))
        damping = 1e-2
        for _ in range(steps):
            step_own, step_shared, gain = _step(self._pulled(here, prior), damping)
            step_own[:, 2:4] = np.clip(step_own[:, 2:4], -_STRIDE, _STRIDE)
            step_shared = np.clip(step_shared, -_SHARED_STRIDE, _SHARED_STRIDE)
            where = self.within(here.own + step_own, here.shared + step_shared)
            there = self.at(*where, apart_of(here))
            better = self._density(there, prior) - self._density(here, prior)
            if np.isfinite(better) and better >= -1e-7:
                here, damping = there, max(damping / 10, 1e-9)
                if said:
                    said(here.value)
                if gain < _DONE and better < _DONE:
                    break
            else:
                damping = max(damping, 1e-6) * 10
                if damping > 1e8:
                    break
        return here

    def _pulled(self, here: Point, prior: Prior | None) -> Point:
        if prior is None:
            return here
        _, score, information = prior.pull(self.model, here.own)
        p = here.own.shape[1]
        pulled = Point(
            here.own, here.shared, here.values, here.score.copy(), here.information.copy()
        )
        pulled.score[:, :p] += score
        pulled.information[:, :p, :p] += information
        return pulled

    def _density(self, here: Point, prior: Prior | None) -> float:
        return here.value + (prior.pull(self.model, here.own)[0] if prior else 0.0)

    def within(self, own: Floats, shared: Floats) -> tuple[Floats, Floats]:
        """Parameters moved to where they mean something."""
        own = own.copy()
        own[:, :2] = np.clip(own[:, :2], -14.0, 2.0)
        low, high = self._ends
        # Bounds enclose what was read but for the noise of readings, and weight 0.
        own[:, 2] = np.clip(own[:, 2], -FARTHEST, np.minimum(0.5 * low, -0.05))
        own[:, 3] = np.clip(own[:, 3], np.maximum(0.5 * high, 0.05), FARTHEST)
        if self.model.logarithmic:
            own[:, len(OWN) :] = np.clip(own[:, len(OWN) :], -4.0, 2.3)
        elif self.model.own:
            own[:, len(OWN) :] = np.clip(own[:, len(OWN) :], -2.0, 20.0)
        return own, np.clip(shared, _LOG_LOW, _LOG_HIGH)


def _step(here: Point, damping: float) -> tuple[Floats, Floats, float]:
    """One damped step of scoring: of the devices, of what they share, and what it should gain."""
    p = here.own.shape[1]
    unity = np.eye(here.information.shape[1])
    damped = here.information * (1 + damping * unity) + RIDGE * unity
    mine, cross = damped[:, :p, :p], damped[:, :p, p:]
    solved = np.linalg.solve(mine, np.concatenate([cross, here.score[:, :p, None]], axis=2))
    taken = np.swapaxes(cross, 1, 2) @ solved
    whole = (damped[:, p:, p:] - taken[..., :-1]).sum(axis=0)
    shared = np.linalg.solve(whole, (here.score[:, p:] - taken[..., -1]).sum(axis=0))
    own = solved[..., -1] - solved[..., :-1] @ shared
    gain = 0.5 * float((own * here.score[:, :p]).sum() + shared @ here.score[:, p:].sum(axis=0))
    return own, shared, gain


def joint_covariance(model: Model, here: Point, prior: Prior) -> Floats:
    """(m + q, m + q) of the mean of the natural parameters and of what devices share.

    The devices' own parameters are integrated out: with the prior's precision P they leave
    ``P - P (J + P)^-1 P`` on the mean, and so on, summed over devices.
    """
    p, m = here.own.shape[1], len(prior.mean)
    turned = natural(model, here.own)[1]
    weighed = prior.precision @ turned
    _, _, pulled = prior.pull(model, here.own)
    mine = here.own_information() + pulled
    links = np.concatenate([-np.swapaxes(weighed, 1, 2), here.information[:, :p, p:]], axis=2)
    whole = np.zeros((len(here.own), m + len(here.shared), m + len(here.shared)))
    whole[:, :m, :m] = prior.precision
    whole[:, m:, m:] = here.information[:, p:, p:]
    whole -= np.swapaxes(links, 1, 2) @ np.linalg.solve(mine, links)
    information = whole.sum(axis=0)
    covariance: Floats = np.linalg.inv(information + RIDGE * np.eye(len(information)))
    return covariance


def restricted(likelihood: Likelihood, here: Point, prior: Prior) -> Point:
    """The maximum after a correction for the devices' own parameters that were fitted with it.

    Noise that is estimated beside p parameters a device comes out too small.  The adjusted profile
    likelihood (Cox and Reid 1987) takes half the logarithm of the determinant of their information
    away; a few steps of scoring lead to its maximum.
    """
    p, m = here.own.shape[1], len(prior.mean)
    model = likelihood.model
    for _ in range(_CORRECTIONS):
        covariance = joint_covariance(model, here, prior)[m:, m:]
        _, pull, sharper = prior.pull(model, here.own)
        mine = here.own_information() + sharper
        cross = here.information[:, :p, p:]
        along: Floats = -np.linalg.solve(mine, cross).astype(np.float64)
        slope = _determinant_slope(likelihood, here, prior, along, covariance)
        score = here.score[:, :p] + pull
        left = (here.score[:, p:] + np.einsum("dij,di->dj", along, score)).sum(axis=0)
        step = np.clip(covariance @ (left - slope), -0.5, 0.5)
        move = along @ step + np.linalg.solve(mine, score[..., None])[..., 0]
        move[:, 2:4] = np.clip(move[:, 2:4], -_STRIDE, _STRIDE)
        own, shared = likelihood.within(here.own + move, here.shared + step)
        there = likelihood.at(own, shared, apart_of(here))
        # Data that tell nothing of the noises are left at the maximum.
        if not (np.isfinite(there.value) and np.isfinite(there.information).all()):
            break
        here = there
    return here


def _determinant_slope(
    likelihood: Likelihood, here: Point, prior: Prior, along: Floats, covariance: Floats
) -> Floats:
    """(q,) derivatives of half the logarithm of the determinant, devices following ``along``."""
    apart = apart_of(here)
    slope = np.zeros_like(here.shared)
    for i, error in enumerate(np.sqrt(np.diag(covariance))):
        move = np.zeros_like(here.shared)
        move[i] = min(0.3 * error, 0.1)
        halves = []
        for sign in (1, -1):
            end = likelihood.at(here.own + sign * along @ move, here.shared + sign * move, apart)
            whole = end.own_information() + prior.pull(likelihood.model, end.own)[2]
            halves.append(0.5 * np.linalg.slogdet(whole)[1].sum())
        slope[i] = (halves[0] - halves[1]) / (2 * move[i])
    return slope


def apart_of(here: Point) -> Floats:
    """(devices, p + q) differences to take derivatives with at that point."""
    known = np.einsum("dii->di", here.information)
    apart: Floats = np.clip(_SHARE / np.sqrt(known + 1e-12), _SMALLEST, _LARGEST)
    return apart
