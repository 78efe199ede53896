"""Bulk-switching RRAM: what a pulse does, and the write-verify of the firmware.

The paper (arXiv 2305.14547) prints ramps, limits and noise, not the law of a step; the law is ours:

    drive = max(0, V - V_th) / 1.5 V * width / nominal width
    SET:    g += s * drive * (g_high - g) * max(0, 1 + cycle_variation * z)
    RESET:  g -= r * drive * (g - g_low)  * max(0, 1 + cycle_variation * z)

with a step share of at most 1.  V_th, s and r of a cell are spread by ``device_variation``.
Write-verify is the paper's: RESET to the lowest level, a SET ramp read after each pulse until the
target, a RESET ramp to fine-tune, and again from SET when it was reset too far; what has not
converged after the last cycle is accepted as it is.  After programming the cell relaxes by the
programming error.

The compiled functions work cell by cell; ``sim_backend.bulk_rram_numpy`` has the oracle.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from boards.device_settings import BulkRram as BulkRramSettings
from boards.profile import Profile
from firmware_protocol import constants as c
from sim_backend.cells import Cells
from sim_backend.device import Index, ProgramOutcome
from sim_backend.noise import UNIT, hash_at, key, lane_of, quantile_table
from sim_backend.outer import Trains, hits

#: volts above threshold at which a pulse moves the cell by the profile's step share, in mV
REFERENCE_DRIVE_MV = 1500.0
#: lanes of the verify stream at one position
VERIFY_LANE, CHECK_LANE, READ_BACK_LANE = 0, 1, 2


class Cell(NamedTuple):
    """Parameters of the device, in units of the 16-bit conductance, mV and ns."""

    low: float
    high: float
    threshold: float
    set_step: float
    reset_step: float
    nominal_width: float
    device_variation: float
    cycle_variation: float
    programming_error: float
    #: standard deviation of one reading of a cell: its own noise and the converter's
    reading_error: float


class Ramp(NamedTuple):
    """Parameters of write-verify."""

    lowest: int
    start: int
    stop: int
    step: int
    width: int


class Keys(NamedTuple):
    """Noise streams of one tile."""

    device: np.uint64
    pulse: np.uint64
    verify: np.uint64
    program: np.uint64


def cell_of(profile: Profile) -> Cell:
    """The device parameters of a profile."""
    unit = 65535 / profile.chip.conductance_full_scale_uS
    device, faults = profile.device, profile.imperfections
    assert isinstance(device, BulkRramSettings)
    converter = faults.adc_noise_lsb * 65535 / (2**profile.chip.adc_bits - 1)
    return Cell(
        low=float(profile.units(device.low_uS)),
        high=float(profile.units(device.high_uS)),
        threshold=device.threshold_mV,
        set_step=device.set_step,
        reset_step=device.reset_step,
        nominal_width=device.nominal_width_ns,
        device_variation=faults.device_variation,
        cycle_variation=faults.cycle_variation,
        programming_error=faults.programming_error_uS * unit,
        reading_error=float(np.hypot(faults.read_noise_uS * unit, converter)),
    )


def ramp_of(profile: Profile) -> Ramp:
    """The write-verify parameters of a profile."""
    p = profile.programming
    return Ramp(profile.units(p.window_uS[0]), *p.ramp_mV, p.ramp_step_mV, p.width_ns)


def keys_of(seed: int, tile: int) -> Keys:
    """The noise streams that pulses and programming of a tile draw from."""
    streams = (c.STREAM_DEVICE, c.STREAM_PULSE, c.STREAM_VERIFY, c.STREAM_PROGRAM)
    return Keys(*(key(seed, tile, stream) for stream in streams))


def worst_case_pulses(ramp: Ramp, cycles: int) -> int:
    """The most pulses that programming can give to one cell."""
    steps = (ramp.stop - ramp.start) // ramp.step + 1
    return steps * (2 * cycles + 1)


class BulkRram:
    """The device model ``bulk-rram`` of one chip.

    Args:
        profile: parameters of device and write-verify.
        seed: which chip of its kind.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        self._cell = cell_of(profile)
        self._ramp = ramp_of(profile)
        self._keys = [keys_of(seed, tile) for tile in range(profile.chip.tiles)]
        self.reading_error = self._cell.reading_error
        self.pulse_width = self._ramp.width

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
        """Write-verify with ramps (``program`` below)."""
        return program(
            cells.conductances[tile],
            cells.pulses[tile],
            cells.stuck[tile],
            index,
            targets,
            tolerance=tolerance,
            cycles=cycles,
            cell=self._cell,
            ramp=self._ramp,
            keys=self._keys[tile],
            epoch=int(cells.positions[tile]),
            readings=readings,
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
        """Open-loop pulses (``pulse`` below)."""
        pulse(
            cells.conductances[tile],
            cells.pulses[tile],
            cells.stuck[tile],
            index,
            counts,
            set_amplitude=set_amplitude,
            reset_amplitude=reset_amplitude,
            width=width,
            cell=self._cell,
            keys=self._keys[tile],
        )

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
        """Updates by coincidence, pulse by pulse."""
        _outer_all(
            cells.conductances[tile], cells.pulses[tile], cells.stuck[tile], index, *trains,
            set_amplitude, reset_amplitude, width, self._cell, self._keys[tile], quantile_table(),
        )  # fmt: skip

    def worst_case_pulses(self, cycles: int) -> int:
        return worst_case_pulses(self._ramp, cycles)


def program(
    conductances: npt.NDArray[np.uint16],
    pulses: npt.NDArray[np.uint32],
    stuck: npt.NDArray[np.uint8],
    cells: npt.NDArray[np.int64],
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
    """Write-verifies cells of one tile in place.

    Args:
        conductances, pulses, stuck: flat state of the tile, changed in place.
        cells: flat index of each cell.
        targets: target of each cell, 16-bit conductance.
        tolerance, cycles: accepted distance, and SET-RESET cycles at most.
        cell, ramp, keys: device, ramps, noise streams.
        epoch: the tile's vector counter, which moves the noise of verifying reads along.
        readings: takes a reading of each cell after programming.
    """
    outcome = _program(
        conductances, pulses, stuck, cells, targets, tolerance, cycles, cell, ramp, keys,
        np.uint64(epoch), quantile_table(), readings,
    )  # fmt: skip
    return ProgramOutcome(*(int(n) for n in outcome))


def pulse(
    conductances: npt.NDArray[np.uint16],
    pulses: npt.NDArray[np.uint32],
    stuck: npt.NDArray[np.uint8],
    cells: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int16],
    *,
    set_amplitude: int,
    reset_amplitude: int,
    width: int,
    cell: Cell,
    keys: Keys,
) -> None:
    """Applies open-loop pulses in place: ``counts`` SET pulses, or RESET pulses where negative."""
    _pulse_all(
        conductances, pulses, stuck, cells, counts, set_amplitude, reset_amplitude, width, cell,
        keys, quantile_table(),
    )  # fmt: skip


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _deviate(table, hashed, lane):  # type: ignore[no-untyped-def]
    return table[lane_of(hashed, lane)] * UNIT


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _stepped(g, count, index, amplitude, width, upwards, cell, keys, table):  # type: ignore[no-untyped-def]
    """The conductance after one pulse; ``count`` is how many pulses the cell had before."""
    fixed = hash_at(keys.device, np.uint64(0), np.uint64(index))
    threshold = cell.threshold * (1.0 + cell.device_variation * _deviate(table, fixed, 0))
    drive = (amplitude - threshold) / REFERENCE_DRIVE_MV * (width / cell.nominal_width)
    if drive <= 0.0:
        return g
    spread = hash_at(keys.pulse, np.uint64(count), np.uint64(index))
    cycle = max(0.0, 1.0 + cell.cycle_variation * _deviate(table, spread, 0))
    if upwards:
        own = max(0.0, 1.0 + cell.device_variation * _deviate(table, fixed, 1))
        share = min(1.0, cell.set_step * own * drive * cycle)
        moved = g + share * (cell.high - g)
    else:
        own = max(0.0, 1.0 + cell.device_variation * _deviate(table, fixed, 2))
        share = min(1.0, cell.reset_step * own * drive * cycle)
        moved = g - share * (g - cell.low)
    return min(cell.high, max(cell.low, np.rint(moved)))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _reading(g, count, index, lane, epoch, cell, keys, table):  # type: ignore[no-untyped-def]
    hashed = hash_at(keys.verify, np.uint64(count) + epoch, np.uint64(index))
    noise = np.rint(cell.reading_error * _deviate(table, hashed, lane))
    return min(65535.0, max(0.0, g + noise))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _program(  # type: ignore[no-untyped-def]
    conductances, pulses, stuck, cells, targets, tolerance, cycles, cell, ramp, keys, epoch, table,
    readings,
):  # fmt: skip
    sets = 0
    resets = 0
    reads = 0
    unconverged = 0
    for i in range(cells.size):
        index = cells[i]
        target = np.float64(targets[i])
        g = np.float64(conductances[index])
        n = np.int64(pulses[index])
        before = n
        alive = stuck[index] == 0
        read = _reading(g, n, index, CHECK_LANE, epoch, cell, keys, table)
        reads += 1
        cycle = 0
        while abs(read - target) > tolerance and cycle < cycles:
            if cycle == 0:
                volts = ramp.start
                while read > min(ramp.lowest, target) and volts <= ramp.stop:
                    if alive:
                        g = _stepped(g, n, index, ramp.stop, ramp.width, False, cell, keys, table)
                    n += 1
                    resets += 1
                    read = _reading(g, n, index, VERIFY_LANE, epoch, cell, keys, table)
                    reads += 1
                    volts += ramp.step
            volts = ramp.start
            while read < target - tolerance and volts <= ramp.stop:
                if alive:
                    g = _stepped(g, n, index, volts, ramp.width, True, cell, keys, table)
                n += 1
                sets += 1
                read = _reading(g, n, index, VERIFY_LANE, epoch, cell, keys, table)
                reads += 1
                volts += ramp.step
            volts = ramp.start
            while read > target + tolerance and volts <= ramp.stop:
                if alive:
                    g = _stepped(g, n, index, volts, ramp.width, False, cell, keys, table)
                n += 1
                resets += 1
                read = _reading(g, n, index, VERIFY_LANE, epoch, cell, keys, table)
                reads += 1
                volts += ramp.step
            cycle += 1
        if abs(read - target) > tolerance:
            unconverged += 1
        if n > before and alive:
            hashed = hash_at(keys.program, np.uint64(n), np.uint64(index))
            g = np.rint(g + cell.programming_error * _deviate(table, hashed, 0))
            g = min(cell.high, max(cell.low, g))
        conductances[index] = np.uint16(g)
        pulses[index] = np.uint32(n)
        readings[i] = np.uint16(_reading(g, n, index, READ_BACK_LANE, epoch, cell, keys, table))
    return sets, resets, reads, unconverged


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _pulse_all(  # type: ignore[no-untyped-def]
    conductances, pulses, stuck, cells, counts, set_amplitude, reset_amplitude, width, cell, keys,
    table,
):  # fmt: skip
    for i in range(cells.size):
        index = cells[i]
        upwards = counts[i] > 0
        amplitude = set_amplitude if upwards else reset_amplitude
        g = np.float64(conductances[index])
        n = np.int64(pulses[index])
        for _ in range(abs(np.int64(counts[i]))):
            if stuck[index] == 0:
                g = _stepped(g, n, index, amplitude, width, upwards, cell, keys, table)
            n += 1
        conductances[index] = np.uint16(g)
        pulses[index] = np.uint32(n)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _outer_all(  # type: ignore[no-untyped-def]
    conductances, pulses, stuck, cells, rows, columns, length, set_amplitude, reset_amplitude,
    width, cell, keys, table,
):  # fmt: skip
    for i in range(cells.size):
        index = cells[i]
        row, column = rows[i // columns.shape[0]], columns[i % columns.shape[0]]
        g = np.float64(conductances[index])
        n = np.int64(pulses[index])
        for u in range(row.size):
            wanted = hits(row[u], column[u], length)
            upwards = wanted > 0
            amplitude = set_amplitude if upwards else reset_amplitude
            for _ in range(abs(wanted)):
                if stuck[index] == 0:
                    g = _stepped(g, n, index, amplitude, width, upwards, cell, keys, table)
                n += 1
        conductances[index] = np.uint16(g)
        pulses[index] = np.uint32(n)
