"""The oracle of ``sim_backend.bulk_rram``: plain numpy, same arguments, same bits.

Every cell of a command goes through the same phase at the same time; a mask says which of them
still get a pulse.  No speed is asked of it: it exists to be read beside the equations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sim_backend.bulk_rram import (
    CHECK_LANE,
    READ_BACK_LANE,
    REFERENCE_DRIVE_MV,
    VERIFY_LANE,
    Cell,
    Keys,
    Ramp,
)
from sim_backend.device import ProgramOutcome
from sim_backend.noise import normal

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def program(
    conductances: npt.NDArray[np.uint16],
    pulses: npt.NDArray[np.uint32],
    stuck: npt.NDArray[np.uint8],
    cells: Integers,
    targets: npt.NDArray[np.uint16],
    *,
    tolerance: int,
    cycles: int,
    cell: Cell,
    ramp: Ramp,
    keys: Keys,
    epoch: int,
    readings: npt.NDArray[np.uint16],
) -> ProgramOutcome:
    """The oracle of ``bulk_rram.program``."""
    state = _Cells(conductances, pulses, stuck, cells, cell, keys, epoch)
    wanted = targets.astype(np.float64)
    floor = np.minimum(float(ramp.lowest), wanted)
    first_count = state.count.copy()
    read = state.reading(CHECK_LANE)
    sets, resets, reads = 0, 0, cells.size

    def too_low() -> Mask:
        return read < wanted - tolerance

    def too_high() -> Mask:
        return read > wanted + tolerance

    def above_floor() -> Mask:
        return read > floor

    def pulsed(volts: int, active: Mask, upwards: bool) -> int:
        """A pulse and a reading of each active cell; returns how many they are."""
        nonlocal read, reads
        state.step(active, volts, ramp.width, np.full(active.shape, upwards))
        read = np.where(active, state.reading(VERIFY_LANE), read)
        reads += int(active.sum())
        return int(active.sum())

    rungs = range(ramp.start, ramp.stop + 1, ramp.step)
    for cycle in range(cycles):
        missed = too_low() | too_high()
        if cycle == 0:
            active = missed
            for _ in rungs:
                active = active & above_floor()
                resets += pulsed(ramp.stop, active, upwards=False)
        active = missed
        for volts in rungs:
            active = active & too_low()
            sets += pulsed(volts, active, upwards=True)
        active = missed
        for volts in rungs:
            active = active & too_high()
            resets += pulsed(volts, active, upwards=False)
    unconverged = int((too_low() | too_high()).sum())
    state.relax(state.count > first_count)
    state.store()
    readings[...] = state.reading(READ_BACK_LANE).astype(np.uint16)
    return ProgramOutcome(sets, resets, reads, unconverged)


def pulse(
    conductances: npt.NDArray[np.uint16],
    pulses: npt.NDArray[np.uint32],
    stuck: npt.NDArray[np.uint8],
    cells: Integers,
    counts: npt.NDArray[np.int16],
    *,
    set_amplitude: int,
    reset_amplitude: int,
    width: int,
    cell: Cell,
    keys: Keys,
) -> None:
    """The oracle of ``bulk_rram.pulse``."""
    state = _Cells(conductances, pulses, stuck, cells, cell, keys, 0)
    upwards = counts > 0
    amplitude = np.where(upwards, set_amplitude, reset_amplitude)
    left = np.abs(counts.astype(np.int64))
    while left.any():
        state.step(left > 0, amplitude, width, upwards)
        left = np.maximum(left - 1, 0)
    state.store()


class _Cells:
    """Conductance and pulse count of the cells of one command, side by side."""

    def __init__(
        self,
        conductances: npt.NDArray[np.uint16],
        pulses: npt.NDArray[np.uint32],
        stuck: npt.NDArray[np.uint8],
        cells: Integers,
        cell: Cell,
        keys: Keys,
        epoch: int,
    ) -> None:
        self._conductances, self._pulses, self._cells = conductances, pulses, cells
        self._cell, self._keys, self._epoch = cell, keys, epoch
        self._alive = stuck[cells] == 0
        self._index = cells.astype(np.uint64)
        self._g: Floats = conductances[cells].astype(np.float64)
        self.count: Integers = pulses[cells].astype(np.int64)

    def step(
        self, active: Mask, amplitude: int | npt.NDArray[Any], width: int, upwards: Mask
    ) -> None:
        """One pulse to each active cell; what is stuck counts it and stays."""
        c, g = self._cell, self._g
        z_threshold, z_set, z_reset = (self._device(lane) for lane in range(3))
        threshold = c.threshold * (1.0 + c.device_variation * z_threshold)
        drive = (amplitude - threshold) / REFERENCE_DRIVE_MV * (width / c.nominal_width)
        cycle = np.maximum(0.0, 1.0 + c.cycle_variation * self._deviate(self._keys.pulse, 0))
        own_set = np.maximum(0.0, 1.0 + c.device_variation * z_set)
        own_reset = np.maximum(0.0, 1.0 + c.device_variation * z_reset)
        raised = g + np.minimum(1.0, c.set_step * own_set * drive * cycle) * (c.high - g)
        lowered = g - np.minimum(1.0, c.reset_step * own_reset * drive * cycle) * (g - c.low)
        moved = np.clip(np.rint(np.where(upwards, raised, lowered)), c.low, c.high)
        self._g = np.where(active & self._alive & (drive > 0.0), moved, g)
        self.count = self.count + active

    def reading(self, lane: int) -> Floats:
        """A noisy reading of every cell; it changes nothing."""
        z = self._deviate(self._keys.verify, lane, self._epoch)
        noise = np.rint(self._cell.reading_error * z)
        seen: Floats = np.clip(self._g + noise, 0.0, 65535.0)
        return seen

    def relax(self, programmed: Mask) -> None:
        """The programming error of the cells that got a pulse."""
        error = self._cell.programming_error * self._deviate(self._keys.program, 0)
        relaxed = np.clip(np.rint(self._g + error), self._cell.low, self._cell.high)
        self._g = np.where(programmed & self._alive, relaxed, self._g)

    def store(self) -> None:
        self._conductances[self._cells] = self._g.astype(np.uint16)
        self._pulses[self._cells] = self.count.astype(np.uint32)

    def _device(self, lane: int) -> Floats:
        """What is fixed when the cell is made."""
        position = np.zeros(self._index.size, dtype=np.uint64)
        return normal(self._keys.device, position, self._index * np.uint64(4) + np.uint64(lane))

    def _deviate(self, key: np.uint64, lane: int, offset: int = 0) -> Floats:
        """What is drawn anew after each pulse."""
        position = self.count.astype(np.uint64) + np.uint64(offset)
        return normal(key, position, self._index * np.uint64(4) + np.uint64(lane))
