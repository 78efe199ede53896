"""Products for measurements: matrices that fit a board, and codes for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.board import Board
from boards.multiply import Matrix
from firmware_protocol.constants import Capability
from firmware_protocol.messages import Region

#: configuration slot of the products
SLOT = 1
#: tiles whose rows form one sum in the larger of two shapes
_MOST_TILES = 4


@dataclass(frozen=True)
class Shape:
    """A matrix on a board, and what one vector of it takes.

    Attributes:
        matrix: where it lies.
        conversions: of the converters, by the board's own count.
    """

    matrix: Matrix
    conversions: int

    def __str__(self) -> str:
        inputs, outputs = self.matrix.shape
        return f"{inputs} to {outputs}"


def configure(board: Board) -> None:
    """Switches the supplies on, the converters at their largest span."""
    board.power_up()
    board.configure(SLOT, board.profile.gain(board.profile.adc_span[1]))


def shapes(board: Board) -> list[Shape]:
    """A whole tile, and several whose rows form one sum where the board adds these."""
    counts = [1]
    if len(board.tiles) > 1 and Capability.ROW_BLOCK_SUMS in board.capabilities:
        counts.append(min(_MOST_TILES, len(board.tiles)))
    return [shape(board, count) for count in counts]


def shape(board: Board, tiles: int) -> Shape:
    """As many whole tiles, whose rows form one sum."""
    group = len(board.column_weights)
    pairs = not group and Capability.DIFFERENTIAL in board.capabilities
    columns = board.description.columns
    columns -= columns % (group or 2)
    regions = (Region(tile, 0, board.description.rows, 0, columns) for tile in range(tiles))
    matrix = Matrix(tuple(regions), row_blocks=tiles, differential=pairs, group=group)
    before = board.status().conversions
    board.multiply(matrix, codes(board, matrix, 1), slot=SLOT)
    return Shape(matrix, board.status().conversions - before)


def codes(board: Board, matrix: Matrix, batch: int) -> npt.NDArray[Any]:
    """(batch, inputs) random input codes."""
    top = 1 << board.description.input_bits
    drawn = np.random.default_rng(0).integers(0, top, (batch, matrix.shape[0]))
    return drawn.astype(np.uint8)
