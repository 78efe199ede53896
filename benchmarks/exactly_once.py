"""Random mutating commands through every fault, each applied once, against a reference array.

The driver talks to an emulated board of profile ``native``, whose device moves in whole steps, so
that the reference is exact.  Lines lose, damage, repeat, delay and reorder frames, connections end,
and power fails before, after and within commands.  Whatever the driver cannot answer for is asked
of the board's journal; what the journal leaves in doubt is looked at.  After each command its cells
are compared with the reference, and the whole array every so many commands and at the end.

    python benchmarks/exactly_once.py [--commands 1000000] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import logging
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest import mock

import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from boards import board as board_module
from boards import catalogue
from boards import driver as driver_module
from boards.board import Board
from boards.driver import Driver
from boards.errors import (
    CimError,
    IndeterminateError,
    LinkError,
    NoBoardError,
    Outcome,
    RestartedError,
)
from boards.links import InProcessLink
from boards.profile import Profile
from firmware_protocol import messages as m
from firmware_protocol.constants import IDEAL_STEP
from sim_backend.chip import Chip
from sim_backend.faults import Faults, FaultyBoard, FaultyDevice
from sim_backend.firmware import Firmware

T = TypeVar("T")
RATES = {
    "drop": 0.01, "flip": 0.01, "duplicate": 0.01, "late": 0.005, "truncate": 0.002,
    "reorder": 0.005, "stall": 0.0005, "disconnect": 0.0005,
    "reboot_before": 0.0005, "reboot_after": 0.0005, "reboot_within": 0.0005,
}  # fmt: skip
#: a device in this process answers at once or never, so that nothing is gained by waiting
SILENCE_SECONDS = 0.002
_HELLO_TRIES = 100
#: as many silences as a stall brings end in a link given up, so that this is met too
_RETRIES = 2
_CHECK_EVERY = 20_000
#: every reading is within it: nothing is programmed
_ANYTHING = 65535
_PULSE = {"set_mV": 2000, "reset_mV": 1800, "width_ns": 100}


@dataclass(frozen=True)
class Command:
    """One mutating command on few cells.

    Attributes:
        kind: ``program``, ``pulse`` or ``load``.
        tile: of its cells.
        cells: (row, column) of each, in the order of the command; of a load, a rectangle's.
        values: targets, pulses or conductances.
        tolerance: of a program.
    """

    kind: str
    tile: int
    cells: tuple[tuple[int, int], ...]
    values: tuple[int, ...]
    tolerance: int = 0

    def send(self, board: Board) -> tuple[int, ...]:
        """The answer to it: pulses given and, of a program, what the cells read."""
        tile = board.tiles[self.tile]
        rows, columns = np.array(self.cells).T
        values = np.array(self.values)
        if self.kind == "load":
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            tile.load(values.reshape(height, width), int(rows[0]), int(columns[0]))
            return ()
        if self.kind == "pulse":
            return tile.pulse(rows, columns, values, **_PULSE)
        done = tile.program(
            rows, columns, values, cycles=1, tolerance=self.tolerance, read_back=True
        )
        return done.set_pulses, done.reset_pulses, *done.readings.tolist()


class Reference:
    """What an ideal chip must be after the commands that it was given, each once."""

    def __init__(self, chip: Chip) -> None:
        shape = (-1, chip.profile.chip.rows, chip.profile.chip.columns)
        self.low = chip.profile.units(chip.profile.device.low_uS)
        self.high = chip.profile.units(chip.profile.device.high_uS)
        self.conductances = chip.cells.conductances.astype(np.int64).reshape(shape)
        self.pulses = chip.cells.pulses.astype(np.int64).reshape(shape)

    def state(self, command: Command) -> list[tuple[int, int]]:
        """(conductance, pulses) of each cell of a command."""
        places = [(command.tile, *cell) for cell in command.cells]
        return [(int(self.conductances[p]), int(self.pulses[p])) for p in places]

    def after(
        self, command: Command, state: list[tuple[int, int]] | None = None
    ) -> list[tuple[int, int]]:
        """The same, were the command applied once."""
        before = self.state(command) if state is None else state
        return [
            self._moved(command, cell, value)
            for cell, value in zip(before, command.values, strict=True)
        ]

    def _moved(self, command: Command, cell: tuple[int, int], value: int) -> tuple[int, int]:
        conductance, pulses = cell
        if command.kind == "load":
            return value, pulses
        steps = value
        if command.kind == "program":
            distance = value - conductance
            needed = (abs(distance) + IDEAL_STEP // 2) // IDEAL_STEP
            steps = 0 if abs(distance) <= command.tolerance else needed
            steps = steps if distance > 0 else -steps
        moved = min(max(conductance + steps * IDEAL_STEP, self.low), self.high)
        return moved, pulses + abs(steps)

    def answer(self, command: Command) -> tuple[int, ...]:
        """What the board must answer to a command."""
        before, after = self.state(command), self.after(command)
        if command.kind == "load":
            return ()
        if command.kind == "pulse":
            ups = [value > 0 for value in command.values]
        else:
            ups = [value > g for value, (g, _) in zip(command.values, before, strict=True)]
        spent = [new[1] - old[1] for new, old in zip(after, before, strict=True)]
        sets = sum(n for n, up in zip(spent, ups, strict=True) if up)
        pulses = (sets, sum(spent) - sets)
        return pulses if command.kind == "pulse" else (*pulses, *[g for g, _ in after])

    def put(self, command: Command, number: int, cell: tuple[int, int]) -> None:
        """Notes the state of a command's cell of that number."""
        place = (command.tile, *command.cells[number])
        self.conductances[place], self.pulses[place] = cell

    def reading(self, region: m.Region, bits: int) -> npt.NDArray[np.int64]:
        """What a READ of a region must give, through a converter of so many bits."""
        top = (1 << bits) - 1
        rows = slice(region.row, region.row + region.rows)
        columns = slice(region.column, region.column + region.columns)
        codes = np.rint(self.conductances[region.tile, rows, columns] * top / 65535)
        return np.rint(codes * 65535 / top).astype(np.int64)

    def wear(self, region: m.Region) -> npt.NDArray[np.int64]:
        """What a WEAR of a region must give."""
        rows = slice(region.row, region.row + region.rows)
        columns = slice(region.column, region.column + region.columns)
        return self.pulses[region.tile, rows, columns]


