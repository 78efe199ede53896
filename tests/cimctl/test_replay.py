"""Playing a captured session to a board: what it asks before, checks, and leaves behind."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boards import capture, catalogue
from boards.board import Board
from boards.firmware_build import MissingToolError
from boards.links import InProcessLink, open_port
from cimctl.cli.root import run
from cimctl.trace import play
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

if TYPE_CHECKING:
    from tests.conftest import ServeEmulator


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Path:
    """A capture that pulses two cells."""
    folder = tmp_path_factory.mktemp("captures")
    (folder / "counts.csv").write_text("3,-2\n")
    path = folder / "session.cap"
    arguments = ["pulse", "--board", "emu", "--tile", "0", "--input", str(folder / "counts.csv")]
    subprocess.run([*command, *arguments, "--capture", str(path)], check=True, timeout=60)
    return path


def status(port: str) -> tuple[int, int]:
    """Supplies and operations of the emulated board there."""
    board = Board(catalogue.load("emu"), open_port(port, 0))
    found = board.status()
    board.close()
    return found.powered, found.operations


def test_cells_of_a_board_at_a_port_change_only_when_agreed(
    session: Path, serve_emulator: ServeEmulator, capsys: pytest.CaptureFixture[str]
) -> None:
    port, _ = serve_emulator("--board", "emu")
    arguments = ["proto", "replay", str(session), "--board", "emu", "--port", port]
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert "1 requests of this session change cells" in said and "--yes" in said
    assert status(port) == (0, 0)
    assert run([*arguments, "--yes"]) == 0
    assert status(port) == (0, 1)


def test_an_interrupted_replay_leaves_the_board_safe(session: Path) -> None:
    firmware = Firmware(Chip(catalogue.load("emu")))
    requests = sum(r.direction == capture.TO_BOARD for r in capture.read(session))

    class Interrupted(InProcessLink):
        """Ctrl-C comes once, when all but the last request, SAFE, have been played."""

        left = requests - 1

        def write(self, data: bytes) -> None:
            self.left -= 1
            if self.left < 0 and firmware.chip.slots:
                super().write(data) if self.left < -1 else self.interrupt()
            else:
                super().write(data)

        def interrupt(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(session, Interrupted(firmware))
    assert firmware.chip.cells.count("operations") == 1
    assert not firmware.chip.slots


def test_a_damaged_capture_is_refused_before_anything_is_sent(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(session.read_bytes())
    # Within the first frame: behind the heads of file and record.
    first = data.index(b"\n", 10) + 1 + 13 + 8
    data[first] ^= 0x10
    path = tmp_path / "damaged.cap"
    path.write_bytes(data)
    assert run(["proto", "replay", str(path), "--board", "emu"]) == 2
    said = capsys.readouterr().err
    assert "damaged" in said and "Nothing was sent" in said


def test_a_session_of_qemu_plays_to_one_that_is_still_booting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from boards import launch

    try:
        launch.start(catalogue.load("qemu")).close()
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    path = tmp_path / "qemu.cap"
    assert run(["board", "info", "--board", "qemu", "--capture", str(path)]) == 0
    for _ in range(3):
        assert run(["proto", "replay", str(path), "--board", "qemu"]) == 0
    assert "all the same" in capsys.readouterr().out


def test_an_empty_port_is_no_emulated_chip(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["board", "info", "--board", "emu", "--port", ""]) == 2
    assert "--port is empty" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_is_an_interrupt(
    number: signal.Signals, command: list[str], serve_emulator: ServeEmulator
) -> None:
    port, _ = serve_emulator("--board", "emu")
    process = subprocess.Popen(
        [*command, "conformance", "--board", "emu", "--port", port],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(2.5)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (130, 0)
    assert status(port)[0] == 0
