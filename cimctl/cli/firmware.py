"""cimctl firmware: building the C reference firmware, and taking it to a board."""

from __future__ import annotations

from pathlib import Path

import click

from cimctl.cli.options import json_option, show


@click.group()
def firmware() -> None:
    """Build the C reference firmware, or export it for a board of your own.

    \b
    Example:
      cimctl firmware build --board qemu
    """


@firmware.command()
@click.option("--board", required=True, help="Profile name, or path to a .yaml file.")
@click.option(
    "--target",
    type=click.Choice(["native", "rv32"]),
    help="For this computer, or for RV32.  [as the profile's link says]",
)
@json_option
def build(board: str, target: str | None, json: bool) -> None:
    """Build the firmware for a profile; for RV32, say how large it is.

    The program is kept in the user's cache; the boards `native` and `qemu` do this by themselves.

    \b
    Example:
      cimctl firmware build --board qemu
    """
    from boards import catalogue, firmware_build

    profile = catalogue.load(board)
    target = target or ("native" if profile.link.kind == "native" else "rv32")
    chosen = firmware_build.NATIVE if target == "native" else firmware_build.RV32
    program = firmware_build.build(profile, chosen)
    sizes = firmware_build.sizes(program) if target == "rv32" else {}
    lines = [str(program)]
    names = {
        "text": "code and constants",
        "ram": "static RAM, stack included",
        "model": "array model, in place of cells and non-volatile memory",
    }
    lines += [f"{sizes[key]:>8} bytes  {name}" for key, name in names.items() if key in sizes]
    values = {"board": profile.name, "target": target, "program": str(program), "bytes": sizes}
    show(json, "cimctl.firmware.build/1", values, "\n".join(lines))


@firmware.command()
@click.option("--board", required=True, help="Profile name, or path to a .yaml file.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@json_option
def export(board: str, folder: Path, json: bool) -> None:
    """Write the firmware's sources for a profile into a new folder.

    They hold the dispatcher, the protocol's header, the profile as a header, and hal_template.c, in
    which a board team fills in its hardware.

    \b
    Example:
      cimctl firmware export --board ./my-chip.yaml my-firmware
    """
    from boards import catalogue, firmware_build

    files = firmware_build.export(catalogue.load(board), folder)
    text = "\n".join(str(path) for path in files)
    values = {"folder": str(folder), "files": [path.name for path in files]}
    show(json, "cimctl.firmware.export/1", values, text)
