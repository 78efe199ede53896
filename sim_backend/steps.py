"""Devices that move by a step a pulse: the field's standard models, and their write-verify.

A device's state is a weight w between bounds of its own.  A pulse of nominal strength moves it

    up:    w += a_up   * F_up(w)    multiplied by (1 + sigma z), or with sigma z added to F
    down:  w -= a_down * F_down(w)  likewise

and leaves it within the bounds; ``sigma`` is ``imperfections.cycle_variation``, z is drawn for each
pulse.  With ``delta`` the profile's step, and g, r drawn once for each device,

    a_up = delta * |gain + min(asymmetry, 0) + r|     gain = 1 + s g, or exp(s g)
    a_down = delta * |gain - max(asymmetry, 0) - r|   s = imperfections.device_variation
    w_max = bounds[1] * |1 + bound_variation[1] z|    r = asymmetry_variation * z
    w_min = bounds[0] * |1 + bound_variation[0] z|

The factor F is the model's (``mean_step``); models and their parameters are those of the field's
simulators (constant, linear, exponential, power and piecewise step, soft bounds: arXiv
1906.02698, 2303.04721 and the public aihwkit), so that published parameters can be used as they
are.  A pulse of another amplitude and width moves a device by ``drive`` steps
(``PulseResponse``).

Write-verify is ours: a burst of pulses of half the remaining distance, at least one, then a
reading, upwards until the target and then downwards; one of each is a cycle.

The compiled functions work cell by cell; ``sim_backend.steps_numpy`` has the oracle.
"""

from __future__ import annotations

import math
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from boards import device_settings as settings
from boards.profile import Profile
from firmware_protocol import constants as c
from sim_backend import noise
from sim_backend.bulk_rram import CHECK_LANE, READ_BACK_LANE, VERIFY_LANE, keys_of
from sim_backend.cells import Cells
from sim_backend.closed_form import empty_moves, outer_closed, pulse_closed
from sim_backend.device import Index, ProgramOutcome
from sim_backend.noise import hash_at, quantile_table
from sim_backend.outer import Trains, hits
from sim_backend.step_lanes import arranged, empty_block, outer_lanes
from sim_backend.step_law import (
    CONSTANT,
    DOWN,
    EXPONENTIAL,
    HIGH,
    LAST_LINEAR,
    LINEAR,
    LOW,
    PHASE,
    PIECEWISE,
    POWER,
    REFERENCE,
    SHAPE_DOWN,
    SHAPE_UP,
    SOFT,
    UP,
    Law,
    cycle_of,
    cycle_table,
    deviate,
    deviate_table,
    line,
    moved,
    seen,
)  # fmt: skip

Floats = npt.NDArray[np.float64]

#: programming may take this many times the pulses of a way from bound to bound, each way and cycle
_PATIENCE = 2
_KINDS: Final[dict[type[settings.DeviceSettings], int]] = {
    settings.ConstantStep: CONSTANT,
    settings.LinearStep: LINEAR,
    settings.SoftBounds: SOFT,
    settings.SoftBoundsReference: SOFT,
    settings.ExponentialStep: EXPONENTIAL,
    settings.PowerStep: POWER,
    settings.PiecewiseStep: PIECEWISE,
    settings.PhaseChange: PHASE,
}


