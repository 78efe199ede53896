"""How fast a board's weights are updated: open-loop pulses, and rank-one updates by coincidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from boards.board import Board
from boards.device_settings import StepSettings
from boards.errors import UnsupportedError
from boards.profile import Profile
from cimctl.analog.coincidence import Trains, Words, words
from cimctl.bench.turns import Effort, Spread, Turns, take_turns
from firmware_protocol.constants import Opcode

_CELLS, _VECTORS, _WARM_UP = 1024, 16, 1
#: cells of one sign, then of the other: nothing wanders to an end of its range
_BOTH = 2


@dataclass(frozen=True)
class UpdateSpeed:
    """Updates of one kind; seconds of the clock.

    Attributes:
        kind: ``pulses`` (PULSE to scattered cells) or ``rank one`` (OUTER to a whole tile).
        updates: commands of the first kind, updates by one vector of the second, a second.
        pulses: a second.
        cells: that one update names.
        slots: of its trains; 0 where there are none.
    """

    kind: str
    updates: Spread
    pulses: Spread
    cells: int
    slots: int


@dataclass(frozen=True)
class _Work:
    kind: str
    updates: int
    cells: int
    most_pulses: int
    run: Callable[[], int]
    slots: int = 0


def most_pulses(board: Board, turns: int) -> int:
    """How many pulses ``measure`` gives at most."""
    return (turns + _WARM_UP) * sum(work.most_pulses for work in _works(board))


def measure(board: Board, effort: Effort) -> list[UpdateSpeed]:
    """Measures what the board offers, on tile 0.

    Raises:
        UnsupportedError: it gives no pulses at all.
    """
    works = _works(board)
    board.power_up()
    counted: dict[str, list[int]] = {work.kind: [] for work in works}

    def counting(work: _Work) -> Callable[[], None]:
        return lambda: counted[work.kind].append(work.run())

    turns = take_turns(
        {work.kind: counting(work) for work in works},
        effort.turns,
        warm_up=_WARM_UP,
        effort=effort,
    )
    return [_speed(work, turns, counted[work.kind][_WARM_UP:]) for work in works]


def _speed(work: _Work, turns: Turns, pulses: list[int]) -> UpdateSpeed:
    seconds = turns.wall[work.kind]
    return UpdateSpeed(
        work.kind,
        turns.rate(work.kind, work.updates),
        Spread.of([count / each for count, each in zip(pulses, seconds, strict=True)]),
        work.cells,
        work.slots,
    )


def _works(board: Board) -> list[_Work]:
    if not board.offers(Opcode.PULSE):
        raise UnsupportedError(
            f"The board '{board.hello.model}' takes no updates by pulses (PULSE)",
            left="Nothing was changed",
            next="Take another --board; 'cimctl bench vmm' and 'train' measure this one",
        )
    works = [_pulses(board)]
    if board.offers(Opcode.OUTER):
        works.append(_rank_one(board))
    return works


def _amplitude(profile: Profile) -> tuple[int, int]:
    """Millivolts and nanoseconds of a pulse: the nominal one, or the ramp's first."""
    device = profile.device
    if isinstance(device, StepSettings):
        return round(device.pulse.amplitude_mV), round(device.pulse.width_ns)
    return profile.programming.ramp_mV[0], profile.programming.width_ns


def _pulses(board: Board) -> _Work:
    tile = board.tiles[0]
    cells = min(_CELLS, tile.rows * tile.columns)
    generator = np.random.default_rng(0)
    rows, columns = np.divmod(
        generator.choice(tile.rows * tile.columns, cells, replace=False), tile.columns
    )
    millivolts, nanoseconds = _amplitude(board.profile)

    def run() -> int:
        pulses = 0
        for sign in (1, -1):
            pulses += sum(
                tile.pulse(
                    rows, columns, np.full(cells, sign, np.int16),
                    set_mV=millivolts, reset_mV=millivolts, width_ns=nanoseconds,
                )
            )  # fmt: skip
        return pulses

    return _Work("pulses", _BOTH, cells, _BOTH * cells, run)


def _rank_one(board: Board) -> _Work:
    tile = board.tiles[0]
    region = tile.whole()
    generator = np.random.default_rng(0)
    x = generator.standard_normal((_VECTORS, tile.rows)).astype(np.float32)
    d = generator.standard_normal((_VECTORS, tile.columns)).astype(np.float32)
    both = [words(x, sign * d, 1.0, Trains(), 1) for sign in (1, -1)]
    millivolts, nanoseconds = _amplitude(board.profile)

    def run() -> int:
        return sum(
            sum(
                tile.outer(
                    region, each.inputs, each.outputs, length=each.length, pairs=False,
                    set_mV=millivolts, reset_mV=millivolts, width_ns=nanoseconds,
                )
            )
            for each in both
        )  # fmt: skip

    most = sum(_coincidences(each) for each in both)
    vectors = sum(len(each.inputs) for each in both)
    slots = max(each.length for each in both)
    return _Work("rank one", vectors, tile.rows * tile.columns, most, run, slots)


def _coincidences(trains: Words) -> int:
    """Pulses that trains give in all: slots in which a row and a column fire."""
    total = 0
    for slot in range(trains.length):
        rows = (trains.inputs >> slot & 1).sum(axis=1, dtype=np.int64)
        total += int((rows * (trains.outputs >> slot & 1).sum(axis=1, dtype=np.int64)).sum())
    return total
