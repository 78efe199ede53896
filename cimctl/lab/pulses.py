"""Measured pulse responses: what a file of them looks like, and reading one."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from boards.errors import UsageError
from cimctl.lab.filter import Trains
from cimctl.lab.models import Floats

COLUMNS = ("device", "pulse", "direction", "conductance_uS")
OPTIONAL = ("amplitude_mV", "width_ns")
DIRECTIONS = {"up": 1, "+1": 1, "1": 1, "down": -1, "-1": -1, "start": 0, "0": 0}
#: readings around 0 may be below it by the noise
LOWEST_uS, HIGHEST_uS = -10.0, 1e6
#: pulses of a device in each direction, and readings, at least
FEWEST = 10
#: pulses without a reading between two readings at most
_LONGEST_GAP = 100_000
_MOST_ROWS = 5_000_000
_LEFT = "Nothing was written"


@dataclass(frozen=True)
class Record:
    """What one device did.

    Attributes:
        label: of the device.
        directions: (pulses,) 1 or -1, of each pulse after the first reading.
        readings: (pulses,) uS after each, nan where a pulse was not followed by a reading.
        start: first reading, uS.
    """

    label: str
    directions: npt.NDArray[np.int8]
    readings: Floats
    start: float


@dataclass(frozen=True)
class PulseData:
    """Pulse responses of all devices; amplitude and width where the file says them."""

    records: tuple[Record, ...]
    amplitude_mV: float | None = None
    width_ns: float | None = None

    @property
    def pulses(self) -> int:
        return sum(len(r.directions) for r in self.records)

    @property
    def span_uS(self) -> tuple[float, float]:
        """Median of the devices' lowest, and of their highest readings."""
        lows = [min(r.start, float(np.nanmin(r.readings))) for r in self.records]
        highs = [max(r.start, float(np.nanmax(r.readings))) for r in self.records]
        return float(np.median(lows)), float(np.median(highs))

    def trains(self, zero_uS: float, unit_uS: float) -> Trains:
        """The pulses as weights: 0 stands for ``zero_uS``, a unit for ``unit_uS``."""
        longest = max(len(r.directions) for r in self.records)
        directions = np.zeros((longest, len(self.records)), dtype=np.int8)
        readings = np.full(directions.shape, np.nan)
        for i, record in enumerate(self.records):
            directions[: len(record.directions), i] = record.directions
            readings[: len(record.readings), i] = (record.readings - zero_uS) / unit_uS
        start = np.array([(r.start - zero_uS) / unit_uS for r in self.records])
        return Trains(directions, readings, start)


@dataclass(frozen=True)
class _Row:
    line: int
    device: str
    pulse: int
    direction: int
    conductance_uS: float


def read_pulses(path: Path) -> PulseData:
    """Reads a CSV file of pulse responses (columns ``COLUMNS``, any order, others are ignored).

    Raises:
        UsageError: no such file, or one that is no such table: names line, column and value.
    """
    if not path.is_file():
        raise UsageError(f"There is no file '{path}'", left=_LEFT, next="Check --data")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _Table(path).read(csv.reader(file))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}", left=_LEFT) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"'{path}' is no CSV file: {error}", left=_LEFT) from None


