"""Fits a device model to pulse responses, with the uncertainty of every parameter.

Weights are what the user says (``zero_uS``, ``unit_uS``), by default such that the devices span -1
to 1 (median of their lowest and highest readings); it is a convention, and known exactly.  The
likelihood (``filter``, ``likelihood``) gives each device's own parameters with their errors, and
the noises that all share; ``population`` gives means and spreads.  A parameter of the profile is a
function of these; its error is propagated to first order, on a logarithmic scale where the
parameter is positive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from boards.errors import UsageError
from cimctl.lab import likelihood as search
from cimctl.lab.guess import guess
from cimctl.lab.likelihood import Likelihood, Point, Prior
from cimctl.lab.models import OWN, Floats, Model, natural
from cimctl.lab.population import Population, population
from cimctl.lab.pulses import PulseData

#: error of a device's bound, in weights, beyond which the data do not tell it
_VAGUE = 0.25
#: log-likelihood by which the end of a one-sided 95 % interval is below the maximum
_ONE_SIDED = 1.353
#: rounds of devices and population, and the change of a mean, in its errors, that ends them
_ROUNDS, _STILL = 5, 0.05
_STEPS_A_ROUND = 8
#: log-likelihood that a bound must be worth: half the chi square at 95 %
_FELT = 1.92
_NAMES = {"low": 2, "high": 3}


@dataclass(frozen=True)
class Estimate:
    """A parameter: estimate and 95 % interval; an end is None where the data do not give it."""

    estimate: float
    low: float | None
    high: float | None
    unit: str = ""


@dataclass(frozen=True)
class Fitted:
    """A model fitted to pulse responses.

    Attributes:
        model: which.
        additive: whether cycle noise is taken as additive.
        zero_uS, unit_uS: conductance of weight 0, and of a weight of 1 above it.
        parameters: by name, with those of a profile's ``device`` and ``imperfections``.
        own, shared: parameters as they were fitted (``likelihood.Point``).
        devices, pulses: how many.
        log_likelihood, aic: at the maximum.
        notes: what the user should know.
    """

    model: Model
    additive: bool
    zero_uS: float
    unit_uS: float
    parameters: dict[str, Estimate]
    own: Floats
    shared: Floats
    devices: int
    pulses: int
    log_likelihood: float
    aic: float
    notes: tuple[str, ...]


def fit(
    data: PulseData,
    model: Model,
    *,
    additive: bool = False,
    zero_uS: float | None = None,
    unit_uS: float | None = None,
    said: Callable[[float], None] | None = None,
) -> Fitted:
    """Estimates a model's parameters.

    Args:
        data: pulse responses.
        model: which model.
        additive: whether cycle noise is (``device.cycle_noise``).
        zero_uS, unit_uS: conductance of weight 0, and of a weight of 1 above it; None: such that
            the devices span -1 to 1.
        said: called with the log-likelihood after each step.

    Raises:
        UsageError: the devices do not move, or weight 0 lies outside of what was read.
    """
    zero, unit = _scale(data, zero_uS, unit_uS)
    whole = Likelihood(model, data.trains(zero, unit), additive=additive)
    # A density of weights, told as one of conductances.
    scale = whole.readings * float(np.log(unit))
    tell = None if said is None else lambda value: said(value - scale)
    top = whole.maximum(*guess(model, data.trains(zero, unit)), said=tell)
    if not np.isfinite(top.value):
        raise UsageError(
            f"The model '{model.name}' has no likelihood for these data",
            left="Nothing was written",
            next="Plot them, or try another model",
        )
    here, people, prior = _estimated(whole, top, tell)
    open_ends = _open(whole, here)
    covariance = search.joint_covariance(model, here, prior)
    reading = _Reading(model, here, people, covariance, (zero, unit), open_ends)
    parameters = reading.parameters() | _noises(whole, here, reading)
    count = here.own.size + here.shared.size
    return Fitted(
        model, additive, zero, unit, parameters, here.own, here.shared, len(data.records),
        data.pulses, top.value - scale,
        2 * count - 2 * (top.value - scale),
        tuple(_notes(model, open_ends, len(data.records))),
    )  # fmt: skip


def _scale(data: PulseData, zero_uS: float | None, unit_uS: float | None) -> tuple[float, float]:
    low, high = data.span_uS
    if not high > low:
        raise UsageError(
            f"All readings are {low:g} uS: no device moves", left="Nothing was written"
        )
    zero = (low + high) / 2 if zero_uS is None else zero_uS
    unit = (high - low) / 2 if unit_uS is None else unit_uS
    inner = 0.05 * (high - low)
    if not low + inner < zero < high - inner:
        raise UsageError(
            f"Weight 0 at {zero:g} uS is not within the readings, {low:g} to {high:g} uS",
            left="Nothing was written",
            next="Give another --zero, or leave it out",
        )
    if not 0.05 * (high - low) <= unit <= 20 * (high - low):
        raise UsageError(
            f"A unit of weight of {unit:g} uS does not suit readings from {low:g} to {high:g} uS",
            left="Nothing was written",
            next=f"Give a --unit of about {(high - low) / 2:.3g}, or leave it out",
        )
    return zero, unit


def _estimated(
    whole: Likelihood, first: Point, said: Callable[[float], None] | None
) -> tuple[Point, Population, Prior]:
    """Devices and what devices are like, each in the light of the other.

    What the devices are like bends the search for each device's parameters, so that the likelihood
    is taken to second order where the device probably is, not where its noise put it (Lindstrom and
    Bates 1990).
    """
    here = first
    people = _people(whole.model, here)
    for _ in range(_ROUNDS):
        prior = _prior(people)
        here = whole.maximum(here.own, here.shared, prior, said, steps=_STEPS_A_ROUND)
        before, people = people, _people(whole.model, here)
        moved = np.abs(people.mean - before.mean) / np.sqrt(np.diag(people.covariance))
        if moved.max() < _STILL:
            break
    here = search.restricted(whole, here, _prior(people))
    people = _people(whole.model, here)
    return here, people, _prior(people)


def _people(model: Model, here: Point) -> Population:
    """The population from each device's likelihood, taken to second order where it was reached."""
    p = here.own.shape[1]
    values, turned = natural(model, here.own)
    errors = np.linalg.inv(here.own_information())
    off = np.einsum("dij,dj->di", errors, here.score[:, :p])
    values = values + np.einsum("dij,dj->di", turned, off)
    return population(values, turned @ errors @ np.swapaxes(turned, 1, 2))


