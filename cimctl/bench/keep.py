"""Cells as they were: what a measurement changes is put back, as far as the board permits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np

from boards.board import Board
from boards.tile import Tile
from firmware_protocol.constants import Capability

#: readings that the earlier state of a cell is averaged over
_SAMPLES = 16
#: how cells come back: whole and exactly, by write-verify, or not at all
Way = Literal["snapshot", "programming", "nothing"]


def way_back(board: Board, port: str | None) -> Way:
    """How a board gets its cells back; the chip of one that started with us ends with us."""
    if Capability.SNAPSHOT in board.capabilities:
        return "snapshot"
    return "nothing" if port is None else "programming"


@contextmanager
def kept(board: Board, way: Way) -> Iterator[None]:
    """Puts the cells back at the end, also after an error of ours."""
    if way == "nothing":
        yield
    elif way == "snapshot":
        snapshot = board.snapshot()
        try:
            yield
        finally:
            board.restore(snapshot)
    else:
        board.power_up()
        before = [tile.read(samples=_SAMPLES) for tile in board.tiles]
        try:
            yield
        finally:
            board.power_up()
            for tile, cells in zip(board.tiles, before, strict=True):
                _program_back(tile, cells)


def _program_back(tile: Tile, cells: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> None:
    """Write-verifies those cells that read differently from before."""
    profile, description = tile.board.profile, tile.board.description
    tolerance = profile.units(profile.programming.tolerance_uS)
    now = tile.read(samples=_SAMPLES).astype(np.int32)
    rows, columns = np.nonzero(np.abs(now - cells) > tolerance)
    if len(rows):
        wanted = np.clip(cells[rows, columns], description.target_low, description.target_high)
        tile.program(
            rows, columns, wanted.astype(np.uint16),
            cycles=profile.programming.cycles_characterising, tolerance=tolerance,
        )  # fmt: skip
