"""The ADC: compiled against numpy, rounding, saturation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backend.converters import (
    Adding,
    Converter,
    Positions,
    bowed,
    convert_planes,
    convert_planes_numpy,
    round_shift,
)
from sim_backend.mismatch import LineErrors

NOWHERE = Positions(np.uint64(0), 0, 1, 0)
KINDS = [convert_planes, convert_planes_numpy]


def planes(totals: Any) -> Any:
    """(batch, outputs, places) sums as the two float planes that the converter takes."""
    whole = np.asarray(totals, dtype=np.int64)
    return np.concatenate([whole >> 8, whole & 255], axis=1).astype(np.float32)


def no_power(shape: tuple[int, ...]) -> Any:
    return np.zeros((shape[0], shape[2]), dtype=np.float32)


def random_errors(rng: np.random.Generator, outputs: int) -> LineErrors:
    spreads = ((1.0, 0.1), (0.0, 5.0), (0.0, 3.0))
    return LineErrors(*(rng.normal(mean, spread, outputs) for mean, spread in spreads))


def converted(
    convert: Any, totals: Any, settings_: Converter, errors: LineErrors | None = None
) -> tuple[list[int], int]:
    row = np.asarray(totals, dtype=np.int64).reshape(1, -1, 1)
    out = np.zeros(row.shape, dtype=np.int16)
    saturated = convert(planes(row), no_power(row.shape), settings_, NOWHERE, out, errors)
    return [int(code) for code in out.reshape(-1)], saturated


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    outputs=st.integers(1, 9),
    places=st.integers(1, 6),
    multiplier=st.integers(1, 65535),
    shift=st.integers(1, 48),
    bits=st.integers(2, 12),
    read_variance=st.sampled_from((0.0, 1.0, 7.3e5)),
    adc_variance=st.sampled_from((0.0, 0.37, 1e9)),
    column=st.integers(0, 255),
    first=st.integers(0, 2**40),
    stride=st.integers(1, 9),
    layout=st.sampled_from(("whole", "part", "strided", "reversed")),
    scale=st.integers(0, 32),
    uneven=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_conversion_has_the_bits_of_the_oracle(
    batch: int, outputs: int, places: int, multiplier: int, shift: int, bits: int,
    read_variance: float, adc_variance: float, column: int, first: int, stride: int, layout: str,
    scale: int, uneven: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    sums = planes(rng.integers(-(2**scale), 2**scale, (batch, outputs, places), endpoint=True))
    power = rng.integers(0, 2**24, (batch, places)).astype(np.float32)
    settings_ = Converter(
        multiplier, shift, -(1 << bits - 1), (1 << bits - 1) - 1, read_variance, adc_variance
    )
    place = Positions(np.uint64(rng.integers(0, 2**63)), first, stride, column)
    start = rng.integers(-100, 100, (batch, 3 * outputs, 2 * places)).astype(np.int16)
    view: dict[str, Any] = {
        "whole": lambda a: a[:, :outputs, :places],
        "part": lambda a: a[:, outputs : 2 * outputs, :places],
        "strided": lambda a: a[:, ::3, ::2],
        "reversed": lambda a: a[::-1, outputs - 1 :: -1, :places],
    }
    errors = random_errors(rng, outputs) if uneven else None
    one, other = start.copy(), start.copy()
    if layout == "whole":
        one, other = (np.ascontiguousarray(view[layout](a)) for a in (one, other))
        count = convert_planes(sums, power, settings_, place, one, errors)
        expected = convert_planes_numpy(sums, power, settings_, place, other, errors)
    else:
        count = convert_planes(sums, power, settings_, place, view[layout](one), errors)
        expected = convert_planes_numpy(sums, power, settings_, place, view[layout](other), errors)
    assert count == expected
    # Compared whole: nothing outside the view may be touched either.
    assert np.array_equal(one, other)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    outputs=st.integers(1, 5),
    group=st.integers(1, 4),
    places=st.integers(1, 6),
    step=st.sampled_from((0, 1, 15)),
    unsigned=st.booleans(),
    adc_variance=st.sampled_from((0.0, 1e9)),
    column=st.integers(0, 5000),
    uneven=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_groups_have_the_bits_of_the_oracle(
    batch: int, outputs: int, group: int, places: int, step: int, unsigned: bool,
    adc_variance: float, column: int, uneven: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    conversions = outputs * group
    totals = rng.integers(-(2**23), 2**23, (batch, conversions, places))
    sums = totals.astype(np.float32) if step else planes(totals)
    low, high = (0, 255) if unsigned else (-128, 127)
    settings_ = Converter(1 << 15, 30 + 4 * (step == 15), low, high, 0.0, adc_variance)
    place = Positions(np.uint64(rng.integers(0, 2**63)), 7, 2, column)
    errors = random_errors(rng, conversions) if uneven else None
    adding = Adding(group, rng.integers(-1024, 1024, conversions).astype(np.int32))
    one = rng.integers(-(2**20), 2**20, (batch, outputs, places)).astype(np.int32)
    other = one.copy()
    power = no_power(totals.shape)
    count = convert_planes(sums, power, settings_, place, one, errors, adding, step)
    expected = convert_planes_numpy(sums, power, settings_, place, other, errors, adding, step)
    assert count == expected
    assert np.array_equal(one, other)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    totals=st.lists(st.integers(-(2**33) + 256, 2**33 - 256), min_size=1, max_size=8),
    multiplier=st.integers(1, 65535),
    shift=st.integers(1, 48),
)
def test_codes_are_the_written_arithmetic_in_exact_fractions(
    totals: list[int], multiplier: int, shift: int
) -> None:
    """Python's round() of a Fraction rounds half to even, and it is exact."""
    wanted = [round(Fraction(t * multiplier, 2**shift)) for t in totals]
    clipped = [min(127, max(-128, code)) for code in wanted]
    for convert in KINDS:
        codes, saturated = converted(convert, totals, Converter(multiplier, shift, -128, 127, 0, 0))
        assert codes == clipped
        assert saturated == sum(a != b for a, b in zip(wanted, clipped, strict=True))


