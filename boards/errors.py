"""Every error that the stack raises on purpose.

The tree, and when each class appears:

    CimError                 anything below; carries what happened, what was left, what to do
    ├── UsageError           the caller named something wrong: an option, a name, a file, a shape
    │   └── ProfileError     a board profile that does not validate
    ├── NoBoardError         nothing is there, or what answers is no board
    │   └── SpecMismatchError   it is a board, but it speaks another specification
    ├── LinkError            the link failed: cannot be opened, went away, or stayed silent
    │   ├── PortBusyError    somebody else holds the port or the board
    │   ├── RestartedError   the board was restarted; says what became of the last command
    │   └── LinkTimeoutError no answer within the time limit, retries included
    ├── DeviceError          the board answered that it cannot do this, or failed doing it
    │   └── UnsupportedError the board does not offer the operation
    ├── SafetyRefusal        the board or the host refused because a limit would be passed
    ├── IndeterminateError   it cannot be known whether a mutating command was applied
    └── StorageError         no space, or no permission to write

A message is three sentences at most: *what* happened, what was *left* as it was, and what to
do *next*.  The classes know nothing of exit codes; those belong to the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple


class CimError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what happened, in one sentence without a full stop.
        left: what was left as it was, e.g. "no cell was changed"; may be empty.
        next: what to do next; may be empty.
    """

    def __init__(self, what: str, *, left: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.left = left
        self.next = next

    def __str__(self) -> str:
        parts = [p for p in (self.what, self.left, self.next) if p]
        return ". ".join(part[0].upper() + part[1:] if i else part for i, part in enumerate(parts))


class UsageError(CimError):
    """An option, a name, a file or a shape is wrong."""


class ProfileError(UsageError):
    """A board profile does not validate; names the file, the key and what was expected."""


class NoBoardError(CimError):
    """Nothing is there, or what answers is no board."""


class SpecMismatchError(NoBoardError):
    """A board answers, but speaks another version or specification of the protocol."""


class LinkError(CimError):
    """The link cannot be opened, or went away."""


class PortBusyError(LinkError):
    """Another program holds the port or the board."""


class Outcome(Enum):
    """What became of a mutating command whose answer never came."""

    #: nothing was changed by it
    NOT_APPLIED = "not applied"
    #: it was applied whole, once
    APPLIED = "applied"
    #: it was cut short: its first cells are done, the error names those in doubt
    PARTLY = "partly applied"
    UNKNOWN = "unknown"


class Place(NamedTuple):
    """Where a request stands, for the board's journal.

    Attributes:
        session, sequence: of the request.
        earlier: session, sequence and number of the journal's entry when the session opened.
    """

    session: int = 0
    sequence: int = 0
    earlier: tuple[int, int, int] = (0, 0, 0)


class RestartedError(LinkError):
    """The board was restarted: its supplies are off, its cells are as they were.

    Attributes:
        outcome: what became of the request that met the restart, where it is a mutating one.
    """

    def __init__(
        self,
        what: str,
        *,
        left: str = "",
        next: str = "",
        outcome: Outcome = Outcome.NOT_APPLIED,
    ) -> None:
        super().__init__(what, left=left, next=next)
        self.outcome = outcome


class LinkTimeoutError(LinkError):
    """No answer came within the time limit, retries included."""


class DeviceError(CimError):
    """The board refused or failed a command.

    Attributes:
        status: the status of the answer.
        detail: the detail code of the refusal.
        index: the index at fault within the command (0 where none applies).
    """

    def __init__(
        self,
        what: str,
        *,
        left: str = "",
        next: str = "",
        status: int = 0,
        detail: int = 0,
        index: int = 0,
    ) -> None:
        super().__init__(what, left=left, next=next)
        self.status = status
        self.detail = detail
        self.index = index


class UnsupportedError(DeviceError):
    """The board does not offer the operation, by its own word in HELLO."""


class SafetyRefusal(DeviceError):
    """A limit of amplitude, width, count or lifetime would have been passed."""


class IndeterminateError(CimError):
    """It cannot be known whether a mutating command was applied, or to which of its cells.

    Attributes:
        cells: the cells concerned, as (tile, row, column).
        outcome: ``UNKNOWN``, or ``PARTLY`` where the board says how far it came.
        done: cells before those concerned that were changed for certain, as the command asks.
        place: where the command stands.
    """

    def __init__(
        self,
        what: str,
        *,
        left: str = "",
        next: str = "",
        cells: Sequence[tuple[int, int, int]] = (),
        outcome: Outcome = Outcome.UNKNOWN,
        done: int = 0,
        place: Place = Place(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__(what, left=left, next=next)
        self.cells = tuple(cells)
        self.outcome = outcome
        self.done = done
        self.place = place


class StorageError(CimError):
    """No space, or no permission to write."""
