"""Options that several commands share, and printing of results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from cimctl.connect import BoardOptions

F = TypeVar("F", bound=Callable[..., Any])
SEED = click.IntRange(0, 2**64 - 1)


class Folder(click.Path):
    """A path that is not empty: an unset variable in a script is no folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "":
            self.fail("the name of the folder is empty", param, ctx)
        return super().convert(value, param, ctx)


class Picture(click.Path):
    """A file for a PNG, which its name says."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if Path(value).suffix.lower() != ".png":
            self.fail(f"'{value}' would hold a PNG: give it a name that ends in .png", param, ctx)
        return super().convert(value, param, ctx)


def number(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Refuses 'nan', which is in every range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("'nan' is no number.", ctx, parameter)
    return value


def board_options(required: bool = True) -> Callable[[F], F]:
    """--board, --port and the settings of the link; the command takes them as keyword arguments."""
    options = [
        click.option("--board", required=required, help="Profile name, or path to a .yaml file."),
        click.option(
            "--port",
            help="Where the board is: a device path, tcp://HOST:PORT or a pyserial URL. "
            "Without it an emulated profile runs in this process.",
        ),
        click.option(
            "--window", type=click.IntRange(1, 64), help="Requests in flight at most.  [profile's]"
        ),
        click.option(
            "--max-payload",
            type=click.IntRange(256, 2**32 - 1),
            help="Largest payload of a frame in bytes.  [board's]",
        ),
        click.option(
            "--capture",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write every byte of the session to this file.",
        ),
    ]

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def json_option(command: F) -> F:
    """--json: the result as one JSON object."""
    return click.option("--json", is_flag=True, help="One JSON object.")(command)


def seed_option(command: F) -> F:
    """--seed of an emulated chip."""
    return click.option(
        "--seed", type=SEED, default=0, help="Seed of an emulated chip in process."
    )(command)


def threads_option(command: F) -> F:
    """--threads of torch; one by default, since floating-point sums depend on their number."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 256),
        default=1,
        help="Threads of the digital part. Another number gives other last bits.",
    )(command)


def chosen_board(values: dict[str, Any], seed: int = 0) -> BoardOptions:
    """The board options among a command's arguments."""
    # Imported here: listing boards needs neither numpy nor a link.
    from cimctl.connect import BoardOptions

    if values["port"] == "":
        # An unset variable in a script must not mean an emulated chip.
        raise click.UsageError("--port is empty: leave it out, or say where the board is.")

    return BoardOptions(
        board=values["board"],
        port=values["port"],
        seed=seed,
        window=values["window"],
        max_payload=values["max_payload"],
        capture=values["capture"],
    )


@contextmanager
def decoding_bar() -> Iterator[Callable[[int, int | None], None]]:
    """Takes the progress of decoding images, and shows it on standard error once there is some."""
    bar: Any = None

    def on_image(done: int, count: int | None) -> None:
        nonlocal bar
        if bar is None:
            from tqdm import tqdm

            bar = tqdm(total=count, desc="decoding", unit="image", file=sys.stderr, mininterval=0.5)
        bar.update(done - bar.n)

    try:
        yield on_image
    finally:
        if bar is not None:
            bar.close()


def ask_for_changes(said: str, yes: bool) -> None:
    """Asks before cells of a board on a port are changed.

    Raises:
        UsageError: nobody agreed; the board was not touched.
    """
    from boards.errors import UsageError

    if yes:
        click.echo(said + ".", err=True)
        return
    left = "The board was not touched"
    if not sys.stdin.isatty():
        raise UsageError(
            f"{said}, and there is nobody to ask", left=left, next="Give --yes as well"
        )
    if not click.confirm(f"{said}. Go on?", err=True):
        raise UsageError("Not agreed", left=left)


def show(json: bool, schema: str, values: dict[str, Any], text: str) -> None:
    """Prints a result on standard output, as JSON or as text."""
    click.echo(dumps({"schema": schema, **values}) if json else text)
