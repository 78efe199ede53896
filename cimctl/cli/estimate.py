"""cimctl estimate."""

from __future__ import annotations

import click

from cimctl.cli.options import json_option, show
from cimctl.estimate import ALGORITHMS, Update, UpdateTimes


# One command and no group: MODEL, an argument, would be taken for the name of a sub-command.
@click.command()
@click.option(
    "--update",
    required=True,
    type=click.Choice(list(ALGORITHMS)),
    help="Algorithm whose update of one array is timed.",
)
@click.option("--size", type=click.IntRange(1, 10**6), default=512, help="N of an N x N array.")
@click.option(
    "--read-every",
    type=click.IntRange(1, 10**9),
    default=5,
    help="Vectors between two readings of the fast array, where there is one.",
)
@click.option(
    "--pulse-length",
    type=click.IntRange(1, 10**6),
    default=5,
    help="Slots of a pulse train; mixed-precision has none.",
)
@json_option
def estimate(update: str, size: int, read_every: int, pulse_length: int, json: bool) -> None:
    """Estimate how long an algorithm takes to update an array, for each input vector.

    The time model is that of arXiv 2303.04721: 175 digital GFLOP/s for each array, 5 ns a pulse,
    40 ns a reading. No board is needed.

    \b
    Examples:
      cimctl estimate --update agad --size 512 --read-every 2 --pulse-length 5
      cimctl estimate --update mixed-precision --size 512
    """
    asked = Update(size, read_every, pulse_length)
    found = ALGORITHMS[update](asked, UpdateTimes())
    values = {
        "algorithm": update,
        "size": size,
        "read_every": read_every,
        "pulse_length": pulse_length,
        "update_ns": found,
    }
    text = f"{found:.1f} ns for each vector: {update} on an array of {size} x {size}"
    show(json, "cimctl.estimate.update/1", values, text)
