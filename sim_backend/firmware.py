"""The emulated firmware: bytes in, bytes out.

Sessions, order, and answers kept for duplicates are here; what each command does to the chip is in
``sim_backend.commands``.
"""

from __future__ import annotations

from collections import OrderedDict

from boards.profile import Profile
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Buffer, PayloadError
from firmware_protocol.constants import SPEC_HASH, VERSION, Detail, Flag, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.commands import Commands, Refused

_HELLO_OPEN = 1


class Firmware:
    """One board's firmware on one chip; several links may take turns, one session at a time.

    Args:
        chip: the chip below.
        spec_hash: the specification that the board claims to speak (settable for tests).
    """

    def __init__(self, chip: Chip, *, spec_hash: int = SPEC_HASH) -> None:
        self.chip = chip
        self._spec_hash = spec_hash
        self._crc_seed = spec_hash & 0xFFFFFFFF
        self._commands = Commands(chip)
        self._session = 0
        self._expected = 1
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._decoder = self.decoder()

    def decoder(self) -> frames.Decoder:
        """A decoder for one connection."""
        return frames.Decoder(self._profile.link.max_payload, crc_seed=self._crc_seed)

    @property
    def _profile(self) -> Profile:
        return self.chip.profile

    def receive(self, data: Buffer, decoder: frames.Decoder | None = None) -> bytes:
        """Takes any bytes and gives the answers that they cause."""
        decoder = decoder or self._decoder
        answers = []
        for frame in decoder.feed(data):
            if isinstance(frame, frames.CorruptFrame):
                self._commands.corrupt_frames += 1
            elif not frame.is_response:
                answers.append(self._answered(frame))
        return b"".join(answers)

    def _answered(self, frame: frames.Frame) -> bytes:
        if frame.opcode == Opcode.HELLO:
            return self._hello(frame)
        if frame.session != self._session or not self._session:
            return self._refusal(frame, Refused(Status.NO_SESSION))
        if frame.sequence in self._kept:
            self._commands.duplicates += 1
            return self._kept[frame.sequence]
        if frame.sequence < self._expected:
            return self._refusal(frame, Refused(Status.STALE))
        if frame.sequence > self._expected:
            return self._refusal(frame, Refused(Status.RETRY))
        answer = self._executed(frame)
        self._expected += 1
        self._kept[frame.sequence] = answer
        # A host has at most a window of requests without an answer, so none older is asked for.
        while len(self._kept) > self._profile.link.window:
            self._kept.popitem(last=False)
        return answer

    def _executed(self, frame: frames.Frame) -> bytes:
        try:
            kind = m.REQUESTS.get(frame.opcode)
            if kind is None:
                raise Refused(Status.UNSUPPORTED, Detail.OPCODE)
            request = kind.decode(frame.payload)
            answer = self._commands.execute(request)
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
            self._session = frame.session
            self._expected = 1
            self._kept.clear()
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
