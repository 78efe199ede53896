"""Where the weights of each layer lie: rows and columns of tiles.

The packing rule is ours: a layer is cut into blocks of whole input channels that fit the rows of a
tile, and each block goes to the tile with the most free columns, tiles that the layer already uses
coming last, so that the blocks of a layer work side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boards.errors import UsageError
from boards.multiply import Matrix
from firmware_protocol.messages import Description, Region


@dataclass(frozen=True, slots=True)
class Demand:
    """What a layer needs.

    Attributes:
        name: name of the layer.
        inputs: length of its unrolled input.
        outputs: outputs, a differential pair of columns each.
        channel: inputs of one whole input channel (kernel area; 1 for a linear layer).
    """

    name: str
    inputs: int
    outputs: int
    channel: int


def place(demands: Sequence[Demand], description: Description) -> list[Matrix]:
    """Packs layers side by side.

    Raises:
        UsageError: the layers do not fit; says by how much.
    """
    free = [description.columns] * description.tiles
    matrices = []
    for demand in demands:
        rows = row_blocks(demand, description.rows)
        columns = column_blocks(demand.outputs, description.columns // 2)
        regions: list[Region] = []
        used: set[int] = set()
        for count in rows:
            for outputs in columns:
                tile = _roomiest(free, used, 2 * outputs)
                if tile is None:
                    raise _too_large(demands, demand, description)
                start = description.columns - free[tile]
                regions.append(Region(tile, 0, count, start, 2 * outputs))
                free[tile] -= 2 * outputs
                used.add(tile)
        matrices.append(Matrix(tuple(regions), row_blocks=len(rows)))
    return matrices


def row_blocks(demand: Demand, rows: int) -> list[int]:
    """Rows of each block: whole input channels where one fits, as even as can be."""
    unit = demand.channel if demand.channel <= rows else 1
    units, per_block = demand.inputs // unit, rows // unit
    blocks = math.ceil(units / per_block)
    return [unit * (units * (i + 1) // blocks - units * i // blocks) for i in range(blocks)]


def column_blocks(outputs: int, limit: int) -> list[int]:
    """Outputs of each column block, as even as can be."""
    blocks = math.ceil(outputs / limit)
    return [outputs * (i + 1) // blocks - outputs * i // blocks for i in range(blocks)]


def columns_needed(demand: Demand, description: Description) -> int:
    """Columns, of full height, that a layer takes."""
    return 2 * demand.outputs * len(row_blocks(demand, description.rows))


def _roomiest(free: list[int], used: set[int], needed: int) -> int | None:
    fitting = [tile for tile, columns in enumerate(free) if columns >= needed]
    return min(fitting, key=lambda t: (t in used, -free[t], t), default=None)


def _too_large(demands: Sequence[Demand], demand: Demand, description: Description) -> UsageError:
    needed = sum(columns_needed(d, description) for d in demands)
    there = description.columns * description.tiles
    return UsageError(
        f"The network does not fit the board: layer '{demand.name}' finds no room; all layers take "
        f"{needed} columns, the board has {there} on {description.tiles} tiles",
        left="Nothing was programmed",
        next="Take a board with more tiles, or a smaller network",
    )
