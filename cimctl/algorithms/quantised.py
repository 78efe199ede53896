"""Quantisation-aware training: digital, with weights that are levels of a cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from boards.board import Board
from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.settings import Settings

#: levels of a cell where the settings name none: 4 bits, as in Table 1 of arXiv 2305.14547
_LEVELS = 16


class QuantisationAware(Algorithm):
    """The optimizer moves weights that the network sees rounded; gradients pass the rounding.

    A weight is one of ``2 levels - 1`` steps between plus and minus the largest of its layer, as a
    pair of cells holds it.  Activations stay as they are, and nothing is known of noise [ours].
    """

    ANALOG = False
    CHIP_ONLY = PRODUCTS = frozenset()

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        super().__init__(model, board, settings, seed)
        self._steps = (settings.levels or _LEVELS) - 1
        self._seen = [
            module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        self.exact = [weight.detach().clone() for weight in self._seen]
        self._round()

    def step(self) -> None:
        for seen, exact in zip(self._seen, self.exact, strict=True):
            seen.data.copy_(exact)
        self.optimizer.step()
        self.exact = [seen.detach().clone() for seen in self._seen]
        self._round()

    def _round(self) -> None:
        for seen, exact in zip(self._seen, self.exact, strict=True):
            seen.data.copy_(rounded(exact, self._steps))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "exact": self.exact}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.exact = state["exact"]


def rounded(weights: Tensor, steps: int) -> Tensor:
    """Weights as multiples of a ``steps``-th of the largest magnitude, to the nearest."""
    unit = weights.abs().max() / steps
    return torch.where(unit > 0, torch.round(weights / unit) * unit, weights)
