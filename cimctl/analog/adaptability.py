"""Ranges of converters that see single planes, product by product of a layer.

*Full* adaptability: each product has the range of the smallest mean-square error of its own
popcounts, with a step of at least one count: popcounts are integers, so that a converter whose
noise is well below its step gives them exactly, while a finer step measures the noise.
*Two-level*: each has one of two ranges that were fixed beforehand, the narrow one where that holds
what its rows give if bits are drawn at random, and the wide one elsewhere.  The paper
(arXiv 2203.04821) names the two; the rules are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from boards.board import Board
from cimctl.formats.powers import MAGNITUDES

Adaptability = Literal["full", "two-level", "none"]
Popcounts = np.ndarray[Any, Any]

#: batches between two looks at the popcounts, and how much of the range in use a look leaves
_EVERY, _KEPT = 8, 0.8
#: the range in use follows when the wanted one is off by more than this
_TOLERANCE = 0.05
#: step, in counts, from which on the small products of backpropagation are rounded to zero
_COARSEST = 2.0
#: standard deviations that a fixed range leaves room for
_DEVIATIONS = 4.5
#: spans that are tried, from the narrowest to the widest that the converter has
_TRIED = 24


@dataclass
class Span:
    """The range of one product's converters.

    Attributes:
        wanted, used: cells that the range spans; 0 before the first product.
        looks: batches of training so far.
    """

    wanted: float = 0.0
    used: float = 0.0
    looks: int = 0


class PlaneConverters:
    """Converters of one product of a layer.

    Args:
        board: an open board.
        slot: configuration slot of the product.
        ternary: whether half of the range is for either sign.
        levels: the two ranges, in cells; None: the range follows the popcounts.
    """

    def __init__(
        self, board: Board, slot: int, *, ternary: bool, levels: tuple[float, float] | None
    ) -> None:
        self._board, self.slot, self._ternary, self._levels = board, slot, ternary, levels
        self.span = Span()
        #: span that this board was last told
        self._told = 0.0

    def gain(self, rows: int, popcounts: Callable[[], Popcounts], *, learning: bool) -> float:
        """Configures the slot where it has to follow; returns the gain of its answers.

        Args:
            rows: that a sum has at most.
            popcounts: makes some popcounts of the product.
            learning: whether the range may follow them.
        """
        span = self.span
        if self._levels is not None:
            span.used = self._levels[needed(rows, ternary=self._ternary) > self._levels[0]]
        elif not span.used or (learning and span.looks % _EVERY == 0):
            self._look(popcounts())
        span.looks += learning
        gain = self._board.profile.gain(span.used)
        if self._told != span.used:
            self._board.configure(self.slot, gain)
            self._told = span.used
        return gain

    def _look(self, popcounts: Popcounts) -> None:
        best = best_span(popcounts, self._spans(), self._codes, ternary=self._ternary)
        span = self.span
        span.wanted = _KEPT * span.wanted + (1 - _KEPT) * best if span.wanted else best
        if abs(span.wanted - span.used) > _TOLERANCE * span.used:
            span.used = span.wanted

    @property
    def _codes(self) -> int:
        return (1 << self._board.description.adc_bits) - 1

    def _spans(self) -> Popcounts:
        unit = self._board.profile.gain(1.0)
        low, high = (unit / gain for gain in reversed(self._board.gain_range))
        # A popcount is an integer: steps below one count would measure the noise, not the sum.
        low = max(low, min(high, float(self._codes)))
        return np.geomspace(low, max(low, min(high, _COARSEST * self._codes)), _TRIED)


def needed(rows: int, *, ternary: bool) -> float:
    """Cells that hold the popcount of random bits, and 4.5 of its standard deviations.

    An input bit and a weight bit are 1 half of the time; an exponent's plane of a gradient has one
    of seven magnitudes, of either sign.
    """
    if ternary:
        return 2 * _DEVIATIONS * math.sqrt(rows / (2 * MAGNITUDES))
    return rows / 4 + _DEVIATIONS * math.sqrt(rows * 3 / 16)


def best_span(popcounts: Popcounts, spans: Popcounts, codes: int, *, ternary: bool) -> float:
    """The span of the smallest mean-square error: what is clipped, and rounding to a step."""
    share = 2 if ternary else 1
    magnitudes = np.abs(popcounts).reshape(-1)
    errors = []
    for span in spans:
        step = span / codes
        read = np.minimum(np.round(magnitudes / step) * step, span / share)
        errors.append(np.mean((read - magnitudes) ** 2))
    return float(spans[int(np.argmin(errors))])
