"""The ideal device of the specification: whole steps, no noise, no spread.

It exists so that implementations can be compared bit for bit; ``arithmetic`` in spec.yaml has the
law, and ``firmware_protocol/firmware/model`` the same in C.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boards.profile import Profile
from firmware_protocol.constants import IDEAL_STEP
from sim_backend.cells import Cells
from sim_backend.device import Index, ProgramOutcome
from sim_backend.outer import Trains


class IdealSteps:
    """Each pulse is one step of ``IDEAL_STEP``, within the device's bounds."""

    reading_error = 0.0

    def __init__(self, profile: Profile, seed: int) -> None:
        del seed  # every chip of this kind is alike
        self._low = profile.units(profile.device.low_uS)
        self._high = profile.units(profile.device.high_uS)
        self.pulse_width = profile.programming.width_ns

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
        """One reading, the nearest whole number of pulses with a reading after each."""
        del cycles  # the first one hits
        wanted = targets.astype(np.int64)
        distance = wanted - cells.conductances[tile][index]
        missed = np.abs(distance) > tolerance
        pulses = np.where(missed, (np.abs(distance) + IDEAL_STEP // 2) // IDEAL_STEP, 0)
        self._move(cells, tile, index, np.sign(distance) * pulses)
        readings[...] = cells.conductances[tile][index]
        return ProgramOutcome(
            set_pulses=int(pulses[distance > 0].sum()),
            reset_pulses=int(pulses[distance < 0].sum()),
            reads=int(index.size + pulses.sum()),
            unconverged=int(np.count_nonzero(np.abs(wanted - readings) > tolerance)),
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
        """A step a pulse, whatever its amplitude and width."""
        del set_amplitude, reset_amplitude, width
        self._move(cells, tile, index, counts.astype(np.int64))

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
        """A step a coincidence; at a bound the order of updates matters."""
        del set_amplitude, reset_amplitude, width
        mask = np.uint32((1 << trains.length) - 1)
        for update in range(trains.rows.shape[1]):
            row, column = trains.rows[:, update, None], trains.columns[None, :, update]
            steps = np.bitwise_count(row & column & mask).astype(np.int64)
            steps = np.where((row ^ column) >> np.uint32(trains.length), -steps, steps)
            self._move(cells, tile, index, steps.reshape(-1)[: index.size])

    def worst_case_pulses(self, cycles: int) -> int:
        del cycles
        return -((self._low - self._high) // IDEAL_STEP)

    def _move(self, cells: Cells, tile: int, index: Index, steps: npt.NDArray[np.int64]) -> None:
        alive = cells.stuck[tile][index] == 0
        g = cells.conductances[tile][index].astype(np.int64)
        moved = np.clip(g + steps * IDEAL_STEP, self._low, self._high)
        cells.conductances[tile][index] = np.where(alive, moved, g).astype(np.uint16)
        cells.pulses[tile][index] += np.abs(steps).astype(np.uint32)
