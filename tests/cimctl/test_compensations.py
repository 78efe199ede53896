"""Compensations of a chip's converters, each on an emulated board; their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl import conversion
from cimctl.algorithms.settings import Settings, parse
from cimctl.analog.chip_matrix import ChipMatrix, ChipUnits
from cimctl.analog.compensation import Compensations, Direction, RunningNorm, input_scale
from cimctl.analog.quantiser import largest_magnitudes, quantise, quantise_numpy
from cimctl.analog.ranges import Ranges
from cimctl.mapping.choose import mapped
from cimctl.mapping.demand import Demand
from firmware_protocol.constants import Capability
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

NOISY = catalogue.load("rpu-large")
QUIET = msgspec.structs.replace(
    NOISY, imperfections=msgspec.structs.replace(NOISY.imperfections, adc_noise_lsb=0)
)
#: products of rpu-large end here, in weight times input
BOUND = 20.0
PLAIN = Compensations("off", bound="off")


def span(profile: Profile, *microamperes: float) -> Profile:
    """A profile with another span of the ADC."""
    low, high = microamperes[0], microamperes[-1]
    return msgspec.structs.replace(
        profile, chip=msgspec.structs.replace(profile.chip, adc_span_uA=(low, high))
    )


@dataclass
class Bench:
    """A matrix whose weights are exactly what they should be."""

    chip: Chip
    board: Board
    matrix: ChipMatrix
    weights: np.ndarray[Any, Any]

    def count(self, name: str) -> int:
        return self.chip.cells.count(name)


Make = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[Make]:
    boards: list[Board] = []

    def make(
        weights: np.ndarray[Any, Any], rules: Compensations, profile: Profile = QUIET, seed: int = 0
    ) -> Bench:
        chip = Chip(profile, 4)
        board = Board(profile, InProcessLink(Firmware(chip)))
        boards.append(board)
        board.power_up()
        rule = conversion.single_sided(board, Settings())
        outputs, inputs = weights.shape
        (matrix,) = mapped(
            [Demand("matrix", inputs, outputs, 1)], board.description, "packed"
        ).matrices
        row = 0
        exact = np.empty_like(weights, dtype=np.float64)
        for region in matrix.regions:
            part = slice(row, row + region.rows)
            cells = np.full((region.rows, region.columns), rule.zero)
            cells[:, 0::2] += np.rint(weights[:, part].T / rule.unit).astype(np.int64)
            cells = cells.clip(rule.low, rule.high)
            board.tiles[region.tile].load(cells.astype(np.uint16), region.row, region.column)
            exact[:, part] = (cells[:, 0::2] - rule.zero).T * rule.unit
            row += region.rows
        units = ChipUnits(rule.unit, rule.largest)
        return Bench(chip, board, ChipMatrix(board, matrix, (1, 2), units, rules, seed), exact)

    yield make
    for board in boards:
        board.close()


def drawn(*shape: int, seed: int = 0, most: float = 0.5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-most, most, shape).astype(np.float32)


def resolution(b: Bench, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(vectors, 1): half a DAC step on each input, half an ADC code, at the vector's own scale."""
    scale = np.abs(x).max(axis=1, keepdims=True)
    dac = np.abs(b.weights).sum(axis=1).max() / 63 / 2
    return scale * (dac + BOUND / 255 * 0.51) + 1e-6


# --- noise management ----------------------------------------------------------------------------


def test_products_are_those_of_the_weights_in_both_directions(bench: Make) -> None:
    b = bench(drawn(10, 30), Compensations())
    x, d = drawn(40, 30, seed=1, most=3.0), drawn(40, 10, seed=2, most=0.01)
    assert (np.abs(b.matrix.forward(x) - x @ b.weights.T) < resolution(b, x)).all()
    off = np.abs(b.matrix.backward(d) - d @ b.weights)
    dac = np.abs(b.weights).sum(axis=0).max() / 63 / 2
    assert (off < np.abs(d).max(axis=1, keepdims=True) * (dac + BOUND / 255 * 0.51)).all()


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1e4])
def test_noise_management_makes_the_relative_error_independent_of_the_size(
    bench: Make, size: float
) -> None:
    b = bench(drawn(10, 30), Compensations("max", bound="off"))
    x = drawn(40, 30, seed=1)
    usual = b.matrix.forward(x)
    assert np.allclose(b.matrix.forward(x * np.float32(size)) / size, usual, rtol=1e-5, atol=1e-5)


