"""Plain digital training: the baseline of every accuracy."""

from __future__ import annotations

from cimctl.algorithms.base import Algorithm


class Fp32(Algorithm):
    """The optimizer's step on digital weights; the board is not used."""

    ANALOG = False

    def step(self) -> None:
        self.optimizer.step()
