"""Captured sessions: decoded for reading, and played back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boards import capture
from boards.errors import LinkTimeoutError, UsageError
from boards.links import Link
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import PayloadError
from firmware_protocol.constants import Opcode, Status

_SHOWN_VALUES = 8
_ANSWER_SECONDS = 30.0
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
    """Sends the requests of a capture one by one and compares the answers.

    Raises:
        UsageError: no such capture.
        LinkTimeoutError: the board stopped answering.
    """
    records = [r.frame for r in capture.read(path)]
    asked = [f for f in records if isinstance(f, frames.Frame) and not f.is_response]
    answers = {
        _place(f): f
        for f in records
        if isinstance(f, frames.Frame) and f.is_response and f.status != Status.RETRY
    }
    if not asked:
        raise UsageError(f"The capture '{path}' holds no request")
    result = Replay()
    player = _Player(link)
    try:
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
        link.close()
    return result


class _Player:
    """Asks one request at a time, with the frames of the capture."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._decoder = frames.Decoder()

    def ask(self, request: frames.Frame) -> frames.Frame:
        frame = frames.encode(request.opcode, request.session, request.sequence, (request.payload,))
        self._link.write(frame)
        waited = 0.0
        while waited < _ANSWER_SECONDS:
            for answer in self._decoder.feed(self._link.read(0.5)):
                if isinstance(answer, frames.Frame) and answer.sequence == request.sequence:
                    return answer
            waited += 0.5
        raise LinkTimeoutError(f"The board does not answer request {request.sequence}")


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
