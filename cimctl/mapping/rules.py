"""The rules by which layers come to lie in arrays.

``paper`` (arXiv 2305.14547): an array takes ``floor(rows / k^2)`` whole input channels of a k x k
convolution and ``columns / 2`` outputs; each block has an array of its own.

``packed`` [ours]: a layer is cut into blocks of whole input channels that fit the rows of a tile,
as even as can be, and each block goes to the tile with the most free columns, tiles that the layer
already uses coming last, so that the blocks of a layer work side by side.

In both a layer whose blocks find no room, for its size or for cells to avoid, is cut into narrower
ones [ours].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cimctl.mapping.blocks import (
    blocks_of,
    cuts,
    even_columns,
    even_rows,
    full_columns,
    full_rows,
)
from cimctl.mapping.demand import Arrays, Avoid, Demand
from cimctl.mapping.plan import Part, Placed, RuleName
from firmware_protocol.messages import Region

#: copies of a layer that share an array in the paper's count, where its rows suffice
_SHARING = 2


@dataclass(frozen=True, slots=True)
class Copies:
    """How often slow layers are there.

    Attributes:
        counts: copies of layers, by name; 1 of all others.
        as_printed: two copies share an array wherever its rows suffice, as in the paper's counts;
            otherwise as many as its rows and columns take, each with lines of its own [ours].
    """

    counts: Mapping[str, int]
    as_printed: bool = False

    def of(self, demand: Demand) -> int:
        """Copies of a layer."""
        return self.counts.get(demand.name, 1)


ONCE = Copies({})


def place(
    rule: RuleName,
    demands: Sequence[Demand],
    arrays: Arrays,
    avoid: Avoid,
    copies: Copies = ONCE,
) -> tuple[list[Placed], Demand | None]:
    """Places layers by a rule.

    Returns:
        The layers that found room, and the first that found none, or None.
    """
    placing = _Packed(arrays, avoid, copies) if rule == "packed" else _Paper(arrays, avoid, copies)
    placed: list[Placed] = []
    for demand in demands:
        layer = placing.put(demand)
        if layer is None:
            return placed, demand
        placed.append(layer)
    return placed, None


class _Packed:
    """Side by side in the columns."""

    def __init__(self, arrays: Arrays, avoid: Avoid, copies: Copies) -> None:
        self._arrays, self._avoid, self._copies = arrays, avoid, copies
        #: columns of each tile that are taken
        self._taken = [0] * arrays.tiles

    def put(self, demand: Demand) -> Placed | None:
        """A layer, or None where it finds no room."""
        rows, count = even_rows(demand, self._arrays.rows), self._copies.of(demand)
        free = self._arrays.tiles * self._arrays.columns - sum(self._taken)
        if demand.columns_each * demand.outputs * len(rows) * count > free:
            return None
        before = self._taken.copy()
        for columns in cuts(demand, even_columns(demand, self._arrays.columns)):
            parts: list[Part] = []
            for copy in range(count):
                parts += self._blocks(rows, columns, copy, demand.columns_each)
            if len(parts) == count * len(rows) * len(columns):
                return Placed(demand, tuple(parts), len(rows), count)
            self._taken = before.copy()
        return None

    def _blocks(self, rows: list[int], columns: list[int], copy: int, each: int) -> list[Part]:
        """The blocks of one copy, up to the first that finds no room."""
        parts: list[Part] = []
        used: set[int] = set()
        for height, outputs, first_input, first_output in blocks_of(rows, columns):
            found = self._roomiest(range(height), outputs, each, used)
            if found is None:
                break
            tile, start = found
            region = Region(tile, 0, height, start, each * outputs)
            parts.append(Part(region, first_input, first_output, copy, each))
            self._taken[tile] = start + each * outputs
            used.add(tile)
        return parts

    def _roomiest(
        self, rows: range, outputs: int, each: int, used: set[int]
    ) -> tuple[int, int] | None:
        """The tile to take, and the first column there."""
        starts = (
            (tile, _start(self._avoid, self._arrays, tile, rows, self._taken[tile], outputs, each))
            for tile in range(self._arrays.tiles)
        )
        free = [(tile, start) for tile, start in starts if start is not None]
        return min(free, key=lambda place: (place[0] in used, place[1], place[0]), default=None)


class _Paper:
    """Each block an array of its own."""

    def __init__(self, arrays: Arrays, avoid: Avoid, copies: Copies) -> None:
        self._arrays, self._avoid, self._copies = arrays, avoid, copies
        self._tile = 0

    def put(self, demand: Demand) -> Placed | None:
        """A layer, or None where it finds no arrays."""
        rows, count = full_rows(demand, self._arrays.rows), self._copies.of(demand)
        for columns in cuts(demand, full_columns(demand, self._arrays.columns)):
            sharing, apart = self._sharing(demand, len(rows), columns)
            blocks = len(rows) * len(columns)
            tiles = blocks * math.ceil(count / sharing)
            if self._tile + tiles > self._arrays.tiles:
                # Narrower blocks only take more.
                return None
            parts: list[Part] = []
            for copy in range(count):
                group, place = divmod(copy, sharing)
                first = self._tile + group * blocks
                parts += self._blocks(demand, columns, first, place, apart, copy)
            if len(parts) == count * blocks:
                self._tile += tiles
                return Placed(demand, tuple(parts), len(rows), count, not apart)
        return None

    def _blocks(
        self, demand: Demand, columns: list[int], tile: int, place: int, apart: bool, copy: int
    ) -> list[Part]:
        """The blocks of one copy, on arrays from a first one on, up to one that finds no room."""
        parts: list[Part] = []
        each, rows = demand.columns_each, full_rows(demand, self._arrays.rows)
        for block in blocks_of(rows, columns):
            height, outputs, first_input, first_output = block
            lines = range(place * height, (place + 1) * height)
            first = place * each * outputs if apart else 0
            start = _start(self._avoid, self._arrays, tile, lines, first, outputs, each)
            if start is None:
                break
            region = Region(tile, lines.start, height, start, each * outputs)
            parts.append(Part(region, first_input, first_output, copy, each))
            tile += 1
        return parts

    def _sharing(self, demand: Demand, row_blocks: int, columns: list[int]) -> tuple[int, bool]:
        """How many copies share an array, and whether each has columns of its own in it."""
        if self._copies.of(demand) == 1 or row_blocks > 1:
            return 1, True
        by_rows = min(self._copies.of(demand), self._arrays.rows // demand.inputs)
        by_columns = self._arrays.columns // (demand.columns_each * max(columns))
        if self._copies.as_printed:
            sharing = min(_SHARING, by_rows)
            return sharing, sharing <= by_columns
        return min(by_rows, by_columns), True


def _start(
    avoid: Avoid, arrays: Arrays, tile: int, rows: range, first: int, outputs: int, each: int
) -> int | None:
    """The first column, where a pair or group may begin, where a block lies on no cell to avoid."""
    width, first = each * outputs, -(-first // each) * each
    while first + width <= arrays.columns:
        bad = avoid.last_column(tile, rows, range(first, first + width))
        if bad is None:
            return first
        first = (bad // each + 1) * each
    return None
