"""``Tile``: one array of a board, read, programmed and pulsed cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from boards import limits
from boards.errors import UnsupportedError, UsageError
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode
from firmware_protocol.packing import pack_codes

if TYPE_CHECKING:
    from boards.board import Board

#: configuration slot that reading and programming of single cells use
CELL_SLOT = 0
#: bytes of a PROGRAM and of a PULSE before their cells
_PROGRAM_HEAD = _PULSE_HEAD = 24
#: cells that an index of 16 bits tells apart
_INDEXED = 1 << 16
#: bytes of a LOAD before its conductances
_LOAD_HEAD = 10
#: bytes of an OUTER before its words
_OUTER_HEAD = 28
#: flag of regions whose columns are pairs
DIFFERENTIAL = 2


@dataclass(frozen=True, slots=True)
class Programmed:
    """What programming took, and what the cells read afterwards (16-bit conductances).

    ``worn`` counts the cells that are past the soft lifetime budget.
    """

    set_pulses: int
    reset_pulses: int
    unconverged: int
    worn: int
    readings: npt.NDArray[np.uint16]


class _Part(NamedTuple):
    """Cells of one frame: ``within`` the region, ``place`` in the caller's list."""

    region: m.Region
    within: npt.NDArray[np.uint16]
    values: npt.NDArray[Any]
    place: npt.NDArray[np.intp]


