"""Cells that are written and used again and again: where ``d a^T`` puts its activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from boards.errors import UsageError
from boards.multiply import Matrix
from cimctl.mapping.demand import Arrays, Avoid, Demand
from cimctl.mapping.rules import place
from firmware_protocol.messages import Region


@dataclass(frozen=True, slots=True)
class Cut:
    """How many vectors lie on the chip at a time, and where.

    Attributes:
        matrix: vectors at the rows, their elements at the columns.
        rounds: how often it is filled for all vectors, with the same part of their elements.
        parts: parts of the elements; more than one where whole vectors find no room.
    """

    matrix: Matrix
    rounds: int
    parts: int

    @property
    def vectors(self) -> int:
        """Vectors of one round."""
        return self.matrix.shape[0]

    @property
    def elements(self) -> int:
        """Elements of a vector in one round."""
        return self.matrix.shape[1]


class Scratch:
    """What the weights leave free of the tiles.

    Args:
        held: the weights, which are placed before (packed).
        arrays: of the board.
        avoid: cells to leave free.
    """

    def __init__(self, held: Sequence[Demand], arrays: Arrays, avoid: Avoid) -> None:
        self._held, self._arrays, self._avoid = list(held), arrays, avoid
        self._known: dict[tuple[int, int], Cut] = {}

    def cut(self, vectors: int, size: int, group: int) -> Cut:
        """As many blocks of rows as there is room for, as even as can be.

        Args:
            vectors: how many there are.
            size: elements of each.
            group: columns of an element.

        Raises:
            UsageError: not even the columns of one element are free.
        """
        known = self._known.get((vectors, size))
        if known is None:
            known = self._known[vectors, size] = self._cut(vectors, size, group)
        return known

    def _cut(self, vectors: int, size: int, group: int) -> Cut:
        parts = 1
        while parts <= size:
            cut = self._whole(vectors, -(-size // parts), group)
            if cut is not None:
                return replace(cut, parts=-(-size // cut.elements))
            parts *= 2
        raise UsageError(
            "There is no room beside the weights for activations",
            left="Nothing was programmed",
            next="Leave the product dat digital (--set products=wa,wtd), or take a larger board",
        )

    def _whole(self, vectors: int, size: int, group: int) -> Cut | None:
        """For vectors that are not cut in parts."""
        rows = self._arrays.rows
        for blocks in range(min(-(-vectors // rows), self._arrays.tiles * 64), 0, -1):
            demand = Demand("activations", rows * blocks, size, 1, group)
            placed, missing = place("packed", [*self._held, demand], self._arrays, self._avoid)
            if missing is None:
                rounds = -(-vectors // (rows * blocks))
                matrix = placed[-1].matrix()
                height = -(-vectors // (rounds * matrix.row_blocks))
                regions = tuple(_lowered(region, height) for region in matrix.regions)
                return Cut(Matrix(regions, matrix.row_blocks, False, group=group), rounds, 1)
        return None


def _lowered(region: Region, rows: int) -> Region:
    return Region(region.tile, region.row, rows, region.column, region.columns)
