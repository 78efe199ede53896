"""Powers of a radix with one- and two-phase rounding, and integers of 4 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cimctl.formats.integers import SIGNED, UNSIGNED, WEIGHTS, weight_unit
from cimctl.formats.powers import MAGNITUDES, Powers

RADICES = st.sampled_from([2, 4])
#: down to far below the lowest threshold, up to far beyond the top
VALUES = st.floats(-65536, 65536, width=32)
UNITS = st.floats(1e-6, 1e3)


@given(RADICES, UNITS)
def test_what_a_format_holds_it_keeps(radix: int, unit: float) -> None:
    powers = Powers(radix)
    codes = torch.arange(-MAGNITUDES, MAGNITUDES + 1).to(torch.int8)
    assert torch.equal(powers.codes(powers.integers(codes) * unit, unit), codes)


@given(RADICES, st.lists(VALUES, min_size=2, max_size=50))
def test_rounding_to_powers_keeps_order_and_sign(radix: int, values: list[float]) -> None:
    powers, x = Powers(radix), torch.tensor(sorted(values))
    found = powers.integers(powers.codes(x, 1.0))
    assert (found.diff() >= 0).all()
    assert torch.equal(powers.codes(-x, 1.0), -powers.codes(x, 1.0))


@pytest.mark.parametrize("exponent", range(MAGNITUDES))
def test_a_power_of_four_takes_what_lies_from_its_1_6th_to_the_next_ones(exponent: int) -> None:
    low, high = 4.0**exponent / 1.6, 4.0 ** (exponent + 1) / 1.6
    x = torch.tensor([low * (1 - 1e-6), low, high * (1 - 1e-6), high])
    below, top = exponent, min(exponent + 2, MAGNITUDES)
    assert Powers(4).codes(x, 1.0).tolist() == [below, exponent + 1, exponent + 1, top]


def test_what_one_phase_rounds_up_the_other_rounds_down() -> None:
    x = torch.from_numpy(np.geomspace(4.0, 1024.0, 4001).astype(np.float32))
    powers = Powers(4)
    one = powers.integers(powers.codes(x, 1.0)) / x
    other = 2 * powers.integers(powers.codes(x, 2.0)) / x
    assert set((one / other).log2().round(decimals=3).tolist()) == {-1.0, 1.0}
    # One phase alone is off by anything from 1.6 to 0.4; the two together by half of that.
    assert float(one.max() / one.min()) > 3.9
    both = (one * other).sqrt()
    assert float(both.max() / both.min()) < 2.01


@given(st.lists(VALUES, min_size=1, max_size=40), st.floats(1e-3, 10.0))
def test_integers_are_clipped_kept_and_at_most_half_a_step_off(
    values: list[float], unit: float
) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    for grid in (UNSIGNED, SIGNED, WEIGHTS):
        codes = grid.codes(x, unit)
        assert codes.min() >= grid.low and codes.max() <= grid.high
        assert torch.equal(grid.codes(codes * unit, unit), codes)
        inside = (x / unit >= grid.low) & (x / unit <= grid.high)
        assert ((codes - x / unit).abs()[inside] <= 0.5 + 1e-9).all()


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.full((20000,), 3.3)
    codes = UNSIGNED.codes(x, 1.0, stochastic=True)
    assert set(codes.tolist()) == {3.0, 4.0}
    assert float(codes.mean()) == pytest.approx(3.3, abs=0.02)


def test_a_clipped_weight_scale_has_less_error_than_that_of_the_largest() -> None:
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(1))

    def error(unit: float) -> float:
        return float((weights - WEIGHTS.codes(weights, unit) * unit).square().mean())

    by_max, by_error = weight_unit(weights, "max"), weight_unit(weights, "mean-square")
    assert by_max == pytest.approx(float(weights.abs().max()) / 7)
    assert error(by_error) < 0.9 * error(by_max)


def test_planes_put_a_gradient_together_again() -> None:
    codes = torch.randint(-7, 8, (5, 9), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    total = sum(magnitude * plane.int() for magnitude, plane in Powers(4).planes(codes))
    assert torch.equal(total, Powers(4).integers(codes).int())
    assert list(Powers(4).planes(torch.zeros(3, 3, dtype=torch.int8))) == []
