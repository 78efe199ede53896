"""The C reference firmware: as a process, and booted in QEMU."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
import pytest
from random_commands import RandomCommands

from boards import catalogue, firmware_build, launch, links
from boards.board import Board
from boards.description import describe
from boards.errors import IndeterminateError, LinkError, Outcome, RestartedError
from boards.firmware_build import NATIVE, RV32, MissingToolError
from boards.links import InProcessLink, Link
from boards.profile import Profile
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_HASH, Detail, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

SEED = 5
COMMANDS = 10_000
#: of 32 kb of instructions and 512 kb of data on the paper's chip: our bars, in bytes
TEXT_BAR, RAM_BAR = 32 * 1024, 64 * 1024
KINDS = ("native", "qemu")


def launch_or_skip(profile: Profile, seed: int = SEED) -> launch.ProcessLink:
    try:
        return launch.start(profile, seed)
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")


def started(kind: str, seed: int = SEED) -> launch.ProcessLink:
    return launch_or_skip(catalogue.load(kind), seed)


def emulated(profile: Profile, seed: int = SEED) -> Link:
    return InProcessLink(Firmware(Chip(profile, seed)))


class Talker:
    """Asks one request at a time and gives the answer, as a frame."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._decoder = frames.Decoder()
        self._sequence = 0
        self.hello()

    def hello(self) -> m.HelloResponse:
        request = m.HelloRequest(1, SPEC_HASH, 1)
        return m.HelloResponse.decode(self._exchange(Opcode.HELLO, 0, request.encode()).payload)

    def ask(self, opcode: int, payload: bytes) -> frames.Frame:
        self._sequence += 1
        return self._exchange(opcode, self._sequence, payload)

    def _exchange(self, opcode: int, sequence: int, payload: bytes) -> frames.Frame:
        # Asked again where nothing comes: what reaches a UART during its reset is lost.
        for _ in range(20):
            self._link.write(b"\0" + frames.encode(opcode, 7, sequence, (payload,)))
            while data := self._link.read(1.0):
                for frame in list(self._decoder.feed(data)):
                    if isinstance(frame, frames.Frame):
                        return frame
        raise AssertionError(f"no answer to request {sequence}")


def comparable(frame: frames.Frame) -> tuple[int, int, Any]:
    """All of an answer but the boot id, which no two boards share."""
    if frame.opcode == Opcode.STATUS and frame.status == Status.OK:
        status = m.StatusResponse.decode(frame.payload)
        return frame.opcode, frame.status, dataclasses.replace(status, boot_id=0)
    return frame.opcode, frame.status, bytes(frame.payload)


# --- the same bits -------------------------------------------------------------------------------


def odd(**changed: Any) -> Profile:
    """A chip like no other: small, other widths, two conversions a pair, cells that wear out."""
    profile = catalogue.load("native")
    chip = msgspec.structs.replace(
        profile.chip, tiles=3, rows=20, columns=12, input_bits=5, adc_bits=11, slots=5,
        pair_conversions=2, columns_per_adc=3, adc_span_uA=(2.0, 3.984),
    )  # fmt: skip
    return msgspec.structs.replace(
        profile,
        chip=msgspec.structs.replace(chip, **changed),
        link=msgspec.structs.replace(profile.link, window=2, max_payload=700),
        limits=msgspec.structs.replace(
            profile.limits, lifetime_soft=700, lifetime_pulses=1500, pulses_per_command=50
        ),
    )


def compared(profile: Profile, commands: int, seed: int) -> Counter[tuple[int, int]]:
    """Asks emulator and C firmware the same; returns how often each answer was given."""
    link = launch_or_skip(profile)
    try:
        one, other = Talker(emulated(profile)), Talker(link)
        assert dataclasses.replace(one.hello(), boot_id=0, firmware="") == dataclasses.replace(
            other.hello(), boot_id=0, firmware=""
        )
        drawn = RandomCommands(describe(profile), seed=seed)
        statuses: Counter[tuple[int, int]] = Counter()
        for number in range(commands):
            opcode, payload = drawn.draw()
            expected, found = one.ask(opcode, payload), other.ask(opcode, payload)
            assert comparable(found) == comparable(expected), f"{number}: {Opcode(opcode).name}"
            statuses[opcode, expected.status] += 1
    finally:
        link.close()
    # The comparison is worth something: many commands of every kind were carried out, and refused.
    for opcode in (
        Opcode.READ, Opcode.PROGRAM, Opcode.PULSE, Opcode.OUTER, Opcode.VMM, Opcode.LOAD,
    ):  # fmt: skip
        assert statuses[opcode, Status.OK] > commands / 200
        assert sum(n for (o, s), n in statuses.items() if o == opcode and s) > 0
    return statuses


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_random_commands_are_answered_like_the_emulator_bit_for_bit(kind: str) -> None:
    compared(catalogue.load(kind), COMMANDS, seed=1)