@dataclass(frozen=True)
class Settled:
    """What became of a command: cells done, those in doubt after them, and an answer, if any."""

    done: int
    doubt: tuple[tuple[int, int, int], ...]
    answer: tuple[int, ...] | None


class WrongError(Exception):
    """The board and the reference disagree."""


class Host:
    """Gives commands to a board, and finds out what became of each when the driver cannot say.

    Args:
        profile: of the board.
        device: the board behind its faults.
        reference: takes what was applied.
        window: requests in flight at most.
    """

    def __init__(
        self, profile: Profile, device: FaultyBoard, reference: Reference, window: int = 8
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.reference = reference
        self._profile = profile
        self._device = device
        self._window = window
        self._board: Board | None = None

    # ------------------------------------------------------------------ connections

    def board(self) -> Board:
        """The board, connected and powered up."""
        while self._board is None:
            board = None
            try:
                link = InProcessLink(FaultyDevice(self._device))
                board = Board(self._profile, link, window=self._window)
                self.counts["connections"] += 1
                board.power_up()
                self._board = board
            except (LinkError, NoBoardError) as error:
                self._note(error)
                if board is not None:
                    self._end(board)
        return self._board

    def leave(self) -> None:
        """Ends the connection; the next command opens another."""
        board, self._board = self._board, None
        if board is not None:
            self._end(board)

    def _end(self, board: Board) -> None:
        board.close()
        self.counts["retries"] += board.statistics.retries
        self.counts["stale_answers"] += board.statistics.stale

    def _note(self, error: CimError) -> None:
        self.errors[type(error).__name__] += 1

    def insist(self, what: Callable[[Board], T]) -> T:
        """Does what changes no cell, on new connections until it succeeds."""
        while True:
            try:
                return what(self.board())
            except (LinkError, NoBoardError) as error:
                self._note(error)
                self.leave()

    # ------------------------------------------------------------------ commands

    def settle(self, command: Command) -> Settled:
        """Sends a command until it was applied, wholly or partly."""
        cells = len(command.cells)
        while True:
            board = self.board()
            try:
                answer = command.send(board)
            except RestartedError as error:
                self._note(error)
                self.leave()
                outcome, done, doubt = error.outcome, cells, []
                self.counts[f"restarted_{outcome.name.lower()}"] += 1
            except IndeterminateError as error:
                self._note(error)
                self.leave()
                self.counts["indeterminate"] += 1
                self.counts["indeterminate_cells"] += len(error.cells)
                outcome, done, doubt = self._asked(error)
                self.counts["cells_in_doubt"] += len(doubt)
            except LinkError as error:
                # By its own word, nothing was changed.
                self._note(error)
                self.leave()
                continue
            else:
                self.counts["operations"] += 1
                return Settled(cells, (), answer)
            if outcome is Outcome.NOT_APPLIED:
                self.counts["sent_again"] += 1
                continue
            whole = outcome is Outcome.APPLIED
            self.counts["operations"] += whole
            return Settled(cells if whole else done, tuple(doubt), None)

    def _asked(self, error: IndeterminateError) -> tuple[Outcome, int, list[tuple[int, int, int]]]:
        if error.outcome is not Outcome.UNKNOWN:
            self.counts["restarted_within"] += 1
            return error.outcome, error.done, list(error.cells)
        answer = self.insist(lambda board: board.outcome(error))
        self.counts[f"unknown_{answer[0].name.lower()}"] += 1
        return answer

    def apply(self, command: Command) -> None:
        """Has a command applied once, and the reference take what was applied of it.

        Raises:
            WrongError: an answer, or a cell in doubt, that cannot be.
        """
        before, after = self.reference.state(command), self.reference.after(command)
        expected = self.reference.answer(command)
        settled = self.settle(command)
        whole = not settled.doubt and settled.done == len(command.cells)
        self.counts["whole" if whole else "partly"] += 1
        for number in range(settled.done):
            self.reference.put(command, number, after[number])
        for number, (_, row, column) in enumerate(settled.doubt, settled.done):
            if (row, column) != command.cells[number]:
                raise WrongError(f"{command}: not its cell {number} is in doubt: {settled.doubt}")
            found = self.look(command.tile, row, column)
            if found not in (before[number], after[number]):
                raise WrongError(
                    f"{command}: cell {number} is {found}, neither {before[number]} as before "
                    f"nor {after[number]} as after"
                )
            self.counts["in_doubt_done"] += found == after[number] != before[number]
            self.reference.put(command, number, found)
        if settled.answer not in (None, expected):
            raise WrongError(f"{command} was answered {settled.answer}, not {expected}")

    def look(self, tile: int, row: int, column: int) -> tuple[int, int]:
        """A cell's exact conductance, and its pulses."""
        # READ has the resolution of its converter; a read-back of this device is exact.
        no_change = Command("program", tile, ((row, column),), (self.reference.high,), _ANYTHING)
        answer = None
        while answer is None:
            answer = self.settle(no_change).answer
        if answer[:2] != (0, 0):
            raise WrongError(f"A cell was only looked at, and pulsed: {answer}")
        region = m.Region(tile, row, 1, column, 1)
        wear = self.insist(lambda board: board.tiles[tile].wear(region))
        return answer[2], int(wear[0, 0])

    def read(self, region: m.Region) -> None:
        """Reads a region, which must agree with the reference."""
        read = self.insist(lambda board: board.tiles[region.tile].read(region))
        if not np.array_equal(read, self.reference.reading(region, self._profile.chip.adc_bits)):
            raise WrongError(f"READ of {region} disagrees")

    def wear(self, region: m.Region) -> None:
        """Asks for the pulses of a region, which must agree with the reference."""
        wear = self.insist(lambda board: board.tiles[region.tile].wear(region))
        if not np.array_equal(wear, self.reference.wear(region)):
            raise WrongError(f"WEAR of {region} disagrees")

    def read_all(self) -> None:
        """Reads every cell and its pulses, which must agree with the reference."""
        tiles, rows, columns = self.reference.pulses.shape
        for tile in range(tiles):
            region = m.Region(tile, 0, rows, 0, columns)
            self.read(region)
            self.wear(region)


# --- a board and its faults ----------------------------------------------------------------------


class SeededChip(Chip):
    """A chip whose boot numbers repeat with its seed, as its faults do."""

    def reboot(self) -> None:
        super().reboot()
        self.boot_id = random.Random(self.seed << 32 | self.cells.count("boots")).getrandbits(32)


def hasty(profile: Profile) -> Profile:
    """A profile whose driver waits little for an answer."""
    link = msgspec.structs.replace(profile.link, timeout_s=SILENCE_SECONDS)
    return msgspec.structs.replace(profile, link=link)


@contextlib.contextmanager
def hasty_driver(seed: int, retries: int = _RETRIES) -> Iterator[None]:
    """Drivers that wait little for a greeting, with repeatable session numbers."""
    sessions = random.Random(seed)
    with (
        mock.patch.object(driver_module, "_HELLO_SECONDS", SILENCE_SECONDS),
        mock.patch.object(driver_module, "_HELLO_TRIES", _HELLO_TRIES),
        mock.patch.object(driver_module.secrets, "randbits", sessions.getrandbits),
        mock.patch.object(board_module, "Driver", functools.partial(Driver, retries=retries)),
    ):
        yield


# --- the run -------------------------------------------------------------------------------------


class RandomCommands:
    """Draws commands of one to four cells."""

    def __init__(self, reference: Reference, seed: int) -> None:
        self._random = random.Random(seed)
        self._tiles, self._rows, self._columns = reference.pulses.shape
        self._low, self._high = reference.low, reference.high

    def draw(self) -> Command:
        chance = self._random
        tile, count = chance.randrange(self._tiles), chance.randint(1, 4)
        kind = chance.choice(("program", "pulse", "load"))
        if kind == "load":
            height, width = chance.choice(((1, count), (count, 1), (2, 2)))
            row = chance.randint(0, self._rows - height)
            column = chance.randint(0, self._columns - width)
            cells = tuple((row + i, column + j) for i in range(height) for j in range(width))
        else:
            flat = chance.sample(range(self._rows * self._columns), count)
            cells = tuple(divmod(place, self._columns) for place in flat)
        if kind == "pulse":
            signs = (-1, 1)
            values = tuple(chance.choice(signs) * chance.randint(1, 9) for _ in cells)
            return Command(kind, tile, cells, values)
        values = tuple(chance.randint(self._low, self._high) for _ in cells)
        return Command(kind, tile, cells, values, chance.choice((0, 32, 100, 1000)))


class Judge:
    """Compares the chip itself with the reference, and counts what is wrong."""

    def __init__(self, chip: Chip, reference: Reference) -> None:
        self.found: Counter[str] = Counter()
        self._cells = chip.cells
        self._columns = chip.profile.chip.columns
        self._reference = reference
        self._surplus = 0

    def command(self, command: Command, before: list[tuple[int, int]], operations: int) -> None:
        """After a command: whether the board had it once.

        Args:
            command: it.
            before: state of its cells before it.
            operations: commands so far that the host knows as applied whole.
        """
        flat = [row * self._columns + column for row, column in command.cells]
        conductances = self._cells.conductances[command.tile][flat].tolist()
        pulses = self._cells.pulses[command.tile][flat].tolist()
        found = list(zip(conductances, pulses, strict=True))
        surplus = self._cells.count("operations") - operations
        # The board's own count tells also what leaves no trace, as programming a cell twice.
        more, self._surplus = surplus - self._surplus, surplus
        if found == self._reference.state(command) and not more:
            return
        once = self._reference.after(command, before)
        if found == self._reference.after(command, once) != once or more > 0:
            self.found["doubled"] += 1
        elif found == before or more < 0:
            self.found["lost"] += 1
        else:
            self.found["otherwise_wrong"] += 1
        for number, cell in enumerate(found):
            self._reference.put(command, number, cell)

    def everything(self) -> None:
        """Whole array: counts cells that differ, for whatever reason."""
        g = self._cells.conductances.reshape(self._reference.conductances.shape)
        pulses = self._cells.pulses.reshape(self._reference.pulses.shape)
        wrong = (g != self._reference.conductances) | (pulses != self._reference.pulses)
        self.found["cells_different"] += int(np.count_nonzero(wrong))
        self.found["whole_checks"] += 1


def measure(commands: int, seed: int, *, progress: bool = True) -> dict[str, object]:
    """Runs so many commands and tells what became of them."""
    profile = hasty(catalogue.load("native"))
    chip = SeededChip(profile, seed)
    device = FaultyBoard(Firmware(chip), Faults(**RATES, seed=seed))
    reference = Reference(chip)
    judge, draws = Judge(chip, reference), RandomCommands(reference, seed)
    with hasty_driver(seed):
        host = Host(profile, device, reference)
        start = time.perf_counter()
        numbers = range(1, commands + 1)
        for number in tqdm(numbers, unit=" commands", mininterval=0.5, disable=not progress):
            command = draws.draw()
            before = reference.state(command)
            _judged(judge, lambda command=command: host.apply(command))
            judge.command(command, before, host.counts["operations"])
            if number % _CHECK_EVERY == 0 or number == commands:
                _judged(judge, host.read_all)
                judge.everything()
        seconds = time.perf_counter() - start
        host.leave()
    counts = host.counts
    return {
        "measure": "random mutating commands through faults, each applied exactly once",
        "date": datetime.date.today().isoformat(),
        "settings": {
            "commands": commands,
            "seed": seed,
            "profile": profile.name,
            "rates": RATES,
            "timeout_s": SILENCE_SECONDS,
            "retries": _RETRIES,
            "whole_check_every": _CHECK_EVERY,
        },
        "results": {
            "lost": judge.found["lost"],
            "doubled": judge.found["doubled"],
            "otherwise_wrong": judge.found["otherwise_wrong"],
            "wrong_answers": judge.found["wrong_answers"],
            "cells_different": judge.found["cells_different"],
            "whole_checks": judge.found["whole_checks"],
            "applied_whole": counts["whole"],
            "applied_partly": counts["partly"],
            "restarted": counts["restarted_applied"]
            + counts["restarted_not_applied"]
            + counts["restarted_within"],
            "restarted_applied": counts["restarted_applied"],
            "restarted_not_applied": counts["restarted_not_applied"],
            "restarted_within": counts["restarted_within"],
            "indeterminate": counts["indeterminate"],
            "indeterminate_share": counts["indeterminate"] / commands,
            "indeterminate_cells": counts["indeterminate_cells"],
            "by_journal_applied": counts["unknown_applied"],
            "by_journal_not_applied": counts["unknown_not_applied"],
            "by_journal_partly": counts["unknown_partly"],
            "cells_in_doubt": counts["cells_in_doubt"],
            "cells_in_doubt_done": counts["in_doubt_done"],
            "sent_again": counts["sent_again"],
            "retries": counts["retries"],
            "stale_answers": counts["stale_answers"],
            "connections": counts["connections"],
            "boots": chip.cells.count("boots"),
            "errors": dict(host.errors),
            "faults": dict(device.done),
            "seconds": round(seconds, 1),
            "commands_per_second": round(commands / seconds),
        },
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _judged(judge: Judge, action: Callable[[], None]) -> None:
    try:
        action()
    except WrongError as error:
        judge.found["wrong_answers"] += 1
        tqdm.write(f"wrong: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # A board that is gone cannot be told to go safe; here that happens all the time.
    logging.getLogger("boards").setLevel(logging.ERROR)
    result = measure(options.commands, options.seed)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
