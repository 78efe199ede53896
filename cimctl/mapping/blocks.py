"""Cutting layers into blocks that fit an array."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cimctl.mapping.demand import Arrays, Demand


def even_rows(demand: Demand, rows: int) -> list[int]:
    """Rows of each block: whole input channels where one fits, as even as can be."""
    unit, units, per_block = _units(demand, rows)
    return [unit * size for size in even(units, math.ceil(units / per_block))]


def full_rows(demand: Demand, rows: int) -> list[int]:
    """Rows of each block: as many whole input channels as fit, the last has what is left."""
    unit, units, per_block = _units(demand, rows)
    return [unit * min(per_block, units - first) for first in range(0, units, per_block)]


def even_columns(demand: Demand, columns: int) -> list[int]:
    """Outputs of each block, as even as can be."""
    return even(demand.outputs, math.ceil(demand.columns_each * demand.outputs / columns))


def full_columns(demand: Demand, columns: int) -> list[int]:
    """Outputs of each block: as many as fit, the last has what is left."""
    most = columns // demand.columns_each
    return [min(most, demand.outputs - first) for first in range(0, demand.outputs, most)]


def even(total: int, blocks: int) -> list[int]:
    """A number in so many parts."""
    return [total * (i + 1) // blocks - total * i // blocks for i in range(blocks)]


def cuts(demand: Demand, first: list[int]) -> Iterator[list[int]]:
    """Outputs of each column block: a rule's own cut, then ever narrower ones."""
    yield first
    blocks = len(first)
    while blocks < demand.outputs:
        blocks = min(2 * blocks, demand.outputs)
        yield even(demand.outputs, blocks)


def blocks_of(rows: list[int], columns: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """(rows, outputs, first input, first output) of each block, row block by row block."""
    first_input = 0
    for count in rows:
        first_output = 0
        for outputs in columns:
            yield count, outputs, first_input, first_output
            first_output += outputs
        first_input += count


def columns_needed(demand: Demand, arrays: Arrays) -> int:
    """Columns, of full height, that a layer takes."""
    return demand.columns_each * demand.outputs * len(even_rows(demand, arrays.rows))


def _units(demand: Demand, rows: int) -> tuple[int, int, int]:
    """(inputs that stay together, how many of these there are, how many fit the rows)."""
    unit = demand.channel if demand.channel <= rows else 1
    return unit, demand.inputs // unit, rows // unit
