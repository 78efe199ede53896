"""Captures: what went over the line, and files that are none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from boards import capture, catalogue
from boards.board import Board
from boards.capture import FROM_BOARD, TO_BOARD, CaptureWriter
from boards.driver import LinkStatistics
from boards.errors import StorageError, UsageError
from boards.links import InProcessLink
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def session(recorder: CaptureWriter) -> LinkStatistics:
    """A short session: greeting, power up, PING, a read, SAFE."""
    with Board(EMU, InProcessLink(Firmware(Chip(EMU))), recorder=recorder) as board:
        board.power_up()
        board.ping(b"here")
        board.tiles[0].read(m.Region(0, 0, 4, 0, 4))
    return board.statistics


@pytest.fixture
def captured(tmp_path: Path) -> tuple[Path, LinkStatistics]:
    path = tmp_path / "session.cap"
    return path, session(CaptureWriter(path, {"board": "emu", "seed": 0}))


def sizes(path: Path, direction: bytes) -> int:
    """Bytes recorded in one direction, by walking the records of the file."""
    data = path.read_bytes()
    at = data.index(b"\n", len(b"CIMCAP1\n")) + 1
    total = 0
    while at < len(data):
        length = int.from_bytes(data[at + 9 : at + 13], "little")
        total += length if data[at : at + 1] == direction else 0
        at += 13 + length
    return total


def test_every_byte_of_a_session_is_recorded(captured: tuple[Path, LinkStatistics]) -> None:
    path, statistics = captured
    assert sizes(path, TO_BOARD) == statistics.bytes_tx
    assert sizes(path, FROM_BOARD) == statistics.bytes_rx


def test_the_frames_of_a_session_come_back_in_order(captured: tuple[Path, LinkStatistics]) -> None:
    records = list(capture.read(captured[0]))
    asked = [r.frame for r in records if r.direction == TO_BOARD]
    answered = [r.frame for r in records if r.direction == FROM_BOARD]
    assert all(isinstance(f, frames.Frame) for f in asked + answered)
    opcodes = [
        Opcode.HELLO, Opcode.JOURNAL, Opcode.CONFIGURE, Opcode.PING, Opcode.READ, Opcode.SAFE,
    ]  # fmt: skip
    assert [f.opcode for f in asked if isinstance(f, frames.Frame)] == opcodes
    assert [f.opcode for f in answered if isinstance(f, frames.Frame)] == opcodes
    times = [r.nanoseconds for r in records]
    assert min(times) >= 0
    assert max(times) > 0


def test_the_header_tells_the_board(captured: tuple[Path, LinkStatistics]) -> None:
    assert capture.read_header(captured[0]) == {"board": "emu", "seed": 0}


def test_damaged_bytes_on_the_line_come_back_as_corrupt_frames(tmp_path: Path) -> None:
    path = tmp_path / "noise.cap"
    writer = CaptureWriter(path, {})
    writer.record(FROM_BOARD, b"\x05no")
    writer.record(FROM_BOARD, b"ise\0")
    writer.close()
    (record,) = capture.read(path)
    assert isinstance(record.frame, frames.CorruptFrame)


def test_a_closed_writer_takes_no_more_and_may_be_closed_twice(tmp_path: Path) -> None:
    path = tmp_path / "closed.cap"
    writer = CaptureWriter(path, {})
    writer.close()
    size = path.stat().st_size
    writer.record(TO_BOARD, b"late")
    writer.close()
    assert path.stat().st_size == size


# --- files that are no whole capture -------------------------------------------------------------


def test_a_capture_cut_anywhere_gives_what_stands_before_the_cut(
    captured: tuple[Path, LinkStatistics],
) -> None:
    path, _ = captured
    whole = list(capture.read(path))
    data = path.read_bytes()
    first = data.index(b"\n", len(b"CIMCAP1\n")) + 1
    told = 0  # cuts that were noticed
    for cut in range(first, len(data)):
        path.write_bytes(data[:cut])
        seen: list[capture.Record] = []
        with contextlib.suppress(UsageError):
            seen.extend(capture.read(path))
            told -= 1
        told += 1
        assert seen == whole[: len(seen)]
        assert len(seen) < len(whole)
    # Only where one record ends and the next begins does a cut go unseen.
    assert len(data) - first - told == len(whole)


@pytest.mark.parametrize("data", [b"", b"CIMCAP", b"CIMCAP2\n{}\n", b"\0" * 100, b"{}\n"])
def test_a_file_that_is_no_capture_is_called_so(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is no capture file"):
        capture.read_header(path)
    with pytest.raises(UsageError, match="is no capture file"):
        list(capture.read(path))


@pytest.mark.parametrize("header", [b"", b"{\n", b"not json\n", b"\xff\xfe\n", b'{"board": "em'])
def test_a_capture_with_a_damaged_header_is_called_so(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "damaged.cap"
    path.write_bytes(b"CIMCAP1\n" + header)
    with pytest.raises(UsageError, match=r"damaged\.cap"):
        capture.read_header(path)


def test_a_capture_that_ends_within_a_record_says_so(
    captured: tuple[Path, LinkStatistics],
) -> None:
    path, _ = captured
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match="ends within a record"):
        list(capture.read(path))


def test_a_record_of_no_direction_is_damage(captured: tuple[Path, LinkStatistics]) -> None:
    path, _ = captured
    with path.open("ab") as file:
        file.write(b"?" + bytes(12))
    with pytest.raises(UsageError, match=r"session\.cap"):
        list(capture.read(path))


def test_a_capture_that_is_not_there_or_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.cap", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            list(capture.read(path))


# --- no space ------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        CaptureWriter(tmp_path / "missing" / "session.cap", {})


@needs_full_device
def test_a_full_disk_during_a_session_is_a_storage_error() -> None:
    writer = CaptureWriter(FULL, {})
    board = Board(EMU, InProcessLink(Firmware(Chip(EMU))), recorder=writer)
    with pytest.raises(StorageError, match="No space left"):
        board.ping(bytes(1 << 19))
    with pytest.raises(StorageError):
        board.close()


@needs_full_device
def test_a_full_disk_at_the_end_of_a_session_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="No space left"):
        session(CaptureWriter(FULL, {}))
