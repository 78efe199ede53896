"""Random numbers that are functions of their place: a key, a position and an index.

What is drawn for one vector does not depend on what was drawn before it, so a resumed run draws as
one that was never stopped.  The hash is the emulator's (``sim_backend.noise``), with other keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_protocol import constants as c
from sim_backend.noise import hash_at, splitmix

__all__ = ["hash_at", "hash_numpy", "key_of"]

Words = npt.NDArray[np.uint64]

_GAMMA = np.uint64(c.GOLDEN_GAMMA)
_MIX_1 = np.uint64(c.MIX_1)
_WORDS = 1 << 64


def key_of(*parts: int) -> int:
    """A 64-bit key from numbers: a seed, and what the stream belongs to."""
    state = 0
    for part in parts:
        state = int(splitmix(np.array((state ^ part) % _WORDS, dtype=np.uint64)))
    return state


def hash_numpy(key: int, position: npt.NDArray[Any], index: npt.NDArray[Any]) -> Words:
    """64 bits for each of the broadcast positions and indices; the oracle of ``hash_at``."""
    with np.errstate(over="ignore"):
        place = np.uint64(key) + position.astype(np.uint64) * _GAMMA
        return splitmix(place + index.astype(np.uint64) * _MIX_1)
