"""The oracle of ``sim_backend.steps``: plain numpy, same arguments, same bits.

Every cell of a command goes through the same phase at the same time; a mask says which of them
still get a pulse.  No speed is asked of it: it exists to be read beside the equations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_backend import step_law as s
from sim_backend.bulk_rram import CHECK_LANE, READ_BACK_LANE, VERIFY_LANE, Keys
from sim_backend.closed_form import MOST
from sim_backend.device import ProgramOutcome
from sim_backend.noise import normal, picked
from sim_backend.outer import Trains, totals_numpy

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The compiled code calls the C library; numpy's own differ from it in the last bit.
_exp = np.vectorize(math.exp, otypes=[np.float64])
_power = np.vectorize(math.pow, otypes=[np.float64])


def factor(
    kind: int, w: Floats, upwards: bool, own: Floats, table: Floats, shape: tuple[float, ...]
) -> Floats:
    """F of each cell's next step; ``own`` is (cells, 7)."""
    low, high = own[:, s.LOW], own[:, s.HIGH]
    shape_of = own[:, s.SHAPE_UP if upwards else s.SHAPE_DOWN]
    if kind == s.LINEAR:
        return np.asarray(1.0 + shape_of * w)
    if kind == s.SOFT:
        return np.asarray(1.0 - w / (high if upwards else low))
    if kind == s.EXPONENTIAL:
        z = 2.0 * w * shape[4] / (high - low) + shape[5]
        fall = shape[0] * _exp(shape[2] * z) if upwards else shape[1] * _exp(-shape[3] * z)
        return np.asarray(np.maximum(0.0, 1.0 - fall))
    if kind == s.POWER:
        rest = high - w if upwards else w - low
        return np.asarray(_power(np.maximum(0.0, rest / (high - low)), shape_of))
    if kind == s.PIECEWISE:
        line = table[0 if upwards else 1]
        place = (w - low) / (high - low) * (line.size - 1)
        node = np.clip(np.trunc(place).astype(np.int64), 0, line.size - 2)
        share = place - node
        return np.asarray(line[node] * (1.0 - share) + line[node + 1] * share)
    if kind == s.PHASE:
        return np.asarray(1.0 - w / high if upwards else w - low)
    return np.ones_like(w)