@pytest.mark.parametrize("adc_bits", [2, 11])
def test_another_chip_is_answered_alike_too(adc_bits: int) -> None:
    compared(odd(adc_bits=adc_bits), 3000, seed=2)


def test_a_gain_far_below_a_narrow_range_is_refused() -> None:
    # The range's low end needs more than 32 bits once it is scaled to the shift of the request.
    link = launch_or_skip(odd(adc_bits=8))
    try:
        answer = Talker(link).ask(Opcode.CONFIGURE, _configure(65535, 48))
    finally:
        link.close()
    assert m.Refusal.decode(answer.payload).detail == Detail.GAIN


def _configure(multiplier: int, shift: int) -> bytes:
    return m.ConfigureRequest(0, 100, 1023, multiplier, shift).encode()


def test_an_emulated_chip_goes_on_in_the_c_firmware_with_its_cells_loaded() -> None:
    profile = catalogue.load("native")
    firmware = Firmware(Chip(profile, 9))
    rng = np.random.default_rng(0)
    link = started("native", seed=1)
    with Board(profile, InProcessLink(firmware)) as one, Board(profile, link) as other:
        for board in (one, other):
            board.power_up()
        low, high = one.description.target_low, one.description.target_high
        firmware.chip.cells.conductances[...] = rng.integers(low, high + 1, (4, 64 * 64))
        cells = firmware.chip.cells.conductances.reshape(4, 64, 64)
        for tile, conductances in zip(other.tiles, cells, strict=True):
            tile.load(conductances)
        for mine, theirs in zip(one.tiles, other.tiles, strict=True):
            assert np.array_equal(mine.read(samples=2), theirs.read(samples=2))


# --- size ----------------------------------------------------------------------------------------


def test_code_and_memory_of_the_rv32_build_fit_the_chip_of_the_paper() -> None:
    try:
        sizes = firmware_build.sizes(firmware_build.build(catalogue.load("qemu"), RV32))
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    assert 0 < sizes["text"] <= TEXT_BAR
    assert 0 < sizes["ram"] <= RAM_BAR