def test_without_it_small_inputs_vanish_and_large_ones_clip(bench: Make) -> None:
    b = bench(drawn(10, 30), PLAIN)
    x = drawn(40, 30, seed=1)
    assert not b.matrix.forward(x * np.float32(0.01)).any()
    assert np.array_equal(b.matrix.forward(x * 1e6), b.matrix.forward(np.sign(x)))


def test_each_vector_has_its_own_scale_and_a_zero_vector_costs_no_product(bench: Make) -> None:
    b = bench(drawn(10, 30), Compensations())
    x = drawn(6, 30, seed=1)
    x[1] *= 1e-4
    x[3] = 0
    before = b.count("vectors")
    y = b.matrix.forward(x)
    assert b.count("vectors") - before == 5
    assert not y[3].any()
    assert (np.abs(y - x @ b.weights.T) < resolution(b, x)).all()
    assert not b.matrix.forward(np.zeros((2, 30), dtype=np.float32)).any()
    assert b.count("vectors") - before == 5


@pytest.mark.parametrize(
    ("noise", "value", "expected"),
    [
        ("off", 5.0, [1, 1, 1]),
        ("constant", 5.0, [5, 5, 5]),
        ("max", 5.0, [0.5, 2, 0]),
        ("threshold", 1.5, [0.5, 1.5, 0]),
        ("running-mean", 5.0, [4, 4, 4]),
        ("running-maximum", 5.0, [8, 8, 8]),
    ],
)
def test_what_an_input_is_divided_by(noise: Any, value: float, expected: list[float]) -> None:
    rules = Compensations(noise, noise_value=value)
    direction = Direction(Ranges(largest=8.0), mean=4.0)
    largest = np.array([0.5, 2, 0], dtype=np.float32)
    assert input_scale(rules, direction, largest).tolist() == expected


def test_running_values_follow_training_alone(bench: Make) -> None:
    b = bench(drawn(4, 8), Compensations("running-mean"))
    state = b.matrix.state_dict
    ones = np.ones((3, 8), dtype=np.float32)
    b.matrix.forward(ones, learning=True)
    assert state()["forward"]["mean"] == 1
    b.matrix.forward(9 * ones)
    assert state()["forward"]["mean"] == 1
    b.matrix.forward(11 * ones, learning=True)
    assert state()["forward"]["mean"] == pytest.approx(0.99 + 0.11)
    assert state()["forward"]["ranges"]["largest"] == 11
    assert state()["backward"]["mean"] == 0


# --- bound management ----------------------------------------------------------------------------


def test_iterative_bound_management_recovers_what_clips_and_repeats_only_that(bench: Make) -> None:
    weights = np.full((3, 100), 0.9, dtype=np.float32)
    x = drawn(10, 100, seed=1, most=0.1)
    x[:, 0] = 1.0
    x[[2, 7]] = 1.0
    x[5, :30] = 1.0
    wanted = x @ weights.T
    clipped = bench(weights, Compensations("max", bound="off"))
    y = clipped.matrix.forward(x)
    assert y[2].max() == pytest.approx(BOUND, rel=0.01)
    b = bench(weights, Compensations("max", bound="iterative"))
    before = b.count("vectors")
    found = b.matrix.forward(x)
    # A sum of 90 fits at an eighth, one of 27 and a little at a half.
    assert b.count("vectors") - before == 10 + 3 + 2 + 2
    assert found[[2, 7]] == pytest.approx(wanted[[2, 7]], rel=0.02)
    assert found[5] == pytest.approx(wanted[5], rel=0.05)
    others = [0, 1, 3, 4, 6, 8, 9]
    assert np.array_equal(found[others], y[others])


def test_inputs_are_divided_by_sixteen_at_most(bench: Make) -> None:
    weights = np.full((2, 200), 0.9, dtype=np.float32)
    b = bench(weights, Compensations(), span(QUIET, 39.45 / 4))
    before = b.count("vectors")
    y = b.matrix.forward(np.ones((1, 200), dtype=np.float32))
    assert b.count("vectors") - before == 5
    assert y.max() == pytest.approx(16 * BOUND / 4, rel=0.01)


def test_each_block_of_inputs_is_judged_on_its_own(bench: Make) -> None:
    # The first block's sum is +75, the second's -75: together they would not seem to clip.
    weights = np.full((2, 300), 0.5, dtype=np.float32)
    weights[:, 150:] = -0.5
    weights[:, 299] = 0.4
    x = np.ones((4, 300), dtype=np.float32)
    b = bench(weights, Compensations())
    wanted = x @ b.weights.T
    before = b.count("vectors")
    y = b.matrix.forward(x)
    assert b.count("vectors") - before == 2 * 4 * 3
    assert np.abs(y - wanted).max() < 2 * 4 * BOUND / 255
    # Where one block alone clips, that one alone is repeated.
    x[:, 150:] = 0.1
    before = b.count("vectors")
    b.matrix.forward(x)
    assert b.count("vectors") - before == 4 * 3 + 4


