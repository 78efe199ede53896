"""Several pulses in closed form beside pulse by pulse: mean and spread of 80,000 devices.

Their spreads are known to 0.25 %, so that a difference of two of them has an error of 0.35 %.

200 random rank-one updates by trains of 31 slots, four device models, four noises of their pulses,
on the chips of ``tests/sim_backend/test_closed_form.py``.  Prints a table, largest deviations last.

    python benchmarks/closed_form.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt

from sim_backend.chip import Chip
from tests.sim_backend import test_closed_form as cases

#: chips of 10,000 devices each
CHIPS = 8


def deviations(model: str, noise: str, variation: float) -> tuple[float, float]:
    """Difference of the means, of the range, and of the spreads, relative."""
    found: dict[str, list[npt.NDArray[np.float64]]] = {"each": [], "closed-form": []}
    for pulses, weights in found.items():
        made = cases.profile(model, pulses, cycle_noise=noise, cycle_variation=variation)
        for number in range(CHIPS):
            chip = Chip(made, 5 + number)
            for seed in range(10):
                cases.update(chip, cases.trains(20, 31, 0.5, seed=seed))
            weights.append(cases.weights(chip))
    each, closed = (np.concatenate(weights) for weights in found.values())
    return abs(closed.mean() - each.mean()) / 2, abs(closed.std() / each.std() - 1)


def main() -> None:
    print("| model | noise of a pulse | mean, % of range | spread, % |\n|---|---|---|---|")
    worst = (0.0, 0.0)
    for model in cases.MODELS:
        for noise, variation in cases.NOISE:
            mean, spread = deviations(model, noise, variation)
            worst = max(worst[0], mean), max(worst[1], spread)
            print(f"| {model} | {noise} {variation:g} | {100 * mean:.3f} | {100 * spread:.2f} |")
    print(f"| largest | | {100 * worst[0]:.3f} | {100 * worst[1]:.2f} |")


if __name__ == "__main__":
    main()
