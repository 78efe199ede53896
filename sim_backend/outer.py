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

from sim_backend import simd
from sim_backend.simd import WIDTH, pointer, select, splat

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
    wide, updates = trains.columns.shape
    words = simd.padded(trains.columns.T)
    found = np.empty((2, trains.rows.shape[0], words.size // updates), dtype=np.uint32)
    _totals(np.ascontiguousarray(trains.rows), words, trains.length, found)
    sets, resets = found[:, :, :wide]
    return sets.reshape(-1), resets.reshape(-1)


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
def _totals(rows, words, length, found):  # type: ignore[no-untyped-def]
    """``words``: (updates * padded columns,); ``found``: (2, rows, padded columns)."""
    high, updates = rows.shape
    stride = found.shape[2]
    row_words, columns = pointer(rows.reshape(-1)), pointer(words)
    sets, resets = pointer(found[0].reshape(-1)), pointer(found[1].reshape(-1))
    sign, zero = splat(np.uint32(1 << length)), splat(np.uint32(0))
    slots = np.uint32((1 << length) - 1)
    for i in range(high):
        for at in range(0, stride, WIDTH):
            both = down = zero
            for u in range(updates):
                word = row_words[i * updates + u]
                if word & slots == 0:
                    continue
                row, column = splat(word), simd.load(columns, u * stride + at)
                hits_ = simd.ones_of(row & column & splat(slots))
                both = both + hits_
                down = down + select(((row ^ column) & sign) == zero, zero, hits_)
            simd.store(sets, i * stride + at, both - down)
            simd.store(resets, i * stride + at, down)
