"""The one cost model: time and energy from counts, for the chip's counters and every estimate."""

from __future__ import annotations

from dataclasses import dataclass

from boards.profile import Profile


@dataclass(frozen=True, slots=True)
class Counts:
    """What an operation, or a chip's whole life, took.

    Attributes:
        steps: array operations in sequence; tiles working side by side count once.
        tile_operations: array operations of single tiles.
        verify_reads: readings of single cells during programming.
        pulses: SET and RESET pulses.
        pulse_width_ns: the widths of all pulses together.
        conversions: ADC conversions of products.
    """

    steps: int = 0
    tile_operations: int = 0
    verify_reads: int = 0
    pulses: int = 0
    pulse_width_ns: int = 0
    conversions: int = 0


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