class _Table:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._constants: dict[str, float] = {}

    def read(self, lines: Iterator[list[str]]) -> PulseData:
        header = [name.strip() for name in next(lines, [])]
        if not any(header):
            self._refuse("it is empty", f"The first line names the columns {', '.join(COLUMNS)}")
        if len(header) == 1 and ";" in header[0]:
            self._refuse("its values are separated by semicolons", "Separate them by commas")
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            self._refuse(
                f"the column '{missing[0]}' is missing",
                f"The first line names the columns {', '.join(COLUMNS)}; "
                f"{' and '.join(OPTIONAL)} may follow",
            )
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice in (*COLUMNS, *OPTIONAL):
            self._refuse(f"the column '{twice}' is there twice", "Name each column once")
        devices: dict[str, list[_Row]] = {}
        for number, cells in enumerate(lines, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if number > _MOST_ROWS:
                self._refuse(f"it has more than {_MOST_ROWS} lines", "Fit some of the devices")
            if len(cells) != len(header):
                self._refuse(
                    f"line {number} has {len(cells)} values, the header names {len(header)}",
                    "Give each line one value a column",
                )
            row = self._row(number, dict(zip(header, (c.strip() for c in cells), strict=True)))
            devices.setdefault(row.device, []).append(row)
        if not devices:
            self._refuse("it has no pulses", "Give one line a pulse below the header")
        records = tuple(self._record(label, rows) for label, rows in devices.items())
        return PulseData(
            records, self._constants.get("amplitude_mV"), self._constants.get("width_ns")
        )

    def _row(self, line: int, values: dict[str, str]) -> _Row:
        if not values["device"]:
            self._value(line, "device", "", "a label")
        try:
            pulse = int(values["pulse"])
        except ValueError:
            pulse = -1
        if not 0 <= pulse < 2**53:
            self._value(line, "pulse", values["pulse"], "a whole number from 0")
        direction = values["direction"].lower()
        if direction not in DIRECTIONS:
            self._value(line, "direction", values["direction"], ", ".join(DIRECTIONS))
        conductance = self._number(line, values, "conductance_uS", LOWEST_uS, HIGHEST_uS)
        for name in OPTIONAL:
            if values.get(name):
                number = self._number(line, values, name, 1e-6, 1e9)
                if self._constants.setdefault(name, number) != number:
                    allowed = f"{self._constants[name]:g} as before: pulses of one kind"
                    self._value(line, name, values[name], allowed)
        return _Row(line, values["device"], pulse, DIRECTIONS[direction], conductance)

    def _number(
        self, line: int, values: dict[str, str], name: str, low: float, high: float
    ) -> float:
        try:
            number = float(values[name])
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            self._value(line, name, values[name], f"a number from {low:g} to {high:g}")
        return number

    def _record(self, label: str, rows: list[_Row]) -> Record:
        rows = sorted(rows, key=lambda row: row.pulse)
        for before, row in pairwise(rows):
            if row.pulse == before.pulse:
                self._value(
                    max(row.line, before.line), "pulse", str(row.pulse),
                    f"one line for each pulse of device '{label}', line "
                    f"{min(row.line, before.line)} has this one",
                )  # fmt: skip
            if row.direction == 0:
                self._value(row.line, "direction", "start", "up or down after the first line")
            if row.pulse - before.pulse > _LONGEST_GAP:
                allowed = f"at most {_LONGEST_GAP} after {before.pulse}, the one before"
                self._value(row.line, "pulse", str(row.pulse), allowed)
        counts = np.diff([row.pulse for row in rows])
        ends = np.cumsum(counts)
        directions = np.repeat([row.direction for row in rows[1:]], counts).astype(np.int8)
        for way, name in ((1, "up"), (-1, "down")):
            given = sum(row.direction == way for row in rows[1:])
            if given < FEWEST:
                self._refuse(
                    f"device '{label}' has {given} pulses with direction '{name}' after its first "
                    f"line (line {rows[0].line})",
                    f"At least {FEWEST} are needed in each direction",
                )
        readings = np.full(len(directions), np.nan)
        readings[ends - 1] = [row.conductance_uS for row in rows[1:]]
        return Record(label, directions, readings, rows[0].conductance_uS)

    def _value(self, line: int, column: str, value: str, allowed: str) -> NoReturn:
        self._refuse(f"line {line}, column '{column}' is '{value}'", f"Allowed: {allowed}")

    def _refuse(self, what: str, next: str) -> NoReturn:
        raise UsageError(f"{self._path}: {what}", left=_LEFT, next=next)
