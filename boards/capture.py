"""Capture files: every byte of a session, with its time and direction.

Layout: ``CIMCAP1\\n``, one line of JSON (board, specification), then records of direction (1 byte,
``>`` to the board, ``<`` from it), nanoseconds since the start (8 bytes), length (4 bytes), bytes.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.errors import StorageError, UsageError
from firmware_protocol import frames

_MAGIC = b"CIMCAP1\n"
_RECORD = struct.Struct("<cQI")
TO_BOARD, FROM_BOARD = b">", b"<"


class CaptureWriter:
    """Appends records to a capture file.

    Raises:
        StorageError: from the constructor and from ``record``, when the file cannot be written.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._start = time.monotonic_ns()
        self._recording = threading.Lock()
        try:
            self._file = path.open("wb")
            self._file.write(_MAGIC + json.dumps(header).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from None

    def record(self, direction: bytes, data: bytes) -> None:
        if self._file.closed:
            return
        try:
            # In one piece: each direction has a thread of its own.
            with self._recording:
                elapsed = time.monotonic_ns() - self._start
                self._file.write(_RECORD.pack(direction, elapsed, len(data)) + data)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"The capture {self._path} cannot be written: {error.strerror}",
            next="Free some space, or name another file with --capture",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One frame of a capture, or what should have been one."""

    direction: bytes
    nanoseconds: int
    frame: frames.Frame | frames.CorruptFrame


def read_header(path: Path) -> dict[str, Any]:
    """The JSON line of a capture: board and specification."""
    with _opened(path) as file:
        file.read(len(_MAGIC))
        try:
            header: dict[str, Any] = json.loads(file.readline())
        except ValueError:
            raise _truncated(path) from None
        return header


def read(path: Path) -> Iterator[Record]:
    """The frames of a capture, in the order in which they were completed.

    Raises:
        UsageError: there is no such file, or it is no capture, or it ends within a record.
    """
    decoders = {TO_BOARD: frames.Decoder(), FROM_BOARD: frames.Decoder()}
    with _opened(path) as file:
        file.read(len(_MAGIC))
        file.readline()
        while head := file.read(_RECORD.size):
            if len(head) < _RECORD.size:
                raise _truncated(path)
            direction, nanoseconds, length = _RECORD.unpack(head)
            data = file.read(length)
            if len(data) < length or direction not in decoders:
                raise _truncated(path)
            for frame in decoders[direction].feed(data):
                yield Record(direction, nanoseconds, frame)


def _opened(path: Path) -> Any:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"The capture '{path}' cannot be read: {error.strerror}") from None
    if file.read(len(_MAGIC)) != _MAGIC:
        file.close()
        raise UsageError(f"'{path}' is no capture file", next="Make one with --capture FILE")
    file.seek(0)
    return file


def _truncated(path: Path) -> UsageError:
    return UsageError(
        f"The capture '{path}' is damaged or ends within a record",
        next="The session that wrote it was cut off; what stands before is usable",
    )
