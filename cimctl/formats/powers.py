"""Gradients of a sign and an exponent: FP4 [1,3,0] of radix 4 (arXiv 2203.04821), and of radix 2.

A number is zero or one of seven magnitudes ``r^e``, in units of a scale.  The paper's text at hand
prints no rounding; ours is that of the 4-bit training literature [D]: to the nearest magnitude,
half way between two of them being ``r^(e + 1) / (2 r / (r + 1))``, 1.6 below a power of four.

Two-phase rounding: the nearest power of four is off by up to 2.5 times and off in the same way in
all that is made of it.  So one of the two products of a gradient takes the grid ``{4^e}`` and the
other ``{2 4^e}``, which lies in the middle of the first: what one rounds up the other rounds down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: magnitudes of three bits of exponent, one of their eight patterns being zero
MAGNITUDES = 7
#: candidates of ``best_unit``: so many, each below the last by this factor
_CANDIDATES, _FINER = 12, 2**-0.5


@dataclass(frozen=True)
class Powers:
    """A format of a sign and a power of the radix.

    Attributes:
        radix: 4, or 2.
    """

    radix: int = 4

    @cached_property
    def thresholds(self) -> Tensor:
        """(7,) smallest magnitudes that are rounded to each power."""
        half = 2 * self.radix / (self.radix + 1)
        return torch.tensor([self.radix**e / half for e in range(MAGNITUDES)])

    @cached_property
    def _integers(self) -> Tensor:
        """(15,) what the codes from -7 to 7 stand for."""
        up = [float(self.radix**e) for e in range(MAGNITUDES)]
        return torch.tensor([*(-x for x in reversed(up)), 0.0, *up])

    @property
    def top(self) -> int:
        """The largest magnitude."""
        return int(self.radix ** (MAGNITUDES - 1))

    def codes(self, values: Tensor, unit: float) -> Tensor:
        """Rounds to nearest; saturates at the top, zero below the lowest threshold.

        Args:
            values: of any shape.
            unit: what the magnitude 1 stands for, above 0.

        Returns:
            int8 ``sign (e + 1)``, or 0.
        """
        thresholds = self.thresholds.to(values.device)
        place = torch.bucketize(values.abs() * (1 / unit), thresholds, right=True)
        return (place * values.sign()).to(torch.int8)

    def integers(self, codes: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        """What codes stand for, in units."""
        return self._integers.to(codes.device, kind)[codes.to(torch.int32) + MAGNITUDES]

    def planes(self, codes: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(magnitude, int8 plane of -1, 0 and 1) of each exponent that occurs."""
        size, sign = codes.abs(), codes.sign()
        for exponent in range(MAGNITUDES):
            plane = sign * (size == exponent + 1)
            if plane.any():
                yield self.radix**exponent, plane

    def best_unit(self, values: Tensor, largest: float) -> float:
        """The unit of the smallest mean-square error, at most that which ``largest`` asks for."""
        units = [largest / self.top * _FINER**i for i in range(_CANDIDATES)]
        return min(units, key=lambda unit: self._error(values, unit))

    def _error(self, values: Tensor, unit: float) -> float:
        found = self.integers(self.codes(values, unit)) * unit
        return float((values - found).square().sum())
