"""Random numbers that are functions of their place: a key, a position and an index.

What is drawn for one vector does not depend on what was drawn before it, so a resumed run draws as
one that was never stopped.  The hash is the output function of splitmix64.  The compiled functions
have twins in plain numpy, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from firmware_protocol import constants as c

Words = npt.NDArray[np.uint64]

_GAMMA = np.uint64(c.GOLDEN_GAMMA)
_MIX_1 = np.uint64(c.MIX_1)
_MIX_2 = np.uint64(c.MIX_2)
_WORDS = 1 << 64


def key_of(*parts: int) -> int:
    """A 64-bit key from numbers: a seed, and what the stream belongs to."""
    state = 0
    for part in parts:
        state = int(_mixed(np.array((state ^ part) % _WORDS, dtype=np.uint64)))
    return state


def hash_numpy(key: int, position: npt.NDArray[Any], index: npt.NDArray[Any]) -> Words:
    """64 bits for each of the broadcast positions and indices; the oracle of ``hash_at``."""
    with np.errstate(over="ignore"):
        place = np.uint64(key) + position.astype(np.uint64) * _GAMMA
        return _mixed(place + index.astype(np.uint64) * _MIX_1)


def _mixed(value: Words) -> Words:
    with np.errstate(over="ignore"):
        z = value + _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return np.asarray(z ^ (z >> np.uint64(31)))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def hash_at(key: np.uint64, position: np.uint64, index: np.uint64) -> np.uint64:
    """Compiled: the 64 bits of one place."""
    z = key + position * _GAMMA + index * _MIX_1 + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