class Steps:
    """The step models of one chip.

    Args:
        profile: model, parameters and imperfections.
        seed: which chip of its kind.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        device = profile.device
        assert isinstance(device, settings.StepSettings)
        self._device = device
        self._law = law_of(profile)
        self._table = factors_of(device)
        tiles = range(profile.chip.tiles)
        self._own = [own_of(profile, seed, tile, self._law) for tile in tiles]
        self._keys = [keys_of(seed, tile) for tile in tiles]
        self._noises, self._deviates = cycle_table(self._law), deviate_table()
        self._block, self._moves = empty_block(), empty_moves()
        self.reading_error = self._law.reading_error
        self.pulse_width = round(device.pulse.width_ns)

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
        """Write-verify with bursts of nominal pulses (module docstring)."""
        outcome = _program(
            cells.conductances[tile], cells.hidden[tile], cells.pulses[tile], cells.stuck[tile],
            index, targets, tolerance, cycles, self._law, self._own[tile], self._table,
            self._keys[tile], np.uint64(cells.positions[tile]), quantile_table(),
            self._noises, readings,
        )  # fmt: skip
        return ProgramOutcome(*(int(n) for n in outcome))

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
        """Open-loop pulses: SET moves up, RESET down."""
        state = cells.conductances[tile], cells.hidden[tile], cells.pulses[tile], cells.stuck[tile]
        drives = self._drives(set_amplitude, reset_amplitude, width)
        if self._device.pulses == "closed-form":
            pulse_closed(
                *state, index, counts, *drives, self._law, self._own[tile], self._keys[tile],
                quantile_table(), self._deviates,
            )  # fmt: skip
            return
        _pulse_all(
            *state, index, counts, *drives, self._law, self._own[tile], self._table,
            self._keys[tile], quantile_table(), self._noises,
        )  # fmt: skip

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
        """Updates by coincidence, pulse by pulse or in closed form."""
        state = cells.conductances[tile], cells.hidden[tile], cells.pulses[tile], cells.stuck[tile]
        drives = self._drives(set_amplitude, reset_amplitude, width)
        closed = self._device.pulses == "closed-form"
        if closed or (self._device.CLOSED_FORM and all(drives)):
            arguments = (
                *state, arranged(index, trains), *drives, self._law, self._own[tile],
                self._keys[tile], quantile_table(),
            )  # fmt: skip
            if closed:
                outer_closed(*arguments, self._deviates, self._block, self._moves)
            else:
                outer_lanes(*arguments, self._noises, self._block)
            return
        _outer_all(
            *state, index, *trains, *drives, self._law, self._own[tile], self._table,
            self._keys[tile], quantile_table(), self._noises,
        )  # fmt: skip

    def _drives(self, set_amplitude: int, reset_amplitude: int, width: int) -> tuple[float, float]:
        pulse = self._device.pulse
        return drive_of(pulse, set_amplitude, width), drive_of(pulse, reset_amplitude, width)

    def worst_case_pulses(self, cycles: int) -> int:
        return 2 * cycles * self._law.most


def law_of(profile: Profile) -> Law:
    """What the devices of a profile share."""
    device, faults = profile.device, profile.imperfections
    assert isinstance(device, settings.StepSettings)
    scale = 65535 / profile.chip.conductance_full_scale_uS
    low, high = device.bounds
    unit = (device.high_uS - device.low_uS) * scale / (high - low)
    converter = faults.adc_noise_lsb * 65535 / (2**profile.chip.adc_bits - 1)
    shape = (0.0,) * 6
    if isinstance(device, settings.ExponentialStep):
        shape = (*device.amplitude, *device.exponent, device.scale, device.shift)
    return Law(
        kind=_KINDS[type(device)],
        additive=device.cycle_noise == "additive",
        cycle_variation=faults.cycle_variation,
        write_noise=device.write_noise * device.step,
        zero=device.low_uS * scale - low * unit,
        unit=unit,
        step=device.step * unit,
        most=math.ceil(_PATIENCE * (high - low) / device.step),
        programming_error=faults.programming_error_uS * scale,
        reading_error=float(np.hypot(faults.read_noise_uS * scale, converter)),
        exponential=shape,
    )


def factors_of(device: settings.StepSettings) -> Floats:
    """(2, nodes): the table of a piecewise step, up and down; of any other model two ones."""
    if not isinstance(device, settings.PiecewiseStep):
        return np.ones((2, 2))
    return np.array([device.up, device.down], dtype=np.float64)


def own_of(profile: Profile, seed: int, tile: int, law: Law) -> Floats:
    """(cells, 7): what is fixed when each device of a tile is made (``LOW`` to ``REFERENCE``)."""
    device = profile.device
    assert isinstance(device, settings.StepSettings)
    cells = profile.chip.rows * profile.chip.columns
    lanes = np.arange(cells * 8, dtype=np.uint64).reshape(cells, 8)
    stream = noise.key(seed, tile, c.STREAM_DEVICE)
    z = noise.normal(stream, np.zeros_like(lanes), lanes).T
    own = np.zeros((cells, 7))
    spread = profile.imperfections.device_variation
    gain = np.exp(spread * z[0]) if device.step_distribution == "log-normal" else 1 + spread * z[0]
    apart = device.asymmetry_variation * z[1]
    own[:, UP] = device.step * np.abs(gain + min(device.asymmetry, 0.0) + apart)
    own[:, DOWN] = device.step * np.abs(gain - max(device.asymmetry, 0.0) - apart)
    for column, bound, of, drawn in zip(
        (LOW, HIGH), device.bounds, device.bound_variation, z[2:4], strict=True
    ):
        own[:, column] = bound * np.abs(1 + of * drawn)
    _shape(device, own, z[4:6])
    if isinstance(device, settings.SoftBoundsReference):
        own[:, REFERENCE] = device.reference + device.reference_variation * z[6]
        if device.subtract_symmetry_point:
            own[:, REFERENCE] += symmetry_point(own)
    # Converters see conductances from nothing to the full scale.
    ends = (np.array([0.0, 65535.0]) - law.zero) / law.unit
    own[:, LOW] = np.maximum(own[:, LOW], ends[0] + own[:, REFERENCE])
    own[:, HIGH] = np.minimum(own[:, HIGH], ends[1] + own[:, REFERENCE])
    return own


def _shape(device: settings.StepSettings, own: Floats, z: Floats) -> None:
    """The parameters of the model's factor that are spread from device to device."""
    if isinstance(device, settings.LinearStep):
        own[:, SHAPE_UP] = np.abs(device.slope[0] + device.slope_variation[0] * z[0])
        own[:, SHAPE_DOWN] = np.abs(device.slope[1] + device.slope_variation[1] * z[1])
        own[:, SHAPE_UP] /= -device.bounds[1]
        own[:, SHAPE_DOWN] /= -device.bounds[0]
    if isinstance(device, settings.PowerStep):
        gain = 1 + device.exponent_variation * z[0]
        apart = device.exponent_asymmetry_variation * z[1]
        mean = device.exponent_asymmetry
        own[:, SHAPE_UP] = device.exponent * np.abs(gain + min(mean, 0.0) + apart)
        own[:, SHAPE_DOWN] = device.exponent * np.abs(gain - max(mean, 0.0) - apart)