@pytest.mark.parametrize("profile", [QUIET, NOISY], ids=["quiet", "noisy"])
def test_the_worst_case_never_saturates(bench: Make, profile: Profile) -> None:
    weights = np.where(drawn(5, 200) > 0, 1.0, -1.0).astype(np.float32)
    b = bench(weights, Compensations("max", bound="worst-case"), profile)
    x = np.concatenate([weights, -weights, drawn(20, 200, seed=1), drawn(20, 200, most=1e-3)])
    before = b.count("saturations")
    y = b.matrix.forward(x)
    assert b.count("saturations") == before
    # Inputs of 1 become 6 codes or so: rounding is worth up to a twelfth.
    assert np.diag(y[:5]) == pytest.approx(200, rel=0.1)


def test_bound_management_is_of_the_forward_direction(bench: Make) -> None:
    b = bench(np.full((50, 3), 0.9, dtype=np.float32), Compensations())
    before = b.count("vectors")
    y = b.matrix.backward(np.ones((2, 50), dtype=np.float32))
    assert b.count("vectors") - before == 2
    assert y.max() == pytest.approx(BOUND, rel=0.01)


def test_iterative_bound_management_needs_whole_conversions(bench: Make) -> None:
    capabilities = tuple(c for c in QUIET.chip.capabilities if c != "SIGNED_INPUTS")
    profile = msgspec.structs.replace(
        QUIET, chip=msgspec.structs.replace(QUIET.chip, capabilities=capabilities)
    )
    weights = drawn(3, 4)
    with pytest.raises(UnsupportedError, match="SIGNED_INPUTS"):
        bench(weights, Compensations(), profile)
    b = bench(weights, Compensations(bound="off"), profile)
    assert Capability.SIGNED_INPUTS not in b.board.capabilities
    x = drawn(3, 4, seed=2)
    assert np.abs(b.matrix.forward(x) - x @ b.weights.T).max() < 0.1


def test_a_settable_range_is_found_from_the_first_products(bench: Make) -> None:
    b = bench(drawn(10, 30, most=0.05), Compensations(bound="off"), span(QUIET, 0.5, 39.45))
    x = drawn(200, 30, seed=1)
    found = b.matrix.forward(x)
    scale = np.abs(x).max(axis=1, keepdims=True)
    off = np.abs(found - x @ b.weights.T) / scale
    # At the widest range an ADC code would be 0.08.
    assert off.mean() < 0.01


# --- rounding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [-1, 0, 123456789])
def test_the_compiled_quantiser_is_its_oracle(first: int) -> None:
    x = drawn(50, 23, most=2.0)
    scale = largest_magnitudes(x) * np.float32(0.9)
    codes = quantise(x, scale, 63, key=5, first=first)
    assert np.array_equal(codes, quantise_numpy(x, scale, 63, key=5, first=first))
    assert np.array_equal(largest_magnitudes(x), np.abs(x).max(axis=1))
    assert (codes.min(), codes.max()) == (-63, 63)


@pytest.mark.parametrize("value", [0.3, -0.3, 12.75, 0.0, 5.0])
def test_stochastic_rounding_is_unbiased(value: float) -> None:
    x = np.full((400, 50), value / 63, dtype=np.float32)
    codes = quantise(x, np.ones(400, dtype=np.float32), 63, key=9, first=0).astype(float)
    rest = value - np.floor(value)
    spread = np.sqrt(rest * (1 - rest) / codes.size)
    assert codes.mean() == pytest.approx(value, abs=5 * spread + 1e-5)
    nearest = quantise(x, np.ones(400, dtype=np.float32), 63)
    assert (nearest == round(value)).all()


def test_stochastic_rounding_goes_on_where_it_stopped(bench: Make) -> None:
    rules = Compensations(stochastic_rounding=True)
    weights, x = drawn(6, 20), drawn(30, 20, seed=1)
    one, two = bench(weights, rules, seed=3), bench(weights, rules, seed=3)
    first, second = one.matrix.forward(x), one.matrix.forward(x)
    assert not np.array_equal(first, second)
    two.matrix.load_state_dict(one.matrix.state_dict())
    assert np.array_equal(one.matrix.forward(x), two.matrix.forward(x))
    other = bench(weights, rules, seed=4)
    assert not np.array_equal(other.matrix.forward(x), first)


# --- normalisation -------------------------------------------------------------------------------


