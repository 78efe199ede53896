"""The fast array A of a layer, with its reference R in the columns beside it (arXiv 2303.04721)."""

from __future__ import annotations

from typing import Any

import numpy as np

from boards.board import Board
from boards.multiply import Matrix
from cimctl.analog.chip_matrix import ChipMatrix, ChipUnits
from cimctl.analog.compensation import Compensations
from cimctl.analog.pulsed_array import Pulse, PulsedArray

Numbers = np.ndarray[Any, Any]
#: share of the alternating pulses after which readings count towards the symmetry point [ours]
_SETTLING = 0.5
#: most write-verify cycles and readings that one command takes
_CYCLES, _SAMPLES = 20, 4


class FastArray:
    """A and R of one layer.

    Args:
        board: an open board.
        matrix: where they lie: inputs at the rows, pairs of A and R at the columns.
        slot: configuration slot of its readings.
        pulse: the pulse of one step.
        bounds: nominal bounds, 16-bit conductances.
        unit: weight of one 16-bit conductance step.
        tolerance: of programming, 16-bit conductance.
    """

    def __init__(
        self,
        board: Board,
        matrix: Matrix,
        slot: int,
        pulse: Pulse,
        bounds: tuple[int, int],
        unit: float,
        tolerance: int,
    ) -> None:
        self.array = PulsedArray(board, matrix, pulse, *bounds)
        self._unit, self._tolerance = unit, tolerance
        self._cycles = min(_CYCLES, board.description.cycles_limit)
        rules = Compensations(noise="off", bound="off")
        units = ChipUnits(unit, (bounds[1] - bounds[0]) * unit)
        self.products = ChipMatrix(board, matrix, (slot, slot), units, rules)

    def prepare(
        self, pulses: int, offset: float, spread: float, generator: np.random.Generator
    ) -> None:
        """Puts R to the symmetry points of A, or off them on purpose, and A to R.

        Args:
            pulses: up and down in turn, that bring A to its symmetry point; readings of the later
                half are averaged.  0: R is at weight 0.
            offset, spread: mean and standard deviation, in weights, by which R misses it.
            generator: draws these.
        """
        outputs, inputs = self.array.shape
        found = self.array.readings(_SAMPLES)[..., 0]
        if pulses:
            found = self._symmetry_point(pulses)
        missed = generator.normal(offset, spread, (outputs, inputs)) / self._unit
        wanted = np.repeat((found + missed)[..., None], 2, axis=2)
        self.array.program(wanted, cycles=self._cycles, tolerance=self._tolerance)

    def _symmetry_point(self, pulses: int) -> Numbers:
        """(outputs, inputs) 16-bit conductances around which A comes to rest."""
        ones = np.ones(self.array.shape, dtype=np.int32)
        total, readings = np.zeros(self.array.shape), 0
        for number in range(pulses):
            self.array.send(ones if number % 2 == 0 else -ones)
            if number >= _SETTLING * pulses:
                total += self.array.readings(1)[..., 0]
                readings += 1
        return total / readings

    def read(self, lines: Numbers) -> Numbers:
        """(lines, outputs) of A - R, in weights, by one-hot products.

        Args:
            lines: input lines.
        """
        one_hot = np.zeros((len(lines), self.array.shape[1]), dtype=np.float32)
        one_hot[np.arange(len(lines)), lines] = 1.0
        return self.products.forward(one_hot, learning=True)
