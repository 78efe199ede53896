"""A plan of the arrays: which part of which layer lies where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from boards.multiply import Matrix
from cimctl.mapping.demand import Demand
from firmware_protocol.messages import Region

RuleName = Literal["paper", "packed"]


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a layer.

    Attributes:
        region: rows and columns of a tile.
        first_input: the input at its first row.
        first_output: the output at its first columns.
        copy: which copy of the layer it belongs to.
        columns_each: columns of an output: two, plus and minus, or those of a group.
    """

    region: Region
    first_input: int
    first_output: int
    copy: int = 0
    columns_each: int = 2

    @property
    def outputs(self) -> int:
        return self.region.columns // self.columns_each


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a layer lies.

    Attributes:
        demand: the layer.
        parts: its blocks, copy by copy, in each row block by row block.
        row_blocks: how many row blocks form one sum.
        copies: how often it is there.
        overlapping: whether copies that share an array take the same columns, as the paper counts
            them where an array has no columns for both; one operation could not tell them apart.
    """

    demand: Demand
    parts: tuple[Part, ...]
    row_blocks: int
    copies: int = 1
    overlapping: bool = False

    def matrix(self, copy: int = 0) -> Matrix:
        """One copy, as products take it."""
        regions = tuple(part.region for part in self.parts if part.copy == copy)
        group = self.demand.group
        return Matrix(regions, self.row_blocks, differential=not group, group=group)

    def tiles(self, copies: int | None = None) -> set[int]:
        """The tiles of its first copies, of all by default."""
        count = self.copies if copies is None else copies
        return {part.region.tile for part in self.parts if part.copy < count}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a network lies.

    Attributes:
        rule: by which rule.
        rows, columns: of a tile.
        layers: the layers, in order.
    """

    rule: RuleName
    rows: int
    columns: int
    layers: tuple[Placed, ...]

    @property
    def matrices(self) -> list[Matrix]:
        """The first copy of each layer."""
        return [layer.matrix() for layer in self.layers]

    def tiles(self) -> set[int]:
        """The tiles in use."""
        return set().union(*(layer.tiles() for layer in self.layers))

    @property
    def shared(self) -> bool:
        """Whether layers share a tile, so that they cannot work at the same time."""
        return sum(len(layer.tiles()) for layer in self.layers) > len(self.tiles())