class Array:
    """The cells of one command, side by side.

    Args:
        conductances, hidden, pulses, stuck: flat state of the tile; ``store`` changes the first
            three.
        cells: flat index of each cell of the command.
        law, own, table, keys: the devices (``steps.Steps``); ``own`` is that of the whole tile.
        epoch: the tile's vector counter.
    """

    def __init__(
        self,
        conductances: npt.NDArray[np.uint16],
        hidden: Floats,
        pulses: npt.NDArray[np.uint32],
        stuck: npt.NDArray[np.uint8],
        cells: Integers,
        law: s.Law,
        own: Floats,
        table: Floats,
        keys: Keys,
        epoch: int = 0,
    ) -> None:
        self._state = conductances, hidden, pulses
        self._cells, self._law, self._own, self._table = cells, law, own[cells], table
        self._keys, self._epoch = keys, epoch
        self._alive = stuck[cells] == 0
        self._index = cells.astype(np.uint64)
        self._reference = self._own[:, s.REFERENCE]
        self._moved = np.zeros(cells.size, dtype=bool)
        self.g: Floats = conductances[cells].astype(np.float64)
        self.w: Floats = (self.g + hidden[cells] - law.zero) / law.unit + self._reference
        self.count: Integers = pulses[cells].astype(np.int64)

    def step(self, active: Mask, drive: float, upwards: bool) -> None:
        """One pulse to each active cell; what is stuck counts it and stays."""
        law, own = self._law, self._own
        moves = active & self._alive & (drive != 0.0)
        if law.kind <= s.LAST_LINEAR:
            w: Floats = self._step_linear(drive, upwards, self._cycle())
        else:
            f = factor(law.kind, self.w, upwards, own, self._table, law.exponential)
            cycle = law.cycle_variation * self._deviate(self._keys.pulse, 0)
            f = f + cycle if law.additive else f * (1.0 + cycle)
            if upwards:
                w = self.w + drive * own[:, s.UP] * f
            elif law.kind == s.PHASE:
                w = self.w - min(1.0, drive) * f
            else:
                w = self.w - drive * own[:, s.DOWN] * f
            w = np.minimum(own[:, s.HIGH], np.maximum(own[:, s.LOW], w))
        self.w = np.where(moves, w, self.w)
        self._moved |= moves
        self.count = self.count + active

    def _step_linear(self, drive: float, upwards: bool, cycle: Singles) -> Floats:
        """The weights after one pulse where the factor is linear: in single precision."""
        step, slope = self._line(np.full(self.w.size, upwards), (drive, drive))
        single = np.float32
        change = step * cycle
        f: Singles = single(1) + slope * (step if self._law.additive else change)
        return self._within(self.w.astype(single) * f + change)

    def _line(self, up: Mask, drives: tuple[float, float]) -> tuple[Singles, Singles]:
        """Step, negative downwards, and slope of each cell's linear factor."""
        law, own = self._law, self._own
        step = np.where(up, drives[0] * own[:, s.UP], -(drives[1] * own[:, s.DOWN]))
        slope = np.zeros_like(step)
        if law.kind == s.SOFT:
            slope = -1.0 / np.where(up, own[:, s.HIGH], own[:, s.LOW])
        elif law.kind == s.LINEAR:
            slope = np.where(up, own[:, s.SHAPE_UP], own[:, s.SHAPE_DOWN])
        return step.astype(np.float32), slope.astype(np.float32)

    def _within(self, w: Singles) -> Floats:
        low, high = (self._own[:, n].astype(np.float32) for n in (s.LOW, s.HIGH))
        return np.minimum(high, np.maximum(low, w)).astype(np.float64)

    def move(self, counts: Integers, drives: tuple[float, float]) -> None:
        """Pulses in closed form, at most ``closed_form.MOST`` of one direction for each cell."""
        law, single = self._law, np.float32
        up = counts > 0
        step, slope = self._line(up, drives)
        decay = np.maximum(single(0), single(1) + slope * step)
        lost = slope * step * single(law.cycle_variation)
        growth = np.ones_like(step) if law.additive else decay * decay + lost * lost
        total, spread, power = np.zeros_like(step), np.zeros_like(step), np.ones_like(step)
        for n in range(int(np.abs(counts).max(initial=0))):
            more = n < np.abs(counts)
            total = np.where(more, total * decay + single(1), total)
            spread = np.where(more, spread * growth + power, spread)
            power = power * (decay * decay)
        noise = np.abs(step) * single(law.cycle_variation) * np.sqrt(spread)
        before = self.w.astype(single)
        mean = step * total
        change = mean + noise * self._move_deviate()
        f = single(1) + slope * (mean if law.additive else change)
        w = self._within(before * f + change)
        moves = (counts != 0) & self._alive & (np.where(up, *drives) != 0.0)
        self.w = np.where(moves, w, self.w)
        self._moved |= moves
        self.count = self.count + np.abs(counts)

    def look(self, where: Mask) -> None:
        """What the converters see of the cells from now on."""
        law = self._law
        g = law.zero + (self.w - self._reference) * law.unit
        if law.write_noise > 0.0:
            g = g + law.write_noise * law.unit * self._deviate(self._keys.program, s.WRITE_LANE)
        seen = np.clip(np.rint(g), 0.0, 65535.0)
        self.g = np.where(where & self._moved, seen, self.g)

    def reading(self, lane: int) -> Floats:
        """A noisy reading of every cell; it changes nothing."""
        z = self._deviate(self._keys.verify, lane, self._epoch)
        seen: Floats = np.clip(self.g + np.rint(self._law.reading_error * z), 0.0, 65535.0)
        return seen

    def relax(self, programmed: Mask) -> None:
        """The programming error of the cells that got a pulse."""
        law, own = self._law, self._own
        if law.programming_error > 0.0:
            z = self._deviate(self._keys.program, 0)
            w = self.w + law.programming_error * z / law.unit
            w = np.minimum(own[:, s.HIGH], np.maximum(own[:, s.LOW], w))
            self.w = np.where(programmed & self._alive, w, self.w)
            self.look(programmed & self._alive)

    def store(self) -> None:
        conductances, hidden, pulses = self._state
        moved = self._cells[self._moved]
        conductances[moved] = self.g[self._moved].astype(np.uint16)
        exact = self._law.zero + (self.w - self._reference) * self._law.unit
        hidden[moved] = (exact - self.g)[self._moved]
        pulses[self._cells] = self.count.astype(np.uint32)

    def _cycle(self) -> Singles:
        """The noise of each cell's next pulse."""
        count, four = self.count.astype(np.uint64), np.uint64(4)
        bits = picked(self._keys.pulse, count // four, self._index * four + count % four)
        return np.asarray(s.cycle_table(self._law)[bits & np.uint64(s.PULSE_MASK)])

    def _move_deviate(self) -> Singles:
        place = self._index * np.uint64(4) + np.uint64(s.MOVE_LANE)
        key = self._keys.program + self.count.astype(np.uint64)
        bits = picked(key, np.zeros_like(place), place)
        return np.asarray(s.deviate_table()[bits & np.uint64(s.PULSE_MASK)])

    def _deviate(self, key: np.uint64, lane: int, offset: int = 0) -> Floats:
        position = self.count.astype(np.uint64) + np.uint64(offset)
        return normal(key, position, self._index * np.uint64(4) + np.uint64(lane))


def pulse(
    array: Array, counts: npt.NDArray[np.int16], set_drive: float, reset_drive: float
) -> None:
    """The oracle of ``steps._pulse_all``."""
    left = np.abs(counts.astype(np.int64))
    while left.any():
        for upwards, drive in ((True, set_drive), (False, reset_drive)):
            array.step((left > 0) & ((counts > 0) == upwards), drive, upwards)
        left = np.maximum(left - 1, 0)
    array.look(np.ones(counts.size, dtype=bool))
    array.store()


def pulse_closed(array: Array, counts: npt.NDArray[np.int16], drives: tuple[float, float]) -> None:
    """The oracle of ``closed_form.pulse_closed``."""
    left = counts.astype(np.int64)
    while left.any():
        now = np.clip(left, -MOST, MOST)
        array.move(now, drives)
        left = left - now
    array.look(np.ones(counts.size, dtype=bool))
    array.store()


def outer_closed(array: Array, trains: Trains, drives: tuple[float, float]) -> None:
    """The oracle of ``closed_form.outer_closed``."""
    for u in range(trains.rows.shape[1]):
        one = Trains(trains.rows[:, u : u + 1], trains.columns[:, u : u + 1], trains.length)
        sets, resets = totals_numpy(one)
        array.move(sets.astype(np.int64) - resets, drives)
    array.look(np.ones(array.w.size, dtype=bool))
    array.store()


def program(
    array: Array,
    law: s.Law,
    targets: npt.NDArray[np.uint16],
    tolerance: int,
    cycles: int,
    readings: npt.NDArray[Any],
) -> ProgramOutcome:
    """The oracle of ``steps._program``."""
    wanted = targets.astype(np.float64)
    first = array.count.copy()
    read = array.reading(CHECK_LANE)
    spent, reads = [0, 0], targets.size
    for phase in range(2 * cycles):
        upwards = phase % 2 == 0
        given = np.zeros(targets.size, dtype=np.int64)
        while True:
            distance = wanted - read if upwards else read - wanted
            active = (distance > tolerance) & (given < law.most)
            if not active.any():
                break
            burst = np.maximum(1, np.trunc(distance / (2.0 * law.step)).astype(np.int64))
            burst = np.where(active, np.minimum(burst, law.most - given), 0)
            for k in range(int(burst.max())):
                array.step(k < burst, 1.0, upwards)
            given += burst
            array.look(active)
            read = np.where(active, array.reading(VERIFY_LANE), read)
            reads += int(active.sum())
        spent[phase % 2] += int(given.sum())
    unconverged = int((np.abs(read - wanted) > tolerance).sum())
    array.relax(array.count > first)
    array.store()
    readings[...] = array.reading(READ_BACK_LANE).astype(np.uint16)
    return ProgramOutcome(spent[0], spent[1], reads, unconverged)
