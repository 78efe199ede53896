"""Integers of 4 bits with one scale for a tensor: weights with a sign, activations mostly without.

The paper (arXiv 2203.04821) trains INT4 weights and activations; its rule for their scales is not
in what we have, those here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: what a weight's scale is taken from: its largest, or the smallest mean-square error
Clip = Literal["max", "mean-square"]
BITS = 4
#: candidates of the largest weight that is not clipped, as shares of the largest of all
_SHARES = tuple(1.0 - 0.05 * i for i in range(13))


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers from ``low`` to ``high``."""

    low: int
    high: int

    def codes(self, values: Tensor, unit: float, *, stochastic: bool = False) -> Tensor:
        """Rounds and clips.

        Args:
            values: of any shape.
            unit: what a step stands for, above 0.
            stochastic: round up with the probability of the rest; otherwise half to even.

        Returns:
            Integers in the type of the values.
        """
        steps = values * (1 / unit)
        rounded = (steps + torch.rand_like(steps)).floor_() if stochastic else steps.round_()
        return rounded.clamp_(self.low, self.high)


#: weights: symmetrical, so that no sign has a level more than the other
WEIGHTS = Integers(-7, 7)
#: activations behind a ReLU, and those with a sign
UNSIGNED, SIGNED = Integers(0, 15), Integers(-7, 7)


def weight_unit(values: Tensor, clip: Clip) -> float:
    """What a step of 4-bit weights stands for, by one of the rules."""
    largest = float(values.abs().max()) or 1.0
    if clip == "max":
        return largest / WEIGHTS.high
    units = [largest * share / WEIGHTS.high for share in _SHARES]
    return min(units, key=lambda unit: _error(values, unit))


def _error(values: Tensor, unit: float) -> float:
    return float((values - WEIGHTS.codes(values, unit) * unit).square().sum())
