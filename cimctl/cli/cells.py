"""cimctl program, read, vmm, pulse: one operation on one tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cimctl.cli.integers import check_groups, targets_of, weights_of_cells
from cimctl.cli.options import board_options, chosen_board, json_option, seed_option, show

if TYPE_CHECKING:
    from boards.board import Board
    from boards.multiply import Matrix
    from boards.tile import Tile
    from cimctl.calibration.record import Correction
    from firmware_protocol.messages import Region

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(dir_okay=False, path_type=Path)
_INPUT = click.option("--input", type=_FILE, required=True, help=".npy or CSV file.")
_INTEGERS = click.option(
    "--integers",
    is_flag=True,
    help="Integer weights, each as bits over the columns of a group, on a board that adds these.",
)
_OUTPUT = click.option("--output", type=_FILE, help=".npy or CSV file.  [standard output]")
#: ADC span of vmm where none is given, share of the largest settable one
_DEFAULT_SLOT = 1
#: stands for the file that cimctl calibrate keeps for the connected chip
_CHIPS = "-"


def _tile_options(command: F) -> F:
    command = click.option("--column", type=click.IntRange(0), default=0, help="First column.")(
        command
    )
    command = click.option("--row", type=click.IntRange(0), default=0, help="First row.")(command)
    command = click.option("--tile", type=click.IntRange(0), required=True, help="Tile number.")(
        command
    )
    return board_options()(seed_option(json_option(command)))


def _size_options(command: F) -> F:
    command = click.option(
        "--columns", type=click.IntRange(1), help="Columns.  [to the end of the tile]"
    )(command)
    return click.option("--rows", type=click.IntRange(1), help="Rows.  [to the end of the tile]")(
        command
    )


@contextmanager
def opened_tile(
    values: dict[str, Any], number: int, *, powered: bool = True
) -> Iterator[tuple[Board, Tile]]:
    from boards.errors import UsageError
    from cimctl.connect import connect

    with connect(chosen_board(values, values["seed"])) as board:
        if number >= len(board.tiles):
            raise UsageError(
                f"Board '{board.hello.model}' has tiles 0 to {len(board.tiles) - 1}, not {number}",
                left="Nothing was sent",
            )
        if powered:
            board.power_up()
        yield board, board.tiles[number]


def region_of(tile: Tile, row: int, column: int, rows: int | None, columns: int | None) -> Region:
    from boards.errors import UsageError
    from firmware_protocol.messages import Region

    if row >= tile.rows or column >= tile.columns:
        raise UsageError(
            f"Row {row}, column {column} is not on the tile of {tile.rows} x {tile.columns}",
            left="Nothing was sent",
        )
    rows = tile.rows - row if rows is None else rows
    columns = tile.columns - column if columns is None else columns
    inside = 0 < rows <= tile.rows - row and 0 < columns <= tile.columns - column
    if not inside:
        raise UsageError(
            f"{rows} rows from {row} and {columns} columns from {column} leave the tile of "
            f"{tile.rows} x {tile.columns}",
            left="Nothing was sent",
        )
    return Region(tile.index, row, rows, column, columns)


def _deliver(
    json: bool, schema: str, values: dict[str, Any], name: str, matrix: Any, output: Path | None
) -> None:
    """Puts a matrix into a file, or with the other values on standard output."""
    import numpy as np

    from cimctl.tables import csv_text, write_matrix

    if output is not None:
        write_matrix(output, matrix)
        values = {**values, "output": str(output)}
        show(json, schema, values, f"{matrix.shape[0]} x {matrix.shape[1]} written to {output}")
    else:
        # JSON knows no nan: cells that were left alone are null there.
        plain = matrix.astype(object)
        plain[np.isnan(matrix)] = None
        values = {**values, name: plain.tolist()}
        show(json, schema, values, csv_text(matrix))


@click.command()
@_tile_options
@_size_options
@click.option("--samples", type=click.IntRange(1, 255), default=1, help="Readings averaged.")
@_INTEGERS
@_OUTPUT
def read(
    tile: int,
    row: int,
    column: int,
    rows: int | None,
    columns: int | None,
    samples: int,
    integers: bool,
    output: Path | None,
    json: bool,
    **values: Any,
) -> None:
    """Read the conductances of a tile, in microsiemens.

    \b
    Examples:
      cimctl read --board emu --tile 0 --rows 4 --columns 8
      cimctl read --board cap-imc-16nm --tile 0 --rows 4 --columns 8 --integers
    """
    with opened_tile(values, tile) as (board, opened):
        region = region_of(opened, row, column, rows, columns)
        if integers:
            check_groups(board, region)
        units = opened.read(region, samples)
        conductances = board.profile.microsiemens(1) * units
        weights = weights_of_cells(board, conductances) if integers else None
    if weights is not None:
        said = {"tile": tile, "shape": list(weights.shape)}
        _deliver(json, "cimctl.read/1", said, "weights", weights, output)
        return
    said = {
        "tile": tile,
        "shape": list(conductances.shape),
        "mean_uS": float(conductances.mean()),
        "min_uS": float(conductances.min()),
        "max_uS": float(conductances.max()),
    }
    _deliver(json, "cimctl.read/1", said, "conductances_uS", conductances, output)


@click.command()
@_tile_options
@_size_options
@_OUTPUT
def wear(
    tile: int,
    row: int,
    column: int,
    rows: int | None,
    columns: int | None,
    output: Path | None,
    json: bool,
    **values: Any,
) -> None:
    """Say how many pulses each cell of a tile got in its life.

    \b
    Example:
      cimctl wear --board brram-soc --port /dev/ttyUSB0 --tile 0
    """
    with opened_tile(values, tile, powered=False) as (board, opened):
        pulses = opened.wear(region_of(opened, row, column, rows, columns))
        limits = board.description
    said = {
        "tile": tile,
        "shape": list(pulses.shape),
        "most": int(pulses.max()),
        "worn": int((pulses > limits.lifetime_soft).sum()) if limits.lifetime_soft else 0,
        "soft_budget": limits.lifetime_soft,
        "hard_budget": limits.lifetime_pulses,
    }
    _deliver(json, "cimctl.wear/1", said, "pulses", pulses, output)


@click.command()
@_tile_options
@_INPUT
@click.option("--tolerance", type=float, help="Accepted distance in uS.  [profile's]")
@click.option("--cycles", type=click.IntRange(1), help="SET-RESET cycles.  [profile's]")
@_INTEGERS
@_OUTPUT
def program(
    tile: int,
    row: int,
    column: int,
    input: Path,
    tolerance: float | None,
    cycles: int | None,
    integers: bool,
    output: Path | None,
    json: bool,
    **values: Any,
) -> None:
    """Write-verify cells to conductances in microsiemens, nan leaves a cell alone.

    The input is a matrix whose upper left entry goes to --row and --column. Prints what the cells
    read afterwards.

    \b
    Examples:
      cimctl program --board brram-soc --port /dev/ttyUSB0 --tile 0 --input targets.csv
      cimctl program --board cap-imc-16nm --tile 0 --input weights.csv --integers
    """
    import numpy as np

    from boards.errors import UsageError
    from cimctl.tables import read_integers, read_matrix

    targets = read_matrix(input)
    if tolerance is not None and tolerance <= 0:
        raise UsageError(f"A tolerance of {tolerance} uS cannot be met", next="Give a positive one")
    with opened_tile(values, tile) as (board, opened):
        if integers:
            targets = targets_of(board, read_integers(input, -(1 << 15), (1 << 15) - 1))
        region = region_of(opened, row, column, *targets.shape)
        if integers:
            check_groups(board, region)
        programming = board.profile.programming
        chosen = np.argwhere(~np.isnan(targets))
        wanted = targets[chosen[:, 0], chosen[:, 1]]
        _check_targets(board, wanted, input)
        done = opened.program(
            region.row + chosen[:, 0],
            region.column + chosen[:, 1],
            np.rint(wanted / board.profile.microsiemens(1)).astype(np.uint16),
            cycles=cycles or programming.cycles_characterising,
            tolerance=board.profile.units(tolerance or programming.tolerance_uS),
            read_back=True,
        )
        readings = np.full(targets.shape, np.nan)
        readings[chosen[:, 0], chosen[:, 1]] = board.profile.microsiemens(1) * done.readings
        weights = weights_of_cells(board, readings) if integers else None
    said = {
        "tile": tile,
        "cells": len(chosen),
        "set_pulses": done.set_pulses,
        "reset_pulses": done.reset_pulses,
        "unconverged": done.unconverged,
    }
    click.echo(
        f"{len(chosen)} cells, {done.set_pulses} SET and {done.reset_pulses} RESET pulses, "
        f"{done.unconverged} accepted outside the tolerance",
        err=True,
    )
    name, found = ("conductances_uS", readings) if weights is None else ("weights", weights)
    _deliver(json, "cimctl.program/1", said, name, found, output)


def _check_targets(board: Board, wanted: Any, input: Path) -> None:
    import numpy as np

    from boards.errors import UsageError

    low, high = (board.profile.microsiemens(g) for g in
                 (board.description.target_low, board.description.target_high))  # fmt: skip
    if not wanted.size:
        raise UsageError(f"'{input}' names no cell", left="Nothing was programmed")
    levels = board.description.levels
    if levels and not np.isin(wanted, np.linspace(low, high, levels)).all():
        raise UsageError(
            f"'{input}' has targets between the {levels} levels of a cell, {low:g} to {high:g} uS",
            left="Nothing was programmed",
            next="Give levels, or integer weights and --integers",
        )
    if wanted.min() < low or wanted.max() > high:
        raise UsageError(
            f"'{input}' has targets from {wanted.min():g} to {wanted.max():g} uS, the board takes "
            f"{low:.3g} to {high:.3g} uS",
            left="Nothing was programmed",
        )


@click.command()
@_tile_options
@_INPUT
@click.option(
    "--set-mv", type=click.IntRange(0, 65535), default=2000, help="Amplitude of SET pulses."
)
@click.option(
    "--reset-mv", type=click.IntRange(0, 65535), default=2000, help="Amplitude of RESET pulses."
)
@click.option(
    "--width-ns", type=click.IntRange(1, 2**32 - 1), default=100, help="Width of a pulse."
)
def pulse(
    tile: int,
    row: int,
    column: int,
    input: Path,
    set_mv: int,
    reset_mv: int,
    width_ns: int,
    json: bool,
    **values: Any,
) -> None:
    """Give open-loop pulses to cells: the input counts them, SET positive, RESET negative.

    \b
    Example:
      cimctl pulse --board brram-soc --port /dev/ttyUSB0 --tile 0 --input counts.csv --set-mv 1800
    """
    import numpy as np

    from boards.errors import UsageError
    from cimctl.tables import read_integers

    counts = read_integers(input, -32767, 32767)
    with opened_tile(values, tile) as (_, opened):
        region = region_of(opened, row, column, *counts.shape)
        chosen = np.argwhere(counts != 0)
        if not len(chosen):
            raise UsageError(f"'{input}' counts no pulse", left="Nothing was changed")
        sets, resets = opened.pulse(
            region.row + chosen[:, 0],
            region.column + chosen[:, 1],
            counts[chosen[:, 0], chosen[:, 1]].astype(np.int16),
            set_mV=set_mv,
            reset_mV=reset_mv,
            width_ns=width_ns,
        )
    said = {"tile": tile, "cells": len(chosen), "set_pulses": sets, "reset_pulses": resets}
    text = f"{len(chosen)} cells, {sets} SET and {resets} RESET pulses"
    show(json, "cimctl.pulse/1", said, text)


@click.command()
@_tile_options
@_size_options
@_INPUT
@click.option("--transpose", is_flag=True, help="Inputs at the columns, outputs at the rows.")
@click.option(
    "--single", is_flag=True, help="Every column by itself, not the board's pairs or groups."
)
@click.option(
    "--bits", type=click.IntRange(1), help="Bits of an input code.  [as many as the board takes]"
)
@click.option(
    "--ternary", is_flag=True, help="Apply codes as planes of -1, 0 and 1, on a board that does."
)
@click.option(
    "--span", type=float, help="ADC span in uA, or in cells of a charge converter.  [the largest]"
)
@click.option(
    "--calibrated",
    type=_FILE,
    is_flag=False,
    flag_value=_CHIPS,
    help="Take the converters' errors out, as cimctl calibrate found them for this chip, or as the "
    "named file has them.",
)
@click.option(
    "--max-age", type=click.FloatRange(0), default=30.0, help="Days that a calibration holds."
)
@_OUTPUT
def vmm(
    tile: int,
    row: int,
    column: int,
    rows: int | None,
    columns: int | None,
    input: Path,
    transpose: bool,
    single: bool,
    bits: int | None,
    ternary: bool,
    span: float | None,
    calibrated: Path | None,
    max_age: float,
    output: Path | None,
    json: bool,
    **values: Any,
) -> None:
    """Multiply vectors of input codes by the conductances of a tile.

    The input has one vector a row; negative codes are allowed. Prints ADC codes, one row a vector.
    Columns are differential pairs, or the groups that the board adds, unless --single is given.
    Calibrated codes are no whole numbers.

    \b
    Example:
      cimctl vmm --board emu --tile 0 --rows 3 --columns 4 --input vectors.csv --span 20
    """
    import numpy as np

    from boards.errors import UsageError
    from boards.multiply import Matrix
    from cimctl.tables import read_integers

    with opened_tile(values, tile) as (board, opened):
        most = board.description.input_bits
        bits = bits or most
        if bits > most:
            raise UsageError(f"The board takes input codes of {most} bits, not {bits}")
        half = 1 << (bits - 1)
        # A ternary plane carries a sign and one bit of the magnitude.
        limits = (1 - half, half - 1) if ternary else (-half, 2 * half - 1)
        codes = read_integers(input, *limits)
        signed = ternary or bool((codes < 0).any())
        if signed and codes.max() >= half:
            raise UsageError(
                f"'{input}' has negative codes and codes above {half - 1}: "
                f"signed codes have {bits} bits in all",
                left="Nothing was sent",
            )
        region = region_of(opened, row, column, rows, columns)
        group = 0 if single else len(board.column_weights)
        pairs = not single and not group
        if pairs and (region.columns % 2 or region.column % 2):
            raise UsageError(
                f"{region.columns} columns from {region.column} are no pairs",
                next="Give even numbers, or --single",
            )
        if group:
            check_groups(board, region)
        matrix = Matrix((region,), differential=pairs, transposed=transpose, group=group)
        (low, high), unit = board.profile.adc_span, board.profile.span_unit
        span = high if span is None else span
        if not low <= span <= high:
            raise UsageError(f"The ADC's span is {low:g} to {high:g} {unit}, not {span:g} {unit}")
        correction = _correction(board, matrix, signed, calibrated, max_age)
        board.configure(_DEFAULT_SLOT, board.profile.gain(span))
        products = board.multiply(
            matrix,
            codes.astype(np.int8 if signed else np.uint8),
            slot=_DEFAULT_SLOT,
            signed=signed,
            ternary=ternary,
            bits=bits,
        )
        answer = products.codes
        if correction is not None:
            answer = correction.apply(answer)
    said = {
        "tile": tile,
        "shape": list(answer.shape),
        "calibrated": calibrated is not None,
        f"lsb_{unit}": span / ((1 << board.description.adc_bits) - 1),
        "saturated": products.saturated,
    }
    _deliver(json, "cimctl.vmm/1", said, "codes", answer, output)


def _correction(
    board: Board, matrix: Matrix, signed: bool, calibrated: Path | None, max_age: float
) -> Correction | None:
    """What takes the converters' errors out of the products, where it is wanted."""
    from cimctl.calibration import record
    from firmware_protocol.constants import Capability

    if calibrated is None:
        return None
    path = record.usual_path(board) if calibrated == Path(_CHIPS) else calibrated
    known = record.load(path)
    known.check(board, max_age)
    by_sign = signed and Capability.SIGNED_INPUTS not in board.capabilities
    return known.correction(matrix, by_sign=by_sign)
