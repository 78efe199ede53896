"""Mixed-precision training, its settings, and which networks fit a board."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from cimctl import conversion
from cimctl.algorithms import Fp32, MixedPrecision
from cimctl.algorithms.settings import Settings, parse
from cimctl.analog.layers import AnalogLayer
from firmware_protocol.constants import Opcode
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
#: weight_range / (levels - 1) of the default settings on this board
THRESHOLD = 0.25 / 3
PLAIN = {
    "optimizer": "SGD", "lr": 1.0, "weight_decay": 0.0, "lr_schedule": "constant", "dither": False,
}  # fmt: skip


@dataclass
class Bench:
    """A layer of four outputs and six inputs on an emulated chip, SGD with a rate of one."""

    board: Board
    chip: Chip
    layer: AnalogLayer
    algorithm: MixedPrecision

    def step(self, *places: tuple[int, int], by: float) -> None:
        """One training step that wants those weights to change by that much."""
        gradient = torch.zeros_like(self.layer.weight)
        for place in places:
            gradient[place] = -by
        self.layer.weight.grad = gradient
        self.algorithm.step()

    @property
    def weights(self) -> torch.Tensor:
        return self.layer.weight.detach().clone()

    def count(self, name: str) -> int:
        return self.chip.cells.count(name)


@pytest.fixture
def bench() -> Iterator[Any]:
    boards = []

    def make(**changed: Any) -> Bench:
        settings = Settings(**(PLAIN | changed))
        chip = Chip(EMU, 3)
        board = Board(EMU, InProcessLink(Firmware(chip)))
        boards.append(board)
        board.power_up()
        model = conversion.convert(nn.Sequential(nn.Linear(6, 4, bias=False)), board, settings)
        (layer,) = conversion.analog_layers(model)
        layer.weight.data.zero_()
        return Bench(board, chip, layer, MixedPrecision(model, board, settings, seed=1))

    yield make
    for board in boards:
        board.close()


# --- the update ----------------------------------------------------------------------------------


def test_steps_accumulate_until_they_pass_the_threshold(bench: Any) -> None:
    b = bench()
    assert b.algorithm.threshold == pytest.approx(THRESHOLD)
    b.step((1, 2), by=0.05)
    assert b.layer.writes == b.count("writes") == 0
    assert not b.weights.any()
    b.step((1, 2), by=0.05)
    assert b.layer.writes == 1
    expected = torch.zeros(4, 6)
    expected[1, 2] = 0.1
    assert torch.allclose(b.weights, expected)
    # The accumulator starts again: the next half step alone writes nothing.
    b.step((1, 2), by=0.05)
    assert b.layer.writes == 1


@pytest.mark.parametrize(("by", "writes"), [(0.99, 0), (-0.99, 0), (1.01, 1), (-1.01, 1)])
def test_only_more_than_the_threshold_is_written(bench: Any, by: float, writes: int) -> None:
    b = bench()
    b.step((0, 0), by=by * THRESHOLD)
    assert b.layer.writes == writes


def test_levels_set_the_threshold(bench: Any) -> None:
    assert bench(levels=6).algorithm.threshold == pytest.approx(0.05)
    assert bench(levels=2, weight_range=0.5).algorithm.threshold == pytest.approx(0.5)


def test_opposite_steps_cancel_and_write_nothing(bench: Any) -> None:
    b = bench()
    for _ in range(20):
        b.step((3, 5), by=0.06)
        b.step((3, 5), by=-0.06)
    assert b.count("writes") == 0
    assert not b.weights.any()


def test_a_write_is_one_program_of_one_pair(bench: Any) -> None:
    b = bench()
    b.step((0, 1), (2, 3), by=0.15)
    # Both pairs of one tile travel in one command; each is two cells.
    assert (b.layer.writes, b.count("writes"), b.count("operations")) == (2, 4, 1)
    assert b.algorithm.writes_per_weight == pytest.approx(2 / 24)


def test_the_cells_of_a_written_weight_and_no_others_carry_it(bench: Any) -> None:
    b = bench()
    before = b.chip.cells.conductances[0].reshape(64, 64).astype(int)
    b.step((2, 3), by=0.2)
    b.step((1, 0), by=-0.2)
    after = b.chip.cells.conductances[0].reshape(64, 64).astype(int)
    rule = b.layer.rule
    changed = {(int(r), int(c)) for r, c in np.argwhere(before != after)}
    assert changed <= {(3, 4), (3, 5), (0, 2), (0, 3)}
    # Write-verify accepts within the tolerance of readings with noise; 3 sigma of both on top.
    slack = (EMU.units(0.5) + 3 * EMU.units(0.474) + 3 * EMU.units(0.79)) * rule.unit * 2
    assert (after[3, 4] - after[3, 5]) * rule.unit == pytest.approx(0.2, abs=slack)
    assert (after[0, 2] - after[0, 3]) * rule.unit == pytest.approx(-0.2, abs=slack)


def test_without_accumulation_what_stays_below_the_threshold_is_dropped(bench: Any) -> None:
    b = bench(accumulate=False)
    for _ in range(50):
        b.step((1, 1), by=0.9 * THRESHOLD)
    assert b.count("writes") == 0
    assert not b.weights.any()
    b.step((1, 1), by=1.1 * THRESHOLD)
    assert b.layer.writes == 1


def test_the_theoretical_copy_is_the_target_and_costs_no_reading(bench: Any) -> None:
    b = bench()
    sent = b.board.traffic.packed_rx
    b.step((0, 0), by=0.2)
    assert float(b.weights[0, 0]) == pytest.approx(0.2)
    assert b.board.traffic.packed_rx == sent


def test_the_copy_read_back_is_what_the_cells_read(bench: Any) -> None:
    b = bench(weight_copy="read-back")
    sent = b.board.traffic.packed_rx
    places = [(row, column) for row in range(4) for column in range(6)]
    b.step(*places, by=0.2)
    copy = b.weights.numpy()
    assert b.board.traffic.packed_rx - sent == 2 * 2 * 24
    assert not np.allclose(copy, 0.2, atol=1e-6)
    g = b.chip.cells.conductances[0].reshape(64, 64).astype(int)[:6, :8]
    true = (g[:, 0::2] - g[:, 1::2]).T * b.layer.rule.unit
    # A reading carries read noise and converter noise of each of two cells; 5 sigma, and rounding.
    sigma = np.hypot(EMU.units(0.474), 2 * 65535 / 255) * np.sqrt(2)
    assert np.abs(copy - true).max() < (5 * sigma + 257) * b.layer.rule.unit


def test_weights_stop_at_the_end_of_the_window_and_do_not_wind_up(bench: Any) -> None:
    b = bench(levels=8)
    for _ in range(30):
        b.step((0, 0), by=0.2)
        b.step((0, 1), by=-0.2)
    assert float(b.weights[0, 0]) == pytest.approx(0.25)
    assert float(b.weights[0, 1]) == pytest.approx(-0.25)
    # From zero to 0.2, from there to the end; the other 28 steps lead nowhere.
    assert b.layer.writes == 4
    b.step((0, 0), by=-0.1)
    assert float(b.weights[0, 0]) == pytest.approx(0.15)


def test_what_does_not_pass_the_threshold_waits_within_the_window(bench: Any) -> None:
    b = bench()
    for _ in range(30):
        b.step((0, 0), by=0.2)
    # 0.2 is written; of the rest the window leaves 0.05, which is below the threshold.
    assert b.layer.writes == 1
    assert float(b.algorithm.accumulated[0]) == pytest.approx(0.05)
    b.step((0, 0), by=-0.14)
    assert float(b.weights[0, 0]) == pytest.approx(0.11)


def test_dither_spreads_the_accumulators_within_the_threshold(bench: Any) -> None:
    drawn = bench(dither=True).algorithm.accumulated
    again = bench(dither=True).algorithm.accumulated
    assert torch.equal(drawn, again)
    assert float(drawn.abs().max()) <= THRESHOLD
    assert len(drawn.unique()) == 24
    assert not bench(dither=False).algorithm.accumulated.any()
    assert not bench(dither=True, accumulate=False).algorithm.accumulated.any()


def test_accumulators_survive_a_checkpoint(bench: Any) -> None:
    one, two = bench(), bench()
    one.step((1, 2), by=0.06)
    two.algorithm.load_state_dict(one.algorithm.state_dict())
    two.step((1, 2), by=0.06)
    assert two.layer.writes == 1


def test_a_board_without_a_needed_command_is_refused_before_training(bench: Any) -> None:
    b = bench()
    opcodes = b.board.description.opcodes & ~(1 << Opcode.PROGRAM)
    b.board.description = dataclasses.replace(b.board.description, opcodes=opcodes)
    with pytest.raises(UnsupportedError, match="PROGRAM"):
        MixedPrecision(nn.Sequential(b.layer), b.board, Settings(), seed=0)


# --- optimizers ----------------------------------------------------------------------------------

WITH_WEIGHT_DECAY = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax"]


@pytest.mark.parametrize(
    "name",
    [
        *WITH_WEIGHT_DECAY,
        "Rprop",
    ],
)
def test_any_optimizer_of_torch_moves_weights(bench: Any, name: str) -> None:
    b = bench(optimizer=name, lr=0.1)
    before = b.algorithm.accumulated.clone()
    b.step((1, 1), by=0.05)
    assert float(b.algorithm.accumulated[7] - before[7] + b.weights[1, 1]) > 0


@pytest.mark.parametrize("name", ["Sgd", "lr_scheduler", "nothing", "Optimizer", "LBFGS"])
def test_what_is_no_such_optimizer_is_a_usage_error(bench: Any, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        bench(optimizer=name)


def test_arguments_of_the_optimizer_reach_it(bench: Any) -> None:
    b = bench(optimizer="Adam", lr=0.1, optimizer_arguments={"betas": [0.5, 0.6]})
    assert list(b.algorithm.optimizer.param_groups[0]["betas"]) == [0.5, 0.6]
    with pytest.raises(UsageError, match="nonsense"):
        bench(optimizer_arguments={"nonsense": 1})


def test_scale_factors_have_a_rate_of_their_own_and_no_decay(bench: Any) -> None:
    plain, scales = bench(
        optimizer="AdamW", lr=0.1, scale_lr=0.5, weight_decay=0.2
    ).algorithm.optimizer.param_groups
    assert (plain["lr"], scales["lr"]) == (0.1, 0.05)
    assert (plain["weight_decay"], scales["weight_decay"]) == (0.2, 0.0)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [1.0, 1.0, 1.0, 1.0]), ("tail", [1.0, 1.0, 0.51, 0.02])],
)
def test_the_tail_schedule_falls_over_the_last_third(
    bench: Any, schedule: str, rates: list[float]
) -> None:
    b = bench(lr_schedule=schedule)
    seen = []
    for progress in (0.0, 0.69, 0.85, 1.0):
        b.algorithm.schedule(progress)
        seen.append(b.algorithm.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx(rates)


def test_plain_digital_training_needs_no_board() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    algorithm = Fp32(model, None, Settings(optimizer="SGD", lr=1.0, weight_decay=0.0), seed=0)
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 6)).sum().backward()
    algorithm.step()
    assert torch.allclose(model[0].weight, before - 1)
    assert algorithm.writes_per_weight == 0


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_read_as_yaml() -> None:
    settings = parse(
        ("lr=0.002", "accumulate=false", "optimizer=Adam", "optimizer.betas=[0.8, 0.9]", "levels=8")
    )
    assert (settings.lr, settings.accumulate, settings.levels) == (0.002, False, 8)
    assert settings.optimizer == "Adam"
    assert settings.optimizer_arguments == {"betas": [0.8, 0.9]}
    assert parse(()) == Settings()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lr", "'--set lr' has no value"),
        ("learning_rate=1", "no setting 'learning_rate'"),
        ("optimizer_arguments={}", "no setting 'optimizer_arguments'"),
        ("lr=fast", "Setting 'lr' 'fast'"),
        ("lr=0", "Setting 'lr' '0'"),
        ("lr=-1", "Setting 'lr' '-1'"),
        ("lr=", "Setting 'lr'"),
        ("levels=2.5", "Setting 'levels' '2.5'"),
        ("weight_copy=exact", "Setting 'weight_copy' 'exact'"),
        ("accumulate=2", "Setting 'accumulate' '2'"),
        ("saturation=1", "Setting 'saturation' '1'"),
        ("lr=[", "Setting 'lr'"),
    ],
)
def test_a_wrong_setting_is_named(pair: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse((pair,))
    assert message in caught.value.what


def test_one_level_has_no_step_and_is_refused(bench: Any) -> None:
    with pytest.raises(UsageError, match="levels"):
        bench(levels=1)


def test_a_misspelt_setting_gets_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        parse(("optimiser=SGD",))
    assert "Did you mean 'optimizer'?" in caught.value.next


# --- networks that do not fit --------------------------------------------------------------------


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with Board(EMU, InProcessLink(Firmware(Chip(EMU)))) as opened:
        yield opened


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["groups", "named padding", "padding mode"],
)
def test_a_nested_convolution_that_is_named_stays_digital(board: Board, layer: nn.Module) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(layer))
    assert conversion.analog_layers(conversion.convert(model, board)) != []
    kept = conversion.convert(model, board, digital=["1.0"])
    assert conversion.analog_layers(kept) == []


def test_an_unknown_digital_layer_is_named(board: Board) -> None:
    with pytest.raises(UsageError, match="no layer 'head'"):
        conversion.convert(nn.Sequential(nn.Linear(2, 2)), board, digital=["head"])


def test_a_model_that_does_not_fit_says_by_how_much(board: Board) -> None:
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    with pytest.raises(UsageError, match="does not fit") as caught:
        conversion.convert(model, board)
    # 784 inputs are 13 blocks of rows, 100 are 2; a pair of columns an output.
    needed = 13 * 200 + 2 * 20
    assert f"take {needed} columns, the board has 256 on 4 tiles" in caught.value.what
    assert "layer '0'" in caught.value.what


def test_more_layers_than_configuration_slots_are_refused(board: Board) -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(32)])
    with pytest.raises(UsageError, match="configuration slots"):
        conversion.convert(model, board)


def test_conversion_leaves_the_model_as_it_was(board: Board) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    before = model[0].weight.detach().clone()
    converted = conversion.convert(model, board)
    conversion.analog_layers(converted)[0].weight.data.zero_()
    assert isinstance(model[0], nn.Linear)
    assert torch.equal(model[0].weight, before)
