"""cimctl bench: how fast a board and its link are, in the terms of docs/performance.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cimctl.cli.options import (
    ask_for_changes,
    board_options,
    chosen_board,
    json_option,
    number,
    seed_option,
    show,
)

if TYPE_CHECKING:
    from boards.board import Board
    from cimctl.bench.keep import Way
    from cimctl.bench.turns import Effort, Spread

F = TypeVar("F", bound=Callable[..., Any])
_YES = click.option(
    "--yes", is_flag=True, help="Change cells of a board without snapshots and do not ask."
)
_BACK = {
    "snapshot": "the chip is put back by its snapshot",
    "programming": "cells are programmed back to what they read, which costs further pulses",
    "nothing": "the chip ends with this command",
}


@click.group()
def bench() -> None:
    """Measure the speed of a board, its link, and training on it.

    Works are repeated in turns, and medians printed with their 10th and 90th percentile; compare
    ratios, since times depend on what else this computer does.

    \b
    Example:
      cimctl bench link --board brram-soc --port /dev/ttyUSB0
    """


def _measurement(command: F) -> F:
    command = click.option(
        "--turns", type=click.IntRange(1, 10000), default=20, help="Repetitions, at most."
    )(command)
    command = click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        default=30.0,
        callback=number,
        help="No repetition but the first begins later; getting ready does not count.",
    )(command)
    return board_options()(seed_option(json_option(command)))


@bench.command()
@_measurement
def link(json: bool, **values: Any) -> None:
    """Measure round trips, bytes and frames a second, and what the window brings.

    No cell is changed.

    \b
    Example:
      cimctl bench link --board brram-soc --port /dev/ttyUSB0
    """
    from cimctl.bench.link import measure

    with _opened(values) as (board, effort, turns):
        found = measure(board, effort)
    text = "\n".join([
        f"round trip           {_ms(found.round_trip)}",
        f"frames               {found.frames} a second with {found.window} in flight",
        f"                     {found.frames_gain} times as many as with one",
        f"payloads of {found.payload:<8} {_mega(found.throughput)} MB/s each way, both at once",
        f"                     {found.throughput_gain} times as much as with one in flight",
        f"bytes on the wire    {found.overhead:.4f} for each byte of packed codes",
        _medians(turns()),
    ])  # fmt: skip
    show(json, "cimctl.bench.link/1", _plain(values, found) | {"turns": turns()}, text)


@bench.command()
@_measurement
def vmm(json: bool, **values: Any) -> None:
    """Measure vectors and conversions a second, beside torch.matmul on this computer.

    The link's share is that of as many frames and bytes that only go there and back. No cell is
    changed.

    \b
    Example:
      cimctl bench vmm --board emu
    """
    from cimctl.bench.vmm import measure

    with _opened(values) as (board, effort, turns):
        found = measure(board, effort)
    lines = [f"{'shape':14}{'batch':>6}  vectors/s; conversions/s; times torch.matmul; link"]
    lines += [
        f"{each.shape!s:14}{each.batch:>6}  {each.vectors}; {each.conversions.median:.3g}; "
        f"{each.over_matmul}; {100 * min(1.0, each.link_share.median):.0f} %"
        for each in found
    ]
    rows = [_plain({}, each) | {"shape": list(each.shape.matrix.shape)} for each in found]
    lines.append(_medians(turns() // len(found)))
    said = {"board": values["board"], "products": rows, "turns": turns() // len(found)}
    show(json, "cimctl.bench.vmm/1", said, "\n".join(lines))


@bench.command()
@_measurement
@_YES
@click.option("--algorithm", help="How to train.  [mixed-precision, or radix4 for integer weights]")
def train(json: bool, yes: bool, algorithm: str | None, **values: Any) -> None:
    """Measure training of LeNet through the board, over plain FP32 on this computer.

    Training writes cells. A chip with snapshots gets its cells back by one; of another on a port
    they are read before and programmed back, which costs further pulses; one that starts with this
    command ends with it.

    \b
    Example:
      cimctl bench train --board emu
    """
    from boards.errors import UsageError
    from cimctl.algorithms import ALGORITHMS
    from cimctl.bench import keep
    from cimctl.bench.train import measure, pulses_of_a_step, usual_algorithm

    known = [name for name, kind in ALGORITHMS.items() if kind.ANALOG]
    if algorithm is not None and algorithm not in known:
        raise UsageError(
            f"There is no algorithm '{algorithm}' on a chip", next=f"Known: {', '.join(known)}"
        )
    with _opened(values) as (board, effort, turns):
        algorithm = algorithm or usual_algorithm(board)
        ALGORITHMS[algorithm].check(board, _defaults(algorithm))
        way = keep.way_back(board, values["port"])
        if way == "programming":
            step = pulses_of_a_step(board.profile, algorithm, values["seed"])
            pulses = f"about {step * (effort.turns + 1):,.0f} pulses, as the emulated chip needs"
            _agree(f"Up to {effort.turns + 1} training steps cost {pulses}", way, yes)
        with keep.kept(board, way):
            found = measure(board, algorithm, values["seed"], effort)
    text = "\n".join([
        f"LeNet, batch 64, {found.algorithm}: {found.images} images a second",
        f"times FP32           {found.over_fp32}; processor time {found.over_fp32_processor}",
        f"for a step           {found.writes:,.0f} writes, {found.pulses:,.0f} pulses, as a "
        "training begins",
        f"bytes on the link    {found.link_bytes:,.0f} an image",
        f"{_medians(turns())} Afterwards {_BACK[way]}.",
    ])  # fmt: skip
    said = _plain(values, found) | {"put_back": way, "turns": turns()}
    show(json, "cimctl.bench.train/1", said, text)


@bench.command()
@_measurement
@_YES
def update(json: bool, yes: bool, **values: Any) -> None:
    """Measure pulses and updates a second, on tile 0.

    As many pulses go up as down. A chip with snapshots gets its cells back by one; of another on a
    port they are read before and programmed back, which costs further pulses; one that starts with
    this command ends with it.

    \b
    Example:
      cimctl bench update --board rpu-large
    """
    from cimctl.bench import keep
    from cimctl.bench.update import measure, most_pulses

    with _opened(values) as (board, effort, turns):
        way = keep.way_back(board, values["port"])
        pulses = most_pulses(board, effort.turns)
        if way == "programming":
            _agree(f"Cells of tile 0 get up to {pulses:,} pulses in all", way, yes)
        with keep.kept(board, way):
            found = measure(board, effort)
    lines = [
        f"{each.kind:10} {each.cells:>6} cells: {each.updates} updates a second, "
        f"{_mega(each.pulses)} million pulses a second"
        + (f", by trains of {each.slots} slots" if each.slots else "")
        for each in found
    ]
    lines.append(f"{_medians(turns())} Afterwards {_BACK[way]}.")
    said = {"board": values["board"], "updates": [_plain({}, each) for each in found]}
    said |= {"most_pulses": pulses, "put_back": way, "turns": turns()}
    show(json, "cimctl.bench.update/1", said, "\n".join(lines))


@contextmanager
def _opened(values: dict[str, Any]) -> Iterator[tuple[Board, Effort, Callable[[], int]]]:
    """The board, a measurement whose turns a bar counts on standard error, and their number."""
    from tqdm import tqdm

    from cimctl.bench.turns import Effort
    from cimctl.connect import connect

    click.echo("Getting ready; the very first start compiles kernels ...", err=True)
    with (
        connect(chosen_board(values, values["seed"])) as board,
        # Nothing is drawn before the first turn, where a question or a refusal may stand.
        tqdm(unit="turn", file=sys.stderr, mininterval=0.2, desc="measuring", delay=0.01) as bar,
    ):
        yield board, Effort(values["turns"], values["seconds"], bar.update), lambda: int(bar.n)


def _medians(turns: int) -> str:
    if turns == 1:
        return "One turn: the spread is not known."
    return f"Medians of {turns} turns, 10th to 90th percentile in parentheses."


def _agree(said: str, way: Way, yes: bool) -> None:
    ask_for_changes(f"{said}; afterwards {_BACK[way]}", yes)


def _defaults(algorithm: str) -> Any:
    from cimctl.algorithms import ALGORITHMS, settings

    return settings.parse((), ALGORITHMS[algorithm].DEFAULTS)


def _plain(values: dict[str, Any], found: Any) -> dict[str, Any]:
    """A measurement for JSON, spreads as median and percentiles."""
    from cimctl.bench.turns import Spread

    plain = {field.name: getattr(found, field.name) for field in fields(found)}
    plain = {k: v.plain() if isinstance(v, Spread) else v for k, v in plain.items()}
    return ({"board": values["board"]} if values else {}) | plain


def _ms(spread: Spread) -> str:
    return f"{1000 * spread.median:.3g} ms ({1000 * spread.low:.3g} to {1000 * spread.high:.3g})"


def _mega(spread: Spread) -> str:
    return f"{spread.median / 1e6:.3g} ({spread.low / 1e6:.3g} to {spread.high / 1e6:.3g})"
