"""First guesses: where the search for the largest likelihood starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cimctl.lab.filter import Trains
from cimctl.lab.models import Floats, Model

_LEAST = 1e-4
#: readings that a regression needs
_FEW = 10


def guess(model: Model, trains: Trains) -> tuple[Floats, Floats]:
    """(devices, p) and (q,) parameters from regressions of the steps on the state."""
    own, spreads, noises = [], [], []
    for i in range(len(trains.start)):
        values, spread, noise = _device(model, trains, i)
        own.append(values)
        spreads.append(spread)
        noises.append(noise)
    shared = [np.log(np.median(noises)), np.log(np.median(spreads))]
    if model.shared:
        shared += [np.log(0.5), np.log(0.5), np.log(3.0), np.log(3.0)]
    return np.array(own), np.array(shared)


def _device(model: Model, trains: Trains, i: int) -> tuple[list[float], float, float]:
    states = np.concatenate([trains.start[i : i + 1], trains.readings[:, i]])
    seen = np.flatnonzero(~np.isnan(states))
    states = states[seen]
    passed = np.diff(seen)
    steps = np.diff(states) / passed
    ways = trains.directions[seen[1:] - 1, i]
    low, high = (way * _end(way * states, ways * way) for way in (-1, 1))
    lines = [_line(states[:-1][ways == way] * way, steps[ways == way] * way) for way in (1, -1)]
    at_zero = [max(line[0], _LEAST) for line in lines]
    falls = [max(line[1] / step, 0.0) for line, step in zip(lines, at_zero, strict=True)]
    own = [np.log(at_zero[0]), np.log(at_zero[1]), min(low, -0.1), max(high, 0.1)]
    if model.name == "soft-bounds":
        own[2] = min(max(-1 / max(falls[1], 1e-3), 3 * low), own[2])
        own[3] = max(min(1 / max(falls[0], 1e-3), 3 * high), own[3])
    elif model.name == "linear-step":
        own += [min(falls[0], 3.0), min(falls[1], 3.0)]
    elif model.name == "power-step":
        own[0], own[1] = own[0] + np.log(2), own[1] + np.log(2)
        own[2], own[3] = own[2] - 0.05, own[3] + 0.05
        own += [0.0, 0.0]
    before = states[:-1]
    rest = steps - ways * np.where(ways > 0, _at(lines[0], before), _at(lines[1], -before))
    middle = (before - low) / (high - low + _LEAST)
    rest = rest[(middle > 0.1) & (middle < 0.9)]
    if len(rest) < _FEW:
        rest = steps - steps.mean()
    whole = float(np.var(rest))
    pairs = float(np.mean(rest[1:] * rest[:-1]))
    noise = np.sqrt(min(max(-pairs, 0.05 * whole), 0.45 * whole) + _LEAST**2)
    cycle = np.sqrt(max(whole - 2 * noise**2, 0.05 * whole)) / np.sqrt(at_zero[0] * at_zero[1])
    return own, float(np.clip(cycle, 1e-3, 2.0)), float(noise)


def _end(states: Floats, ways: npt.NDArray[np.int8]) -> float:
    """Where upward pulses lead to: the mean of the last tenth of each of their trains, the highest.

    Args:
        states: (readings,).
        ways: (readings - 1,) direction of the pulses between them.
    """
    edges = np.flatnonzero(np.diff(ways)) + 1
    ends = []
    for train in np.split(np.arange(1, len(states)), edges):
        if ways[train[0] - 1] > 0:
            ends.append(float(states[train[-max(1, len(train) // 10) :]].mean()))
    return max(ends)


def _line(u: Floats, steps: Floats) -> tuple[float, float]:
    """Step at 0, and how it falls with the state; where no step is left does not count."""
    inner = (u < u.min() + 0.85 * np.ptp(u)) if len(u) > _FEW else np.ones(len(u), dtype=bool)
    if inner.sum() < _FEW // 2 or np.ptp(u[inner]) < 1e-9:
        return float(steps.mean()), 0.0
    slope, zero = np.polyfit(u[inner], steps[inner], 1)
    return float(zero), float(-slope)


def _at(line: tuple[float, float], u: Floats) -> Floats:
    return line[0] - line[1] * u