@pytest.mark.parametrize("convert", KINDS)
def test_exact_halves_go_to_the_even_code(convert: Any) -> None:
    totals = [-7, -5, -3, -1, 1, 3, 5, 7]
    codes, _ = converted(convert, totals, Converter(1, 1, -128, 127, 0, 0))
    assert codes == [-4, -2, -2, 0, 0, 2, 2, 4]


@pytest.mark.parametrize("convert", KINDS)
def test_the_neighbours_of_a_half_go_to_the_nearest_code(convert: Any) -> None:
    half = 3 << 20  # 1.5 codes at a shift of 21
    codes, _ = converted(convert, [half - 1, half, half + 1], Converter(1, 21, -128, 127, 0, 0))
    assert codes == [1, 2, 2]
    half = 5 << 20
    codes, _ = converted(convert, [half - 1, half, half + 1], Converter(1, 21, -128, 127, 0, 0))
    assert codes == [2, 2, 3]


@pytest.mark.parametrize("convert", KINDS)
def test_saturation_ends_at_the_range_and_counts_only_what_was_cut(convert: Any) -> None:
    totals = [254, 255, 256, 10**9, -256, -257, -258, -(10**9)]
    codes, saturated = converted(convert, totals, Converter(1, 1, -128, 127, 0, 0))
    # 255 / 2 = 127.5 rounds to 128 and is cut; -257 / 2 = -128.5 rounds to -128 and is not.
    assert codes == [127, 127, 127, 127, -128, -128, -128, -128]
    assert saturated == 5


