"""What a device model is: the cells' side of programming and pulses."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sim_backend.cells import Cells
from sim_backend.outer import Trains

Index = npt.NDArray[np.int64]


class ProgramOutcome(NamedTuple):
    """What programming a list of cells took."""

    set_pulses: int
    reset_pulses: int
    reads: int
    unconverged: int


class Device(Protocol):
    """The law of one kind of cell; it changes the chip's arrays in place."""

    #: standard deviation of one reading of a cell, in conductance units
    reading_error: float
    #: width of a programming pulse, ns
    pulse_width: int

    def program(
        self,
        cells: Cells,
        tile: int,
        index: Index,
        targets: npt.NDArray[np.uint16],
        *,
        tolerance: int,
        cycles: int,
        readings: npt.NDArray[np.uint16],
    ) -> ProgramOutcome:
        """Write-verifies cells of a tile; ``readings`` takes a reading of each afterwards."""

    def pulse(
        self,
        cells: Cells,
        tile: int,
        index: Index,
        counts: npt.NDArray[np.int16],
        *,
        set_amplitude: int,
        reset_amplitude: int,
        width: int,
    ) -> None:
        """Applies open-loop pulses: ``counts`` SET pulses, or RESET pulses where negative."""

    def outer(
        self,
        cells: Cells,
        tile: int,
        index: Index,
        trains: Trains,
        *,
        set_amplitude: int,
        reset_amplitude: int,
        width: int,
    ) -> None:
        """Applies updates by coincidence, one after the other.

        Args:
            index: the cells where trains cross, row by row, or as many of them as shall change.
        """

    def worst_case_pulses(self, cycles: int) -> int:
        """The most pulses that programming can give to one cell."""
