"""cimctl proto: the specification, a decoded trace, a session played back."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Any

import click

from cimctl.cli.options import (
    ask_for_changes,
    board_options,
    chosen_board,
    json_option,
    seed_option,
    show,
)

_CAPTURE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def proto() -> None:
    """The protocol: specification, decoded traces, replay.

    \b
    Example:
      cimctl proto dump session.cap
    """


@proto.command()
@json_option
def spec(json: bool) -> None:
    """Print the specification that this cimctl speaks.

    \b
    Example:
      cimctl proto spec
    """
    from firmware_protocol import spec as specification

    loaded = specification.load()
    values = {"digest": loaded.digest.hex(), "version": loaded.version, "spec": loaded.raw}
    show(json, "cimctl.proto.spec/1", values, specification.SPEC_PATH.read_text().rstrip())


@proto.command()
@_CAPTURE
@json_option
def dump(file: Path, json: bool) -> None:
    """Print a capture decoded, one frame a line.

    \b
    Example:
      cimctl train lenet --board emu --epochs 1 --capture session.cap
      cimctl proto dump session.cap
    """
    from boards import capture
    from cimctl.trace import describe

    header = capture.read_header(file)
    rows = (describe(record) for record in capture.read(file))
    if json:
        values = {"schema": "cimctl.proto.dump/1", "header": header, "frames": list(rows)}
        click.echo(dumps(values))
        return
    click.echo(f"# board {header.get('board')}, specification {header.get('spec')}")
    for row in rows:
        fields = " ".join(f"{name}={value}" for name, value in row["fields"].items())
        click.echo(
            f"{row['seconds']:12.6f} {row['direction']} {row['sequence']:>7} "
            f"{row['name']:<20} {fields}"
        )


@proto.command()
@_CAPTURE
@board_options()
@seed_option
@click.option("--yes", is_flag=True, help="Change cells of a board on a port without asking.")
@json_option
def replay(file: Path, json: bool, seed: int, yes: bool, **values: Any) -> None:
    """Play a captured session to a board and compare the answers.

    What the session programmed and pulsed is programmed and pulsed again. A fresh emulated chip of
    the same profile and seed gives the same answers, bit for bit; a chip that has lived since then
    does not. The board is left safe.

    \b
    Example:
      cimctl proto replay session.cap --board emu --seed 0
    """
    from boards.errors import DeviceError
    from cimctl.connect import open_link
    from cimctl.trace import changes, play

    options = chosen_board(values, seed)
    count = changes(file)
    if options.port is not None and count:
        ask_for_changes(f"{count} requests of this session change cells", yes)
    result = play(file, open_link(options))
    said = {"requests": result.requests, "same": result.same, "different": result.different}
    if result.different:
        raise DeviceError(
            f"{result.different} of {result.requests} answers differ; the first is number "
            f"{result.first_difference}",
            next="Replay to a fresh chip of the same profile and seed",
        )
    show(json, "cimctl.proto.replay/1", said, f"{result.same} answers, all the same")
