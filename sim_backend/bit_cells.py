"""Cells of one bit: a write sets them exactly, no pulse moves them.

What converters see of a cell is its capacitor, and spreads from cell to cell
(``imperfections.cell_mismatch``, ``sim_backend.array``); what READ sees is the bit.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from boards.profile import Profile
from sim_backend.cells import Cells
from sim_backend.device import Index, ProgramOutcome
from sim_backend.outer import Trains


class BitCells:
    """Memory cells; a write counts as a SET pulse where it makes a 1, else as a RESET pulse."""

    reading_error = 0.0
    pulse_width = 0

    def __init__(self, profile: Profile, seed: int) -> None:
        del profile, seed  # every chip of this kind writes alike

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
        """One write of each cell that does not hold its bit yet; nothing is read to verify it."""
        del cycles  # the first one hits
        sets, resets, unconverged = _write(
            cells.conductances[tile],
            cells.pulses[tile],
            cells.stuck[tile],
            index,
            targets,
            tolerance,
            readings,
        )
        return ProgramOutcome(
            set_pulses=sets, reset_pulses=resets, reads=0, unconverged=unconverged
        )

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
        """Nothing: PULSE is refused before it comes here."""
        raise AssertionError("a board of bit cells offers no PULSE")

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
        """Nothing: OUTER is refused before it comes here."""
        raise AssertionError("a board of bit cells offers no OUTER")

    def worst_case_pulses(self, cycles: int) -> int:
        """A write is one."""
        del cycles
        return 1


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _write(conductances, pulses, stuck, index, targets, tolerance, readings):  # type: ignore[no-untyped-def]  # numba infers
    sets = resets = unconverged = 0
    for place in range(index.size):
        cell = index[place]
        before, wanted = np.int64(conductances[cell]), np.int64(targets[place])
        reading = before
        if abs(wanted - before) > tolerance:
            pulses[cell] += np.uint32(1)
            if wanted > before:
                sets += 1
            else:
                resets += 1
            if stuck[cell] == 0:
                conductances[cell] = targets[place]
                reading = wanted
        readings[place] = np.uint16(reading)
        if abs(wanted - reading) > tolerance:
            unconverged += 1
    return sets, resets, unconverged


def write_numpy(
    conductances: npt.NDArray[np.uint16],
    pulses: npt.NDArray[np.uint32],
    stuck: npt.NDArray[np.uint8],
    index: Index,
    targets: npt.NDArray[np.uint16],
    tolerance: int,
    readings: npt.NDArray[np.uint16],
) -> tuple[int, int, int]:
    """The oracle of ``_write``: same arguments, same results; no cell is named twice."""
    before, wanted = conductances[index].astype(np.int64), targets.astype(np.int64)
    due = np.abs(wanted - before) > tolerance
    pulses[index[due]] += np.uint32(1)
    moved = due & (stuck[index] == 0)
    conductances[index[moved]] = targets[moved]
    readings[:] = conductances[index]
    unconverged = np.abs(wanted - readings.astype(np.int64)) > tolerance
    sets = int((due & (wanted > before)).sum())
    return sets, int(due.sum()) - sets, int(unconverged.sum())
