"""Kept captures play alike on a fresh board: what a session was answered, it is answered today."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from boards import capture, catalogue, launch
from boards.board import Board
from boards.firmware_build import MissingToolError
from boards.links import InProcessLink, Link
from cimctl.cli.root import run
from cimctl.trace import play
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_DIGEST, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

FOLDER = Path(__file__).parent / "captures"
SCRIPT = FOLDER / "record.py"
NAMES = ("ideal", "noisy", "retries", "refusals")


def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_captures", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def kept(name: str) -> Path:
    """A capture that this specification can read."""
    path = FOLDER / f"{name}.cap"
    if capture.read_header(path)["spec"] != SPEC_DIGEST:
        pytest.fail(
            f"{path.name} was recorded with another specification: record the captures anew with "
            f"python tests/captures/{SCRIPT.name}, and commit them"
        )
    return path


def fresh(path: Path, seed: int | None = None) -> Link:
    """An emulated board of the capture's profile and seed."""
    header = capture.read_header(path)
    seed = header["seed"] if seed is None else seed
    return InProcessLink(Firmware(Chip(catalogue.load(header["board"]), seed)))


def sound(path: Path, direction: bytes) -> list[frames.Frame]:
    records = [r.frame for r in capture.read(path) if r.direction == direction]
    return [f for f in records if isinstance(f, frames.Frame)]


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_board_answers_a_kept_capture_as_it_was_answered(name: str) -> None:
    path = kept(name)
    result = play(path, fresh(path))
    assert (result.different, result.first_difference) == (0, 0)
    sequences = {(f.sequence, f.opcode) for f in sound(path, capture.TO_BOARD)}
    assert result.requests == result.same == len(sequences) > 20


@pytest.mark.parametrize("name", ["ideal", "noisy"])
def test_another_chip_answers_otherwise(name: str) -> None:
    path = kept(name)
    assert play(path, fresh(path, seed=99)).different > 3


def test_the_command_line_plays_a_kept_capture_and_tells_another_chip(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, seed = kept("noisy"), capture.read_header(FOLDER / "noisy.cap")["seed"]
    replay = ["proto", "replay", str(path), "--board", "emu", "--seed"]
    assert run([*replay, str(seed)]) == 0
    assert "all the same" in capsys.readouterr().out
    assert run([*replay, str(seed + 1)]) != 0
    assert "answers differ" in capsys.readouterr().err


def test_the_kept_captures_hold_what_they_are_kept_for() -> None:
    for name in ("ideal", "noisy"):
        asked = {f.opcode for f in sound(kept(name), capture.TO_BOARD)}
        wanted = {Opcode.PROGRAM, Opcode.PULSE, Opcode.LOAD, Opcode.READ, Opcode.WEAR, Opcode.VMM}
        assert asked > wanted
    asked = Counter(f.sequence for f in sound(kept("retries"), capture.TO_BOARD))
    assert sum(times > 1 for times in asked.values()) > 20
    answers = sound(kept("retries"), capture.FROM_BOARD)
    assert any(f.status == Status.RETRY for f in answers)
    refused = [f for f in sound(kept("refusals"), capture.FROM_BOARD) if f.status != Status.OK]
    assert len({m.Refusal.decode(f.payload).detail for f in refused}) > 12
    assert sum(path.stat().st_size for path in FOLDER.glob("*.cap")) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_the_recorder_writes_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    module = recorder()
    assert tuple(module.SCENARIOS) == NAMES
    once = module.record(name, tmp_path).read_bytes()
    assert module.record(name, tmp_path).read_bytes() == once


def test_a_capture_of_another_specification_is_told_with_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FOLDER", tmp_path)
    data = (Path(SCRIPT).parent / "ideal.cap").read_bytes()
    (tmp_path / "ideal.cap").write_bytes(data.replace(SPEC_DIGEST.encode(), b"0" * 64))
    with pytest.raises(pytest.fail.Exception, match=r"python tests/captures/record\.py"):
        kept("ideal")


@pytest.mark.parametrize("name", ["ideal", "retries", "refusals"])
def test_the_c_firmware_answers_a_kept_capture_bit_for_bit(name: str) -> None:
    path = kept(name)
    header = capture.read_header(path)
    try:
        link = launch.start(catalogue.load(header["board"]), header["seed"])
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    result = play(path, link)
    assert (result.different, result.first_difference) == (0, 0)
    assert result.same > 20


def test_a_session_that_renewed_its_lease_and_asked_for_its_journal_plays_alike(
    tmp_path: Path,
) -> None:
    profile = catalogue.load("native")
    short = msgspec.structs.replace(
        profile, limits=msgspec.structs.replace(profile.limits, lease_ms=150)
    )
    path = tmp_path / "silent.cap"
    writer = capture.CaptureWriter(path, {})
    with Board(short, InProcessLink(Firmware(Chip(short))), recorder=writer) as board:
        board.power_up()
        time.sleep(0.2)
        board.journal()
    assert {f.opcode for f in sound(path, capture.TO_BOARD) if not f.sequence} == {
        Opcode.HELLO, Opcode.LEASE, Opcode.JOURNAL,
    }  # fmt: skip
    result = play(path, InProcessLink(Firmware(Chip(short))))
    assert (result.same, result.different) == (6, 0)
