"""Updates by coincidence: which cells get how many pulses from row and column trains.

Where a row's and a column's train both have a pulse, the cell where they cross gets one (stochastic
update, arXiv 1906.02698 and 2303.04721); ``OUTER`` in spec.yaml has the words.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

Words = npt.NDArray[np.uint32]


class Trains(NamedTuple):
    """A batch of rank-one updates of a region.

    Attributes:
        rows: (rows, updates), a word for each train.
        columns: (columns, updates), likewise.
        length: slots of a train; the bit above them is the sign.
    """

    rows: Words
    columns: Words
    length: int


def totals(trains: Trains) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """SET and RESET pulses of each cell over all updates, row by row: (rows * columns,) each."""
    sets, resets = _totals(*trains)
    return sets, resets


def totals_numpy(trains: Trains) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The oracle of ``totals``."""
    both = trains.rows[:, None] & trains.columns[None] & np.uint32((1 << trains.length) - 1)
    hits = np.bitwise_count(both).astype(np.uint32)
    downwards = (trains.rows[:, None] ^ trains.columns[None]) >> np.uint32(trains.length) != 0
    sets = np.where(downwards, 0, hits).sum(2, dtype=np.uint32)
    resets = np.where(downwards, hits, 0).sum(2, dtype=np.uint32)
    return sets.reshape(-1), resets.reshape(-1)


@intrinsic  # type: ignore[misc, unused-ignore]
def _popcount(context, word):  # type: ignore[no-untyped-def]
    """The processor's own count, in 32 bits; numba's arithmetic would widen it to 64."""
    del context, word
    return types.uint32(types.uint32), lambda _, builder, __, words: builder.ctpop(words[0])


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def ones(word):  # type: ignore[no-untyped-def]
    """Compiled: bits that are set in a 32-bit word."""
    return np.int64(_popcount(np.uint32(word)))  # type: ignore[call-arg, unused-ignore]


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def hits(row, column, length):  # type: ignore[no-untyped-def]
    """Compiled: pulses of one update of one cell; negative ones are RESET pulses."""
    both = ones(row & column & np.uint32((1 << length) - 1))
    return -both if ((row ^ column) >> np.uint32(length)) & np.uint32(1) else both


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _totals(rows, columns, length):  # type: ignore[no-untyped-def]
    size = rows.shape[0] * columns.shape[0]
    sets = np.zeros(size, dtype=np.uint32)
    resets = np.zeros(size, dtype=np.uint32)
    for i in range(rows.shape[0]):
        for j in range(columns.shape[0]):
            up = np.int64(0)
            down = np.int64(0)
            for u in range(rows.shape[1]):
                found = hits(rows[i, u], columns[j, u], length)
                up += max(found, 0)
                down -= min(found, 0)
            sets[i * columns.shape[0] + j] = up
            resets[i * columns.shape[0] + j] = down
    return sets, resets