def symmetry_point(own: Floats) -> Floats:
    """Where up and down steps of soft bounds are equal (arXiv 2303.04721), within the bounds."""
    steepness = own[:, UP] / own[:, HIGH] - own[:, DOWN] / own[:, LOW]
    point = (own[:, UP] - own[:, DOWN]) / steepness
    return np.clip(point, own[:, LOW], own[:, HIGH])


def drive_of(pulse: settings.PulseResponse, amplitude: float, width: float) -> float:
    """Steps that a pulse moves a device by."""
    strength = max(0.0, amplitude - pulse.threshold_mV) / (pulse.amplitude_mV - pulse.threshold_mV)
    return strength * width / pulse.width_ns


def mean_step(device: settings.StepSettings, weight: Floats, upwards: bool) -> Floats:
    """Mean change of weight by one nominal pulse of a device without any spread.

    Args:
        device: model and parameters.
        weight: states, of any shape.
        upwards: the direction; the result is negative downwards.
    """
    low, high = device.bounds
    own = np.zeros((1, 7))
    own[0, :4] = low, high, 1.0, 1.0
    _shape(device, own, np.zeros((2, 1)))
    if isinstance(device, settings.SoftBoundsReference):
        weight = weight + device.reference
    shape = (0.0,) * 6
    if isinstance(device, settings.ExponentialStep):
        shape = (*device.amplitude, *device.exponent, device.scale, device.shift)
    flat = np.ascontiguousarray(weight, dtype=np.float64).reshape(-1)
    factors = _factors(_KINDS[type(device)], flat, upwards, own, factors_of(device), shape)
    lost = min(device.asymmetry, 0.0) if upwards else -max(device.asymmetry, 0.0)
    scale = device.step * (1 + lost)
    if isinstance(device, settings.PhaseChange) and not upwards:
        scale = 1.0
    moved = np.clip(flat + (scale if upwards else -scale) * factors, low, high)
    change: Floats = (moved - flat).reshape(np.shape(weight))
    return change


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _factor(kind, w, upwards, own, index, table, shape):  # type: ignore[no-untyped-def]
    """F of the module docstring."""
    low, high = own[index, LOW], own[index, HIGH]
    if kind == LINEAR:
        return 1.0 + (own[index, SHAPE_UP] if upwards else own[index, SHAPE_DOWN]) * w
    if kind == SOFT:
        return 1.0 - w / (high if upwards else low)
    if kind == EXPONENTIAL:
        z = 2.0 * w * shape[4] / (high - low) + shape[5]
        if upwards:
            return max(0.0, 1.0 - shape[0] * math.exp(shape[2] * z))
        return max(0.0, 1.0 - shape[1] * math.exp(-shape[3] * z))
    if kind == POWER:
        rest = high - w if upwards else w - low
        return max(0.0, rest / (high - low)) ** (
            own[index, SHAPE_UP] if upwards else own[index, SHAPE_DOWN]
        )
    if kind == PIECEWISE:
        line = table[0] if upwards else table[1]
        place = (w - low) / (high - low) * (line.size - 1)
        node = min(max(int(place), 0), line.size - 2)
        share = place - node
        return line[node] * (1.0 - share) + line[node + 1] * share
    if kind == PHASE:
        return 1.0 - w / high if upwards else w - low
    return 1.0


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _factors(kind, weights, upwards, own, table, shape):  # type: ignore[no-untyped-def]
    out = np.empty_like(weights)
    for i in range(weights.size):
        out[i] = _factor(kind, weights[i], upwards, own, 0, table, shape)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _stepped(w, count, index, drive, upwards, law, own, table, keys, draws):  # type: ignore[no-untyped-def]
    """The weight after one pulse; ``count`` is how many pulses the cell had before.

    ``draws``: the table of quantiles, and ``step_law.cycle_table`` for linear factors.
    """
    if law.kind <= LAST_LINEAR:
        cycle = cycle_of(count, index, keys, draws[1])
        way = (UP, HIGH, SHAPE_UP) if upwards else (DOWN, LOW, SHAPE_DOWN)
        step, slope = line(
            own[index, way[0]], own[index, way[1]], own[index, way[2]], drive, upwards, law
        )
        low, high = np.float32(own[index, LOW]), np.float32(own[index, HIGH])
        return np.float64(moved(np.float32(w), step, slope, cycle, low, high, law.additive))
    factor = _factor(law.kind, w, upwards, own, index, table, law.exponential)
    hashed = hash_at(keys.pulse, np.uint64(count), np.uint64(index))
    noise = law.cycle_variation * deviate(draws[0], hashed, 0)
    factor = factor + noise if law.additive else factor * (1.0 + noise)
    if upwards:
        w = w + drive * own[index, UP] * factor
    elif law.kind == PHASE:
        w = w - min(1.0, drive) * factor
    else:
        w = w - drive * own[index, DOWN] * factor
    return min(own[index, HIGH], max(own[index, LOW], w))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _pulse_all(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, counts, set_drive, reset_drive, law, own, table,
    keys, normal, noises,
):  # fmt: skip
    draws = normal, noises
    for i in range(cells.size):
        index = cells[i]
        wanted = np.int64(counts[i])
        n = np.int64(pulses[index])
        pulses[index] = np.uint32(n + abs(wanted))
        upwards = wanted > 0
        drive = set_drive if upwards else reset_drive
        if stuck[index] or wanted == 0 or drive == 0.0:
            continue
        w = (conductances[index] + hidden[index] - law.zero) / law.unit + own[index, REFERENCE]
        for k in range(abs(wanted)):
            w = _stepped(w, n + k, index, drive, upwards, law, own, table, keys, draws)
        g = seen(w, n + abs(wanted), index, law, own[index, REFERENCE], keys, normal)
        conductances[index] = np.uint16(g)
        hidden[index] = law.zero + (w - own[index, REFERENCE]) * law.unit - g


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _outer_all(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, rows, columns, length, set_drive, reset_drive, law,
    own, table, keys, normal, noises,
):  # fmt: skip
    draws = normal, noises
    for i in range(cells.size):
        index = cells[i]
        row, column = rows[i // columns.shape[0]], columns[i % columns.shape[0]]
        w = (conductances[index] + hidden[index] - law.zero) / law.unit + own[index, REFERENCE]
        n = np.int64(pulses[index])
        moved = False
        for u in range(row.size):
            wanted = hits(row[u], column[u], length)
            if wanted == 0:
                continue
            drive = set_drive if wanted > 0 else reset_drive
            if stuck[index] == 0 and drive != 0.0:
                moved = True
                for k in range(abs(wanted)):
                    w = _stepped(w, n + k, index, drive, wanted > 0, law, own, table, keys, draws)
            n += abs(wanted)
        pulses[index] = np.uint32(n)
        if moved:
            g = seen(w, n, index, law, own[index, REFERENCE], keys, normal)
            conductances[index] = np.uint16(g)
            hidden[index] = law.zero + (w - own[index, REFERENCE]) * law.unit - g


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _reading(g, count, index, lane, epoch, law, keys, normal):  # type: ignore[no-untyped-def]
    hashed = hash_at(keys.verify, np.uint64(count) + epoch, np.uint64(index))
    error = np.rint(law.reading_error * deviate(normal, hashed, lane))
    return min(65535.0, max(0.0, g + error))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _program(  # type: ignore[no-untyped-def]
    conductances, hidden, pulses, stuck, cells, targets, tolerance, cycles, law, own, table, keys,
    epoch, normal, noises, readings,
):  # fmt: skip
    draws = normal, noises
    spent = np.zeros(2, dtype=np.int64)
    reads = 0
    unconverged = 0
    for i in range(cells.size):
        index = cells[i]
        target = np.float64(targets[i])
        g = np.float64(conductances[index])
        w = (g + hidden[index] - law.zero) / law.unit + own[index, REFERENCE]
        n = np.int64(pulses[index])
        before = n
        read = _reading(g, n, index, CHECK_LANE, epoch, law, keys, normal)
        reads += 1
        for phase in range(2 * cycles):
            upwards = phase % 2 == 0
            given = 0
            while given < law.most:
                distance = target - read if upwards else read - target
                if distance <= tolerance:
                    break
                burst = min(max(1, int(distance / (2.0 * law.step))), law.most - given)
                if stuck[index] == 0:
                    for k in range(burst):
                        w = _stepped(w, n + k, index, 1.0, upwards, law, own, table, keys, draws)
                n += burst
                given += burst
                if stuck[index] == 0:
                    g = seen(w, n, index, law, own[index, REFERENCE], keys, normal)
                read = _reading(g, n, index, VERIFY_LANE, epoch, law, keys, normal)
                reads += 1
            spent[phase % 2] += given
        if abs(read - target) > tolerance:
            unconverged += 1
        if n > before and stuck[index] == 0:
            if law.programming_error > 0.0:
                hashed = hash_at(keys.program, np.uint64(n), np.uint64(index))
                w += law.programming_error * deviate(normal, hashed, 0) / law.unit
                w = min(own[index, HIGH], max(own[index, LOW], w))
                g = seen(w, n, index, law, own[index, REFERENCE], keys, normal)
            conductances[index] = np.uint16(g)
            hidden[index] = law.zero + (w - own[index, REFERENCE]) * law.unit - g
        pulses[index] = np.uint32(n)
        readings[i] = np.uint16(_reading(g, n, index, READ_BACK_LANE, epoch, law, keys, normal))
    return spent[0], spent[1], reads, unconverged