def _prior(people: Population) -> Prior:
    # Devices that are all alike would make it infinitely sharp.
    least = 0.1 * np.sqrt(np.diag(people.covariance))
    spread = np.maximum(np.nan_to_num(people.spread[:, 0]), least)
    return Prior(people.mean, np.diag(spread**-2.0))


def _open(whole: Likelihood, here: Point) -> dict[str, int]:
    """Bounds that the data do not tell, and for how many devices."""
    errors = np.sqrt(np.einsum("dii->di", np.linalg.inv(here.own_information())))
    found = {}
    for name, at in _NAMES.items():
        limit = _VAGUE if whole.model.clipped else 4 * _VAGUE
        vague = (errors[:, at] > limit) | (np.abs(here.own[:, at]) >= search.FARTHEST)
        if whole.model.clipped:
            # Whether the likelihood of a device misses its bound at all.
            without = here.own.copy()
            without[:, at] = np.sign(without[:, at]) * search.FARTHEST
            vague |= here.values - whole.at(without, here.shared).values < _FELT
        if vague.any():
            found[name] = int(vague.sum())
    return found


def _notes(model: Model, open_ends: dict[str, int], devices: int) -> list[str]:
    said = [
        f"The pulses do not tell the {'lower' if name == 'low' else 'upper'} bound of {count} of "
        f"{devices} devices: it lies at or beyond the value given. Longer trains of pulses "
        f"{'downwards' if name == 'low' else 'upwards'} would show it"
        for name, count in open_ends.items()
    ]
    if model.name == "power-step":
        said.append(
            "Bounds, step and exponent of a power step stand for one another in part: its "
            "intervals are too narrow (docs/characterize.md)"
        )
    if devices == 1:
        said.append("One device tells nothing of the spread from device to device")
    elif devices < 5:
        said.append(f"{devices} devices tell little of the spread from device to device")
    return said


