"""Captured sessions: decoded for reading, and played back."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boards import capture
from boards.errors import LinkError, LinkTimeoutError, UsageError
from boards.links import Link
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import PayloadError
from firmware_protocol.constants import SPEC_HASH, VERSION, Opcode, Status

_SHOWN_VALUES = 8
_ANSWER_SECONDS, _AGAIN_SECONDS, _SAFE_SECONDS = 30.0, 2.0, 3.0
#: fields that differ from one power-up to the next, or from one implementation to another
_VOLATILE = ("boot_id", "corrupt_frames", "duplicates", "firmware")


@dataclass
class Replay:
    """How a played session compares with its capture."""

    requests: int = 0
    same: int = 0
    different: int = 0
    first_difference: int = 0


def describe(record: capture.Record) -> dict[str, Any]:
    """A frame of a capture in words."""
    base = {"seconds": record.nanoseconds / 1e9, "direction": record.direction.decode()}
    frame = record.frame
    if isinstance(frame, frames.CorruptFrame):
        return {**base, "sequence": 0, "name": "corrupt", "fields": vars_of(frame)}
    name = Opcode(frame.opcode).name if frame.opcode in list(Opcode) else f"0x{frame.opcode:02x}"
    if frame.is_response:
        name += " " + (Status(frame.status).name if frame.status in list(Status) else "?")
    message = decoded(frame)
    shown = {"payload": f"{len(frame.payload)} bytes"} if message is None else vars_of(message)
    return {**base, "sequence": frame.sequence, "name": name, "fields": shown}


def decoded(frame: frames.Frame) -> Any:
    """The message in a frame, or None where its payload cannot be read."""
    table = m.RESPONSES if frame.is_response else m.REQUESTS
    kind = table.get(frame.opcode)
    if frame.is_response and frame.status not in (Status.OK, Status.SPEC_MISMATCH):
        kind = m.Refusal
    try:
        return kind.decode(frame.payload) if kind else None
    except PayloadError:
        return None


def vars_of(message: Any) -> dict[str, Any]:
    """Fields of a message, long values shortened."""
    return {f.name: _short(getattr(message, f.name)) for f in fields(message)}


def _short(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return vars_of(value)
    if isinstance(value, tuple):
        return [_short(v) for v in value]
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[:_SHOWN_VALUES]).hex()
        return f"{head}... ({len(value)} bytes)" if len(value) > _SHOWN_VALUES else head
    if isinstance(value, np.ndarray):
        head = ",".join(str(v) for v in value[:_SHOWN_VALUES])
        return f"{head},... ({len(value)} values)" if len(value) > _SHOWN_VALUES else head
    return value


def play(path: Path, link: Link) -> Replay:
    """Sends the requests of a capture one by one and compares the answers; leaves the board safe.

    Raises:
        UsageError: no such capture, or it is damaged; nothing was sent.
        LinkTimeoutError: the board stopped answering.
    """
    result = Replay()
    player = _Player(link)
    try:
        asked, answers = recorded(path)
        for request in _once(asked):
            expected = answers.get(_place(request))
            answer = player.ask(request)
            if expected is None:
                continue
            result.requests += 1
            if _comparable(answer) == _comparable(expected):
                result.same += 1
            else:
                result.different += 1
                result.first_difference = result.first_difference or result.requests
    finally:
        player.close()
    return result


def recorded(path: Path) -> tuple[list[frames.Frame], dict[Any, frames.Frame]]:
    """The requests of a capture, and the answers by their place.

    Raises:
        UsageError: no such capture, or one that was damaged after it was made. Answers that the
            line had damaged are no damage of the capture.
    """
    try:
        records = list(capture.read(path))
    except UsageError as error:
        raise UsageError(error.what, left="Nothing was sent", next=error.next) from None
    damaged = [r for r in records if isinstance(r.frame, frames.CorruptFrame)]
    if any(r.direction == capture.TO_BOARD for r in damaged):
        raise UsageError(
            f"The capture '{path}' is damaged: {len(damaged)} of its frames fail their check",
            left="Nothing was sent",
            next="See them with 'cimctl proto dump'",
        )
    sound = [r.frame for r in records if isinstance(r.frame, frames.Frame)]
    asked = [f for f in sound if not f.is_response]
    answers = {_place(f): f for f in sound if f.is_response and f.status != Status.RETRY}
    if not asked or not answers:
        raise UsageError(
            f"The capture '{path}' holds no request with its answer", left="Nothing was sent"
        )
    return asked, answers


def changes(path: Path) -> int:
    """How many requests of a capture change cells."""
    return sum(request.opcode in m.MUTATING for request in _once(recorded(path)[0]))


class _Player:
    """Asks one request at a time, with the frames of the capture."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._decoder = frames.Decoder()
        self._asked = False

    def ask(self, request: frames.Frame, seconds: float = _ANSWER_SECONDS) -> frames.Frame:
        frame = frames.encode(request.opcode, request.session, request.sequence, (request.payload,))
        self._asked = True
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            # Again after a while: a board that is still starting hears nothing. One that has
            # answered does so from its kept answers.
            self._link.write(b"\0" + frame)
            answer = self._heard(_place(request), min(limit, time.monotonic() + _AGAIN_SECONDS))
            if answer is not None:
                return answer
        raise LinkTimeoutError(
            f"The board does not answer request {request.sequence} of {len(request.payload)} bytes",
            next="Check that it is the kind of board that the session was captured on",
        )

    def _heard(self, place: tuple[int, int, int, bytes], limit: float) -> frames.Frame | None:
        while time.monotonic() < limit:
            for answer in list(self._decoder.feed(self._link.read(0.1))):
                if isinstance(answer, frames.Frame) and _place(answer) == place:
                    return answer
        return None

    def close(self) -> None:
        """Leaves the board safe in a session of our own, and ends the link."""
        try:
            if self._asked:
                self._leave_safe()
        finally:
            self._link.close()

    def _leave_safe(self) -> None:
        session = secrets.randbits(32) | 1
        hello = m.HelloRequest(VERSION, SPEC_HASH, 1)
        requests = ((Opcode.HELLO, 0, hello.encode()), (Opcode.SAFE, 1, b""))
        with contextlib.suppress(LinkError):
            for opcode, sequence, payload in requests:
                self.ask(frames.Frame(opcode, session, sequence, payload), _SAFE_SECONDS)


def _once(asked: list[frames.Frame]) -> Iterator[frames.Frame]:
    """Each request once, also where the capture holds retries of it."""
    seen: set[tuple[int, int, int, bytes]] = set()
    for frame in asked:
        place = _place(frame)
        if place not in seen:
            seen.add(place)
            yield frame


def _place(frame: frames.Frame) -> tuple[int, int, int, bytes]:
    """What an answer has in common with its request.

    Sequence number 0 serves several commands, and JOURNAL more than once; that has a nonce.
    """
    nonce = bytes(frame.payload[:4]) if frame.opcode == Opcode.JOURNAL else b""
    return frame.session, frame.sequence, frame.opcode, nonce


def _comparable(frame: frames.Frame) -> Any:
    """What must agree: everything but what differs from one power-up to the next."""
    message = decoded(frame)
    if not isinstance(message, m.HelloResponse | m.StatusResponse | m.JournalResponse):
        return frame.status, bytes(frame.payload)
    kept = [f.name for f in fields(message) if f.name not in _VOLATILE]
    values = [getattr(message, name) for name in kept]
    return frame.status, [bytes(v) if isinstance(v, memoryview) else v for v in values]
