"""The raw wire to a board: frames as they should be, and as they should not.

It takes for granted that the line itself loses and damages nothing: a damaged answer is a fault of
the board.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from cobs import cobs

from boards import capture
from boards.errors import LinkError, NoBoardError
from boards.links import Link
from cimctl.conformance.cases import Expectation, expect, expect_equal
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Buffer, Message, PayloadError
from firmware_protocol.constants import (
    CRC_SEED,
    PAYLOAD_XOR,
    SPEC_HASH,
    VERSION,
    Detail,
    Opcode,
    Status,
)

R = TypeVar("R", bound=Message)
OPEN = 1
UNORDERED = (Opcode.LEASE, Opcode.JOURNAL)
_HEADER = struct.Struct("<BBBBIII")
_HELLO_TRIES = 3
_POLL_SECONDS = 0.05
_START_POLL_SECONDS = 0.5
_PIECE = 1 << 14


class Silence(Expectation):
    """A board that should have answered did not."""


class Wire:
    """Frames to and from a board, in a session that it opens and counts itself.

    Args:
        open_link: opens the link; called again where the link is gone.
        timeout: seconds of silence after which an answer is missed.
        recorder: takes every byte, for a capture.
    """

    def __init__(
        self,
        open_link: Callable[[], Link],
        timeout: float,
        recorder: capture.CaptureWriter | None = None,
    ) -> None:
        self._open_link = open_link
        self._recorder = recorder
        self._link = open_link()
        self._decoder = frames.Decoder()
        self._arrived: deque[frames.Frame | frames.CorruptFrame] = deque()
        #: bytes sent since the board was last heard: they may still be on a slow line
        self._unheard = 0
        self.timeout = timeout
        self.session = 0
        self.sequence = 1

    # ------------------------------------------------------------------ bytes

    def write(self, data: bytes) -> None:
        """Sends any bytes."""
        if self._recorder is not None:
            self._recorder.record(capture.TO_BOARD, data)
        # In pieces: a serial port has a time limit for each write.
        for at in range(0, len(data), _PIECE):
            self._link.write(data[at : at + _PIECE])
        self._unheard += len(data)

    def frame(self, waiting_for: str = "an answer", seconds: float | None = None) -> frames.Frame:
        """The next frame of the board.

        Args:
            waiting_for: for the message where none comes.
            seconds: of silence until then; None takes those of the wire.
        """
        patience = self._patience() if seconds is None else seconds
        limit = time.monotonic() + patience
        while not self._arrived:
            left = limit - time.monotonic()
            if left <= 0:
                raise Silence(waiting_for, f"silence for {patience:g} s")
            data = self._link.read(min(left, _POLL_SECONDS))
            if data:
                self._take(data)
                limit = time.monotonic() + patience
        found = self._arrived.popleft()
        if isinstance(found, frames.CorruptFrame):
            raise Expectation("sound frames", f"{found.size} bytes with a bad {found.reason}")
        expect(found.is_response, "answers with the RESPONSE flag", f"flags {found.flags:#x}")
        return found

    def _take(self, data: bytes) -> None:
        if self._recorder is not None:
            self._recorder.record(capture.FROM_BOARD, data)
        self._unheard = 0
        self._arrived.extend(self._decoder.feed(data))

    def _patience(self) -> float:
        return self.timeout + (2 * self._unheard / self._link.rate if self._link.rate else 0.0)

    def reopen(self) -> None:
        """Opens the link again, for as long as a restart may take."""
        limit = time.monotonic() + 2 * self.timeout
        self._link.close()
        while True:
            try:
                self._link = self._open_link()
                break
            except (LinkError, NoBoardError):
                if time.monotonic() > limit:
                    raise
                time.sleep(_POLL_SECONDS)
        self._decoder = frames.Decoder()
        self._arrived.clear()

    def close(self) -> None:
        self._link.close()
        if self._recorder is not None:
            self._recorder.close()

    # ------------------------------------------------------------------ sessions

    def open_session(self) -> m.HelloResponse:
        """Opens a new session; whatever the line still held is dropped.

        Raises:
            Silence: no HELLO was answered.
        """
        session = secrets.randbits(32) | 1
        request = m.HelloRequest(VERSION, SPEC_HASH, OPEN)
        data = frames.encode(Opcode.HELLO, session, 0, request.parts())
        for _ in range(_HELLO_TRIES):
            # A delimiter first: whatever the line picked up before ends here.
            self.write(b"\0" + data)
            with contextlib.suppress(Silence):
                answer = self._awaited_hello(session)
                self._arrived.clear()
                self.session, self.sequence = session, 1
                return self._greeting(answer)
        raise Silence("an answer to HELLO", f"silence after {_HELLO_TRIES} of them")

    def _awaited_hello(self, session: int, seconds: float | None = None) -> frames.Frame:
        while True:
            try:
                found = self.frame("an answer to HELLO", seconds)
            except Silence:
                raise
            except Expectation:
                continue
            if found.opcode == Opcode.HELLO and found.session == session:
                return found

    def await_start(self, limit: float) -> None:
        """Waits for a board that starts, and may hear nothing meanwhile; opens no session.

        Raises:
            Silence: it has not answered within the limit, in seconds.
        """
        end = time.monotonic() + limit
        while True:
            with contextlib.suppress(Silence):
                self._greeted(_START_POLL_SECONDS)
                break
            if time.monotonic() > end:
                raise Silence("an answer to HELLO", f"silence for {limit:g} s after the restart")
        # Once more: the answers to those before, should they be late, come before this one's.
        self._greeted(None)

    def _greeted(self, seconds: float | None) -> None:
        session = secrets.randbits(32) | 1
        request = m.HelloRequest(VERSION, SPEC_HASH, 0)
        self.write(b"\0" + frames.encode(Opcode.HELLO, session, 0, request.parts()))
        self._awaited_hello(session, seconds)

    def _greeting(self, answer: frames.Frame) -> m.HelloResponse:
        try:
            greeting = m.HelloResponse.decode(answer.payload)
        except PayloadError as error:
            raise Expectation("a readable answer to HELLO", str(error)) from None
        expect_equal("status of HELLO", status_name(answer.status), "OK")
        return greeting

    def hello(
        self,
        *,
        session: int | None = None,
        version: int = VERSION,
        spec_hash: int = SPEC_HASH,
        flags: int = OPEN,
    ) -> frames.Frame:
        """One HELLO, of any content; neither session nor sequence of the wire change."""
        request = m.HelloRequest(version, spec_hash, flags)
        return self.exchange(Opcode.HELLO, request.parts(), session=session, sequence=0)

    # ------------------------------------------------------------------ requests

    def request(self, message: Message, sequence: int) -> bytes:
        """A request of the session as it goes on the wire."""
        return frames.encode(message.OPCODE, self.session, sequence, message.parts())

    def exchange(
        self,
        opcode: int,
        payload: tuple[Buffer, ...] = (),
        *,
        session: int | None = None,
        sequence: int,
    ) -> frames.Frame:
        """One request and its answer, which must name what it answers."""
        session = self.session if session is None else session
        self.write(frames.encode(opcode, session, sequence, payload))
        return self.matched(opcode, session, sequence)

    def matched(self, opcode: int, session: int, sequence: int) -> frames.Frame:
        """The next frame, which must answer that request."""
        label = f"an answer to {opcode_name(opcode)} {sequence}"
        found = self.frame(label)
        expect(
            (found.opcode, found.session, found.sequence) == (opcode, session, sequence),
            f"{label} of session {session:08x}",
            f"{opcode_name(found.opcode)} {found.sequence} of session {found.session:08x}",
        )
        return found

    def ask(self, message: Message) -> frames.Frame:
        """The answer to the next request of the session, whatever its status."""
        return self.send(message.OPCODE, *message.parts())

    def send(self, opcode: int, *payload: Buffer) -> frames.Frame:
        """The same with any opcode and payload."""
        if opcode in UNORDERED:
            return self.exchange(opcode, payload, sequence=0)
        answer = self.exchange(opcode, payload, sequence=self.sequence)
        if answer.status not in (Status.RETRY, Status.STALE, Status.NO_SESSION):
            self.sequence += 1
        return answer

    def answer(self, message: Message, kind: type[R]) -> R:
        """The answer to a request that must be granted."""
        return granted(self.ask(message), kind)

    def refused(self, message: Message) -> tuple[Status, m.Refusal]:
        """Status and refusal of a request that must not be granted."""
        return refusal_of(self.ask(message))

    def unanswered(self, data: bytes) -> None:
        """Sends bytes that must cause no answer: a PING sent after them gets the next frame."""
        echo = secrets.token_bytes(4)
        self.write(data)
        answer = self.ask(m.PingRequest(echo))
        expect_equal("PING after it echoes", bytes(answer.payload).hex(), echo.hex())


def forged(
    opcode: int,
    session: int,
    sequence: int,
    payload: bytes = b"",
    *,
    version: int = VERSION,
    flags: int = 0,
    length: int | None = None,
    seed: int = CRC_SEED,
) -> bytes:
    """A frame any field of which may be wrong, its CRC being that of what it says."""
    size = len(payload) if length is None else length
    body = _HEADER.pack(version, flags, opcode, 0, session, sequence, size)
    body += bytes(b ^ PAYLOAD_XOR for b in payload)
    crc = zlib.crc32(body, 0 if opcode == Opcode.HELLO else seed)
    return bytes(cobs.encode(body + crc.to_bytes(4, "little"))) + b"\0"


def damaged(frame: bytes, at: int, bit: int = 0) -> bytes:
    """A frame with one bit of its header, payload or CRC turned, stuffed again."""
    body = bytearray(cobs.decode(frame[:-1]))
    body[at] ^= 1 << bit
    return bytes(cobs.encode(bytes(body))) + b"\0"


def granted(answer: frames.Frame, kind: type[R]) -> R:
    """The message of an answer that must be OK."""
    name = opcode_name(answer.opcode)
    if answer.status != Status.OK:
        raise Expectation(f"{name} granted", answer_text(answer))
    try:
        return kind.decode(answer.payload)
    except PayloadError as error:
        raise Expectation(f"a readable answer to {name}", str(error)) from None


def refusal_of(answer: frames.Frame) -> tuple[Status, m.Refusal]:
    """Status and refusal of an answer that must not be OK."""
    expect(answer.status != Status.OK, f"{opcode_name(answer.opcode)} refused", "granted")
    try:
        return Status(answer.status), m.Refusal.decode(answer.payload)
    except ValueError as error:  # also a PayloadError
        raise Expectation("a status and a refusal of the specification", str(error)) from None


def answer_text(answer: frames.Frame) -> str:
    """Status and detail of an answer, for messages."""
    if answer.status == Status.OK:
        return "OK"
    with contextlib.suppress(PayloadError):
        refusal = m.Refusal.decode(answer.payload)
        return f"{status_name(answer.status)} {detail_name(refusal.detail)}"
    return status_name(answer.status)


def status_name(status: int) -> str:
    return Status(status).name if status in set(Status) else f"status {status:#x}"


def detail_name(detail: int) -> str:
    return Detail(detail).name if detail in set(Detail) else f"detail {detail}"


def opcode_name(opcode: int) -> str:
    return Opcode(opcode).name if opcode in set(Opcode) else f"opcode {opcode:#x}"
