"""The top command, and what becomes of an error: one message and the exit code of the contract."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

import click

from boards import errors
from cimctl import __version__

#: command, module that holds an object of the same name, short help
COMMANDS = {
    "train": ("cimctl.cli.train", "Train a network on a board, or on the emulator."),
    "eval": ("cimctl.cli.evaluate", "Test a trained run on a board."),
    "board": ("cimctl.cli.board", "What boards there are, what one says of itself, make it safe."),
    "program": ("cimctl.cli.cells", "Write-verify cells of a tile to conductances."),
    "read": ("cimctl.cli.cells", "Read the conductances of a tile."),
    "wear": ("cimctl.cli.cells", "Say how many pulses the cells of a tile got in their life."),
    "vmm": ("cimctl.cli.cells", "Multiply vectors by the conductances of a tile."),
    "pulse": ("cimctl.cli.cells", "Give open-loop pulses to cells of a tile."),
    "calibrate": ("cimctl.cli.calibrate", "Measure the converters of a chip, and keep the result."),
    "characterize": (
        "cimctl.cli.characterize",
        "Fit device models to measured pulse responses, and measure these.",
    ),
    "map": ("cimctl.cli.map", "Show which part of a network lies where on a board's tiles."),
    "estimate": (
        "cimctl.cli.estimate",
        "Estimate time, energy and wear of a network on a board.",
    ),
    "conformance": ("cimctl.cli.conformance", "Run the regression suite of a board's firmware."),
    "bench": ("cimctl.cli.bench", "Measure the speed of a board, its link, and training on it."),
    "firmware": ("cimctl.cli.firmware", "Build the C reference firmware, or take it to a board."),
    "emu": ("cimctl.cli.emu", "Put an emulated board on a TCP port or pseudo-terminal."),
    "proto": ("cimctl.cli.proto", "The protocol: specification, decoded traces, replay."),
    "data": ("cimctl.cli.data", "Data sets: what is there, and fetching them."),
}

#: commands whose name Python or we use for something else
_OBJECTS = {"eval": "eval_", "map": "map_"}
BUG, INTERRUPTED = 1, 130
#: what a full or read-only disk says
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
#: first match counts: subclasses stand before their bases
EXIT_CODES: tuple[tuple[type[errors.CimError], int], ...] = (
    (errors.UsageError, 2),
    (errors.UnsupportedError, 2),
    (errors.NoBoardError, 3),
    (errors.LinkError, 4),
    (errors.SafetyRefusal, 6),
    (errors.DeviceError, 5),
    (errors.IndeterminateError, 7),
    (errors.StorageError, 8),
)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, _OBJECTS.get(cmd_name, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": "CIMCTL",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
    },
)
@click.version_option(__version__, "--version", message="cimctl %(version)s")
def root() -> None:
    """Control compute-in-memory chips: train on silicon, or on an emulator of it.

    \b
    Example:
      cimctl train lenet --board emu

    Every option can also be given by an environment variable:
    CIMCTL_TRAIN_SEED=1 stands for --seed 1 of train.
    Results go to standard output, progress and messages to standard error.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; prints one message for an error."""
    as_json = "--json" in arguments or any(
        name.startswith("CIMCTL_") and name.endswith("_JSON") and value not in ("", "0")
        for name, value in os.environ.items()
    )
    _hear_the_end()
    try:
        outcome = root.main(args=list(arguments), prog_name="cimctl", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        _say_json(as_json, "interrupted", INTERRUPTED)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        _say_json(as_json, error.format_message(), error.exit_code)
        return error.exit_code
    except errors.CimError as error:
        code = exit_code(error)
        click.echo(f"Error: {error}.", err=True)
        _say_json(as_json, str(error), code)
        return code
    except BrokenPipeError:
        # The reader of our output has gone: nothing to say, and nobody to say it to.
        _drop_output()
        return 0
    except MemoryError as error:
        click.echo(f"Error: this needs more memory than there is: {error}.", err=True)
        _say_json(as_json, str(error), 2)
        return 2
    except OSError as error:
        if error.errno not in _STORAGE:
            return _bug()
        click.echo(f"Error: the output cannot be written: {error.strerror}.", err=True)
        _drop_output()
        return 8
    except Exception:
        return _bug()
    return outcome if isinstance(outcome, int) else 0


def _hear_the_end() -> None:
    """A terminal that closes and a polite kill are interrupts too: a board is left safe."""

    def on_signal(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # One that a parent has chosen to be ignored, as nohup does, stays so.
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, on_signal)


def _drop_output() -> None:
    """What standard output still holds goes nowhere: at exit it would fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug() -> int:
    traceback.print_exc()
    click.echo("This is a bug of cimctl: please report it with the lines above.", err=True)
    return BUG


def exit_code(error: errors.CimError) -> int:
    """The exit code of the contract for an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), BUG)


def _say_json(wanted: bool, message: str, code: int) -> None:
    if wanted:
        click.echo(json.dumps({"schema": "cimctl.error/1", "error": message, "exit_code": code}))
