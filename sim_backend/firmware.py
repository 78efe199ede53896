"""The emulated firmware: bytes in, bytes out.

Sessions, order, answers kept for duplicates, the lease and power loss are here; what each command
does to the chip is in ``sim_backend.commands``.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from boards.profile import Profile
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Buffer, PayloadError
from firmware_protocol.constants import SPEC_HASH, VERSION, Detail, Flag, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.commands import Commands, PowerCut, Refused

_HELLO_OPEN = 1
#: requests that travel outside of the order, with sequence number 0
_UNORDERED = (Opcode.LEASE, Opcode.JOURNAL)


class Firmware:
    """One board's firmware on one chip; several links may take turns, one session at a time.

    Args:
        chip: the chip below.
        spec_hash: the specification that the board claims to speak (settable for tests).
        clock: wall time in seconds, which the lease alone runs on.
    """

    def __init__(
        self,
        chip: Chip,
        *,
        spec_hash: int = SPEC_HASH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chip = chip
        self._spec_hash = spec_hash
        self._crc_seed = spec_hash & 0xFFFFFFFF
        self._clock = clock
        self._power_up()
        self._decoder = self.decoder()

    def _power_up(self) -> None:
        """What a start of the processor sets: all that is not in non-volatile memory."""
        self._commands = Commands(self.chip)
        self._session = 0
        self._expected = 1
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lease = self._profile.limits.lease_ms / 1000
        self._lease_ends = self._clock() + self._lease

    def decoder(self) -> frames.Decoder:
        """A decoder for one connection."""
        return frames.Decoder(self._profile.link.max_payload, crc_seed=self._crc_seed)

    def connection(self) -> Connection:
        """One link's end of the board."""
        return Connection(self)

    def reboot(self) -> None:
        """A loss of power: what is not in non-volatile memory is gone."""
        self.chip.reboot()
        self._power_up()

    def cut_next(self, cells: int) -> None:
        """The power will fail within the next command that changes cells, after that many.

        The journal names the next one as in doubt; of an odd number of cells, it is done.
        """
        self._commands.cut_after = cells

    @property
    def _profile(self) -> Profile:
        return self.chip.profile

    def receive(self, data: Buffer, decoder: frames.Decoder | None = None) -> bytes:
        """Takes any bytes and gives the answers that they cause."""
        answers = []
        for frame in (decoder or self._decoder).feed(data):
            if isinstance(frame, frames.CorruptFrame):
                self._commands.corrupt_frames += 1
            elif not frame.is_response:
                self._check_lease()
                answers.append(self._answered(frame))
        return b"".join(answers)

    def _check_lease(self) -> None:
        """Takes the supplies to ground where the lease has run out in the meantime."""
        if self._lease and self._clock() > self._lease_ends:
            self._commands.lease_ends()

    def _answered(self, frame: frames.Frame) -> bytes:
        if frame.opcode == Opcode.HELLO:
            return self._hello(frame)
        if frame.opcode == Opcode.JOURNAL and frame.sequence == 0:
            return self._executed(frame)
        if frame.session != self._session or not self._session:
            return self._refusal(frame, Refused(Status.NO_SESSION))
        answer = self._in_session(frame)
        self._lease_ends = self._clock() + self._lease
        return answer

    def _in_session(self, frame: frames.Frame) -> bytes:
        if frame.sequence == 0:
            return self._out_of_order(frame)
        if frame.sequence in self._kept:
            self._commands.duplicates += 1
            return self._kept[frame.sequence]
        if frame.sequence < self._expected:
            return self._refusal(frame, Refused(Status.STALE))
        if frame.sequence > self._expected:
            return self._refusal(frame, Refused(Status.RETRY))
        try:
            answer = self._executed(frame)
        except PowerCut:
            self.reboot()
            return b""
        if frame.opcode == Opcode.REBOOT and not frame.payload:
            self.reboot()
            return answer
        self._expected += 1
        self._kept[frame.sequence] = answer
        # A host has at most a window of requests without an answer, so none older is asked for.
        while len(self._kept) > self._profile.link.window:
            self._kept.popitem(last=False)
        return answer

    def _out_of_order(self, frame: frames.Frame) -> bytes:
        """Requests with sequence number 0: those that may be repeated at will, and no others."""
        if frame.opcode not in _UNORDERED:
            return self._refusal(frame, Refused(Status.BAD_REQUEST, Detail.ORDER))
        answer = self._executed(frame)
        self._lease = self._commands.lease_ms / 1000
        return answer

    def _executed(self, frame: frames.Frame) -> bytes:
        try:
            kind = m.REQUESTS.get(frame.opcode)
            if kind is None:
                raise Refused(Status.UNSUPPORTED, Detail.OPCODE)
            if frame.opcode in _UNORDERED and frame.sequence:
                raise Refused(Status.BAD_REQUEST, Detail.ORDER)
            request = kind.decode(frame.payload)
            answer = self._commands.execute(request, frame.session, frame.sequence)
        except PayloadError:
            return self._refusal(frame, Refused(Status.BAD_REQUEST, Detail.LENGTH))
        except Refused as refused:
            return self._refusal(frame, refused)
        return self._frame(frame, answer.parts(), Status.OK)

    def _hello(self, frame: frames.Frame) -> bytes:
        try:
            request = m.HelloRequest.decode(frame.payload)
        except PayloadError:
            return self._refusal(frame, Refused(Status.BAD_REQUEST, Detail.LENGTH))
        same = request.version == VERSION and request.spec_hash == self._spec_hash
        if same and request.flags & _HELLO_OPEN and frame.session != self._session:
            self._open(frame.session)
        answer = m.HelloResponse(
            version=VERSION,
            spec_hash=self._spec_hash,
            board_id=self._commands.board_id,
            boot_id=self.chip.boot_id,
            model=self._profile.name,
            firmware="cimctl emulator",
            description=self._commands.description.encode(),
        )
        return self._frame(frame, answer.parts(), Status.OK if same else Status.SPEC_MISMATCH)

    def _open(self, session: int) -> None:
        self._session = session
        self._expected = 1
        self._kept.clear()
        self._commands.lease_ms = self._profile.limits.lease_ms
        self._lease = self._commands.lease_ms / 1000
        self._lease_ends = self._clock() + self._lease

    def _refusal(self, frame: frames.Frame, refused: Refused) -> bytes:
        answer = m.Refusal(refused.detail, refused.index, refused.limit)
        return self._frame(frame, answer.parts(), refused.status)

    def _frame(self, request: frames.Frame, parts: tuple[Buffer, ...], status: int) -> bytes:
        return frames.encode(
            request.opcode,
            request.session,
            request.sequence,
            parts,
            flags=Flag.RESPONSE,
            status=status,
            crc_seed=self._crc_seed,
        )


class Connection:
    """One link's end of a board: a decoder of its own before the one firmware."""

    def __init__(self, firmware: Firmware) -> None:
        self._firmware = firmware
        self._decoder = firmware.decoder()

    def receive(self, data: Buffer) -> bytes:
        """Takes any bytes and gives the answers that they cause."""
        return self._firmware.receive(data, self._decoder)
