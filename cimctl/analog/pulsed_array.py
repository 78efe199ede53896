"""An array of pairs: cells that open-loop pulses move, each with its reference beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from boards.board import Board
from boards.multiply import Matrix
from cimctl.analog.coincidence import Words
from firmware_protocol.messages import Region

Numbers = np.ndarray[Any, Any]
#: by the board's own update by coincidence, or as single pulses that the host has counted
Outer = Literal["board", "sparse"]


@dataclass(frozen=True, slots=True)
class Pulse:
    """The pulse of one mean step.

    Attributes:
        set_mV, width_ns: amplitude, that of a RESET too, and width.
        most: pulses that a cell may get in one command.
    """

    set_mV: int
    width_ns: int
    most: int


class PulsedArray:
    """Pulses, programming and readings of a matrix on a board.

    Args:
        board: an open board.
        matrix: where it lies: inputs at the rows, outputs at pairs of columns.
        pulse: the pulse of one step.
        low, high: nominal bounds, 16-bit conductances: a board takes no target beyond.
    """

    def __init__(self, board: Board, matrix: Matrix, pulse: Pulse, low: int, high: int) -> None:
        self._board, self._matrix, self._pulse = board, matrix, pulse
        self._bounds = low, high
        inputs, outputs = matrix.shape
        #: (outputs, inputs)
        self.shape = outputs, inputs

    def _parts(self) -> Iterator[tuple[Region, slice, slice]]:
        """Regions, with the inputs and the outputs that they hold."""
        columns = len(self._matrix.regions) // self._matrix.row_blocks
        row = 0
        for i in range(self._matrix.row_blocks):
            column = 0
            for region in self._matrix.regions[i * columns : (i + 1) * columns]:
                outputs = region.columns // 2
                yield region, slice(row, row + region.rows), slice(column, column + outputs)
                column += outputs
            row += region.rows

    def send(self, counts: Numbers) -> int:
        """Sends (outputs, inputs) pulses, SET where positive; returns how many there were."""
        for region, inputs, outputs in self._parts():
            left = counts[outputs, inputs].T
            while left.any():
                now = np.clip(left, -self._pulse.most, self._pulse.most)
                rows, pairs = np.nonzero(now)
                self._board.tiles[region.tile].pulse(
                    region.row + rows,
                    region.column + 2 * pairs,
                    now[rows, pairs].astype(np.int16),
                    set_mV=self._pulse.set_mV,
                    reset_mV=self._pulse.set_mV,
                    width_ns=self._pulse.width_ns,
                )
                left = left - now
        return int(np.abs(counts).sum())

    def outer(self, words: Words) -> int:
        """Updates by coincidence of trains on the board; returns how many pulses that were."""
        given = 0
        for region, inputs, outputs in self._parts():
            given += sum(
                self._board.tiles[region.tile].outer(
                    region,
                    words.inputs[:, inputs],
                    words.outputs[:, outputs],
                    length=words.length,
                    pairs=True,
                    set_mV=self._pulse.set_mV,
                    reset_mV=self._pulse.set_mV,
                    width_ns=self._pulse.width_ns,
                )
            )
        return given

    def readings(self, samples: int) -> Numbers:
        """(outputs, inputs, 2) conductances of each pair, the mean of so many readings each."""
        found = np.empty((*self.shape, 2), dtype=np.float64)
        for region, inputs, outputs in self._parts():
            g = self._board.tiles[region.tile].read(region, samples)
            found[outputs, inputs] = g.reshape(region.rows, -1, 2).transpose(1, 0, 2)
        return found

    def program(self, pairs: Numbers, *, cycles: int, tolerance: int) -> None:
        """Write-verifies (outputs, inputs, 2) conductances."""
        targets = np.clip(np.rint(pairs), *self._bounds).astype(np.uint16)
        for region, inputs, outputs in self._parts():
            wanted = targets[outputs, inputs].transpose(1, 0, 2).reshape(region.rows, -1)
            rows, columns = np.indices(wanted.shape)
            self._board.tiles[region.tile].program(
                region.row + rows.reshape(-1),
                region.column + columns.reshape(-1),
                wanted.reshape(-1),
                cycles=cycles,
                tolerance=tolerance,
            )
