"""A board behind a bad line: frames are lost, damaged, repeated and delayed, and power fails.

Faults fall on whole frames, what stands between two delimiters, and time is counted in requests.
So one seed gives one sequence of faults for one sequence of frames, in whatever chunks they arrive.
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from boards.errors import LinkError, UsageError
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import DELIMITER, Opcode
from sim_backend.firmware import Firmware
from sim_backend.server import Disconnected

#: a late answer comes at the latest with that many further requests
LATE_REQUESTS = 4
#: a stall swallows the answers to that many requests
STALLED_REQUESTS = 3
#: a power failure within a command lets at most that many of its cells be done
CUT_CELLS = 3
_DELIMITER = bytes([DELIMITER])


@dataclass(frozen=True)
class Faults:
    """Probabilities, each for one frame, 0 to 1; one frame may meet several faults.

    Attributes:
        drop: a request or an answer vanishes.
        flip: one bit of a request or an answer flips; it may be one of the delimiter.
        truncate: the tail of a request or an answer is missing, half of the time with the
            delimiter, so that the rest runs into the next frame.
        duplicate: a request or an answer arrives once more; the second copy is undamaged.
        late: an answer comes after those to a later request.
        reorder: an answer comes right after the next one.
        stall: nothing comes back for this request and the next ones.
        disconnect: the connection ends, half of the time after the request was executed.
        reboot_before: power fails in place of the request. No reboot comes with a HELLO.
        reboot_after: power fails after the request was executed, and the answer is lost.
        reboot_within: power fails within the mutating command that the request is; or in the next
            one, if this one is lost, refused or a duplicate, or is a RESTORE.
        seed: another one gives other faults at the same rates.

    Raises:
        UsageError: a probability or the seed is out of range.
    """

    drop: float = 0.0
    flip: float = 0.0
    truncate: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    reorder: float = 0.0
    stall: float = 0.0
    disconnect: float = 0.0
    reboot_before: float = 0.0
    reboot_after: float = 0.0
    reboot_within: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in KINDS:
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise UsageError(
                    f"The probability of '{name}' is {chance}", next="Give a number from 0 to 1"
                )
        if self.seed < 0:
            raise UsageError(f"The seed of faults is {self.seed}", next="Give one from 0 on")

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Reads e.g. ``drop=0.01,late=0.005,seed=7``.

        Raises:
            UsageError: it is written otherwise, or names what there is not.
        """
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise UsageError(
                    f"'{part}' in faults '{text}' is not NAME=VALUE",
                    next=f"Write e.g. drop=0.01,seed=7; {_KNOWN}",
                )
            if name not in _NAMES:
                close = difflib.get_close_matches(name, _NAMES, n=1)
                hint = f"Did you mean '{close[0]}'? " if close else ""
                raise UsageError(f"There is no fault '{name}'", next=hint + _KNOWN)
            if name in values:
                raise UsageError(f"Fault '{name}' is given twice", next="Name each once")
            try:
                values[name] = int(value) if name == "seed" else float(value)
            except ValueError:
                kind = "whole number" if name == "seed" else "number from 0 to 1"
                raise UsageError(
                    f"'{value}', given for '{name}', is no {kind}", next="Write e.g. drop=0.01"
                ) from None
        return cls(**values)


_NAMES = tuple(field.name for field in fields(Faults))
_KNOWN = f"Known: {', '.join(_NAMES)}"
#: the names of the faults
KINDS = tuple(name for name in _NAMES if name != "seed")
_REBOOTS = ("reboot_before", "reboot_within", "reboot_after")


class FaultyBoard:
    """A firmware whose lines and power fail; all its connections draw from one sequence.

    Args:
        firmware: what is behind the lines.
        faults: how often which fault comes.
    """

    def __init__(self, firmware: Firmware, faults: Faults) -> None:
        self.firmware = firmware
        #: faults so far, by kind
        self.done: Counter[str] = Counter()
        self._faults = faults
        self._random = random.Random(faults.seed)

    def connection(self) -> FaultyConnection:
        """One link's end of the board."""
        return FaultyConnection(self)

    def drawn(self, kind: str) -> bool:
        """Whether chance wants a fault now."""
        chance: float = getattr(self._faults, kind)
        return self._random.random() < chance

    def happens(self, kind: str) -> bool:
        """Whether a fault comes now; counts it."""
        comes = self.drawn(kind)
        if comes:
            self.done[kind] += 1
        return comes

    def below(self, limit: int) -> int:
        """A random number from 0 on."""
        # Not randrange: the steps that it takes of the generator depend on the limit, so that the
        # length of a frame would change all later faults.
        return int(self._random.random() * limit)

    def reboot(self, kind: str) -> bytes:
        """Power fails and comes back; gives the answer, which is none."""
        self.done[kind] += 1
        self.firmware.reboot()
        return b""


