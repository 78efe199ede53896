"""From pixels to a network's inputs: scaling, and variety of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cimctl.algorithms.settings import Settings
from cimctl.datasets import Dataset

Images = np.ndarray[Any, Any]
#: zeros around an image that crops are cut out of
_BORDER = 4
#: the part of the seed's streams that crops are drawn from; the order of images has [seed, epoch]
_CROPS = 1 << 32


@dataclass(frozen=True)
class Inputs:
    """How pixels become inputs.

    Attributes:
        mean, spread: (channels, 1, 1) that are taken out of each channel; None leaves 0 to 1.
        device: where the inputs are wanted.
    """

    mean: Tensor | None = None
    spread: Tensor | None = None
    device: str = "cpu"

    @classmethod
    def of(cls, settings: Settings, data: Dataset, device: str = "cpu") -> Inputs:
        """The rule of a run, with statistics of the training images where it asks for them."""
        if settings.pixels == "unit":
            return cls(device=device)
        # Sums of bytes are exact, in whatever order they are added.
        counts = [_histogram(channel) for channel in np.moveaxis(data.train_images, 1, 0)]
        value = np.arange(256) / 255
        mean = np.array([c @ value / c.sum() for c in counts])
        square = np.array([c @ value**2 / c.sum() for c in counts])
        spread = np.sqrt(np.maximum(square - mean**2, 1e-12))
        mean, spread = (v.astype(np.float32)[:, None, None] for v in (mean, spread))
        return cls(torch.from_numpy(mean), torch.from_numpy(spread), device)

    def __call__(self, images: Images) -> Tensor:
        """(batch, channels, height, width) pixels 0 to 255 as numbers 0 to 1, or standardised."""
        values = torch.from_numpy(images).to(torch.float32).mul_(1 / 255)
        if self.mean is not None and self.spread is not None:
            values.sub_(self.mean).div_(self.spread)
        return values.to(self.device)


def _histogram(pixels: Images) -> np.ndarray[Any, Any]:
    """How many pixels there are of each value; a few images at a time, since numpy widens them."""
    total = np.zeros(256, dtype=np.int64)
    for first in range(0, len(pixels), 1000):
        total += np.bincount(pixels[first : first + 1000].ravel(), minlength=256)
    return total


def crop_flip(images: Images, seed: int, batch: int) -> Images:
    """Each image cut out of itself with 4 zeros around, at random, and mirrored half of the time.

    Args:
        images: (images, channels, height, width).
        seed: of the run.
        batch: number of the batch since its start: what is drawn depends on nothing else.
    """
    count, _, height, width = images.shape
    draw = np.random.default_rng([seed, _CROPS, batch])
    down, right = draw.integers(0, 2 * _BORDER + 1, (2, count))
    mirrored = draw.integers(0, 2, count).astype(bool)
    padded = np.pad(images, ((0, 0), (0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)))
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    columns[mirrored] = columns[mirrored, ::-1]
    one = np.arange(count)[:, None, None]
    # Indices on both sides of the channels' slice: the channels come last.
    cut = padded[one, :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2))
