"""Fixtures that several test modules share."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ServeEmulator = Callable[..., tuple[str, "subprocess.Popen[str]"]]


def hear_interrupts() -> None:
    """For a child process: Ctrl-C counts, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The installed ``cimctl``, or its entry point where no script is installed."""
    script = Path(sysconfig.get_path("scripts")) / "cimctl"
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from cimctl.cli import main; main()"]


@pytest.fixture(scope="module")
def serve_emulator(command: list[str]) -> Iterator[ServeEmulator]:
    """Starts ``cimctl emu serve`` with options; gives its address and its process."""
    started: list[subprocess.Popen[str]] = []

    def serve(*options: str) -> tuple[str, subprocess.Popen[str]]:
        process = subprocess.Popen(
            [*command, "emu", "serve", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process

    yield serve
    for process in started:
        process.kill()
        process.communicate()
