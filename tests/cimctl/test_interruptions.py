"""What cuts a training short, and how it goes on: a safe board, a message, a run to resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boards import catalogue, firmware_build
from boards.board import Board
from boards.links import open_port
from firmware_protocol.messages import StatusResponse

MODEL = """
import os, pathlib, time
from torch import nn
from cimctl.models import lenet

class Pause(nn.Module):
    # Waits before one batch of the training, until it is told to go on.
    batches = 0

    def forward(self, x):
        if self.training and "PAUSE_BEFORE_BATCH" in os.environ:
            self.batches += 1
            folder = pathlib.Path(os.environ["PAUSE_FOLDER"])
            if self.batches == int(os.environ["PAUSE_BEFORE_BATCH"]):
                (folder / "READY").touch()
                while not (folder / "GO").exists():
                    time.sleep(0.01)
        return x

def make():
    return nn.Sequential(Pause(), *lenet())
"""
BATCHES, EPOCHS = 5, 2
SHORT_LEASE = """name: short-lease
summary: a lease of one second
extends: emu
limits: {lease_ms: 1000}
"""
SECONDS = 120


@dataclass
class Run:
    """A training through the real command line, stopped before a batch of its second epoch."""

    command: list[str]
    folder: Path
    board: str

    def start(self, port: str) -> subprocess.Popen[str]:
        (self.folder / "model.py").write_text(MODEL)
        process = self._command(
            "train", f"{self.folder / 'model.py'}:make", "--epochs", str(EPOCHS),
            "--batches-per-epoch", str(BATCHES), "--batch-size", "8", "--seed", "2",
            "--out", str(self.out), port=port,
            env={"PAUSE_BEFORE_BATCH": str(BATCHES + 3), "PAUSE_FOLDER": str(self.folder)},
        )  # fmt: skip
        limit = time.monotonic() + SECONDS
        while not (self.folder / "READY").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < limit
            time.sleep(0.02)
        return process

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def go_on(self, process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
        """Lets it go on; returns the exit code, the JSON and what was said."""
        (self.folder / "GO").touch()
        out, said = process.communicate(timeout=SECONDS)
        assert "Traceback" not in said
        return process.returncode, json.loads(out), said

    def resume(self, port: str) -> dict[str, Any]:
        process = self._command("train", "--resume", str(self.out), port=port)
        out, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        return dict(json.loads(out))

    def _command(
        self, *arguments: str, port: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments, "--board", self.board, "--port", port, "--json"],
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@contextmanager
def served(arguments: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def emulator(command: list[str], board: str, state: Path, listen: str = "") -> list[str]:
    chosen = listen or "tcp://127.0.0.1:0"
    return [*command, "emu", "serve", "--board", board, "--state", str(state), "--listen", chosen]


def status(board: str, port: str) -> StatusResponse:
    """The board's state as a new session finds it."""
    profile = catalogue.load(board)
    opened = Board(profile, open_port(port, profile.link.baud))
    found = opened.status()
    opened.close()
    return found


@pytest.mark.parametrize("listen", ["", "pty"])
def test_a_board_that_goes_away_and_comes_back_under_another_name_goes_on(
    listen: str, command: list[str], tmp_path: Path
) -> None:
    run = Run(command, tmp_path, "brram-soc")
    serve = emulator(command, "brram-soc", tmp_path / "chip", listen)
    with served(serve) as (port, board):
        training = run.start(port)
        board.kill()
        board.wait()
        code, error, said = run.go_on(training)
    assert (code, error["exit_code"]) == (4, 4)
    assert port in said and f"--resume {run.out}" in said
    with served(serve) as (other, _):
        summary = run.resume(other)
        assert status("brram-soc", other).powered == 0
    assert summary["epochs"] == EPOCHS
    assert len((run.out / "metrics.jsonl").read_text().splitlines()) == EPOCHS


