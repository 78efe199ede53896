"""Compensations of a chip's converters (arXiv 1906.02698): what scales a vector, and norms.

A product is made in the order scale, DAC, clip, W x, ADC, unscale: ``y = s F(x / s)``.  Noise
management chooses s for each vector; bound management changes it where the ADC's range would clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cimctl.analog.ranges import Ranges

Floats = npt.NDArray[np.float32]
NoiseManagement = Literal["off", "max", "constant", "threshold", "running-mean", "running-maximum"]
BoundManagement = Literal["off", "iterative", "worst-case"]

#: running means forget by this factor a batch; the authors' public code has it, too
DECAY = 0.99
#: bound management halves an input four times at most
MOST_HALVING = 16.0
_TINY = 1e-5


@dataclass(frozen=True, slots=True)
class Compensations:
    """Which compensations products on a chip have.

    Attributes:
        noise: what an input is divided by: nothing; its own largest magnitude; a constant; its
            largest magnitude, the threshold at most; the running mean of that; the running maximum
            of all inputs (``Ranges``).
        noise_value: the constant, or the threshold.
        bound: what is done where a product would clip, in the forward direction: nothing; halve the
            inputs of the vectors that did and repeat; scale so that none can.
        stochastic_rounding: whether the DAC rounds up with the probability of the rest.
        saturation: share of conversions that may saturate before a settable range widens.
    """

    noise: NoiseManagement = "max"
    noise_value: float = 1.0
    bound: BoundManagement = "iterative"
    stochastic_rounding: bool = False
    saturation: float = 0.01


@dataclass
class Direction:
    """State of the products in one direction, kept in checkpoints.

    Attributes:
        ranges: of the ADC, and the running maximum of the inputs.
        mean: running mean of the vectors' largest magnitudes; 0 before the first batch.
        vectors: vectors converted so far: the position of stochastic rounding.
    """

    ranges: Ranges
    mean: float = 0.0
    vectors: int = 0

    def plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"ranges": dict(vars(self.ranges)), "mean": self.mean, "vectors": self.vectors}

    def take(self, state: dict[str, Any]) -> None:
        """Takes the state back."""
        vars(self.ranges).update(state["ranges"])
        self.mean, self.vectors = state["mean"], state["vectors"]

    def see(self, largest: Floats) -> None:
        """Follows a batch of training: (vectors,) largest magnitudes."""
        most, mean = float(largest.max()), float(largest.mean())
        self.ranges.see_inputs(-most, most)
        self.mean = DECAY * self.mean + (1 - DECAY) * mean if self.mean else mean


def input_scale(rules: Compensations, direction: Direction, largest: Floats) -> Floats:
    """(vectors,) what noise management divides each input by; 0: the vector is zero, no product.

    Args:
        rules: which noise management.
        direction: its running values.
        largest: (vectors,) largest magnitudes.
    """
    if rules.noise == "max":
        return largest
    if rules.noise == "threshold":
        return np.minimum(largest, np.float32(rules.noise_value))
    value = {
        "off": 1.0,
        "constant": rules.noise_value,
        "running-mean": direction.mean,
        "running-maximum": direction.ranges.largest,
    }[rules.noise]
    return np.full(len(largest), value or 1.0, dtype=np.float32)


def worst_case_scale(sums: Floats, room: float) -> Floats:
    """(vectors,) the scale at which even weights that are all w_max keep within the ADC's range.

    Args:
        sums: (vectors,) sums of the inputs' magnitudes.
        room: the ADC's bound over w_max: what the sum of scaled magnitudes may be.
    """
    scale: Floats = sums * np.float32(1 / room)
    return scale


class RunningNorm(nn.Module):
    """Subtracts running means and divides by running standard deviations, channel by channel.

    The statistics are constants to the gradient, and the same in training and test [ours].

    Args:
        channels: size of the second dimension of what is normalised.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        """(batch, channels, ...) values, normalised."""
        if self.training:
            self._see(values.detach())
        shape = (1, -1) + (1,) * (values.dim() - 2)
        spread = (self.variance + _TINY).sqrt()
        return (values - self.mean.reshape(shape)) / spread.reshape(shape)

    def _see(self, values: Tensor) -> None:
        flat = values.transpose(0, 1).flatten(1)
        mean, variance = flat.mean(1), flat.var(1, correction=0)
        kept = DECAY if self.batches else 0.0
        self.mean.mul_(kept).add_(mean, alpha=1 - kept)
        self.variance.mul_(kept).add_(variance, alpha=1 - kept)
        self.batches += 1
