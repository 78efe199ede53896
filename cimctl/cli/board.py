"""cimctl board: what is there, what it says of itself, and making it safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import board_options, chosen_board, json_option, seed_option, show

if TYPE_CHECKING:
    from firmware_protocol.messages import JournalResponse


@click.group()
def board() -> None:
    """What boards there are, what one says of itself, make it safe.

    \b
    Example:
      cimctl board list
    """


@board.command("list")
@json_option
def list_(json: bool) -> None:
    """List the profiles that --board takes.

    \b
    Example:
      cimctl board list
    """
    from boards import catalogue

    profiles = catalogue.load_all()
    rows = [
        {
            "name": p.name,
            "summary": p.summary,
            "link": p.link.kind,
            "tiles": p.chip.tiles,
            "rows": p.chip.rows,
            "columns": p.chip.columns,
        }
        for p in profiles
    ]
    text = "\n".join(f"{p.name:<18} {p.summary}" for p in profiles)
    show(json, "cimctl.board.list/1", {"boards": rows}, text)


@board.command()
@board_options()
@seed_option
@json_option
def info(json: bool, seed: int, **values: Any) -> None:
    """Say what a board says of itself: HELLO, state and counters.

    \b
    Example:
      cimctl board info --board brram-soc --port /dev/ttyUSB0
    """
    from dataclasses import asdict

    from cimctl.connect import connect
    from firmware_protocol.constants import Opcode

    with connect(chosen_board(values, seed)) as opened:
        hello, status, journal = opened.hello, asdict(opened.status()), opened.journal()
        description = asdict(opened.description)
        offers = [flag.name for flag in opened.capabilities]
        commands = [op.name for op in Opcode if opened.offers(op)]
        description |= {"capabilities": offers, "opcodes": commands}
        description["column_weights"] = list(opened.column_weights)
    identity = {
        "model": hello.model,
        "firmware": hello.firmware,
        "board_id": f"{hello.board_id:016x}",
        "boot_id": f"{hello.boot_id:08x}",
    }
    status["boot_id"] = identity["boot_id"]
    last = _last_command(journal)
    sections = {**identity, **description, **status, "last_command": last}
    units = _units()
    lines = [
        f"{key:<24} {_text(value)} {units.get(key, '')}".rstrip() for key, value in sections.items()
    ]
    values_out = {
        **identity, "description": description, "status": status, "journal": asdict(journal),
    }  # fmt: skip
    show(json, "cimctl.board.info/1", values_out, "\n".join(lines))


@board.command()
@board_options()
@seed_option
@json_option
def safe(json: bool, seed: int, **values: Any) -> None:
    """Take a board's analog supplies to ground, and read that back.

    \b
    Example:
      cimctl board safe --board brram-soc --port /dev/ttyUSB0
    """
    from cimctl.connect import connect

    with connect(chosen_board(values, seed)) as opened:
        opened.safe()
        powered = bool(opened.status().powered)
        model = opened.hello.model
    show(
        json,
        "cimctl.board.safe/1",
        {"board": model, "powered": powered},
        f"{model}: the analog supplies are {'still on' if powered else 'off'}",
    )


@board.command()
@board_options()
@seed_option
@click.argument("seconds", type=float)
@json_option
def wait(seconds: float, json: bool, seed: int, **values: Any) -> None:
    """Let emulated time pass at once: cells drift, relax and diffuse.

    Only models of a chip offer it. Serve one, so that what was programmed is still there:

    \b
    Example:
      cimctl emu serve --board pcm --listen tcp://127.0.0.1:7000 --state cells.bin
      cimctl board wait --board pcm --port tcp://127.0.0.1:7000 86400
    """
    from cimctl.connect import connect

    with connect(chosen_board(values, seed)) as opened:
        time = opened.wait(seconds)
        model = opened.hello.model
    show(
        json,
        "cimctl.board.wait/1",
        {"board": model, "waited": seconds, "chip_seconds": time},
        f"{model}: {seconds:g} s have passed; chip time is {time:.6g} s",
    )


def _units() -> dict[str, str]:
    """Units of what HELLO and STATUS tell, as the specification has them."""
    from firmware_protocol import spec

    known = spec.load()
    status = next(c.response for c in known.commands if c.name == "STATUS")
    fields = (*known.structs["Description"].fields, *status.fields)
    return {field.name: field.unit for field in fields}


def _last_command(journal: JournalResponse) -> str:
    """What the journal says of the last command that changed cells."""
    if not journal.number:
        return "none"
    if journal.number <= journal.operations:
        return f"number {journal.number}, applied to {journal.progress} cells"
    return (
        f"number {journal.number}, cut short: {journal.progress} cells done, "
        f"{journal.in_doubt} in doubt"
    )


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