def test_a_running_norm_takes_out_mean_and_spread_of_each_channel() -> None:
    torch.manual_seed(0)
    norm = RunningNorm(3)
    means, spreads = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([0.1, 3.0, 1.0])

    def batch() -> torch.Tensor:
        values = torch.randn(16, 3, 6, 6)
        return values * spreads.reshape(1, -1, 1, 1) + means.reshape(1, -1, 1, 1)

    for _ in range(50):
        norm(batch())
    norm.eval()
    kept = norm.mean.clone()
    values = batch().requires_grad_(True)
    found = norm(values)
    assert found.mean((0, 2, 3)).abs().max() < 0.2
    assert found.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], rel=0.1)
    assert torch.equal(norm.mean, kept)
    found.sum().backward()
    assert values.grad is not None
    assert values.grad[0, :, 0, 0].tolist() == pytest.approx((1 / spreads).tolist(), rel=0.1)


# --- the digital layers of mixed precision -------------------------------------------------------


@pytest.fixture
def emu() -> Iterator[Board]:
    profile = catalogue.load("emu")
    with Board(profile, InProcessLink(Firmware(Chip(profile, 2)))) as opened:
        opened.power_up()
        yield opened


def test_by_default_the_layers_of_mixed_precision_have_none(emu: Board) -> None:
    model = conversion.convert(nn.Sequential(nn.Linear(6, 4)), emu, Settings())
    (layer,) = conversion.analog_layers(model)
    assert layer.chip is None and layer.input_norm is None and layer.output_norm is None


@pytest.mark.parametrize(
    "layer", [nn.Linear(40, 12), nn.Conv2d(3, 4, 3, stride=2, padding=1)], ids=["linear", "conv"]
)
@pytest.mark.parametrize(
    "changed",
    [
        {"noise_management": "max"},
        {"noise_management": "max", "bound_management": "iterative", "stochastic_rounding": True},
        {"noise_management": "threshold", "noise_threshold": 5.0},
        {"bound_management": "worst-case"},
    ],
    ids=["noise", "bound", "threshold", "worst case"],
)
def test_mixed_precision_may_have_compensated_products(
    emu: Board, layer: nn.Module, changed: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = conversion.convert(nn.Sequential(layer), emu, Settings(**changed))
    conversion.program_weights(model, 5)
    (analog,) = conversion.analog_layers(model)
    assert analog.chip is not None
    shape = (32, 40) if isinstance(layer, nn.Linear) else (8, 3, 9, 9)
    inputs = (torch.rand(shape) * 2 - 1).requires_grad_(True)
    found, wanted = model(inputs), layer(inputs)
    assert found.shape == wanted.shape
    # Programming, reading and conversion have the noise of a real chip: the two are alike.
    assert float(torch.corrcoef(torch.stack([found, wanted]).detach().flatten(1))[0, 1]) > 0.8
    found.sum().backward()
    assert analog.weight.grad is not None and inputs.grad is not None


def test_normalised_layers_train(emu: Board) -> None:
    settings = Settings(input_normalisation=True, output_normalisation=True)
    model = conversion.convert(nn.Sequential(nn.Linear(8, 4)), emu, settings)
    conversion.program_weights(model)
    torch.manual_seed(1)
    for _ in range(30):
        outputs = model(torch.rand(64, 8) * 7 + 3)
    outputs.sum().backward()
    (layer,) = conversion.analog_layers(model)
    assert layer.input_norm is not None and layer.bias is not None
    assert layer.input_norm.mean.tolist() == pytest.approx([6.5] * 8, abs=0.5)
    spread = (outputs - layer.bias).detach().std(0).tolist()
    assert spread == pytest.approx([1] * 4, rel=0.4)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "allowed"),
    [
        ("noise_management=median", "auto, off, max, constant, threshold, running-mean"),
        ("bound_management=always", "auto, off, iterative, worst-case"),
        ("weight_scaling=row", "auto, off, tensor, column"),
        ("lr_schedule=steps", "constant, tail, halved"),
    ],
)
def test_an_unknown_choice_is_refused_with_what_is_allowed(pair: str, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse((pair,))
    key, _, value = pair.partition("=")
    assert f"Setting '{key}' '{value}'" in caught.value.what
    assert f"Allowed: {allowed}" in caught.value.next


@pytest.mark.parametrize(
    "pair",
    [
        "noise_constant=0", "noise_threshold=-1", "pulse_length=33", "pulse_length=0",
        "zero_shift=-1", "weight_scaling_omega=0", "update_management=often", "initial_bound=-1",
        "stochastic_rounding=maybe",
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match=pair.partition("=")[0]):
        parse((pair,))
