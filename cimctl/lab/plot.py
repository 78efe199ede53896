"""Data against model: conductance over pulses, and the step over conductance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cimctl.files import write_atomically
from cimctl.lab.filter import Trains
from cimctl.lab.fit import Fitted
from cimctl.lab.models import Floats, sides
from cimctl.lab.pulses import PulseData

_BINS = 16
_BAND = (5, 95)
_DRAWS = 20


def write(path: Path, fitted: Fitted, data: PulseData) -> None:
    """Writes a PNG.

    Raises:
        StorageError: no space or no permission.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trains = data.trains(fitted.zero_uS, fitted.unit_uS)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _curves(left, fitted, trains)
    _steps(right, fitted, trains)
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    pyplot.close(figure)
    write_atomically(path, image.getvalue())


def drawn(fitted: Fitted, trains: Trains, seed: int = 0) -> Floats:
    """(pulses + 1, devices) readings that the fitted model gives with the same pulses."""
    draw = np.random.default_rng(seed)
    own, shared = fitted.own, np.broadcast_to(fitted.shared, (len(fitted.own), len(fitted.shared)))
    both = np.stack(sides(fitted.model, own, shared))
    noise, sigma = np.exp(fitted.shared[0]), np.exp(fitted.shared[1])
    state = trains.start.copy()
    found = [state.copy()]
    for direction in trains.directions:
        side = np.where(direction > 0, both[0], both[1])
        sign = np.where(direction < 0, -1.0, 1.0)
        factor = fitted.model.factor(sign * state, *side[1:])
        cycle = sigma * draw.standard_normal(len(state))
        factor = factor + cycle if fitted.additive else factor * (1 + cycle)
        moved = sign * np.minimum(sign * state + side[0] * factor, side[1])
        state = np.where(direction == 0, state, np.clip(moved, own[:, 2], own[:, 3]))
        found.append(state + noise * draw.standard_normal(len(state)))
    return np.array(found)


def _curves(axes: Any, fitted: Fitted, trains: Trains) -> None:
    def uS(weights: Floats) -> Floats:
        return fitted.zero_uS + fitted.unit_uS * weights

    data = np.vstack([trains.start, trains.readings])
    ended = np.vstack([np.zeros_like(trains.start), trains.directions == 0]).astype(bool)
    model = np.hstack([np.where(ended, np.nan, drawn(fitted, trains, i)) for i in range(_DRAWS)])
    pulses = np.arange(len(data))
    axes.plot(pulses, uS(data), ".", color="0.6", markersize=1.5, alpha=0.5)
    band = np.nanpercentile(model, [*_BAND, 50], axis=1)
    axes.fill_between(pulses, uS(band[0]), uS(band[1]), alpha=0.3, label="model, 5 to 95 %")
    axes.plot(pulses, uS(band[2]), label="model, median")
    axes.plot([], [], ".", color="0.6", label="data")
    axes.set(xlabel="pulse", ylabel="conductance, uS")
    axes.legend()


def _steps(axes: Any, fitted: Fitted, trains: Trains) -> None:
    data = np.vstack([trains.start, trains.readings])
    draws = [np.vstack([trains.start, drawn(fitted, trains, i)[1:]]) for i in range(_DRAWS)]
    there = ~np.isnan(trains.readings)
    for way, name, colour in ((1, "up", "C2"), (-1, "down", "C3")):
        chosen = (trains.directions == way) & there
        places, measured = _binned(data[:-1][chosen], np.diff(data, axis=0)[chosen])
        axes.plot(
            fitted.zero_uS + fitted.unit_uS * places, fitted.unit_uS * measured, "o",
            color=colour, label=f"data, {name}",
        )  # fmt: skip
        states = np.concatenate([d[:-1][chosen] for d in draws])
        steps = np.concatenate([np.diff(d, axis=0)[chosen] for d in draws])
        places, expected = _binned(states, steps)
        axes.plot(
            fitted.zero_uS + fitted.unit_uS * places, fitted.unit_uS * expected,
            color=colour, label=f"model, {name}",
        )  # fmt: skip
    axes.set(xlabel="conductance before the pulse, uS", ylabel="mean step, uS")
    axes.legend()


def _binned(states: Floats, steps: Floats) -> tuple[Floats, Floats]:
    known = ~(np.isnan(states) | np.isnan(steps))
    states, steps = states[known], steps[known]
    edges = np.linspace(states.min(), states.max(), _BINS + 1)
    bins: npt.NDArray[np.intp] = np.clip(np.digitize(states, edges) - 1, 0, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    full = counts > 2
    sums = np.bincount(bins, steps, minlength=_BINS)
    places: Floats = ((edges[1:] + edges[:-1]) / 2)[full]
    means: Floats = sums[full] / counts[full]
    return places, means
