"""Integer weights as bits over the columns of a group, as HELLO's column weights say.

The chip multiplies by the group's sum: a weight of 4 bits in two's complement lies in four columns
that weigh -8, 4, 2 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.errors import UsageError

Bits = npt.NDArray[np.uint8]


def bits_of(weights: npt.NDArray[Any], column_weights: Sequence[int]) -> Bits:
    """Bits that integer weights are made of.

    Args:
        weights: (rows, outputs) integers.
        column_weights: of the columns of a group.

    Returns:
        (rows, outputs * columns of a group) of 0 and 1, the columns of an output side by side.

    Raises:
        UsageError: a weight is no sum of column weights.
    """
    values, rows = _sums(tuple(column_weights))
    if len(values) == values[-1] - values[0] + 1:
        # No gaps, as two's complement has none.
        place = np.asarray(weights, dtype=np.intp) - values[0]
        wrong = (place < 0) | (place >= len(values))
    else:
        place = np.searchsorted(values, weights).clip(0, len(values) - 1)
        wrong = values[place] != weights
    if wrong.any():
        raise UsageError(
            f"A weight of {weights[wrong][0]} is no sum of the column weights "
            f"{', '.join(map(str, column_weights))}",
            left="Nothing was programmed",
            next=f"Weights lie between {values[0]} and {values[-1]}",
        )
    bits: Bits = rows[place].reshape(len(weights), -1)
    return bits


def weights_of(bits: npt.NDArray[Any], column_weights: Sequence[int]) -> npt.NDArray[np.int32]:
    """(rows, outputs) weights that (rows, columns) bits stand for: the inverse of ``bits_of``."""
    groups = np.asarray(bits, dtype=np.int32).reshape(len(bits), -1, len(column_weights))
    return groups @ np.array(column_weights, dtype=np.int32)


@lru_cache
def _sums(column_weights: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], Bits]:
    """Every weight that a group holds, ascending, and bits that make it."""
    patterns = np.arange(1 << len(column_weights))[:, None]
    bits = (patterns >> np.arange(len(column_weights)) & 1).astype(np.uint8)
    values, first = np.unique(bits @ np.array(column_weights, dtype=np.int64), return_index=True)
    return values.astype(np.int64), bits[first]
