"""Mixed-precision training (arXiv 2305.14547): steps accumulate digitally, few weights are written.

After each batch the optimizer's step is added to ``dW``.  Where ``|dW| > threshold`` the pair is
write-verified to ``w_FP + dw``, ``w_FP`` is set to that value (or to the one read back) and ``dw``
to zero.  The threshold is one programming step, ``weight_range / (levels - 1)``.

Ours: targets are clipped to the window, and so is ``w_FP + dw``, so that an accumulator at the end
of the window does not wind up; ``dW`` starts uniform within the threshold, because steps of Adam
are of one size and all weights would pass the threshold in the same few batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boards.board import Board
from boards.errors import UsageError
from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.settings import Settings
from cimctl.analog.writes import joined, write_verify
from firmware_protocol.constants import Capability, Opcode


class MixedPrecision(Algorithm):
    """Threshold-triggered writes of accumulated steps."""

    NEEDS = frozenset({Opcode.VMM, Opcode.PROGRAM, Opcode.READ, Opcode.CONFIGURE})
    CAPABILITIES = Capability.DIFFERENTIAL

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        super().__init__(model, board, settings, seed)
        assert board is not None
        self._board = board
        levels = settings.levels or board.profile.programming.levels
        if levels < 2:
            raise UsageError(
                f"Setting 'levels' is {levels}: a step needs at least 2 levels",
                left="Nothing was trained",
            )
        self.threshold = settings.weight_range / (levels - 1)
        # One flat copy of all analog weights: a handful of tensor operations a batch, not a layer.
        self._sizes = [layer.weight.numel() for layer in self.layers]
        self._weights = torch.cat([layer.weight.detach().flatten() for layer in self.layers])
        self._starts = [0, *np.cumsum(self._sizes[:-1]).tolist()]
        self._view_weights()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(self._weights.shape, generator=generator) * 2 - 1
        drawn = drawn.to(self._weights.device)
        self.accumulated = drawn * self.threshold * (settings.dither and settings.accumulate)

    def _view_weights(self) -> None:
        """Makes the layers' weights views of the flat copy."""
        parts = torch.split(self._weights, self._sizes)
        for layer, part in zip(self.layers, parts, strict=True):
            layer.weight.data = part.view(layer.weight.shape)

    def step(self) -> None:
        before = self._weights.clone()
        self.optimizer.step()
        step = self._weights - before
        self._weights.copy_(before)
        limit = self.settings.weight_range
        total = self.accumulated + step if self.settings.accumulate else step
        self.accumulated = (before + total).clamp_(-limit, limit).sub_(before)
        due = (self.accumulated.abs() > self.threshold).nonzero().flatten()
        if due.numel():
            self._write(due, before[due] + self.accumulated[due])
            self.accumulated[due] = 0.0

    def _write(self, due: Tensor, values: Tensor) -> None:
        """Programs weights: ``due`` are ascending indices into the flat copy."""
        read_back = self.settings.weight_copy == "read-back"
        index, wanted = due.cpu().numpy(), values.cpu().double().numpy()
        cuts = np.searchsorted(index, self._starts).tolist()
        pieces = zip(self.layers, self._starts, cuts, [*cuts[1:], len(due)], strict=True)
        parts = [
            (layer, slice(first, last), start)
            for layer, start, first, last in pieces
            if first < last
        ]
        rule = self.layers[0].rule
        writes = joined(
            [layer.writes_of(index[mine] - start, wanted[mine]) for layer, mine, start in parts]
        )
        pairs = write_verify(self._board, writes, rule.cycles, rule.tolerance, read_back=read_back)
        for layer, mine, _ in parts:
            layer.writes += mine.stop - mine.start
            if pairs is not None:
                values[mine] = layer.weights_of(pairs[mine])
        self._weights[due] = values

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "accumulated": self.accumulated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.accumulated = state["accumulated"].to(self._weights.device)
