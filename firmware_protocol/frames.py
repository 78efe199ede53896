"""Frames on a byte stream.

A frame is ``COBS(header, payload XOR 0x55, CRC-32)`` and a zero byte.  The XOR keeps the stuffing
fast: rectified activations are half zeros, and every zero costs COBS a block of its own.  The
decoder never raises on wire data; what fails its check comes out as a value and is counted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cobs import cobs

from firmware_protocol.codec import Buffer
from firmware_protocol.constants import (
    CRC_SEED,
    DELIMITER,
    PAYLOAD_XOR,
    VERSION,
    Flag,
    Opcode,
    Status,
)

_HEADER = struct.Struct("<BBBBIII")
_CRC_SIZE = 4
OVERHEAD = _HEADER.size + _CRC_SIZE
_DELIMITER = bytes([DELIMITER])
#: a plain integer, since operations of flags are slow
_RESPONSE = int(Flag.RESPONSE)
_MASKED = bytes(value ^ PAYLOAD_XOR for value in range(256))
#: payloads up to this size are masked by table, larger ones by array
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that passed its checks."""

    opcode: int
    session: int
    sequence: int
    payload: Buffer = b""
    flags: int = 0
    status: int = Status.OK

    @property
    def is_response(self) -> bool:
        return bool(self.flags & _RESPONSE)


@dataclass(frozen=True, slots=True)
class CorruptFrame:
    """Bytes between two delimiters that are no frame, and why."""

    reason: str
    size: int


def wire_size(payload: int) -> int:
    """Bytes on the wire of a frame with that payload, at most."""
    body = payload + OVERHEAD
    return body + body // 254 + 2


def encode(
    opcode: int,
    session: int,
    sequence: int,
    parts: Sequence[Buffer] = (),
    *,
    flags: int = 0,
    status: int = Status.OK,
    crc_seed: int = CRC_SEED,
) -> bytes:
    """A frame as it goes on the wire, delimiter included; ``parts`` make the payload."""
    seed = 0 if opcode == Opcode.HELLO else crc_seed
    head = (VERSION, flags, opcode, status, session, sequence)
    length = sum(len(part) for part in parts)
    stuffed: bytes = cobs.encode(
        _small_body(head, b"".join(parts), seed)
        if length <= _SMALL
        else _large_body(head, parts, length, seed)
    )
    return stuffed + _DELIMITER


def _small_body(head: tuple[int, ...], payload: bytes, seed: int) -> bytes:
    """Header, masked payload and CRC; a table look-up costs less than setting up arrays."""
    body = _HEADER.pack(*head, len(payload)) + payload.translate(_MASKED)
    return body + zlib.crc32(body, seed).to_bytes(_CRC_SIZE, "little")


def _large_body(
    head: tuple[int, ...], parts: Sequence[Buffer], length: int, seed: int
) -> npt.NDArray[np.uint8]:
    """The same in one buffer, each part masked into its place."""
    body = np.empty(length + OVERHEAD, dtype=np.uint8)
    _HEADER.pack_into(body.data, 0, *head, length)
    at = _HEADER.size
    for part in parts:
        end = at + len(part)
        np.bitwise_xor(np.frombuffer(part, dtype=np.uint8), PAYLOAD_XOR, out=body[at:end])
        at = end
    crc = zlib.crc32(body[:at].data, seed)
    body[at:] = np.frombuffer(crc.to_bytes(_CRC_SIZE, "little"), dtype=np.uint8)
    return body


def decode(stuffed: Buffer, *, crc_seed: int = CRC_SEED) -> Frame | CorruptFrame:
    """Decodes what stood between two delimiters."""
    try:
        body = cobs.decode(stuffed)
    except cobs.DecodeError:
        return CorruptFrame("stuffing", len(stuffed))
    if len(body) < OVERHEAD:
        return CorruptFrame("too short", len(stuffed))
    version, flags, opcode, status, session, sequence, length = _HEADER.unpack_from(body)
    if length != len(body) - OVERHEAD:
        return CorruptFrame("length", len(stuffed))
    seed = 0 if opcode == Opcode.HELLO else crc_seed
    view = memoryview(body)
    if zlib.crc32(view[:-_CRC_SIZE], seed) != int.from_bytes(view[-_CRC_SIZE:], "little"):
        return CorruptFrame("checksum", len(stuffed))
    if version != VERSION and opcode != Opcode.HELLO:
        return CorruptFrame("version", len(stuffed))
    payload: Buffer
    if length <= _SMALL:
        payload = memoryview(body[_HEADER.size : -_CRC_SIZE].translate(_MASKED))
    else:
        masked = np.frombuffer(body, dtype=np.uint8, count=length, offset=_HEADER.size)
        payload = np.bitwise_xor(masked, PAYLOAD_XOR).data
    return Frame(opcode, session, sequence, payload, flags, status)


class Decoder:
    """Takes any chunks of any bytes and gives frames; resynchronises at the next delimiter.

    Args:
        max_payload: payloads beyond this are dropped as corrupt, so that a stream without
            delimiters cannot fill the memory.
        crc_seed: where the CRC of all frames but HELLO starts.
    """

    def __init__(self, max_payload: int = 1 << 24, *, crc_seed: int = CRC_SEED) -> None:
        self._max_payload = max_payload
        self._limit = wire_size(max_payload)
        self._crc_seed = crc_seed
        self._pending: list[bytes] = []
        self._pending_size = 0
        #: frames that failed a check since the decoder was made
        self.corrupt = 0

    def feed(self, chunk: Buffer) -> Iterable[Frame | CorruptFrame]:
        """Yields what the chunk completes, in order."""
        data, begin = bytes(chunk), 0
        # Large frames: a search and a slice take an eighth of the time of bytes.split.
        while (end := data.find(_DELIMITER, begin)) >= 0:
            stuffed = self._take(data[begin:end])
            begin = end + 1
            if stuffed:
                yield self._checked(stuffed)
        self._keep(data[begin:])

    def _keep(self, piece: bytes) -> None:
        self._pending_size += len(piece)
        if self._pending_size <= self._limit and piece:
            self._pending.append(piece)

    def _take(self, piece: bytes) -> bytes | CorruptFrame:
        self._keep(piece)
        size, parts = self._pending_size, self._pending
        self._pending, self._pending_size = [], 0
        if size > self._limit:
            return CorruptFrame("too long", size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _checked(self, stuffed: bytes | CorruptFrame) -> Frame | CorruptFrame:
        result = (
            stuffed
            if isinstance(stuffed, CorruptFrame)
            else decode(stuffed, crc_seed=self._crc_seed)
        )
        if isinstance(result, Frame) and len(result.payload) > self._max_payload:
            result = CorruptFrame("too long", len(result.payload))
        if isinstance(result, CorruptFrame):
            self.corrupt += 1
        return result
