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


def place(demands: Sequence[Demand], description: Description) -> list[Matrix]:
    """Packs layers side by side.

    Raises:
        UsageError: the layers do not fit; says by how much.
    """
    free = dict.fromkeys(range(description.tiles), description.columns)
    matrices = []
    for demand in demands:
        rows = row_blocks(demand, description.rows)
        each = demand.columns_each
        columns = column_blocks(demand.outputs, description.columns // each)
        regions: list[Region] = []
        used: set[int] = set()
        for count in rows:
            for outputs in columns:
                start = {t: _aligned(description.columns - left, each) for t, left in free.items()}
                room = {t: description.columns - at for t, at in start.items()}
                tile = _roomiest(room, used, each * outputs)
                if tile is None:
                    raise _too_large(demands, demand, description)
                regions.append(Region(tile, 0, count, start[tile], each * outputs))
                free[tile] = room[tile] - each * outputs
                used.add(tile)
        matrices.append(
            Matrix(tuple(regions), len(rows), differential=not demand.group, group=demand.group)
        )
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
    return demand.columns_each * demand.outputs * len(row_blocks(demand, description.rows))


def _aligned(column: int, each: int) -> int:
    """The first column from there on at which a pair or group may begin."""
    return -(-column // each) * each


def _roomiest(free: dict[int, int], used: set[int], needed: int) -> int | None:
    fitting = [tile for tile, columns in free.items() if columns >= needed]
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
