"""The command line: bad input, exit codes, help, and what is printed where."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from boards import catalogue
from boards.links import SerialLink
from cimctl.algorithms.settings import Settings
from cimctl.cli.root import COMMANDS, root, run
from cimctl.training import checkpoint
from firmware_protocol.constants import SPEC_HASH
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.server import TcpServer

EMU = catalogue.load("emu")
DONE, USAGE, NO_BOARD, LINK, SAFETY, STORAGE, INTERRUPTED = 0, 2, 3, 4, 6, 8, 130


@dataclass(frozen=True)
class Outcome:
    """What a command line ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def cimctl(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, as the installed command does."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every test runs in an empty folder, with locks and caches of its own."""
    (tmp_path / "locks").mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def hasty_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boards.driver._HELLO_SECONDS", 0.05)


def assert_refused(outcome: Outcome, code: int, *culprits: str) -> None:
    """One message on standard error that names what is wrong, nothing on standard output."""
    assert (outcome.code, outcome.out) == (code, "")
    assert "Traceback" not in outcome.err
    assert len(re.findall(r"^Error:", outcome.err, re.MULTILINE)) == 1
    for culprit in culprits:
        assert culprit in outcome.err


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, byte for byte."""
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def save(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


TRAIN = ("train", "lenet", "--board", "emu")
TINY = ("--epochs", "1", "--batches-per-epoch", "1", "--batch-size", "2")


# --- names and options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (("board", "info", "--board", "emuu"), ("'emuu'", "Did you mean 'emu'?")),
        (("train", "lenet", "--board", "nothing"), ("'nothing'", "brram-soc")),
        (("board", "info", "--board", "missing.yaml"), ("missing.yaml",)),
        (("train", "lenett", "--board", "emu"), ("'lenett'", "lenet")),
        (("train", "missing.py:make", "--board", "emu"), ("missing.py",)),
        ((*TRAIN, "--dataset", "digitz"), ("'digitz'", "digits")),
        ((*TRAIN, "--algorithm", "sdg"), ("'sdg'", "mixed-precision")),
        ((*TRAIN, "--set", "learning=1"), ("'learning'",)),
        ((*TRAIN, "--set", "lr=fast"), ("'lr'", "'fast'")),
        ((*TRAIN, "--dataset", "mnist", "--data-dir", "."), ("mnist", "cimctl data fetch mnist")),
        (("train", "--board", "emu"), ("MODEL",)),
        (("train", "lenet"), ("--board",)),
        (("train", "--resume", "nowhere"), ("nowhere",)),
        (("eval", "nowhere", "--board", "emu"), ("nowhere",)),
        ((*TRAIN, "--epochs", "0"), ("--epochs",)),
        (("board", "info", "--board", "emu", "--max-payload", "255"), ("--max-payload",)),
        (("board", "info", "--board", "emu", "--port", "tcp://h"), ("'tcp://h'",)),
        (("emu", "serve", "--listen", "nowhere"), ("'nowhere'",)),
        (("proto", "dump", "missing.cap"), ("missing.cap",)),
        (("read", "--board", "emu", "--tile", "4"), ("tiles 0 to 3", "not 4")),
        (("read", "--board", "emu", "--tile", "0", "--row", "64"), ("64 x 64",)),
        (("read", "--board", "emu", "--tile", "0", "--columns", "65"), ("64 x 64",)),
        (("trian", "lenet"), ("'trian'",)),
        (("board", "lst"), ("'lst'",)),
        (("read", "--board", "emu", "--tile", "0", "--colour", "red"), ("--colour",)),
    ],
)
def test_what_is_named_wrong_is_a_usage_error_that_names_it(
    cimctl: Command, elsewhere: Path, arguments: tuple[str, ...], culprits: tuple[str, ...]
) -> None:
    outcome = cimctl(*arguments)
    assert_refused(outcome, USAGE, *culprits)
    assert tree(elsewhere) == {}


def test_the_installed_command_says_the_same(command: list[str], elsewhere: Path) -> None:
    done = subprocess.run(
        [*command, "board", "info", "--board", "emuu"], capture_output=True, text=True, check=False
    )
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), USAGE, "'emuu'")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("board", "info", "--board", "emuu"), USAGE),
        (("board", "info", "--board", "brram-soc"), NO_BOARD),
        (("read", "--board", "emu"), USAGE),
        (("train", "--resume", "nowhere"), USAGE),
    ],
)
def test_with_json_an_error_is_one_object_on_standard_output(
    cimctl: Command, arguments: tuple[str, ...], code: int
) -> None:
    outcome = cimctl(*arguments, "--json")
    said = json.loads(outcome.out)
    assert (outcome.code, said["exit_code"]) == (code, code)
    assert said["schema"] == "cimctl.error/1"
    assert said["error"]
    assert "Traceback" not in outcome.err


def test_a_profile_with_a_misspelt_key_names_it(cimctl: Command, elsewhere: Path) -> None:
    profile = save(elsewhere / "mine.yaml", "name: mine\nextends: emu\nchip: {tilles: 2}\n")
    outcome = cimctl(*TRAIN[:2], "--board", profile, "--out", "run")
    assert_refused(outcome, USAGE, "chip.tilles", "Did you mean 'tiles'?")
    assert list(tree(elsewhere)) == [str(profile)]


def test_a_model_file_that_fails_names_itself_and_the_reason(
    cimctl: Command, elsewhere: Path
) -> None:
    save(elsewhere / "mine.py", "def make():\n    return 1 / 0\ndef number():\n    return 3\n")
    for factory, reason in (("make", "ZeroDivisionError"), ("number", "int"), ("none", "none")):
        outcome = cimctl("train", f"mine.py:{factory}", "--board", "emu", "--out", "run")
        assert_refused(outcome, USAGE, f"mine.py:{factory}", reason)
    assert not (elsewhere / "run").exists()


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ("nn.Flatten(), nn.Linear(784, 100)", ()),
        ("nn.Conv2d(2, 2, 3, groups=2)", ()),
        ("nn.Flatten(), nn.Linear(784, 2)", ("--set", "optimizer=Nothing")),
    ],
)
def test_a_model_that_cannot_be_trained_leaves_no_folder(
    cimctl: Command, elsewhere: Path, layers: str, options: tuple[str, ...]
) -> None:
    text = f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n"
    model = save(elsewhere / "mine.py", text)
    outcome = cimctl("train", f"{model}:make", "--board", "emu", "--out", "run", *options)
    assert_refused(outcome, USAGE)
    assert not (elsewhere / "run").exists()


def test_a_model_that_does_not_fit_is_told_by_how_much(cimctl: Command, elsewhere: Path) -> None:
    text = (
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    save(elsewhere / "mine.py", text)
    outcome = cimctl("train", "mine.py:make", "--board", "emu", "--out", "run")
    assert_refused(outcome, USAGE, "260 columns", "256 on 4 tiles")


# --- ports and peers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Callable[..., str]]:
    """Serves firmware on a TCP port in this process."""
    servers: list[tuple[TcpServer, threading.Thread]] = []

    def serve(firmware: Any) -> str:
        server = TcpServer("127.0.0.1", 0, firmware)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        servers.append((server, thread))
        return server.address

    yield serve
    for server, thread in servers:
        server.close()
        thread.join(10)


@pytest.fixture(scope="module")
def terminal(serve_emulator: Any) -> str:
    address, _ = serve_emulator("--listen", "pty")
    return str(address)


def on_port(port: str) -> list[tuple[str, ...]]:
    """Commands that need the board at a port."""
    return [
        ("board", "info", "--board", "emu", "--port", port),
        ("read", "--board", "emu", "--tile", "0", "--port", port, "--output", "out.csv"),
        (*TRAIN, "--port", port, "--out", "run"),
    ]


def test_a_port_that_is_not_there_is_no_board(cimctl: Command, elsewhere: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    for port in (closed, "/dev/ttyNOTHERE7"):
        for arguments in on_port(port):
            assert_refused(cimctl(*arguments), NO_BOARD, port)
    assert tree(elsewhere) == {}


def test_hardware_without_a_port_is_no_board(cimctl: Command, elsewhere: Path) -> None:
    outcome = cimctl("train", "lenet", "--board", "brram-soc", "--out", "run")
    assert_refused(outcome, NO_BOARD, "brram-soc", "--port")
    assert tree(elsewhere) == {}


def test_a_busy_port_is_a_link_error(cimctl: Command, elsewhere: Path, terminal: str) -> None:
    holder = SerialLink(terminal, 115200)
    try:
        for arguments in on_port(terminal):
            assert_refused(cimctl(*arguments), LINK, terminal, "busy")
    finally:
        holder.close()
    assert tree(elsewhere) == {}
    assert cimctl(*on_port(terminal)[0]).code == DONE


class Echo:
    def connection(self) -> Echo:
        return self

    def receive(self, data: bytes) -> bytes:
        return data


@pytest.mark.usefixtures("hasty_hello")
def test_a_peer_that_is_no_board_is_no_board(
    cimctl: Command, elsewhere: Path, served: Callable[..., str]
) -> None:
    for port in (served(Echo()), "loop://"):
        for arguments in on_port(port):
            assert_refused(cimctl(*arguments), NO_BOARD, port)
    assert tree(elsewhere) == {}


def test_a_peer_of_another_specification_is_named_on_both_sides(
    cimctl: Command, elsewhere: Path, served: Callable[..., str]
) -> None:
    other = SPEC_HASH ^ 0xABC
    port = served(Firmware(Chip(EMU), spec_hash=other))
    for arguments in on_port(port):
        assert_refused(cimctl(*arguments), NO_BOARD, f"{other:016x}", f"{SPEC_HASH:016x}")
    assert tree(elsewhere) == {}


def test_a_profile_of_another_board_is_a_usage_error(
    cimctl: Command, elsewhere: Path, served: Callable[..., str]
) -> None:
    port = served(Firmware(Chip(EMU)))
    outcome = cimctl("board", "info", "--board", "brram-256x64", "--port", port)
    assert_refused(outcome, USAGE, "16 tiles", "4 of 64 x 64", "--board emu")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "culprit"),
    [
        ("missing.csv", None, "missing.csv"),
        ("words.csv", "one,two\n", "words.csv"),
        ("ragged.csv", "1,2\n3\n", "ragged.csv"),
        ("half.csv", "0.5,1\n", "0.5 in row 0, column 0"),
        ("high.csv", "1,256\n", "256 in row 0, column 1"),
        ("mixed.csv", "-1,200,0\n", "mixed.csv"),
        ("short.csv", "1,2\n", "(1, 2)"),
        ("notnpy.npy", "1,2,3\n", "notnpy.npy"),
        ("empty.npy", "", "empty.npy"),
        ("binary.csv", "\x80\x81", "binary.csv"),
    ],
)
def test_vectors_of_a_wrong_shape_or_type_name_their_file(
    cimctl: Command, elsewhere: Path, name: str, text: str | None, culprit: str
) -> None:
    if text is not None:
        (elsewhere / name).write_bytes(text.encode("latin-1"))
    before = tree(elsewhere)
    outcome = cimctl(
        "vmm", "--board", "emu", "--tile", 0, "--rows", 3, "--columns", 4, "--input", name,
        "--output", "out.csv",
    )  # fmt: skip
    assert_refused(outcome, USAGE, culprit)
    assert tree(elsewhere) == before


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        (np.zeros((2, 2, 2)), "(2, 2, 2)"),
        (np.array([["a", "b"]]), "a.npy"),
        (np.array([[1j]]), "complex"),
        (np.array([[True]]), "bool"),
        (np.zeros((0, 4)), "no numbers"),
        (np.full((65, 2), 20.0), "64 x 64"),
        (np.full((2, 2), 100.0), "100"),
        (np.full((2, 2), np.nan), "names no cell"),
        (np.full((2, 2), np.inf), "inf"),
    ],
)
def test_targets_of_a_wrong_shape_or_size_change_nothing(
    cimctl: Command, elsewhere: Path, served: Callable[..., str], values: Any, culprit: str
) -> None:
    chip = Chip(EMU)
    port = served(Firmware(chip))
    np.save(elsewhere / "a.npy", values)
    before = tree(elsewhere)
    outcome = cimctl(
        "program", "--board", "emu", "--port", port, "--tile", 0, "--input", "a.npy",
        "--output", "out.npy",
    )  # fmt: skip
    assert_refused(outcome, USAGE, culprit)
    assert chip.cells.count("operations") == 0
    assert tree(elsewhere) == before


def test_an_array_of_objects_is_never_unpickled(cimctl: Command, elsewhere: Path) -> None:
    np.save(elsewhere / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    arguments = ("pulse", "--board", "emu", "--tile", 0, "--input", "a.npy")
    assert_refused(cimctl(*arguments), USAGE, "a.npy")


def test_pulses_beyond_a_limit_are_refused_for_safety(cimctl: Command, elsewhere: Path) -> None:
    save(elsewhere / "counts.csv", "3,-2\n")
    base = ("pulse", "--board", "emu", "--tile", 0, "--input", "counts.csv")
    outcome = cimctl(*base, "--set-mv", 9000)
    assert_refused(outcome, SAFETY, "SET pulse", "3300", "Nothing was sent")
    assert_refused(cimctl(*base, "--width-ns", 1_000_000), SAFETY, "10000")


def test_a_data_file_with_a_wrong_digest_is_named(cimctl: Command, elsewhere: Path) -> None:
    def idx(kind: int, shape: tuple[int, ...]) -> bytes:
        head = bytes([0, 0, 8, kind]) + b"".join(n.to_bytes(4, "big") for n in shape)
        return gzip.compress(head + bytes(int(np.prod(shape))))

    folder = elsewhere / "mnist"
    folder.mkdir()
    for part, count in (("train", 60000), ("t10k", 10000)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(3, (count, 28, 28)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(1, (count,)))
    before = tree(elsewhere)
    arguments = (*TRAIN, "--dataset", "mnist", "--data-dir", ".", "--out", "run")
    assert_refused(cimctl(*arguments), USAGE, "ubyte.gz", "6bbc9ace898e44ae57da46a324031adb")
    assert tree(elsewhere) == before


# --- checkpoints and full disks ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of two small epochs that was stopped after its first batch."""
    from cimctl import datasets
    from cimctl.connect import BoardOptions, connect
    from cimctl.training.config import RunConfig
    from cimctl.training.trainer import Interrupted, Trainer

    folder = tmp_path_factory.mktemp("stopped")
    config = RunConfig("lenet", "emu", "digits", "mixed-precision", 1, 3, 2, 0, "read", Settings())
    with connect(BoardOptions("emu")) as board:
        trainer = Trainer(config, datasets.load("digits"), board, folder)
        trainer.stop = True
        with pytest.raises(Interrupted):
            trainer.run()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def stopped_run(stopped: dict[str, bytes], elsewhere: Path) -> Path:
    folder = elsewhere / "run"
    folder.mkdir()
    for name, data in stopped.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_truncated_checkpoint_is_a_usage_error_and_stays_as_it_is(
    cimctl: Command, stopped_run: Path
) -> None:
    path = stopped_run / "checkpoint.pt"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for damaged in (data[:-1], data[: len(data) // 2], data[:20], b"", b"PK\3\4", bytes(flipped)):
        path.write_bytes(damaged)
        before = tree(stopped_run)
        for arguments in (("train", "--resume", "run"), ("eval", "run", "--board", "emu")):
            assert_refused(cimctl(*arguments), USAGE, "checkpoint.pt", "damaged or truncated")
        assert tree(stopped_run) == before


def test_a_folder_that_holds_a_run_is_not_overwritten(cimctl: Command, stopped_run: Path) -> None:
    before = tree(stopped_run)
    assert_refused(cimctl(*TRAIN, "--out", "run"), USAGE, "'run'", "--resume run")
    assert tree(stopped_run) == before


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit on the size of files, which is met as a full disk is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_a_checkpoint_is_written_leaves_the_one_before(
    cimctl: Command, stopped_run: Path
) -> None:
    before = tree(stopped_run)
    with files_of_at_most((stopped_run / "checkpoint.pt").stat().st_size // 2):
        outcome = cimctl("train", "--resume", "run")
    # The progress bar is on standard error too, and ends with a line of its own.
    message = outcome.err.splitlines()[-1]
    assert_refused(Outcome(outcome.code, outcome.out, message), STORAGE, "checkpoint.pt")
    assert "untouched" in message
    assert "Traceback" not in outcome.err
    path = stopped_run / "checkpoint.pt"
    assert path.read_bytes() == before[str(path)]
    assert checkpoint.load(stopped_run)["progress"]["batch"] == 1
    assert not list(stopped_run.glob(".*.tmp"))


def test_a_full_disk_leaves_the_older_output_of_a_reading(cimctl: Command, elsewhere: Path) -> None:
    old = save(elsewhere / "out.csv", "old\n")
    with files_of_at_most(4096):
        outcome = cimctl("read", "--board", "emu", "--tile", 0, "--output", old)
    assert_refused(outcome, STORAGE, "out.csv")
    assert tree(elsewhere) == {str(old): b"old\n"}


def test_a_folder_that_cannot_be_made_is_a_storage_error(cimctl: Command, elsewhere: Path) -> None:
    save(elsewhere / "file", "")
    outcome = cimctl(*TRAIN, *TINY, "--out", "file/run")
    assert_refused(outcome, STORAGE, "file/run")
    assert list(tree(elsewhere)) == [str(elsewhere / "file")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_capture_on_a_full_disk_is_a_storage_error(cimctl: Command) -> None:
    outcome = cimctl("read", "--board", "emu", "--tile", 0, "--capture", "/dev/full")
    assert (outcome.code, outcome.out) == (STORAGE, "")
    assert "/dev/full" in outcome.err
    assert "Traceback" not in outcome.err


# --- captures ------------------------------------------------------------------------------------


@pytest.fixture
def captured(cimctl: Command) -> Path:
    arguments = ("read", "--board", "emu", "--seed", 4, "--tile", 0, "--capture", "session.cap")
    assert cimctl(*arguments).code == DONE
    return Path("session.cap")


def test_a_capture_can_be_shown_and_played_back(cimctl: Command, captured: Path) -> None:
    shown = json.loads(cimctl("proto", "dump", captured, "--json").out)
    assert shown["header"]["board"] == "emu"
    assert [f["name"] for f in shown["frames"]][:2] == ["HELLO", "HELLO OK"]
    played = cimctl("proto", "replay", captured, "--board", "emu", "--seed", 4, "--json")
    said = json.loads(played.out)
    assert (played.code, said["different"]) == (DONE, 0)
    assert said["same"] == said["requests"] == len(shown["frames"]) // 2
    other = cimctl("proto", "replay", captured, "--board", "emu", "--seed", 5)
    assert_refused(other, 5, "differ")


def test_a_truncated_capture_is_a_usage_error(cimctl: Command, captured: Path) -> None:
    captured.write_bytes(captured.read_bytes()[:-3])
    for arguments in (("dump", captured), ("replay", captured, "--board", "emu")):
        outcome = cimctl("proto", *arguments)
        assert outcome.code == USAGE
        assert "ends within a record" in outcome.err
        assert "Traceback" not in outcome.err


# --- Ctrl-C --------------------------------------------------------------------------------------


def test_an_interrupted_server_ends_with_130(serve_emulator: Any) -> None:
    _, process = serve_emulator("--listen", "tcp://127.0.0.1:0")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert stderr.strip() == "Interrupted."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_the_program_exits_shows_no_traceback(number: signal.Signals) -> None:
    program = (
        "import atexit, os\n"
        "from cimctl.cli import main\n"
        f"atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "board", "list"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -number
    assert "emu" in done.stdout and not done.stderr


def test_a_signal_that_a_parent_has_ignored_stays_so_to_the_end() -> None:
    program = (
        "import atexit, os, signal\n"
        "from cimctl.cli import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGHUP)\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "board", "list"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "emu" in done.stdout


# --- results, help and environment ---------------------------------------------------------------


def test_every_result_in_json_has_a_schema(cimctl: Command, elsewhere: Path) -> None:
    save(elsewhere / "vectors.csv", "1,2,3\n4,5,6\n")
    save(elsewhere / "targets.csv", "20,nan\n15,30\n")
    save(elsewhere / "counts.csv", "1,-1\n")
    cell = ("--board", "emu", "--tile", 0)
    lines: dict[str, tuple[object, ...]] = {
        "cimctl.board.list/1": ("board", "list"),
        "cimctl.board.info/1": ("board", "info", "--board", "emu"),
        "cimctl.board.safe/1": ("board", "safe", "--board", "emu"),
        "cimctl.read/1": ("read", *cell, "--rows", 2, "--columns", 3),
        "cimctl.vmm/1": (
            "vmm", *cell, "--rows", 3, "--columns", 4, "--input", "vectors.csv", "--span", 20,
        ),
        "cimctl.program/1": ("program", *cell, "--input", "targets.csv"),
        "cimctl.pulse/1": ("pulse", *cell, "--input", "counts.csv"),
        "cimctl.proto.spec/1": ("proto", "spec"),
    }  # fmt: skip
    said = {}
    for schema, arguments in lines.items():
        outcome = cimctl(*arguments, "--json")
        assert outcome.code == DONE
        said[schema] = json.loads(outcome.out)
        assert said[schema]["schema"] == schema
    assert np.shape(said["cimctl.read/1"]["conductances_uS"]) == (2, 3)
    assert np.shape(said["cimctl.vmm/1"]["codes"]) == (2, 2)
    assert said["cimctl.program/1"]["cells"] == 3
    assert said["cimctl.pulse/1"]["set_pulses"] == said["cimctl.pulse/1"]["reset_pulses"] == 1


def test_json_holds_no_number_that_json_does_not_know(cimctl: Command, elsewhere: Path) -> None:
    save(elsewhere / "targets.csv", "20,nan\n15,30\n")
    outcome = cimctl("program", "--board", "emu", "--tile", 0, "--input", "targets.csv", "--json")

    def refuse(name: str) -> None:
        raise ValueError(name)

    json.loads(outcome.out, parse_constant=refuse)


def test_results_go_to_files_as_they_go_to_standard_output(
    cimctl: Command, elsewhere: Path
) -> None:
    arguments = ("read", "--board", "emu", "--seed", 2, "--tile", 1, "--rows", 3, "--columns", 2)
    printed = np.loadtxt(cimctl(*arguments).out.splitlines(), delimiter=",")
    for name, load in (("a.npy", np.load), ("a.csv", lambda p: np.loadtxt(p, delimiter=","))):
        assert cimctl(*arguments, "--output", name).code == DONE
        # CSV carries six digits.
        assert np.allclose(load(elsewhere / name), printed, rtol=1e-5)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command below a group, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL_COMMANDS = [(), *commands(root)]


def test_every_promised_command_is_there() -> None:
    assert set(COMMANDS) == {words[0] for words in ALL_COMMANDS if words}
    assert ("emu", "serve") in ALL_COMMANDS


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_help_ends_with_0_and_shows_an_example(cimctl: Command, words: tuple[str, ...]) -> None:
    outcome = cimctl(*words, "--help")
    assert (outcome.code, outcome.err) == (DONE, "")
    assert outcome.out.startswith(f"Usage: {' '.join(('cimctl', *words))}")
    is_group = "COMMAND [ARGS]" in outcome.out and words
    assert is_group or f"  cimctl {' '.join(words)}" in outcome.out


def test_an_option_can_come_from_the_environment(
    cimctl: Command, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("CIMCTL_TRAIN_EPOCHS", "1")
    monkeypatch.setenv("CIMCTL_TRAIN_BATCHES_PER_EPOCH", "2")
    outcome = cimctl(*TRAIN, "--batch-size", 3, "--algorithm", "fp32", "--out", "run", "--json")
    said = json.loads(outcome.out)
    assert outcome.code == DONE
    assert (said["epochs"], said["batches_per_epoch"], said["batch_size"]) == (1, 2, 3)
    monkeypatch.setenv("CIMCTL_TRAIN_EPOCHS", "none")
    assert_refused(cimctl(*TRAIN, "--out", "other"), USAGE, "--epochs", "'none'")


def test_a_picture_whose_name_says_something_else_is_refused(cimctl: Command) -> None:
    said = cimctl("map", "lenet", "--board", "emu", "--plot", "tiles.txt")
    assert_refused(said, USAGE, "tiles.txt", ".png")


def test_the_environment_twin_is_spelled_like_the_option(
    cimctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIMCTL_TRAIN_INIT", "nonsense")
    assert_refused(cimctl(*TRAIN, *TINY, "--out", "run"), USAGE, "nonsense")


def imported_by(*arguments: str) -> set[str]:
    """Modules that a command line has imported when it ends."""
    program = (
        "import sys\n"
        "from cimctl.cli.root import run\n"
        "code = run(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_help_imports_neither_torch_nor_numpy() -> None:
    modules = imported_by("--help")
    assert "click" in modules
    assert not modules & {"torch", "numpy", "numba", "matplotlib"}


@pytest.mark.parametrize(
    "arguments",
    [("board", "list"), ("proto", "spec"), ("data", "list"), ("train", "--help")],
    ids=" ".join,
)
def test_a_command_that_needs_no_torch_imports_none(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments) & {"torch", "numba", "matplotlib"}
