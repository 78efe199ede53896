"""Weights on their way to a chip: pairs of devices, of one layer or of several, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from boards.board import Board

#: columns of a pair, from the first on
_PAIR = np.arange(2)


class Writes(NamedTuple):
    """Pairs to be programmed.

    Attributes:
        places: (weights, 3) tile, row and positive column.
        targets: (weights, 2) conductances of both devices.
    """

    places: npt.NDArray[np.int64]
    targets: npt.NDArray[np.uint16]


def joined(writes: Sequence[Writes]) -> Writes:
    """Those of several layers, at least one."""
    return Writes(*(np.concatenate(each) for each in zip(*writes, strict=True)))


def write_verify(
    board: Board, writes: Writes, cycles: int, tolerance: int, *, read_back: bool
) -> npt.NDArray[np.uint16] | None:
    """Programs pairs, those of a tile in one command where they fit.

    Args:
        board: where they are.
        writes: places and targets.
        cycles: SET-RESET cycles at most.
        tolerance: accepted distance from the target.
        read_back: whether to read the pairs afterwards.

    Returns:
        (weights, 2) readings, or None.
    """
    tiles, readings = writes.places[:, 0], np.empty_like(writes.targets)
    for tile in sorted(set(tiles.tolist())):
        mine = np.flatnonzero(tiles == tile)
        _, rows, columns = writes.places[mine].T
        done = board.tiles[tile].program(
            np.repeat(rows, 2),
            (columns[:, None] + _PAIR).reshape(-1),
            writes.targets[mine].reshape(-1),
            cycles=cycles,
            tolerance=tolerance,
            read_back=read_back,
        )
        if read_back:
            readings[mine] = done.readings.reshape(-1, 2)
    return readings if read_back else None