class _Reading:
    """The parameters of a profile as functions of the population's mean and the shared ones."""

    def __init__(
        self,
        model: Model,
        here: Point,
        people: Population,
        covariance: Floats,
        scale: tuple[float, float],
        open_ends: dict[str, int],
    ) -> None:
        self._model, self._people, self._open = model, people, open_ends
        self._zero, self.unit = scale
        if model.clipped:
            # An end of the way that no device met is where the pulses ended, by convention.
            for name, count in open_ends.items():
                if count < people.devices:
                    continue
                covariance[_NAMES[name], :] = covariance[:, _NAMES[name]] = 0.0
        self._means = np.concatenate([people.mean, here.shared])
        self.covariance = covariance

    def parameters(self) -> dict[str, Estimate]:
        found: dict[str, Estimate] = {}
        for name, (value, positive) in self._formulas().items():
            found[name] = self._estimate(value, positive)
        for name, at in _NAMES.items():
            found[f"{name}_uS"] = self._bound(name, at)
        return found | self._spreads()

    def _formulas(self) -> dict[str, tuple[Callable[[Floats], float], bool]]:
        """Name: value as a function of the means, and whether it is positive."""
        formulas: dict[str, tuple[Callable[[Floats], float], bool]] = {
            "step": (lambda x: x[0] + abs(x[1]), True),
            "asymmetry": (lambda x: 2 * x[1] / (x[0] + abs(x[1])), False),
        }
        first = len(OWN)
        if self._model.name == "linear-step":
            formulas["slope_up"] = (lambda x: x[first] * x[3], False)
            formulas["slope_down"] = (lambda x: -x[first + 1] * x[2], False)
        if self._model.name == "power-step":
            formulas["exponent"] = (lambda x: x[first] + abs(x[first + 1]), True)
            formulas["exponent_asymmetry"] = (
                lambda x: 2 * x[first + 1] / (x[first] + abs(x[first + 1])),
                False,
            )
        if self._model.shared:
            formulas |= _exponential(first + 2)
        return formulas

    def _estimate(self, formula: Callable[[Floats], float], positive: bool) -> Estimate:
        value = float(formula(self._means))
        half = self._people.quantile * self._error(formula)
        if positive and value > 0:
            ratio = float(np.exp(min(half / value, 50.0)))
            return Estimate(value, value / ratio, value * ratio)
        return Estimate(value, value - half, value + half)

    def _error(self, formula: Callable[[Floats], float]) -> float:
        errors = np.sqrt(np.diag(self.covariance))
        slope = np.zeros_like(errors)
        for i, error in enumerate(errors.tolist()):
            move = np.zeros_like(errors)
            move[i] = max(min(1e-3 * error, 1e-3), 1e-9)
            slope[i] = (formula(self._means + move) - formula(self._means - move)) / (2 * move[i])
        return float(np.sqrt(max(float(slope @ self.covariance @ slope), 0.0)))

    def _bound(self, name: str, at: int) -> Estimate:
        weight = self._estimate(lambda x: float(x[at]), positive=False)
        assert weight.low is not None and weight.high is not None
        low: float | None = self._zero + self.unit * weight.low
        high: float | None = self._zero + self.unit * weight.high
        if name in self._open:
            low, high = (None, high) if name == "low" else (low, None)
        return Estimate(self._zero + self.unit * weight.estimate, low, high, "uS")

    def _spreads(self) -> dict[str, Estimate]:
        if self._people.devices == 1:
            return {}
        step = self._formulas()["step"][0]
        scales: dict[str, tuple[int, Callable[[Floats], float]]] = {
            "device_variation": (0, step),
            "asymmetry_variation": (1, step),
            "bound_variation_low": (2, lambda x: abs(float(x[2]))),
            "bound_variation_high": (3, lambda x: abs(float(x[3]))),
        }
        first = len(OWN)
        if self._model.name == "linear-step":
            scales["slope_variation_up"] = (first, lambda x: 1 / abs(float(x[3])))
            scales["slope_variation_down"] = (first + 1, lambda x: 1 / abs(float(x[2])))
        if self._model.name == "power-step":
            exponent = self._formulas()["exponent"][0]
            scales["exponent_variation"] = (first, exponent)
            scales["exponent_asymmetry_variation"] = (first + 1, exponent)
        return {name: self._spread(name, *scale) for name, scale in scales.items()}

    def _spread(self, name: str, at: int, formula: Callable[[Floats], float]) -> Estimate:
        """A standard deviation in units of a mean: both errors, on a logarithmic scale."""
        unit = float(formula(self._means))
        relative = self._people.quantile * self._error(formula) / unit
        value, low, high = (float(s) / unit for s in self._people.spread[at])
        if name.removeprefix("bound_variation_") in self._open:
            return Estimate(value, 0.0, None)
        if value > 0 and low > 0:
            low = value / float(np.exp(min(np.hypot(np.log(value / low), relative), 50.0)))
        if value > 0:
            high = value * float(np.exp(min(np.hypot(np.log(high / value), relative), 50.0)))
        return Estimate(value, low, high)


