"""cimctl calibrate: measure the converters of a chip, and keep what was found."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import (
    Picture,
    ask_for_changes,
    board_options,
    chosen_board,
    json_option,
    seed_option,
    show,
)

if TYPE_CHECKING:
    from boards.board import Board
    from cimctl.calibration.measure import Measured, Plan

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@board_options()
@seed_option
@click.option("--tile", default="all", metavar="N|all", help="Which tile.")
@click.option(
    "--samples", type=click.IntRange(2, 100000), default=4080, help="Readings of each cell."
)
@click.option(
    "--products",
    type=click.IntRange(64, 1 << 20),
    default=8192,
    help="Random products of each tile and kind of lines.",
)
@click.option("--span", type=float, help="ADC span in uA.  [one that products fill]")
@click.option("--program", is_flag=True, help="Write a random pattern into the cells first.")
@click.option("--yes", is_flag=True, help="Overwrite cells of a board on a port without asking.")
@click.option("--out", type=_FILE, help="File for the result.  [the chip's, in the user's data]")
@click.option("--plot", type=Picture(), help="Plot of each line's error before and after, a PNG.")
@json_option
def calibrate(
    seed: int,
    tile: str,
    samples: int,
    products: int,
    span: float | None,
    program: bool,
    yes: bool,
    out: Path | None,
    plot: Path | None,
    json: bool,
    **values: Any,
) -> None:
    """Measure offset, gain and bow of a chip's converters, and keep them for this chip.

    The cells are read many times and left as they are, unless --program is given; random products
    are compared with what the readings say. What was found is then tested on fresh inputs.

    \b
    Example:
      cimctl calibrate --board emu-uncalibrated --plot calibration.png
    """
    from cimctl.calibration import record, report
    from cimctl.calibration.measure import Plan
    from cimctl.connect import connect

    _check_outputs(plot, out)
    with connect(chosen_board(values, seed)) as board:
        _check_span(board, span)
        tiles = _tiles(board, tile)
        path = out or record.usual_path(board)
        _check_kept(path, tiles, len(board.tiles))
        if program:
            _agree(values["port"], tiles, yes)
        plan = Plan(samples=samples, products=products, span_uA=span)
        found = _measure(board, tiles, plan, program)
        record.save(path, record.of(board, tuple(m.lines for m in found)))
        said = {
            "board": values["board"],
            "board_id": f"{board.hello.board_id:016x}",
            "model": board.hello.model,
            "temperature_C": record.temperature_of(board),
            "out": str(path),
            "tiles": report.plain(found),
            "ratio": min(m.ratio for m in found),
            "reached": all(m.reached for m in found),
        }
        text = report.table(found, board.description.adc_bits)
        title = f"{board.hello.model}, board {board.hello.board_id:016x}"
    if plot is not None:
        report.plot(plot, found, title)
        said["plot"] = str(plot)
    show(json, "cimctl.calibrate/1", said, f"{text}\n{report.verdict(found)}.\nKept in {path}")


def _measure(board: Board, tiles: list[int], plan: Plan, program: bool) -> list[Measured]:
    from cimctl.calibration import measure

    board.power_up()
    found = []
    for number in tiles:
        opened = board.tiles[number]
        if program:
            missed = measure.program_pattern(opened, plan.seed)
            click.echo(f"Tile {number}: pattern written, {missed} cells missed it.", err=True)
        cells = measure.read_cells(opened, plan.samples)
        for kind in measure.kinds(board):
            found.append(measure.measure(board, number, cells, kind, plan))
            click.echo(f"Tile {number}: {kind} measured.", err=True)
    return found


def _tiles(board: Board, tile: str) -> list[int]:
    from boards.errors import UsageError

    count = len(board.tiles)
    if tile == "all":
        return list(range(count))
    if not tile.isdecimal() or int(tile) >= count:
        raise UsageError(
            f"Board '{board.hello.model}' has tiles 0 to {count - 1}, not '{tile}'",
            left="Nothing was sent",
            next="Give one of these, or all",
        )
    return [int(tile)]


def _check_span(board: Board, span: float | None) -> None:
    from boards.errors import UsageError

    (low, high), unit = board.profile.adc_span, board.profile.span_unit
    if span is not None and not low <= span <= high:
        raise UsageError(f"The ADC's span is {low:g} to {high:g} {unit}, not {span:g} {unit}")


def _check_outputs(plot: Path | None, out: Path | None) -> None:
    from boards.errors import UsageError
    from cimctl.files import check_writable

    for path in (plot, out):
        if path is not None:
            check_writable(path)
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "A plot needs matplotlib, which is not installed",
            left="Nothing was measured",
            next="Install it: pip install 'cimctl[plot]'",
        )


def _check_kept(path: Path, tiles: list[int], count: int) -> None:
    """One tile's measurement must not take the place of several."""
    from boards.errors import UsageError
    from cimctl.calibration import record

    if len(tiles) == count or not path.exists():
        return
    try:
        kept = {lines.tile for lines in record.load(path).lines}
    except UsageError:
        return
    if kept - set(tiles):
        raise UsageError(
            f"'{path}' holds other tiles too, which this would drop",
            left="Nothing was measured",
            next="Measure all of them (--tile all), or name another file with --out",
        )


def _agree(port: str | None, tiles: list[int], yes: bool) -> None:
    names = ", ".join(map(str, tiles))
    said = f"All cells of tile {names} get a random pattern: what they hold is lost"
    if port is not None:
        ask_for_changes(said, yes)
    else:
        click.echo(said + ".", err=True)
