"""What a run took of its chip, by the chip's own counters and the cost model behind them."""

from __future__ import annotations

from typing import Any

from boards.board import Board
from firmware_protocol.constants import Opcode

_COUNTERS = (
    "steps", "tile_operations", "conversions", "reads", "writes", "set_pulses", "reset_pulses",
    "time", "energy",
)  # fmt: skip


def chip_counts(board: Board) -> dict[str, int]:
    """The counters of the chip that a summary reports; nanoseconds and picojoules."""
    status = board.status()
    return {name: getattr(status, name) for name in _COUNTERS}


def costs_since(before: dict[str, int], board: Board | None) -> dict[str, int]:
    """What the counters grew by; zeros without a chip.

    A checkpoint of an older version knows fewer counters; the others are left out.
    """
    if board is None:
        return dict.fromkeys(_COUNTERS, 0)
    now = chip_counts(board)
    return {name: now[name] - before[name] for name in now if name in before}


def wear(board: Board | None) -> dict[str, Any] | None:
    """The pulses of the most used cell in its life, and how many a life has (0: unknown).

    None without a chip, or with one that does not count them.
    """
    if board is None or not board.offers(Opcode.WEAR):
        return None
    return {
        "worst_cell_pulses": max(int(tile.wear().max()) for tile in board.tiles),
        "lifetime_pulses": board.description.lifetime_pulses,
    }