def _exponential(at: int) -> dict[str, tuple[Callable[[Floats], float], bool]]:
    """A = L exp(-gamma) and gamma, from the logarithms of L and gamma."""
    found: dict[str, tuple[Callable[[Floats], float], bool]] = {}
    for side, name in enumerate(("up", "down")):

        def amplitude(x: Floats, i: int = at + side) -> float:
            return float(np.exp(x[i] - np.exp(x[i + 2])))

        def exponent(x: Floats, i: int = at + side) -> float:
            return float(np.exp(x[i + 2]))

        found[f"amplitude_{name}"] = (amplitude, True)
        found[f"exponent_{name}"] = (exponent, True)
    return found


def _noises(whole: Likelihood, here: Point, reading: _Reading) -> dict[str, Estimate]:
    from scipy.special import ndtri

    errors = np.sqrt(np.diag(reading.covariance))[-len(here.shared) :]
    found = {}
    for at, (name, scale, unit) in enumerate(
        (("read_noise_uS", reading.unit, "uS"), ("cycle_variation", 1.0, ""))
    ):
        value = float(np.exp(here.shared[at]))
        if errors[at] < 0.5:
            ratio = float(np.exp(ndtri(0.975) * errors[at]))
            low, high = value / ratio, value * ratio
        else:
            low, high = 0.0, _largest(whole, here, at)
        found[name] = Estimate(value * scale, low * scale, high * scale, unit)
    return found


def _largest(whole: Likelihood, here: Point, at: int) -> float:
    """The largest noise that the data allow, where they would also allow none."""
    move = np.zeros_like(here.shared)
    low, high = here.shared[at], here.shared[at]
    for _ in range(40):
        high += 0.5
        move[at] = high - here.shared[at]
        if whole.at(here.own, here.shared + move).value < here.value - _ONE_SIDED:
            break
        low = high
    for _ in range(12):
        middle = (low + high) / 2
        move[at] = middle - here.shared[at]
        inside = whole.at(here.own, here.shared + move).value >= here.value - _ONE_SIDED
        low, high = (middle, high) if inside else (low, middle)
    return float(np.exp(high))
