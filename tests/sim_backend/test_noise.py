"""Noise as a function of its place: the distribution, and that nothing correlates.

Seeds are fixed, so each test gives one result for ever; the bounds are z-scores of the stated
number of draws.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol import constants as c
from sim_backend import noise
from sim_backend.converters import Converter, Positions, convert_planes, convert_planes_numpy
from sim_backend.step_law import PULSE_MASK, deviate_table

#: z-score that a correct generator passes once in 16,000 tries
Z = 4.0
DRAWS = 1 << 18


def positions(count: int, first: int = 0) -> Any:
    return np.arange(first, first + count, dtype=np.uint64)


def lanes(count: int) -> Any:
    return np.arange(count, dtype=np.uint64)


def draw(key: np.uint64, count: int = DRAWS, lane: int = 0, first: int = 0) -> Any:
    return noise.normal(key, positions(count, first), np.full(1, lane, dtype=np.uint64))


def z_of_correlation(one: Any, other: Any) -> float:
    """Standard score of the mean product of two unit-variance sequences."""
    return abs(float((one * other).mean())) * float(np.sqrt(one.size))


def test_splitmix_gives_the_published_first_outputs() -> None:
    """The first outputs of splitmix64 from state 0, as its authors' reference code prints."""
    gamma = c.GOLDEN_GAMMA
    states = np.array([0, gamma, 2 * gamma % 2**64], dtype=np.uint64)
    assert [int(v) for v in noise.splitmix(states)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


def test_the_table_is_sorted_symmetric_and_ends_at_the_stated_tail() -> None:
    table = noise.quantile_table().astype(np.int64)
    assert table.size == 65536
    assert (np.diff(table) >= 0).all()
    assert np.array_equal(table, -table[::-1])
    assert round(table[-1] * noise.UNIT, 1) == 4.3


def test_the_table_has_the_moments_of_the_normal_distribution() -> None:
    table = noise.quantile_table() * noise.UNIT
    assert table.mean() == 0.0
    # What is missing is the mass beyond the last quantile: 1.3e-4 of the variance at most.
    assert abs((table**2).mean() - 1) < 1.5e-4
    assert abs((table**4).mean() - 3) < 6e-3


def test_every_entry_of_the_table_is_the_rounded_quantile() -> None:
    """Computed a second time, by the standard library."""
    quantile = NormalDist().inv_cdf
    expected = [round(quantile((i + 0.5) / 65536) * 4096) for i in range(65536)]
    assert noise.quantile_table().tolist() == expected


@pytest.mark.parametrize("lane", [0, 1, 2, 3, 4, 63])
def test_draws_along_positions_have_mean_variance_and_kurtosis(lane: int) -> None:
    z = draw(noise.key(1, 0, c.STREAM_CONVERT), lane=lane)
    n = z.size
    assert abs(z.mean()) < Z / np.sqrt(n)
    assert abs((z**2).mean() - 1) < Z * np.sqrt(2 / n) + 1.5e-4
    assert abs((z**3).mean()) < Z * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < Z * np.sqrt(96 / n) + 6e-3


def test_draws_reach_the_ends_of_the_table_as_often_as_its_middle() -> None:
    z = noise.normal(noise.key(3, 0, 1), positions(DRAWS)[:, None], lanes(16)[None, :]).reshape(-1)
    top = noise.quantile_table()[-1] * noise.UNIT
    assert z.max() == top and z.min() == -top
    # The 16 ends at either side hold 32 of 65536 entries: counts are Poisson.
    limit = noise.quantile_table()[-16] * noise.UNIT
    expected = z.size * 32 / 65536
    assert abs(np.count_nonzero(np.abs(z) >= limit) - expected) < Z * np.sqrt(expected) + 1


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64, 256, 576, 65536])
def test_positions_do_not_correlate(lag: int) -> None:
    z = draw(noise.key(2, 1, c.STREAM_CONVERT), DRAWS + lag)
    assert z_of_correlation(z[:-lag], z[lag:]) < Z
    assert z_of_correlation(z[:-lag] ** 2 - 1, z[lag:] ** 2 - 1) < 2 * Z


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 8, 32])
def test_lanes_do_not_correlate(step: int) -> None:
    z = noise.normal(
        noise.key(2, 1, c.STREAM_CONVERT), positions(DRAWS // 32)[:, None], lanes(64)[None, :]
    )
    assert z_of_correlation(z[:, :-step], z[:, step:]) < Z
    assert z_of_correlation(z[:, :-step] ** 2 - 1, z[:, step:] ** 2 - 1) < 2 * Z


@pytest.mark.parametrize(
    "other",
    [(2, 0, 1), (1 + 2**32, 0, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1), (1, 0, 2), (1, 0, 8)],
    ids=["next seed", "far seed", "tile 1", "tile 2", "tile 3", "stream 2", "stream 8"],
)
def test_seeds_tiles_and_streams_do_not_correlate(other: tuple[int, int, int]) -> None:
    one, two = draw(noise.key(1, 0, 1)), draw(noise.key(*other))
    assert z_of_correlation(one, two) < Z
    assert z_of_correlation(one[:-1], two[1:]) < Z


def test_seeds_tiles_and_streams_have_keys_of_their_own() -> None:
    keys = {
        int(noise.key(seed, tile, stream))
        for seed in (0, 1, 2, 2**32, 2**63, 2**64 - 1)
        for tile in range(16)
        for stream in range(1, 9)
    }
    assert len(keys) == 6 * 16 * 8


def test_a_sum_over_cells_has_the_variance_of_independent_draws() -> None:
    """Correlation too small for pairs would add up over the 64 lanes of a sum."""
    z = noise.normal(noise.key(5, 0, 1), positions(DRAWS // 16)[:, None], lanes(64)[None, :])
    sums = z.sum(axis=1)
    assert abs(sums.var() / 64 - 1) < Z * np.sqrt(2 / sums.size)


def test_uniform_draws_fill_the_unit_interval_evenly() -> None:
    u = noise.uniform(noise.key(1, 0, c.STREAM_INITIAL), positions(DRAWS))
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u * 64).astype(int), minlength=64)
    chi_square = ((counts - DRAWS / 64) ** 2 / (DRAWS / 64)).sum()
    assert abs(chi_square - 63) < Z * np.sqrt(2 * 63)


def scalar_normal(key: int, position: int, index: int) -> float:
    """The definition in plain integers, written down a second time."""
    mask = 2**64 - 1
    z = (key + position * c.GOLDEN_GAMMA + (index >> 2) * c.MIX_1 + c.GOLDEN_GAMMA) & mask
    z = ((z ^ (z >> 30)) * c.MIX_1) & mask
    z = ((z ^ (z >> 27)) * c.MIX_2) & mask
    z ^= z >> 31
    return float(noise.quantile_table()[(z >> (16 * (index & 3))) & 0xFFFF]) / 4096


words = st.integers(0, 2**64 - 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(key=words, position=words, index=st.integers(0, 2**20))
def test_a_deviate_is_what_its_definition_says(key: int, position: int, index: int) -> None:
    got = noise.normal(
        np.uint64(key), np.array([position], dtype=np.uint64), np.array([index], dtype=np.uint64)
    )
    assert got[0] == scalar_normal(key, position, index)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(key=words, first=st.integers(0, 2**40), stride=st.integers(1, 9), column=st.integers(0, 70))
def test_the_compiled_hash_is_the_numpy_hash(
    key: int, first: int, stride: int, column: int
) -> None:
    """With unit gain and no sum the codes are the rounded noise itself."""
    settings_ = Converter(2, 1, -(2**15), 2**15 - 1, 0.0, 4096.0**2)
    place = Positions(np.uint64(key), first, stride, column)
    sums, power = np.zeros((3, 14, 5), dtype=np.float32), np.zeros((3, 5), dtype=np.float32)
    out = np.zeros((2, 3, 7, 5), dtype=np.int16)
    convert_planes(sums, power, settings_, place, out[0])
    convert_planes_numpy(sums, power, settings_, place, out[1])
    assert np.array_equal(out[0], out[1])
    assert out[0, 2, 6, 4] == scalar_normal(key, first + 14 * stride, column + 6) * 4096
    assert np.count_nonzero(out[0]) > 50


@pytest.mark.parametrize("chunk", [1, 3, 100, 999])
def test_chunks_of_positions_give_the_same_draws_as_one_call(chunk: int) -> None:
    key = noise.key(9, 2, c.STREAM_READ)
    whole = draw(key, 1000, lane=7)
    parts = [draw(key, min(chunk, 1000 - at), lane=7, first=at) for at in range(0, 1000, chunk)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_chunks_of_lanes_give_the_same_draws_as_one_call() -> None:
    key = noise.key(9, 2, c.STREAM_READ)
    whole = noise.normal(key, positions(1), lanes(64))
    parts = [noise.normal(key, positions(1), lanes(64)[at : at + 5]) for at in range(0, 64, 5)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_the_table_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        noise.quantile_table()[0] = 0


# --- of pulses, four of which share a hash, from a smaller table ---------------------------------


def of_pulses(pulses: int = 256, cells: int = 1024) -> Any:
    """(pulses, cells) deviates of a tile's cells, as ``steps_numpy`` draws them."""
    count = positions(pulses)[:, None]
    four = np.uint64(4)
    bits = noise.picked(
        noise.key(7, 2, c.STREAM_PULSE), count // four, lanes(cells) * four + count % four
    )
    return deviate_table()[bits & np.uint64(PULSE_MASK)].astype(np.float64)


def test_the_table_of_pulses_has_the_moments_of_the_normal_distribution() -> None:
    table = deviate_table().astype(np.float64)
    assert table.size == PULSE_MASK + 1 and np.array_equal(table, -table[::-1])
    assert round(float(table[-1]), 2) == 3.84
    # The mass beyond 3.84 standard deviations, and the width of the last steps.
    assert abs((table**2).mean() - 1) < 1e-3
    assert abs((table**4).mean() - 3) < 3e-2


def test_noise_of_pulses_has_mean_variance_and_kurtosis() -> None:
    z = of_pulses()
    n = z.size
    assert abs(z.mean()) < Z / np.sqrt(n)
    assert abs((z**2).mean() - 1) < Z * np.sqrt(2 / n) + 1e-3
    assert abs((z**3).mean()) < Z * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < Z * np.sqrt(96 / n) + 3e-2
    limit = deviate_table()[-16]
    expected = n * 32 / (PULSE_MASK + 1)
    assert abs(np.count_nonzero(np.abs(z) >= limit) - expected) < Z * np.sqrt(expected) + 1


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 64])
def test_pulses_of_a_cell_and_cells_beside_each_other_do_not_correlate(lag: int) -> None:
    z = of_pulses()
    for one, other in ((z[:-lag], z[lag:]), (z[:, :-lag], z[:, lag:])):
        assert z_of_correlation(one, other) < Z
        assert z_of_correlation(one**2 - 1, other**2 - 1) < 2 * Z
