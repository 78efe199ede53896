"""What became of a mutating request whose answer never came.

The board writes down what it is about to do before it touches a cell (JOURNAL), and the driver has
one mutating request in flight at most, so the journal's one entry is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from boards.errors import (
    CimError,
    IndeterminateError,
    LinkError,
    Outcome,
    Place,
    RestartedError,
)
from firmware_protocol import messages as m
from firmware_protocol.codec import Message

Cell = tuple[int, int, int]
_SHOWN = 4


def outcome_of(
    journal: m.JournalResponse, place: Place, cells: Sequence[Cell]
) -> tuple[Outcome, int, list[Cell]]:
    """What a board's journal says of a mutating request.

    Args:
        journal: the board's answer, asked after the request can no longer arrive.
        place: where the request stands.
        cells: the cells that it names, in its order.

    Returns:
        The outcome; how many cells were done for certain; those in doubt.
    """
    entry = (journal.session, journal.sequence, journal.number)
    if entry[:2] != (place.session, place.sequence):
        # The entry of an earlier command says that ours never began. That of somebody else's, who
        # came later, says nothing of ours.
        own = journal.session == place.session and journal.sequence < place.sequence
        earlier = own or entry == place.earlier
        return (Outcome.NOT_APPLIED, 0, []) if earlier else (Outcome.UNKNOWN, 0, list(cells))
    if journal.number <= journal.operations:
        return Outcome.APPLIED, journal.progress, []
    doubtful = cells[journal.progress : journal.progress + journal.in_doubt]
    return Outcome.PARTLY, journal.progress, list(doubtful)


def lost(message: Message, place: Place, failure: CimError) -> CimError:
    """What a failed link means for a request that has no answer."""
    if message.OPCODE not in m.MUTATING:
        return failure
    cells = named_cells(message)
    return IndeterminateError(
        f"{failure.what}; it is unknown whether the last {message.OPCODE.name} was applied",
        left=f"Cells concerned: {_shown(cells)}" if cells else "The whole chip is concerned",
        next="Read those cells before going on",
        cells=cells,
        place=place,
    )


def restarted(name: str, message: Message, place: Place, journal: m.JournalResponse) -> CimError:
    """The board at ``name`` lost its power; its journal tells how far the request came."""
    what = f"The board at {name} was restarted"
    again = "Find out why, and start again; a run goes on with --resume"
    if message.OPCODE not in m.MUTATING:
        return RestartedError(what, left="Its cells are as they were", next=again)
    outcome, done, cells = outcome_of(journal, place, named_cells(message))
    command = message.OPCODE.name
    if outcome is Outcome.UNKNOWN:
        return lost(message, place, LinkError(f"{what} and used by another program"))
    if outcome is Outcome.PARTLY:
        return IndeterminateError(
            f"{what} within the last {command}: its first {done} cells were done",
            left=f"In doubt: {_shown(cells)}" if cells else "The whole chip is in doubt",
            next="Read those cells before going on",
            cells=cells,
            outcome=outcome,
            done=done,
            place=place,
        )
    left = f"The last {command} was {outcome.value}, by the board's own journal"
    return RestartedError(what, left=left, next=again, outcome=outcome)


def named_cells(message: Message) -> list[Cell]:
    """The cells that a mutating command names, as (tile, row, column)."""
    if not isinstance(message, m.ProgramRequest | m.PulseRequest | m.LoadRequest | m.OuterRequest):
        return []
    region = message.region
    every = isinstance(message, m.LoadRequest | m.OuterRequest)
    named = [] if every else list(message.indices)  # type: ignore[union-attr]
    pairs = isinstance(message, m.OuterRequest) and message.flags & 2
    within = named or range(0, region.rows * region.columns, 2 if pairs else 1)
    return [
        (
            region.tile,
            region.row + int(i) // region.columns,
            region.column + int(i) % region.columns,
        )
        for i in within
    ]


def _shown(cells: list[Cell]) -> str:
    shown = ", ".join(f"tile {t} row {r} column {c}" for t, r, c in cells[:_SHOWN])
    return shown + (f" and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else "")
