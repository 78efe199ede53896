"""What layers ask of the arrays, and what the arrays have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from boards.errors import UsageError

Cell = tuple[int, int, int]
#: stands for all rows of a column
EVERY_ROW = -1


@dataclass(frozen=True, slots=True)
class Demand:
    """What a layer needs.

    Attributes:
        name: name of the layer.
        inputs: length of its unrolled input.
        outputs: outputs, a differential pair or a group of columns each.
        channel: inputs of one whole input channel (kernel area; 1 for a linear layer).
        group: columns of a group; 0: pairs.
    """

    name: str
    inputs: int
    outputs: int
    channel: int
    group: int = 0

    @property
    def columns_each(self) -> int:
        """Columns of an output."""
        return self.group or 2


class Arrays(Protocol):
    """A board's arrays: what HELLO describes, and the ``chip`` section of a profile."""

    @property
    def tiles(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Geometry:
    """Arrays that no board has to have."""

    tiles: int
    rows: int
    columns: int


class Avoid:
    """Cells that no weight may lie on: stuck ones, or reserved for something else.

    Args:
        cells: (tile, row, column) of each; row -1 stands for the whole column.
    """

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        self._rows: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for tile, row, column in cells:
            self._rows[tile][column].add(row)

    def check(self, arrays: Arrays) -> None:
        """Raises ``UsageError`` where there is no such cell: the file is of another board."""
        sizes = arrays.tiles, arrays.rows, arrays.columns
        for tile, columns in self._rows.items():
            for column, rows in columns.items():
                for row in rows:
                    if tile < sizes[0] and row < sizes[1] and column < sizes[2]:
                        continue
                    raise UsageError(
                        f"There is no cell to avoid in row {row}, column {column} of tile {tile}: "
                        f"the board has {sizes[0]} tiles of {sizes[1]} x {sizes[2]}",
                        left="Nothing was done",
                        next="Take the cells of this board; counts begin at 0",
                    )

    def last_column(self, tile: int, rows: range, columns: range) -> int | None:
        """The last column with such a cell in a rectangle; None where there is none."""
        if tile not in self._rows:
            return None
        bad = (
            column
            for column, cells in self._rows[tile].items()
            if column in columns and any(row == EVERY_ROW or row in rows for row in cells)
        )
        return max(bad, default=None)


def read_avoid(path: str) -> Avoid:
    """The cells to avoid that a file lists: tile, row and column in each line of CSV, or .npy.

    Raises:
        UsageError: no such file, or it holds something else.
    """
    if not path:
        return Avoid()
    from cimctl.tables import read_integers

    cells = read_integers(Path(path), EVERY_ROW, 65535)
    if cells.shape[1] != 3:
        raise UsageError(
            f"'{path}' has {cells.shape[1]} columns, expected tile, row and column",
            left="Nothing was done",
            next="Write a cell in each line, row -1 for a whole column of a tile",
        )
    return Avoid((int(tile), int(row), int(column)) for tile, row, column in cells)