class Tile:
    """One array of a board; rows and columns count from 0, conductances are 16-bit integers."""

    def __init__(self, board: Board, index: int) -> None:
        self.board = board
        self.index = index
        self.rows = board.description.rows
        self.columns = board.description.columns

    def whole(self) -> m.Region:
        return m.Region(self.index, 0, self.rows, 0, self.columns)

    def read(self, region: m.Region | None = None, samples: int = 1) -> npt.NDArray[np.uint16]:
        """Reads a region, all of the tile by default.

        Returns:
            (rows, columns) measured conductances, each the mean of ``samples`` readings.
        """
        region = region or self.whole()
        parts = _row_parts(region, self.board.room // 2)
        readings = [
            self.board.exchange_read(
                m.ReadRequest(CELL_SLOT, samples, int(part is not parts[-1]), part)
            )
            for part in parts
        ]
        return np.concatenate(readings).reshape(region.rows, region.columns)

    def program(
        self,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        *,
        cycles: int,
        tolerance: int,
        read_back: bool = False,
    ) -> Programmed:
        """Write-verifies single cells to targets.

        Args:
            rows, columns, targets: one entry a cell.
            cycles: SET-RESET cycles at most.
            tolerance: accepted distance from the target.
            read_back: whether to read each cell afterwards.
        """
        parts = self._sparse(rows, columns, targets, head=_PROGRAM_HEAD)
        answers = [
            self.board.exchange_program(
                m.ProgramRequest(
                    CELL_SLOT, cycles, tolerance, int(read_back), p.region, p.within, p.values
                )
            )
            for p in parts
        ]
        done = self._programmed(answers)
        if read_back:
            # Parts of a large tile come band by band, its cells in the caller's order.
            ordered = np.empty_like(done.readings)
            ordered[[cell for p in parts for cell in p.place]] = done.readings
            done = replace(done, readings=ordered)
        return done

    def program_region(
        self,
        region: m.Region,
        targets: npt.NDArray[Any],
        *,
        cycles: int | None = None,
        tolerance: int | None = None,
    ) -> Programmed:
        """Write-verifies every cell of a region, with no word about where each is.

        Args:
            region: cells of this tile.
            targets: (rows, columns) conductances.
            cycles, tolerance: as in ``program``; None takes the profile's, of training.
        """
        programming = self.board.profile.programming
        cycles = cycles or programming.cycles_training
        if tolerance is None:
            tolerance = self.board.profile.units(programming.tolerance_uS)
        answers = []
        for part in _row_parts(region, (self.board.room - _PROGRAM_HEAD) // 2):
            top, left = part.row - region.row, part.column - region.column
            values = targets[top : top + part.rows, left : left + part.columns].reshape(-1)
            request = m.ProgramRequest(CELL_SLOT, cycles, tolerance, 0, part, (), values)
            answers.append(self.board.exchange_program(request))
        return self._programmed(answers)

    def _programmed(self, answers: list[m.ProgramResponse]) -> Programmed:
        self.board.note_worn(sum(a.worn for a in answers))
        readings = [np.asarray(a.conductances, dtype=np.uint16) for a in answers]
        return Programmed(
            sum(a.set_pulses for a in answers),
            sum(a.reset_pulses for a in answers),
            sum(a.unconverged for a in answers),
            sum(a.worn for a in answers),
            np.concatenate(readings) if readings else np.empty(0, dtype=np.uint16),
        )

    def pulse(
        self,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        counts: npt.NDArray[Any],
        *,
        set_mV: int,
        reset_mV: int,
        width_ns: int,
    ) -> tuple[int, int]:
        """Open-loop pulses: positive counts SET, negative ones RESET; returns how many of each.

        Raises:
            UnsupportedError: the board gives no pulses.
            SafetyRefusal: a limit would be passed; nothing was sent.
        """
        if not self.board.offers(Opcode.PULSE):
            raise UnsupportedError(
                f"The board '{self.board.hello.model}' gives no open-loop pulses (PULSE)",
                left="Nothing was changed",
                next="Program its cells",
            )
        limits.check_pulses(
            self.board.profile.limits,
            self.board.description,
            counts,
            set_mV=set_mV,
            reset_mV=reset_mV,
            width_ns=width_ns,
        )
        sets = resets = worn = 0
        for part in self._sparse(rows, columns, counts, head=_PULSE_HEAD):
            request = m.PulseRequest(
                set_mV, reset_mV, width_ns, part.region, part.within, part.values
            )
            answer = self.board.exchange_pulse(request)
            sets += answer.set_pulses
            resets += answer.reset_pulses
            worn += answer.worn
        self.board.note_worn(worn)
        return sets, resets

    def outer(
        self,
        region: m.Region,
        rows: npt.NDArray[np.uint32],
        columns: npt.NDArray[np.uint32],
        *,
        length: int,
        pairs: bool,
        set_mV: int,
        reset_mV: int,
        width_ns: int,
    ) -> tuple[int, int]:
        """Rank-one updates by coincidences of pulse trains, one after the other.

        Args:
            region: the cells.
            rows: (updates, rows) words: bit n is slot n, bit ``length`` the sign.
            columns: (updates, columns) words, or one for each pair, whose first column is updated.
            length: slots of a train.
            pairs: whether the columns are differential pairs.
            set_mV, reset_mV, width_ns: the pulses.

        Returns:
            How many SET and RESET pulses that were.

        Raises:
            UnsupportedError: the board has no such update.
            UsageError: one update does not fit into a payload.
        """
        if not self.board.offers(Opcode.OUTER):
            raise UnsupportedError(
                f"The board '{self.board.hello.model}' has no update by coincidence (OUTER)",
                left="Nothing was changed",
                next="Send the pulses one by one (PULSE)",
            )
        sets = resets = worn = 0
        step = self._updates_fitting(rows.shape[1], columns.shape[1], length)
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            words = b"".join(pack_codes(w[part], length + 1) for w in (rows, columns))
            flags = DIFFERENTIAL if pairs else 0
            request = m.OuterRequest(
                set_mV, reset_mV, width_ns, region, flags, length, len(rows[part]), words
            )
            answer = self.board.exchange_outer(request)
            sets += answer.set_pulses
            resets += answer.reset_pulses
            worn += answer.worn
        self.board.note_worn(worn)
        return sets, resets

    def _updates_fitting(self, rows: int, columns: int, length: int) -> int:
        """Updates of one frame: what fits, and passes no limit whatever the trains are."""
        room = self.board.room - _OUTER_HEAD
        # Both lists of words are rounded up to whole bytes, plane by plane.
        bits = max(0, 8 * room - 2 * 8 * length)
        fitting = bits // ((rows + columns) * (length + 1))
        allowed = self.board.description.pulses_per_command // length
        if not fitting or not allowed:
            raise UsageError(
                f"One update of {rows} rows and {columns} columns by trains of {length} slots does "
                "not fit into a command of this board",
                left="Nothing was changed",
                next="Take shorter trains, smaller layers, or larger payloads (--max-payload)",
            )
        return min(fitting, allowed)

    def wear(self, region: m.Region | None = None) -> npt.NDArray[np.uint32]:
        """(rows, columns) pulses that each cell of a region got in its life."""
        region = region or self.whole()
        parts = _row_parts(region, self.board.room // 4)
        pulses = [self.board.exchange_wear(m.WearRequest(part)) for part in parts]
        return np.concatenate(pulses).reshape(region.rows, region.columns)

    def load(self, conductances: npt.NDArray[Any], row: int = 0, column: int = 0) -> None:
        """Sets conductances as they are, without a pulse, on a model of a chip.

        Args:
            conductances: (rows, columns) 16-bit conductances.
            row, column: where their first one goes.

        Raises:
            UnsupportedError: the board is none.
        """
        if not self.board.offers(Opcode.LOAD):
            raise UnsupportedError(
                f"The board '{self.board.hello.model}' is no model: its cells cannot be set",
                next="Program them",
            )
        region = m.Region(self.index, row, conductances.shape[0], column, conductances.shape[1])
        for part in _row_parts(region, (self.board.room - _LOAD_HEAD) // 2):
            top, left = part.row - row, part.column - column
            values = conductances[top : top + part.rows, left : left + part.columns]
            self.board.exchange_load(m.LoadRequest(part, values.reshape(-1)))

    def _sparse(
        self,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        values: npt.NDArray[Any],
        *,
        head: int,
    ) -> list[_Part]:
        """Cuts a list of cells into frames: 4 bytes a cell, indices within the whole tile.

        A tile of more cells than an index holds goes in bands of rows.
        """
        outside = (rows < 0) | (rows >= self.rows) | (columns < 0) | (columns >= self.columns)
        if np.any(outside):
            at = int(np.argmax(outside))
            raise UsageError(
                f"Cell ({rows[at]}, {columns[at]}) is not on a {self.rows} x {self.columns} tile",
                left="Nothing was changed",
            )
        height = min(self.rows, _INDEXED // self.columns)
        band, row = np.divmod(rows.astype(np.int64), height)
        index = (row * self.columns + columns).astype(np.uint16)
        step = max(1, (self.board.room - head) // 4)
        parts = []
        # Most tiles are one band, and finding that out by sorting takes longer than the rest.
        for number in np.flatnonzero(np.bincount(band)):
            top = int(number) * height
            region = m.Region(self.index, top, min(height, self.rows - top), 0, self.columns)
            mine = np.flatnonzero(band == number)
            chosen = (mine[i : i + step] for i in range(0, len(mine), step))
            parts += [_Part(region, index[place], values[place], place) for place in chosen]
        return parts


def _row_parts(region: m.Region, room: int) -> list[m.Region]:
    """Cuts a region into whole rows, or rows into pieces, of at most ``room`` cells."""
    if region.columns > room:
        return [
            m.Region(region.tile, row, 1, region.column + at, min(room, region.columns - at))
            for row in range(region.row, region.row + region.rows)
            for at in range(0, region.columns, room)
        ]
    step = room // region.columns
    end = region.row + region.rows
    return [
        m.Region(region.tile, row, min(step, end - row), region.column, region.columns)
        for row in range(region.row, end, step)
    ]
