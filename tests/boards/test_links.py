"""Links: TCP and pseudo-terminals that an emulated board serves, bad addresses, and locks."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial

from boards import catalogue, locks
from boards.board import Board
from boards.errors import (
    LinkError,
    NoBoardError,
    PortBusyError,
    StorageError,
    UsageError,
)
from boards.links import InProcessLink, Link, SerialLink, TcpLink, open_port
from cimctl.connect import BoardOptions, connect
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_HASH, VERSION, Opcode
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.server import TcpServer

EMU = catalogue.load("emu")
SEED = 11


@pytest.fixture(scope="module")
def terminal(serve_emulator: Any) -> str:
    """A pseudo-terminal with an emulated board behind it."""
    address, _ = serve_emulator("--board", "emu", "--listen", "pty", "--seed", str(SEED))
    assert address.startswith("/dev/")
    return str(address)


@pytest.fixture(scope="module")
def tcp() -> Iterator[str]:
    """A TCP port with an emulated board behind it."""
    server = TcpServer("127.0.0.1", 0, Firmware(Chip(EMU, SEED)))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server.address
    server.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def closed_port() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def programmed_and_read(board: Board) -> np.ndarray[Any, Any]:
    """Readings of programmed cells: no two seeds give the same.

    The chip is first made what it was, whatever it lived through in other tests.
    """
    board.restore(fresh())
    board.power_up()
    cells = np.arange(600)
    board.tiles[1].program(
        cells // 64, cells % 64, np.linspace(15000, 50000, 600).astype(np.uint16),
        cycles=2, tolerance=819,
    )  # fmt: skip
    return board.tiles[1].read(samples=2)


def fresh() -> bytes:
    with Board(EMU, InProcessLink(Firmware(Chip(EMU, SEED)))) as board:
        return board.snapshot()


def in_process() -> np.ndarray[Any, Any]:
    with Board(EMU, InProcessLink(Firmware(Chip(EMU, SEED)))) as board:
        return programmed_and_read(board)


@pytest.mark.parametrize("max_payload", [256, None])
@pytest.mark.parametrize("kind", ["tcp", "terminal"])
def test_a_link_carries_the_same_bits_as_no_link(
    kind: str, max_payload: int | None, request: pytest.FixtureRequest
) -> None:
    port = request.getfixturevalue(kind)
    with connect(BoardOptions("emu", port=port, max_payload=max_payload)) as board:
        assert np.array_equal(programmed_and_read(board), in_process())
        assert board.statistics.corrupt == 0


@pytest.mark.parametrize("kind", ["tcp", "terminal"])
def test_payloads_of_every_byte_value_and_a_megabyte_come_back(
    kind: str, request: pytest.FixtureRequest
) -> None:
    with connect(BoardOptions("emu", port=request.getfixturevalue(kind))) as board:
        board.ping(bytes(range(256)))
        board.ping(bytes(1 << 18) + b"U" * (1 << 18) + np.random.default_rng(0).bytes(1 << 18))


def test_any_serial_program_can_talk_to_the_terminal(terminal: str) -> None:
    request = m.HelloRequest(VERSION, SPEC_HASH, 0)
    with serial.Serial(terminal, 115200, timeout=30) as port:
        port.write(b"\0" + frames.encode(Opcode.HELLO, 1, 0, request.parts()))
        heard = port.read_until(b"\0")
    (answer,) = frames.Decoder().feed(heard)
    assert isinstance(answer, frames.Frame)
    assert m.HelloResponse.decode(answer.payload).model == "emu"


def test_the_terminal_can_be_opened_again_after_it_was_closed(terminal: str) -> None:
    for _ in range(2):
        with connect(BoardOptions("emu", port=terminal)) as board:
            board.ping(b"again")


def test_a_terminal_held_by_another_program_is_busy(terminal: str) -> None:
    holder = SerialLink(terminal, 115200)
    try:
        with pytest.raises(PortBusyError, match=terminal) as caught:
            SerialLink(terminal, 115200)
        assert "not touched" in caught.value.left
    finally:
        holder.close()
    SerialLink(terminal, 115200).close()


def test_a_serial_line_tells_its_rate_and_a_network_has_none(terminal: str, tcp: str) -> None:
    for port, rate in ((terminal, 11520.0), (tcp, None)):
        link = open_port(port, 115200)
        assert link.rate == rate
        link.close()


def test_links_may_be_closed_twice_and_then_raise(terminal: str, tcp: str) -> None:
    for port in (terminal, tcp):
        link: Link = open_port(port, 115200)
        link.close()
        link.close()
        with pytest.raises(LinkError):
            link.write(b"x")
        with pytest.raises(LinkError):
            link.read(0.0)


def test_reading_returns_empty_when_nothing_comes(terminal: str, tcp: str) -> None:
    for port in (terminal, tcp):
        link = open_port(port, 115200)
        assert link.read(0.01) == b""
        link.close()


def test_a_peer_that_hangs_up_is_a_failed_link_not_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = TcpLink("127.0.0.1", listener.getsockname()[1])
        listener.accept()[0].close()
        with pytest.raises(LinkError, match="closed"):
            link.read(30.0)
        link.close()


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "tcp://",
        "tcp://host",
        "tcp://host:0",
        "tcp://host:x",
        "tcp://host:65536",
        "tcp://:5000",
        "tcp://[::1:5000",
        "socket://host:999999",
        "nonsense://host:1",
    ],
)
def test_an_address_that_makes_no_sense_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_port(address, 115200)
    assert f"'{address}'" in caught.value.what


@pytest.mark.parametrize("host", ["a" * 70, "..", "one..two"])
def test_a_host_that_can_have_no_address_is_no_board(host: str) -> None:
    with pytest.raises(NoBoardError):
        open_port(f"tcp://{host}:5000", 115200)


def test_a_port_where_nothing_listens_is_no_board(closed_port: str) -> None:
    with pytest.raises(NoBoardError, match=closed_port):
        open_port(closed_port, 115200)


def test_a_device_that_is_not_there_is_no_board(tmp_path: Path) -> None:
    missing = str(tmp_path / "ttyUSB7")
    with pytest.raises(NoBoardError, match="ttyUSB7"):
        open_port(missing, 115200)


def test_a_file_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoBoardError, match="file"):
        open_port(str(tmp_path / "file"), 115200)


def test_a_line_that_echoes_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boards.driver._HELLO_SECONDS", 0.05)
    with pytest.raises(NoBoardError, match="loop://"):
        connect(BoardOptions("emu", port="loop://"))


def test_hardware_needs_a_port() -> None:
    with pytest.raises(NoBoardError, match="brram-soc") as caught:
        connect(BoardOptions("brram-soc"))
    assert "--port" in caught.value.next


def test_a_profile_of_another_board_is_refused_and_leaves_the_board_alone(tcp: str) -> None:
    with pytest.raises(UsageError, match="brram-256x64") as caught:
        connect(BoardOptions("brram-256x64", port=tcp))
    assert "--board emu" in caught.value.next
    with connect(BoardOptions("emu", port=tcp)) as board:
        board.ping()


# --- locks ---------------------------------------------------------------------------------------


def test_a_board_in_use_is_busy_until_it_is_closed(tcp: str) -> None:
    with connect(BoardOptions("emu", port=tcp)) as first:
        with pytest.raises(PortBusyError, match=tcp):
            connect(BoardOptions("emu", port=tcp))
        first.ping(b"undisturbed")
    with connect(BoardOptions("emu", port=tcp)) as second:
        second.ping()


def test_a_failed_connection_frees_the_lock(closed_port: str) -> None:
    for _ in range(2):
        with pytest.raises(NoBoardError):
            connect(BoardOptions("emu", port=closed_port))


def test_aliases_of_a_device_share_its_lock(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to("/dev/null")
    assert locks.lock_path(str(tmp_path / "by-id")) == locks.lock_path("/dev/null")
    assert locks.lock_path("socket://h:1") == locks.lock_path("tcp://h:1")
    assert locks.lock_path("tcp://h:1") != locks.lock_path("tcp://h:2")


def test_boards_on_different_ports_do_not_lock_each_other() -> None:
    one, two = locks.acquire("tcp://h:1"), locks.acquire("tcp://h:2")
    with pytest.raises(PortBusyError):
        locks.acquire("socket://h:1")
    one.release()
    locks.acquire("socket://h:1").release()
    two.release()


def test_a_lock_that_cannot_be_made_is_a_storage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="lock"):
        locks.acquire("tcp://h:1")