def test_a_restarted_board_is_said_to_be_and_the_run_goes_on(
    command: list[str], tmp_path: Path
) -> None:
    try:
        program = firmware_build.build(catalogue.load("native"), firmware_build.NATIVE)
    except firmware_build.MissingToolError as error:
        pytest.skip(f"needs the Debian package {error.package}")
    run = Run(command, tmp_path, "native")
    with served([str(program), "--state", str(tmp_path / "chip")]) as (port, board):
        training = run.start(port)
        board.send_signal(signal.SIGUSR1)
        time.sleep(0.3)
        code, _, said = run.go_on(training)
        assert code == 4
        assert "was restarted" in said and f"--resume {run.out}" in said
        assert status("native", port).powered == 0
        assert run.resume(port)["epochs"] == EPOCHS


def test_a_board_whose_host_was_killed_makes_itself_safe(
    command: list[str], tmp_path: Path
) -> None:
    profile = tmp_path / "short.yaml"
    profile.write_text(SHORT_LEASE)
    run = Run(command, tmp_path, str(profile))
    with served(emulator(command, str(profile), tmp_path / "chip")) as (port, _):
        training = run.start(port)
        # The host thinks for longer than the lease, and its driver keeps it.
        time.sleep(2.4)
        training.send_signal(signal.SIGKILL)
        training.communicate()
        time.sleep(1.6)
        found = status(str(profile), port)
        assert (found.powered, found.lapses) == (0, 1)
        assert run.resume(port)["epochs"] == EPOCHS


@pytest.mark.parametrize("reason", ["interrupt", "budget"])
def test_an_interrupted_and_a_refused_training_leave_the_board_safe(
    reason: str, command: list[str], tmp_path: Path
) -> None:
    profile = tmp_path / "tender.yaml"
    # Less than what the second programming of a cell may cost at worst.
    budget = 160 if reason == "budget" else 1_000_000
    limits = f"{{lifetime_soft: 1, lifetime_pulses: {budget}}}"
    profile.write_text(f"name: tender\nsummary: tender cells\nextends: emu\nlimits: {limits}\n")
    run = Run(command, tmp_path, str(profile))
    options = emulator(command, str(profile), tmp_path / "chip")
    with served(options) as (port, _):
        if reason == "interrupt":
            training = run.start(port)
            training.send_signal(signal.SIGINT)
            code, _, said = run.go_on(training)
            assert code == 130 and "soft budget" in said
        else:
            arguments = [*command, "train", "lenet", "--board", str(profile), "--port", port]
            longer = [*arguments, "--epochs", "4", "--out", str(run.out)]
            training = subprocess.run(longer, capture_output=True, text=True, check=False)
            assert training.returncode == 6
            assert "lifetime" in training.stderr and "Nothing was changed" in training.stderr
            assert "Traceback" not in training.stderr
        assert status(str(profile), port).powered == 0


def test_training_through_a_faulty_link_ends_with_the_weights_of_a_good_one(
    command: list[str], tmp_path: Path
) -> None:
    digests, retries = set(), 0
    faults = "drop=0.01,flip=0.01,duplicate=0.01,late=0.005,seed=1"
    for name, options in (("good", []), ("bad", ["--faults", faults])):
        serve = [*command, "emu", "serve", "--board", "emu", "--seed", "4", *options]
        with served(serve) as (port, _):
            trained = subprocess.run(
                [*command, "train", "lenet", "--board", "emu", "--port", port, "--epochs", "1",
                 "--batches-per-epoch", "25", "--seed", "4", "--json",
                 "--out", str(tmp_path / name)],
                capture_output=True, text=True, check=False, timeout=280,
            )  # fmt: skip
            assert trained.returncode == 0, trained.stderr
            summary = json.loads(trained.stdout)
            digests.add(summary["weights_sha256"])
            retries = summary["link"]["retries"]
    assert len(digests) == 1
    assert retries > 0