@pytest.mark.parametrize("convert", KINDS)
def test_a_converters_own_errors_are_the_written_arithmetic(convert: Any) -> None:
    """Gain before offset, both before rounding; each output has its own."""
    errors = LineErrors(np.array([1.25, 1.0, 0.5]), np.array([0.0, -7.4, 3.0]), np.zeros(3))
    codes, _ = converted(convert, [80, 80, 80], Converter(1, 1, -128, 127, 0, 0), errors)
    assert codes == [50, 33, 23]
    far = LineErrors(np.ones(2), np.array([100.0, -100.0]), np.zeros(2))
    codes, saturated = converted(convert, [80, -80], Converter(1, 1, -128, 127, 0, 0), far)
    assert codes == [127, -128] and saturated == 2


@pytest.mark.parametrize("convert", KINDS)
def test_a_bow_is_zero_at_both_ends_and_the_middle_and_as_large_as_it_says(convert: Any) -> None:
    levels = np.arange(-2048, 2048)
    count = levels.size
    errors = LineErrors(np.ones(count), np.zeros(count), np.full(count, 100.0))
    settings_ = Converter(1, 1, -2048, 2047, 0, 0)
    bow = np.array(converted(convert, 2 * levels, settings_, errors)[0]) - levels
    assert bow[0] == bow[2048] == bow[4095] == 0
    assert bow.max() == 100 and bow.min() == -100
    # u - u^3 is largest at u = 1 / sqrt(3).
    assert abs(levels[bow.argmax()] / 2048 - 3**-0.5) < 0.05
    assert np.array_equal(bow[1:2048], -bow[:2048:-1])


def test_a_bow_ends_with_the_range() -> None:
    assert not bowed(np.array([-9.0, -1.0, 1.0, 9.0])).any()


@pytest.mark.parametrize("convert", KINDS)
def test_codes_are_added_to_what_is_there(convert: Any) -> None:
    out = np.full((1, 2, 1), 100, dtype=np.int16)
    row = np.array([[[20], [-20]]])
    convert(planes(row), no_power(row.shape), Converter(1, 1, -128, 127, 0, 0), NOWHERE, out)
    assert out.reshape(-1).tolist() == [110, 90]


@pytest.mark.parametrize("convert", KINDS)
def test_a_batch_in_parts_has_the_bits_of_the_batch_in_one(convert: Any) -> None:
    rng = np.random.default_rng(3)
    totals = rng.integers(-(10**6), 10**6, (12, 5, 4))
    power = rng.integers(0, 10**5, (12, 4)).astype(np.float32)
    settings_ = Converter(40000, 28, -128, 127, 3000.0, 1e7)
    whole = np.zeros(totals.shape, dtype=np.int16)
    convert(planes(totals), power, settings_, Positions(np.uint64(77), 1000, 3, 6), whole)
    parts = np.zeros(totals.shape, dtype=np.int16)
    for at, end in ((0, 5), (5, 6), (6, 12)):
        place = Positions(np.uint64(77), 1000 + at * 4 * 3, 3, 6)
        convert(planes(totals[at:end]), power[at:end], settings_, place, parts[at:end])
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("convert", KINDS)
def test_noise_has_the_variance_that_the_settings_name(convert: Any) -> None:
    count, power, read, adc = 20000, 50.0, 300.0, 4.0e4
    sums = np.zeros((count, 2, 1), dtype=np.float32)
    squares = np.full((count, 1), power, dtype=np.float32)
    out = np.zeros((count, 1, 1), dtype=np.int16)
    convert(sums, squares, Converter(2, 1, -2048, 2047, read, adc), NOWHERE, out)
    variance = out.astype(float).var()
    # Rounding to whole codes adds a twelfth; four standard errors of a variance.
    expected = read * power + adc + 1 / 12
    assert abs(variance / expected - 1) < 4 * np.sqrt(2 / count)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=st.integers(-(2**48), 2**48), shift=st.integers(1, 48))
def test_round_shift_is_exact_rounding_half_to_even(value: int, shift: int) -> None:
    assert int(round_shift(np.array([value]), shift)[0]) == round(Fraction(value, 2**shift))
