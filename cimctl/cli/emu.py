"""cimctl emu: an emulated board on a port."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cimctl.cli.options import SEED, json_option, show


@click.group()
def emu() -> None:
    """Put an emulated board on a TCP port or pseudo-terminal.

    \b
    Example:
      cimctl emu serve --board emu
    """


@emu.command()
@click.option("--board", default="emu", help="Profile name, or path to a .yaml file.")
@click.option(
    "--listen",
    default="tcp://127.0.0.1:0",
    help="tcp://HOST:PORT (port 0: any free one), or pty for a pseudo-terminal.",
)
@click.option("--seed", type=SEED, default=0, help="Seed of the chip.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that the cells live in; they survive even a kill.",
)
@click.option(
    "--faults",
    help="Faults of line and power, as probabilities a frame and a seed, e.g. "
    "drop=0.01,flip=0.01,seed=7.",
)
@json_option
def serve(
    board: str, listen: str, seed: int, state: Path | None, faults: str | None, json: bool
) -> None:
    """Serve an emulated board until Ctrl-C; prints the address that --port takes.

    \b
    --faults takes the probability of each fault for a frame, comma-separated, and a seed:
      drop, flip, truncate, duplicate   a frame is lost, damaged, cut, sent twice
      late, reorder                     an answer comes after later ones
      stall, disconnect                 nothing comes for a while, the connection ends
      reboot_before, reboot_after, reboot_within
                                        power fails before, after, within a command

    \b
    Example:
      cimctl emu serve --board brram-soc --listen pty --state chip.cells
      cimctl emu serve --board emu --faults drop=0.01,flip=0.01,late=0.005,seed=7
    """
    import torch

    from boards import catalogue, locks
    from sim_backend.chip import Chip
    from sim_backend.faults import Faults, FaultyBoard
    from sim_backend.firmware import Firmware
    from sim_backend.server import open_server

    # Its sums are exact: more threads give the same bits, and rob the trainer beside it.
    torch.set_num_threads(1)
    profile = catalogue.load(board)
    wanted = None if faults is None else Faults.parse(faults)
    # Two emulators on one file would each write over the other's cells.
    lock = locks.acquire(str(state.resolve())) if state else None
    firmware = Firmware(Chip(profile, seed, state))
    server = open_server(listen, firmware if wanted is None else FaultyBoard(firmware, wanted))
    values = {"board": profile.name, "port": server.address, "seed": seed, "faults": faults}
    show(json, "cimctl.emu.serve/1", values, server.address)
    sys.stdout.flush()
    try:
        server.serve()
    finally:
        server.close()
        if lock is not None:
            lock.release()
