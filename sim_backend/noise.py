"""Noise that is a pure function of its place, so that splits, links and windows agree.

A normal deviate belongs to a *key* (chip seed, tile, stream), a *position* and a *lane index*:
``splitmix64`` of the three picks 16 bits, and these an entry of a table of 65,536 quantiles of the
normal distribution (tails end at 4.33 standard deviations).  One 64-bit hash serves four lanes.
The table holds integers of 2^-12, so that every implementation has the same.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import numpy.typing as npt
import torch

from firmware_protocol import constants as c

UNIT = 1.0 / (1 << c.NOISE_FRACTION_BITS)

GAMMA = np.uint64(c.GOLDEN_GAMMA)
MIX_1 = np.uint64(c.MIX_1)
MIX_2 = np.uint64(c.MIX_2)


@cache
def quantile_table(bits: int = c.NOISE_TABLE_BITS) -> npt.NDArray[np.int32]:
    """Quantiles of the normal distribution at (i + 0.5) / 2^bits, in units of 2^-12.

    The half table is mirrored, so that the mean is exactly zero.
    """
    size = 1 << bits
    places = (torch.arange(size // 2, dtype=torch.float64) + 0.5) / size
    lower = torch.round(torch.special.ndtri(places) / UNIT).to(torch.int32).numpy()
    table: npt.NDArray[np.int32] = np.concatenate([lower, -lower[::-1]])
    table.setflags(write=False)
    return table


def key(seed: int, tile: int, stream: int) -> np.uint64:
    """The key of one stream of one tile of the chip with that seed."""
    state = splitmix(np.array(seed % (1 << 64), dtype=np.uint64))
    state = splitmix(state ^ np.uint64(tile))
    return np.uint64(splitmix(state ^ np.uint64(stream << 32)))


def splitmix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of splitmix64, on an array (also of no dimension)."""
    with np.errstate(over="ignore"):
        z = value + GAMMA
        z = (z ^ (z >> np.uint64(30))) * MIX_1
        z = (z ^ (z >> np.uint64(27))) * MIX_2
        return np.asarray(z ^ (z >> np.uint64(31)))


def normal(
    stream_key: np.uint64,
    position: npt.NDArray[np.uint64],
    index: npt.NDArray[np.uint64],
) -> npt.NDArray[np.float64]:
    """Normal deviates for broadcast arrays of positions and lane indices."""
    deviates: npt.NDArray[np.float64] = (
        quantile_table()[picked(stream_key, position, index)].astype(np.float64) * UNIT
    )
    return deviates


def picked(
    stream_key: np.uint64 | npt.NDArray[np.uint64],
    position: npt.NDArray[np.uint64],
    index: npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint64]:
    """The 16 bits behind each deviate of ``normal``."""
    with np.errstate(over="ignore"):
        place = stream_key + position * GAMMA + (index >> np.uint64(2)) * MIX_1
    hashed = splitmix(place)
    lane = (index & np.uint64(3)) * np.uint64(c.NOISE_TABLE_BITS)
    return np.asarray((hashed >> lane) & np.uint64((1 << c.NOISE_TABLE_BITS) - 1))


def uniform(stream_key: np.uint64, index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniform deviates in [0, 1), one for each index."""
    with np.errstate(over="ignore"):
        hashed = splitmix(stream_key + index * GAMMA)
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def mixed(place: np.uint64) -> np.uint64:
    """Compiled: what ``hash_at`` makes of its sum, for loops that keep the sum."""
    z = (place ^ (place >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def hash_at(stream_key: np.uint64, position: np.uint64, quad: np.uint64) -> np.uint64:
    """Compiled: the 64 bits behind four lanes of one position."""
    return mixed(stream_key + position * GAMMA + quad * MIX_1 + GAMMA)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def lane_of(hashed: np.uint64, lane: int) -> np.uint64:
    """Compiled: the table index that one lane of a hash picks."""
    return (hashed >> np.uint64(16 * lane)) & np.uint64(0xFFFF)
