"""The one cost model: what a product takes, and time and energy from counts.

The chip's own counters, ``cimctl estimate`` and a run's summary all come from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from boards.profile import Profile
from firmware_protocol.messages import Region


@dataclass(frozen=True, slots=True)
class Counts:
    """What an operation, or a chip's whole life, took.

    Attributes:
        steps: array operations in sequence; tiles working side by side count once.
        tile_operations: array operations of single tiles.
        conversions: conversions of single columns, or pairs, of products.
        verify_reads: readings of single cells during programming.
        pulses: SET and RESET pulses.
        pulse_width_ns: the widths of all pulses together.
    """

    steps: int = 0
    tile_operations: int = 0
    conversions: int = 0
    verify_reads: int = 0
    pulses: int = 0
    pulse_width_ns: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def times(self, number: int) -> Counts:
        """So often the same."""
        return Counts(*(value * number for value in _values(self)))


def product(
    profile: Profile,
    grid: Sequence[Sequence[Region]],
    vectors: int,
    *,
    transposed: bool = False,
    differential: bool = True,
    planes: int = 1,
) -> Counts:
    """What products with a matrix take.

    One array operation serves all regions of a tile that take the same inputs at the same lines;
    blocks of different inputs follow each other, also side by side in the columns.

    Args:
        profile: of the chip.
        grid: regions by block of inputs, then by block of outputs.
        vectors: how many are multiplied.
        transposed: inputs at the columns, outputs at the rows.
        differential: columns are pairs.
        planes: array operations that one vector takes, each with conversions of its own.
    """
    each = planes * (profile.chip.pair_conversions if differential else 1)
    applied: dict[int, set[tuple[int, int, int]]] = {}
    for number, line in enumerate(grid):
        for r in line:
            lines = (r.column, r.columns) if transposed else (r.row, r.rows)
            applied.setdefault(r.tile, set()).add((number, *lines))
    loads = [len(operations) for operations in applied.values()]
    width = 1 + differential
    converted = sum(r.rows if transposed else r.columns // width for r in grid[0])
    return Counts(
        steps=vectors * max(loads) * each,
        tile_operations=vectors * sum(loads) * each,
        conversions=vectors * len(grid) * converted * each,
    )


def time_ns(profile: Profile, counts: Counts) -> int:
    """Chip time: steps, single-column readings (one share of a step each), and pulses."""
    costs = profile.costs
    reading = profile.step_ns / profile.chip.columns_per_adc
    return round(
        counts.steps * profile.step_ns
        + counts.verify_reads * reading
        + counts.pulses * costs.pulse_ns
        + counts.pulse_width_ns
    )


def energy_pJ(profile: Profile, counts: Counts) -> int:
    """Chip energy: tile operations, conversions, readings of single columns, and pulses."""
    costs = profile.costs
    operation = costs.tile_operation_nJ * 1000
    conversion = costs.conversion_pJ + costs.column_charge_pJ + costs.shift_add_pJ
    return round(
        counts.tile_operations * operation
        + counts.conversions * conversion
        + counts.verify_reads * operation / profile.chip.columns
        + counts.pulses * costs.pulse_pJ
    )


def _values(counts: Counts) -> tuple[int, ...]:
    return tuple(getattr(counts, name) for name in Counts.__slots__)
