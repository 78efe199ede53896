"""The driver: sessions, sequence numbers, a window of requests in flight, retries.

A thread reads the link (but for a device in this process, which answers at once) and matches
answers to requests by session and sequence number; the thread that waits for an answer does the
resending.  An answer that nobody waits for any more is dropped and counted, so that a late one is
never taken for the answer to another request.  Another thread renews the lease while nothing else
is sent.  At most one mutating request is in flight, so that the board's journal of the last one
tells what a restart did to it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar, cast

from boards import capture, recovery
from boards.errors import (
    CimError,
    DeviceError,
    LinkError,
    LinkTimeoutError,
    NoBoardError,
    Outcome,
    Place,
    SafetyRefusal,
    SpecMismatchError,
    UnsupportedError,
)
from boards.links import InProcessLink, Link
from boards.patience import Patience
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Buffer, Message, PayloadError
from firmware_protocol.constants import (
    DETAIL_TEXT,
    MIN_PAYLOAD,
    SPEC_HASH,
    STATUS_CLASS,
    VERSION,
    Detail,
    Opcode,
    Status,
)

R = TypeVar("R", bound=Message)
_POLL_SECONDS = 0.1
_HELLO_TRIES = 3
_HELLO_SECONDS = 1.0
_ASIDE_TRIES, _ASIDE_SECONDS = 10, 1.0
_NONCE_SIZE = 4
#: resends, at least, before a silent link is given up
_ASKED_LEAST = 3
_ADVICE: dict[int, str] = {
    Detail.LIFETIME: "Use other cells ('cimctl wear' shows them), or fewer cycles",
    Detail.SLOT_EMPTY: "Configure the board first; it may have been made safe by another program",
}
_RESTART_TRIES, _RESTART_SECONDS = 60, 0.25
_OPEN = 1
#: a third of the lease goes by in silence before it is renewed, so that two renewals may be lost
_LEASE_SHARE = 3
#: a burst of RETRY answers causes one resend, not one each
_RESEND_PAUSE = 0.02
#: a request is never sent more often, whatever the board answers
_SENDS_LIMIT = 100


@dataclass
class LinkStatistics:
    """What went over the link, both ways; frames count requests sent and answers received."""

    frames: int = 0
    bytes_tx: int = 0
    bytes_rx: int = 0
    retries: int = 0
    corrupt: int = 0
    stale: int = 0


class Pending:
    """A request in flight."""

    __slots__ = ("answer", "early", "frame", "message", "sends", "sent", "sequence")

    def __init__(self, message: Message, sequence: int, frame: bytes) -> None:
        self.message = message
        self.sequence = sequence
        self.frame = frame
        self.sends = 1
        self.sent = time.monotonic()
        self.early = False
        self.answer: frames.Frame | None = None

    @property
    def answered(self) -> bool:
        return self.answer is not None


class Driver:
    """Requests and answers over one link.

    Args:
        link: where the board is; the driver closes it.
        window: requests in flight at most; the board's own window limits it further.
        timeout: seconds to wait at most for an answer before a request is sent again, on top of the
            time that the line needs for what is in flight; less once the board's pace is known.
        retries: so many time limits, and one more, of silence make the link given up.
        recorder: takes every byte, for a capture.
    """

    def __init__(
        self,
        link: Link,
        *,
        window: int,
        timeout: float,
        retries: int = 5,
        recorder: capture.CaptureWriter | None = None,
    ) -> None:
        self.statistics = LinkStatistics()
        #: largest payload of the board, as far as known; sets the patience on slow lines
        self.max_payload = MIN_PAYLOAD
        self._link = link
        self._window = window
        self._patience = Patience(timeout, link.rate)
        self._tries = retries + 1
        self._recorder = recorder
        self._session = secrets.randbits(32) | 1
        self._sequence = 0
        self._changed = threading.Condition()
        self._in_flight: OrderedDict[int, Pending] = OrderedDict()
        self._writing = threading.Lock()
        self._asides: dict[tuple[int, bytes], frames.Frame] = {}
        self._boot_id = 0
        self._earlier = (0, 0, 0)
        self._failure: CimError | None = None
        self._closing = threading.Event()
        self._last_resend = 0.0
        self._heard = 0.0
        self._silences = 0
        self._last_write = time.monotonic()
        self._renewer: threading.Thread | None = None
        self._decoder = frames.Decoder()
        self._reader: threading.Thread | None = None
        if isinstance(link, InProcessLink):
            link.deliver_to(self._arrived)
        else:
            self._reader = threading.Thread(target=self._read, name="cim-link-reader", daemon=True)
            self._reader.start()

    # ------------------------------------------------------------------ sessions

    def hello(self) -> m.HelloResponse:
        """Asks who is there, and opens the session.

        Raises:
            NoBoardError: nothing answers, or what answers is no board.
            SpecMismatchError: the board speaks another version or specification.
        """
        request = m.HelloRequest(VERSION, SPEC_HASH, _OPEN)
        answer = self._aside(request, _HELLO_TRIES, _HELLO_SECONDS)
        if answer is None:
            raise NoBoardError(
                f"What is at {self._link.name} does not answer as a board would",
                left="Nothing but a greeting was sent",
                next="Check --port, and that the board runs its firmware",
            )
        try:
            response = m.HelloResponse.decode(answer.payload)
        except PayloadError:
            raise NoBoardError(
                f"What answers at {self._link.name} is no board: its HELLO cannot be read",
                next="Check --port",
            ) from None
        if answer.status != Status.OK:
            raise SpecMismatchError(
                f"The board at {self._link.name} ({response.firmware}) speaks version "
                f"{response.version} with specification {response.spec_hash:016x}, this cimctl "
                f"version {VERSION} with {SPEC_HASH:016x}",
                left="The board was not touched",
                next="Install the cimctl that belongs to the firmware, or update the firmware",
            )
        self._boot_id = response.boot_id
        return response

    def note_journal(self) -> None:
        """Remembers the entry that the journal holds as the session opens."""
        journal = self.journal()
        if journal is None:
            raise NoBoardError(
                f"The board at {self._link.name} says who it is and then nothing more",
                next="Check the line",
            )
        self._earlier = (journal.session, journal.sequence, journal.number)

    def journal(
        self, tries: int = _ASIDE_TRIES, seconds: float | None = None
    ) -> m.JournalResponse | None:
        """The board's journal, asked outside of the order; None where no answer comes."""
        request = m.JournalRequest(secrets.randbits(32))
        frame = self._aside(request, tries, seconds or min(self._limit(), _ASIDE_SECONDS))
        if frame is None or frame.status != Status.OK:
            return None
        try:
            return m.JournalResponse.decode(frame.payload)
        except PayloadError:
            return None

    def await_restart(self) -> None:
        """Waits until the board answers under another boot id.

        Raises:
            LinkTimeoutError: it does not come back.
        """
        for _ in range(_RESTART_TRIES):
            # What reaches a UART that is being reset is lost: ask again soon.
            journal = self.journal(1, _RESTART_SECONDS)
            if self._failure is not None:
                raise self._failure
            if journal is not None:
                if journal.boot_id != self._boot_id:
                    return
                time.sleep(_RESTART_SECONDS)
        raise self._silent()

    def keep_lease(self, milliseconds: int) -> None:
        """Renews the board's lease of that length from now on, whenever nothing else is sent."""
        if milliseconds and self._renewer is None:
            request = m.LeaseRequest(milliseconds)
            frame = frames.encode(request.OPCODE, self._session, 0, request.parts())
            pause = milliseconds / 1000 / _LEASE_SHARE
            self._renewer = threading.Thread(
                target=self._renew, args=(frame, pause), name="cim-lease", daemon=True
            )
            self._renewer.start()

    def _renew(self, frame: bytes, pause: float) -> None:
        wait = pause
        while not self._closing.wait(wait) and self._failure is None:
            silence = time.monotonic() - self._last_write
            if silence >= pause:
                try:
                    self._write(frame)
                except CimError as error:
                    # A capture that cannot be written, say: whoever asks next is told.
                    self._fail(error)
            wait = max(pause - silence, pause / 10) if silence < pause else pause

    def _aside(self, message: Message, tries: int, seconds: float) -> frames.Frame | None:
        """A request outside of the order, which may be repeated at will, and its answer."""
        frame = frames.encode(message.OPCODE, self._session, 0, message.parts())
        key = _aside_key(message.OPCODE, message.encode())
        self._asides.clear()
        for _ in range(tries):
            # A delimiter first: whatever the line picked up before ends here.
            self._write(b"\0" + frame, renews=False)
            with self._changed:
                self._changed.wait_for(
                    lambda: key in self._asides or self._failure is not None, seconds
                )
                if key in self._asides:
                    return self._asides.pop(key)
                if self._failure is not None:
                    break
        return None

    @property
    def window(self) -> int:
        """Requests in flight at most."""
        return self._window

    def limit_window(self, window: int) -> None:
        """Takes the board's own limit of requests in flight into account."""
        self._window = max(1, min(self._window, window))

    # ------------------------------------------------------------------ requests

    def submit(self, message: Message) -> Pending:
        """Sends a request; waits only while the window is full."""
        while True:
            with self._changed:
                self._raise_failure()
                # Counted from the oldest unanswered one, also where later ones have been answered:
                # the board keeps no more answers than a window for those that got lost.
                oldest = next(iter(self._in_flight.values()), None)
                full = oldest and self._sequence + 1 - oldest.sequence >= self._window
                blocking = oldest if full else self._mutating(message)
                if blocking is None:
                    break
            self._wait(blocking)
        self._sequence += 1
        frame = frames.encode(message.OPCODE, self._session, self._sequence, message.parts())
        pending = Pending(message, self._sequence, frame)
        with self._changed:
            self._in_flight[pending.sequence] = pending
        self._write(frame)
        return pending

    def _mutating(self, message: Message) -> Pending | None:
        """The mutating request in flight that another one has to wait for."""
        if message.OPCODE not in m.MUTATING:
            return None
        in_flight = self._in_flight.values()
        return next((p for p in in_flight if p.message.OPCODE in m.MUTATING), None)

    def result(self, pending: Pending, kind: type[R]) -> R:
        """Waits for the answer to a request.

        Raises:
            DeviceError: the board refused or failed; its subclasses say which.
            LinkError: the link failed and nothing was changed by this request.
            RestartedError: the board was restarted; says whether the request was applied.
            IndeterminateError: it is unknown whether, or to which cells, it was applied.
        """
        self._wait(pending)
        answer = cast("frames.Frame", pending.answer)
        if answer.status != Status.OK:
            raise self._refusal(pending, answer)
        try:
            return kind.decode(answer.payload)
        except PayloadError as error:
            raise DeviceError(
                f"The board's answer to {_name(pending)} cannot be read: {error}",
                next="Report this with a capture (--capture FILE)",
            ) from None

    def call(self, message: Message, kind: type[R]) -> R:
        """Sends a request and waits for its answer."""
        return self.result(self.submit(message), kind)

    def close(self) -> None:
        """Ends the reader thread and the link; may be called twice."""
        self._closing.set()
        self._link.close()
        for thread in (self._reader, self._renewer):
            if thread is not None and thread is not threading.current_thread():
                thread.join(timeout=5)
        if self._recorder is not None:
            self._recorder.close()

    # ------------------------------------------------------------------ waiting and resending

    def _wait(self, pending: Pending) -> None:
        # A device in this process has answered already.
        while not pending.answered:
            with self._changed:
                limit = time.monotonic() + self._limit()
                while pending.answer is None and self._failure is None and not self._early():
                    left = limit - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if pending.answer is not None:
                    return
                if self._failure is not None:
                    raise recovery.lost(pending.message, self._place(pending), self._failure)
                early = self._early()
            if self._hopeless():
                raise recovery.lost(pending.message, self._place(pending), self._silent())
            if early:
                pause = self._last_resend + _RESEND_PAUSE - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
            self._silences += not early
            self._resend()

    def _early(self) -> bool:
        return any(p.early for p in self._in_flight.values())

    def _hopeless(self) -> bool:
        with self._changed:
            oldest = next(iter(self._in_flight.values()), None)
            if oldest is None:
                return False
            silent = time.monotonic() - max(self._heard, oldest.sent)
            # A computer that stood still for that long has not asked for that long.
            asked = oldest.sends > min(self._tries - 1, _ASKED_LEAST)
            return (asked and silent >= self._all_patience()) or oldest.sends > _SENDS_LIMIT

    def _limit(self) -> float:
        """Seconds to wait before what is in flight is sent again."""
        answer = frames.wire_size(self.max_payload)
        return self._patience.limit(self._waiting(), answer, self._silences)

    def _all_patience(self) -> float:
        """Seconds of silence after which the link is given up."""
        line = self._patience.line(self._waiting(), frames.wire_size(self.max_payload))
        return self._tries * (self._patience.timeout + line)

    def _waiting(self) -> list[tuple[int, int]]:
        return [(p.message.OPCODE, len(p.frame)) for p in self._in_flight.values()]

    def _resend(self) -> None:
        """Sends everything unanswered again, oldest first: the board executes in sequence."""
        with self._changed:
            again = list(self._in_flight.values())
            for p in again:
                p.early = False
                p.sends += 1
        self._last_resend = time.monotonic()
        for p in again:
            self.statistics.retries += 1
            self._write(p.frame)

    def _silent(self) -> LinkTimeoutError:
        return LinkTimeoutError(
            f"The board at {self._link.name} has stopped answering "
            f"({self._all_patience():.3g} s of silence)",
            next="Check cable and power, then 'cimctl board info'",
        )

    def _place(self, pending: Pending) -> Place:
        return Place(self._session, pending.sequence, self._earlier)

    def _session_lost(self, pending: Pending) -> CimError:
        """The board does not know the session: what happened to it, and to a request in flight."""
        journal = self.journal()
        if journal is None:
            failure = LinkError(
                f"The board at {self._link.name} no longer knows this session",
                next="Check that no other program uses the board, and start again",
            )
        elif journal.boot_id == self._boot_id:
            failure = LinkError(
                f"Another program took the session of the board at {self._link.name}",
                next="Close the other program, and start again",
            )
        else:
            return recovery.restarted(
                self._link.name, pending.message, self._place(pending), journal
            )
        if journal is not None and pending.message.OPCODE in m.MUTATING:
            cells = recovery.named_cells(pending.message)
            if recovery.outcome_of(journal, self._place(pending), cells)[0] is Outcome.NOT_APPLIED:
                return failure
        return recovery.lost(pending.message, self._place(pending), failure)

    def _refusal(self, pending: Pending, answer: frames.Frame) -> CimError:
        name = _name(pending)
        try:
            refusal = m.Refusal.decode(answer.payload)
        except PayloadError:
            refusal = m.Refusal(0, 0, 0)
        if answer.status in (Status.NO_SESSION, Status.STALE):
            return self._session_lost(pending)
        if refusal.detail == Detail.LEASE and pending.message.OPCODE != Opcode.LEASE:
            return SafetyRefusal(
                f"The board refused {name}: its lease had run out, as nothing was heard from this "
                "computer for longer than it lasts, and its supplies went to ground",
                left="Nothing was changed by it",
                next="Start again; a run goes on with --resume",
                status=answer.status,
                detail=refusal.detail,
            )
        reason = DETAIL_TEXT.get(cast("Detail", refusal.detail), f"detail {refusal.detail}")
        limit = f" (limit {refusal.limit})" if refusal.limit else ""
        what = f"The board refused {name}: {reason}{limit}, at index {refusal.index}"
        kinds = {"safety": SafetyRefusal, "device": DeviceError, "caller": DeviceError}
        kind = kinds.get(STATUS_CLASS.get(cast("Status", answer.status), "device"), DeviceError)
        if answer.status == Status.UNSUPPORTED:
            kind = UnsupportedError
        return kind(
            what,
            left="Nothing was changed by it",
            next=_ADVICE.get(refusal.detail, ""),
            status=answer.status,
            detail=refusal.detail,
            index=refusal.index,
        )

    # ------------------------------------------------------------------ link

    def _write(self, data: bytes, *, renews: bool = True) -> None:
        # The lease is renewed by another thread than the one that asks.
        with self._writing:
            if self._recorder is not None:
                self._recorder.record(capture.TO_BOARD, data)
            self.statistics.frames += 1
            self.statistics.bytes_tx += len(data)
            if renews:
                self._last_write = time.monotonic()
            try:
                self._link.write(data)
            except LinkError as error:
                self._fail(error)

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                data = self._link.read(_POLL_SECONDS)
                if data:
                    self._arrived(data)
            except CimError as error:
                if not self._closing.is_set():
                    self._fail(error)
                return

    def _arrived(self, data: bytes) -> None:
        if self._recorder is not None:
            self._recorder.record(capture.FROM_BOARD, data)
        arrived = list(self._decoder.feed(data))
        with self._changed:
            self.statistics.bytes_rx += len(data)
            self.statistics.corrupt = self._decoder.corrupt
            for frame in arrived:
                if isinstance(frame, frames.Frame) and frame.is_response:
                    self._match(frame)
            self._changed.notify_all()

    def _match(self, frame: frames.Frame) -> None:
        self.statistics.frames += 1
        if frame.sequence == 0 and frame.session == self._session:
            self._asides[_aside_key(frame.opcode, frame.payload)] = frame
            return
        pending = self._in_flight.get(frame.sequence)
        known = pending is not None and frame.opcode == pending.message.OPCODE
        if pending is None or frame.session != self._session or not known:
            self.statistics.stale += 1
        elif frame.status == Status.RETRY:
            pending.early = True
            self._heard = time.monotonic()
        else:
            self._heard = time.monotonic()
            self._silences = 0
            if pending.sends == 1:
                size = len(pending.frame)
                self._patience.learn(frame.opcode, size, self._heard - pending.sent)
            pending.answer = frame
            del self._in_flight[frame.sequence]

    def _fail(self, error: CimError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _aside_key(opcode: int, payload: Buffer) -> tuple[int, bytes]:
    """What an unordered request and its answer share: of JOURNAL, the nonce as well."""
    nonce = bytes(payload[:_NONCE_SIZE]) if opcode == Opcode.JOURNAL else b""
    return int(opcode), nonce


def _name(pending: Pending) -> str:
    return pending.message.OPCODE.name