class FaultyConnection:
    """One link's end of a faulty board."""

    def __init__(self, board: FaultyBoard) -> None:
        self._board = board
        self._longest = frames.wire_size(board.firmware.chip.profile.link.max_payload)
        self._start()

    def _start(self) -> None:
        self._inner = self._board.firmware.connection()
        self._tail = b""
        self._requests = 0
        #: late answers, each with the number of the request that it comes after
        self._late: list[tuple[int, bytes]] = []
        self._overtaken = b""
        self._stalled = 0

    def receive(self, data: bytes) -> bytes:
        """Takes any bytes and gives the answers that get through.

        Raises:
            Disconnected: a fault; what was under way is lost, and the connection is as new.
        """
        *complete, tail = (self._tail + data).split(_DELIMITER)
        # A stream without delimiters must not fill the memory; what is kept is still too long.
        self._tail = tail[: self._longest + 1]
        return b"".join([self._request(piece + _DELIMITER) for piece in complete])

    def _request(self, frame: bytes) -> bytes:
        """What comes back for a request."""
        if frame == _DELIMITER:
            return self._inner.receive(frame)
        board = self._board
        self._requests += 1
        if board.happens("disconnect"):
            if board.below(2):
                self._inner.receive(frame)
            self._start()
            raise Disconnected
        answers = [self._answer(answer) for answer in _split(self._executed(frame))]
        answers += [answer for due, answer in self._late if due <= self._requests]
        self._late = [(due, answer) for due, answer in self._late if due > self._requests]
        if board.happens("stall"):
            self._stalled = STALLED_REQUESTS
        if self._stalled:
            self._stalled -= 1
            return b""
        return b"".join(answers)

    def _executed(self, frame: bytes) -> bytes:
        """What the board answers to a request, while its power lasts."""
        board, firmware = self._board, self._board.firmware
        request = frames.decode(frame[:-1])
        opcode = request.opcode if isinstance(request, frames.Frame) else None
        spared = opcode in (None, Opcode.HELLO)
        # Drawn for every frame, so that what a frame holds does not change later faults.
        before, within, after = [board.drawn(kind) and not spared for kind in _REBOOTS]
        cells = board.below(CUT_CELLS + 1)
        arriving = self._line(frame)
        if before:
            return board.reboot("reboot_before")
        if within and opcode in m.MUTATING:
            firmware.cut_next(cells)
        boot = firmware.chip.boot_id
        answers = self._inner.receive(arriving)
        # Counted when it comes: a request that changes nothing leaves the cut to the next one.
        if opcode in m.MUTATING and firmware.chip.boot_id != boot:
            board.done["reboot_within"] += 1
        return board.reboot("reboot_after") if after else answers

    def _answer(self, frame: bytes) -> bytes:
        """What comes back at once of an answer, and of the one that it overtakes."""
        arriving = self._line(frame)
        if not arriving:
            return b""
        if self._board.happens("late"):
            due = self._requests + 1 + self._board.below(LATE_REQUESTS)
            self._late.append((due, arriving))
            return b""
        if not self._overtaken and self._board.happens("reorder"):
            self._overtaken = arriving
            return b""
        arriving, self._overtaken = arriving + self._overtaken, b""
        return arriving

    def _line(self, frame: bytes) -> bytes:
        """What arrives of a frame, either way."""
        board, sent = self._board, bytearray(frame)
        if board.happens("drop"):
            return b""
        if board.happens("flip"):
            bit = board.below(8 * len(sent))
            sent[bit // 8] ^= 1 << bit % 8
        if board.happens("truncate"):
            del sent[board.below(len(frame) - 1) :]
            sent += _DELIMITER * board.below(2)
        return bytes(sent) + frame if board.happens("duplicate") else bytes(sent)


class FaultyDevice:
    """A faulty board for ``boards.links.InProcessLink``; a disconnection is a link that is gone."""

    def __init__(self, board: FaultyBoard) -> None:
        self._connection: FaultyConnection | None = board.connection()

    def receive(self, data: bytes) -> bytes:
        """Takes any bytes and gives the answers that get through.

        Raises:
            LinkError: the board has disconnected, now or before.
        """
        try:
            if self._connection is not None:
                return self._connection.receive(data)
        except Disconnected:
            self._connection = None
        raise LinkError(
            "The emulated board has closed the connection, as a fault that was asked for",
            next="Connect again",
        )


def _split(data: bytes) -> list[bytes]:
    """The frames of answers, each with its delimiter."""
    return [piece + _DELIMITER for piece in data.split(_DELIMITER)[:-1]]