@pytest.mark.parametrize(
    ("compiler", "package", "flags"),
    [
        ("gcc", "gcc", ["-Wall", "-Wextra", "-Wno-type-limits", "-Werror"]),
        (
            "riscv64-unknown-elf-gcc",
            "gcc-riscv64-unknown-elf",
            ["-march=rv32imac", "-mabi=ilp32", "-ffreestanding", "-nostdlib", "-Wl,-e,main"],
        ),
    ],
)
def test_the_exported_sources_compile_as_they_are(
    compiler: str, package: str, flags: list[str], tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs the Debian package {package}")
    files = firmware_build.export(catalogue.load("brram-soc"), tmp_path / "fw")
    # Where there is a C library it brings its own memory functions.
    wanted = [p for p in files if p.suffix == ".c" and (p.stem != "freestanding" or len(flags) > 4)]
    outcome = subprocess.run(
        [compiler, "-std=c11", *flags, *map(str, wanted), "-o", str(tmp_path / "out"), "-lgcc"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr


# --- losing power --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_that_a_restart_ended_is_told_so(kind: str) -> None:
    profile = catalogue.load(kind)
    link = started(kind)
    board = Board(profile, link)
    board.reboot()
    with pytest.raises(RestartedError, match="restarted"):
        board.status()
    board.close(safe=False)
    link.process.wait(timeout=10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_answers_a_new_session_after_its_restart(kind: str) -> None:
    link = started(kind)
    try:
        talker = Talker(link)
        boot = talker.hello().boot_id
        configure = m.ConfigureRequest(0, 100, 1023, 40000, 33)
        region = m.Region(0, 0, 1, 0, 3)
        pulse = m.PulseRequest(1000, 1000, 100, region, [], np.array([3, -2, 5], dtype=np.int16))
        for request in (configure, pulse, m.RebootRequest()):
            assert talker.ask(request.OPCODE, request.encode()).status == Status.OK
        time.sleep(0.2)
        again = Talker(link)
        assert again.hello().boot_id != boot
        status = m.StatusResponse.decode(again.ask(Opcode.STATUS, b"").payload)
        assert (status.powered, status.operations, status.set_pulses) == (0, 1, 8)
        wear = m.WearResponse.decode(again.ask(Opcode.WEAR, m.WearRequest(region).encode()).payload)
        assert list(wear.pulses) == [3, 2, 5]
    finally:
        link.close()


# Made once: a kill between two commands shows nothing.
PLACES = np.divmod(np.arange(64 * 64), 64)
ONES = np.ones(64 * 64, dtype=np.int64)


def pulse_all(board: Board) -> None:
    """One pulse to each cell of a tile."""
    board.tiles[1].pulse(*PLACES, ONES, set_mV=1000, reset_mV=1000, width_ns=100)


def update_all(pairs: bool) -> Callable[[Board], None]:
    """Two updates of one pulse each to every cell of a tile, or to the first of every pair."""

    rows, columns = (np.ones((2, n), dtype=np.uint32) for n in (64, 32 if pairs else 64))

    def update(board: Board) -> None:
        board.tiles[1].outer(
            m.Region(1, 0, 64, 0, 64), rows, columns, length=1, pairs=pairs, set_mV=1000,
            reset_mV=1000, width_ns=100,
        )  # fmt: skip

    return update


@pytest.mark.parametrize(
    ("apply", "pulses", "step"),
    [(pulse_all, 1, 1), (update_all(False), 2, 1), (update_all(True), 2, 2)],
    ids=["PULSE", "OUTER", "OUTER of pairs"],
)
def test_power_cut_within_a_command_is_found_in_the_journal(
    apply: Callable[[Board], None], pulses: int, step: int, tmp_path: Path
) -> None:
    """The process is killed again and again while it pulses; its cells live in a file.

    Args:
        pulses: what a command gives to each cell that it names.
        step: columns from one such cell to the next.
    """
    profile = catalogue.load("native")
    try:
        program = firmware_build.build(profile, NATIVE)
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    met = Counter[Outcome]()
    every = np.zeros(64 * 64, dtype=np.int64)
    # The cells that the command names, in its order: a view.
    expected = every[::step]
    cells = expected.size
    for attempt in range(200):
        if attempt >= 40 and met[Outcome.PARTLY]:
            break
        with serving(profile, program, tmp_path / "chip") as (board, process):
            board.power_up()
            assert np.array_equal(board.tiles[1].wear().reshape(-1), every)
            # The kill comes at another moment of the command each time.
            killer = f"sleep {attempt % 40 * 2e-5:.6f}; kill -9 {process.pid}"
            shot = subprocess.Popen(["sh", "-c", killer])
            try:
                while True:
                    apply(board)
                    expected += pulses
            except IndeterminateError as error:
                lost = error
            except LinkError:
                # The kill came between two commands: none was under way.
                lost = IndeterminateError("")
            shot.wait()
        with serving(profile, program, tmp_path / "chip") as (board, _):
            outcome, done, doubtful = board.outcome(lost)
            met[outcome] += 1
            found = board.tiles[1].wear().reshape(-1)
        whole = cells if outcome is Outcome.APPLIED else done
        expected[:whole] += pulses
        if outcome is Outcome.PARTLY:
            assert len(doubtful) == 1 and doubtful[0] == (1, *divmod(done * step, 64))
            assert 0 <= found[done * step] - expected[done] <= pulses
            expected[done] = found[done * step]
        assert np.array_equal(found, every)
    assert met[Outcome.PARTLY] > 0, met


@contextmanager
def serving(
    profile: Profile, program: Path, state: Path
) -> Iterator[tuple[Board, subprocess.Popen[str]]]:
    """The native firmware with its chip in a file, and a board connected to it."""
    arguments = [str(program), "--state", str(state)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with Board(profile, links.open_port(process.stdout.readline().strip(), 0)) as board:
            yield board, process
    finally:
        process.kill()
        process.communicate()


def test_a_state_file_of_another_chip_is_refused_and_left_alone(tmp_path: Path) -> None:
    profile = catalogue.load("native")
    try:
        program = firmware_build.build(profile, NATIVE)
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    with serving(profile, program, tmp_path / "chip"):
        pass
    before = (tmp_path / "chip").read_bytes()
    arguments = [str(program), "--state", str(tmp_path / "chip"), "--seed", "1"]
    outcome = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert outcome.returncode == 2 and "another chip" in outcome.stderr
    assert (tmp_path / "chip").read_bytes() == before


# --- the pseudo-terminal -------------------------------------------------------------------------


def test_the_firmware_serves_a_pseudo_terminal() -> None:
    profile = catalogue.load("native")
    try:
        program = firmware_build.build(profile, NATIVE)
    except MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    arguments = [str(program), "--listen", "pty"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        with Board(profile, links.open_port(process.stdout.readline().strip(), 115200)) as board:
            board.ping(bytes(range(256)) * 200)
            board.power_up()
            assert board.tiles[3].read().shape == (64, 64)
    finally:
        process.kill()
        process.communicate()


# --- starting and ending -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tools", "package"),
    [
        ("native", ("gcc", "cc", "clang"), "gcc"),
        ("qemu", ("riscv64-unknown-elf-gcc",), "gcc-riscv64-unknown-elf"),
        ("qemu", ("qemu-system-riscv32",), "qemu-system-misc"),
    ],
)
def test_a_missing_tool_is_named_with_its_debian_package(
    kind: str, tools: tuple[str, ...], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in tools else which(name))
    with pytest.raises(MissingToolError) as raised:
        launch.start(catalogue.load(kind))
    assert package in str(raised.value) and tools[0] in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_board_ends_with_its_link(kind: str) -> None:
    link = started(kind)
    assert link.process.poll() is None
    link.close()
    assert link.process.poll() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_board_ends_with_a_killed_program(kind: str) -> None:
    started(kind).close()
    code = (
        "import sys, time; from boards import catalogue, launch; "
        f"link = launch.start(catalogue.load('{kind}')); "
        "print(link.process.pid, flush=True); time.sleep(60)"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    board = int(host.stdout.readline())
    host.send_signal(signal.SIGKILL)
    host.communicate()
    limit = time.monotonic() + 10
    while time.monotonic() < limit and _alive(board):
        time.sleep(0.02)
    assert not _alive(board)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_old_builds_are_forgotten_and_a_new_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs the Debian package gcc")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(tmp_path))
    folder = tmp_path / "firmware"
    folder.mkdir()
    for number in range(60):
        (folder / f"old-{number:02}").touch()
        os.utime(folder / f"old-{number:02}", (number, number))
    built = firmware_build.build(catalogue.load("native"), NATIVE)
    left = {path.name for path in folder.iterdir()}
    assert built.name in left and "old-59" in left and "old-00" not in left
    assert len(left) == 40


def test_a_profile_that_integers_cannot_hold_is_not_built_for() -> None:
    profile = catalogue.load("native")
    costs = msgspec.structs.replace(profile.costs, cycle_ns=10.01)
    with pytest.raises(firmware_build.ProfileError, match=r"costs\.cycle_ns"):
        firmware_build.header(msgspec.structs.replace(profile, costs=costs))


@pytest.mark.parametrize(
    ("section", "changed", "key"),
    [
        ("chip", {"input_coding": "bit-planes"}, "chip.input_coding"),
        ("chip", {"column_weights": (2, 1)}, "chip.column_weights"),
        ("costs", {"shift_add_pJ": 1.0}, "costs.conversion_pJ"),
    ],
)
def test_a_profile_of_what_the_firmware_does_not_do_is_not_built_for(
    section: str, changed: dict[str, Any], key: str
) -> None:
    profile = catalogue.load("native")
    part = msgspec.structs.replace(getattr(profile, section), **changed)
    with pytest.raises(firmware_build.ProfileError, match=key.replace(".", r"\.")):
        firmware_build.header(msgspec.structs.replace(profile, **{section: part}))


# --- training ------------------------------------------------------------------------------------


@pytest.fixture
def trained(command: list[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def train(*arguments: str) -> dict[str, Any]:
        outcome = subprocess.run(
            [*command, "train", "lenet", "--json", "--out", str(tmp_path / "run"), *arguments],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert outcome.returncode == 0, outcome.stderr[-2000:]
        return dict(json.loads(outcome.stdout))

    return train


def test_lenet_on_the_digits_trains_on_the_c_firmware_to_96_percent(
    trained: Callable[..., dict[str, Any]],
) -> None:
    started("native").close()
    assert trained("--board", "native")["test_accuracy"] >= 0.96


def test_a_short_training_runs_to_its_end_in_qemu(trained: Callable[..., dict[str, Any]]) -> None:
    started("qemu").close()
    summary = trained("--board", "qemu", "--epochs", "1", "--batches-per-epoch", "5")
    assert summary["board"] == "qemu" and summary["link"]["frames"] > 0


# --- conformance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_c_firmware_passes_the_conformance_suite(kind: str, command: list[str]) -> None:
    started(kind).close()
    arguments = [*command, "conformance", "--board", kind, "--json"]
    outcome = subprocess.run(
        arguments, capture_output=True, text=True, timeout=250, check=False, env=dict(os.environ)
    )
    report = json.loads(outcome.stdout.splitlines()[0])
    failed = [case for case in report["cases"] if case["outcome"] == "failed"]
    assert (outcome.returncode, failed) == (0, [])
    assert sum(case["outcome"] == "passed" for case in report["cases"]) > 190
