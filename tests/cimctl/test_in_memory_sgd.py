"""In-memory SGD: coincidences of pulse trains, layers on the chip alone, runs and their resumes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from cimctl import conversion, datasets
from cimctl.algorithms import InMemorySgd, MixedPrecision
from cimctl.algorithms.settings import Settings, parse
from cimctl.analog.coincidence import (
    Trains,
    Words,
    coincidences,
    coincidences_numpy,
    words,
)
from cimctl.analog.in_memory import InMemoryLayer
from cimctl.analog.joined import joined
from cimctl.analog.pulsed_array import PulsedArray
from cimctl.analog.windows import Windows
from cimctl.cli.root import run
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.evaluation import evaluate
from cimctl.training.trainer import Interrupted, Trainer
from firmware_protocol.constants import Opcode
from sim_backend import outer
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.steps import law_of, own_of, symmetry_point

DELTA = 0.0002
PLAIN: dict[str, Any] = {"lr": 0.1, "lr_schedule": "constant"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- coincidences --------------------------------------------------------------------------------


def batch(inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], ...]:
    """60 vectors with zeros among them, some of them zero as a whole."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, inputs)) * (rng.random((60, inputs)) < 0.6)
    d = 0.02 * rng.standard_normal((60, outputs)) * (rng.random((60, outputs)) < 0.5)
    x[3], d[5] = 0, 0
    return x.astype(np.float32), d.astype(np.float32)


@pytest.mark.parametrize("rate", [1.0, 50.0, 500.0, 50_000.0])
@pytest.mark.parametrize(
    "trains",
    [Trains(), Trains(balance=False), Trains(fit_length=False), Trains(31), Trains(1), Trains(5)],
    ids=str,
)
def test_the_compiled_coincidences_are_their_oracle(trains: Trains, rate: float) -> None:
    x, d = batch(25, 4)
    for found, wanted in zip(
        coincidences(x, d, rate, trains, 1 << 63),
        coincidences_numpy(x, d, rate, trains, 1 << 63),
        strict=True,
    ):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("rate", [1.0, 50.0, 50_000.0])
@pytest.mark.parametrize(
    "trains", [Trains(), Trains(balance=False), Trains(5), Trains(7, fit_length=False)], ids=str
)
def test_a_board_counts_in_the_words_what_the_host_counts(trains: Trains, rate: float) -> None:
    x, d = batch(25, 4)
    made = words(x, d, rate, trains, 1 << 63)
    assert 1 <= made.length <= trains.longest <= 31
    # The board sees inputs at its rows.
    found = outer.totals(
        outer.Trains(
            np.ascontiguousarray(made.inputs.T), np.ascontiguousarray(made.outputs.T), made.length
        )
    )
    up, down = coincidences(x, d, rate, trains, 1 << 63)
    assert np.array_equal(found[0].reshape(25, 4).T, up)
    assert np.array_equal(found[1].reshape(25, 4).T, down)
    slots = np.uint32((1 << made.length) - 1)
    assert ((made.inputs & slots).any(1) & (made.outputs & slots).any(1)).all()


@pytest.mark.parametrize("rate", [5.0, 500.0])
def test_choppers_turn_the_signs_of_trains_and_nothing_else(rate: float) -> None:
    x, d = batch(25, 4)
    signs = np.where(np.arange(25) % 3 == 0, -1, 1).astype(np.float32)
    found = coincidences(Windows.of(x).times(signs), d, rate, Trains(), 9)
    for turned, plain in zip(
        found, coincidences_numpy(x * signs, d, rate, Trains(), 9), strict=True
    ):
        assert np.array_equal(turned, plain) and plain.any()


def in_order(made: Words) -> dict[tuple[int, int], list[int]]:
    """The pulses of each cell one after the other, 1 up and -1 down."""
    found: dict[tuple[int, int], list[int]] = {}
    for rows, columns in zip(made.inputs, made.outputs, strict=True):
        for slot in range(made.length):
            fire = [np.flatnonzero(each >> np.uint32(slot) & 1) for each in (rows, columns)]
            for i in fire[0]:
                for o in fire[1]:
                    differ = (int(rows[i]) ^ int(columns[o])) >> made.length
                    found.setdefault((int(i), int(o)), []).append(-1 if differ else 1)
    return found


@pytest.mark.parametrize("rate", [0.5, 20.0, 200.0, 50_000.0])
@pytest.mark.parametrize("trains", [Trains(), Trains(3), Trains(12, fit_length=False)], ids=str)
def test_joined_trains_give_each_cell_its_pulses_in_their_order(
    trains: Trains, rate: float
) -> None:
    x, d = batch(25, 4)
    made = words(x, d, rate, trains, 3)
    found = joined(made)
    assert in_order(found) == in_order(made) != {}
    assert len(found.inputs) * (found.length + 1) <= len(made.inputs) * (made.length + 1)
    assert found.length <= 31


def test_trains_are_joined_as_far_as_a_word_and_the_signs_of_its_lines_go() -> None:
    one = np.float32([[1, 0]])
    for signs, updates, length in (
        ([1] * 40, 2, 31),
        ([1] * 9 + [-1] * 5 + [1] * 3, 3, 9),
        ([1] * 5, 1, 5),
    ):
        d = np.float32(signs)[:, None]
        made = words(np.repeat(one, len(d), 0), d, 1.0, Trains(), 0)
        assert (len(made.inputs), made.length) == (len(d), 1)
        found = joined(made)
        assert (len(found.inputs), found.length) == (updates, length)
        assert not found.inputs[:, 1].any()
    nothing = words(0 * one, one, 1.0, Trains(), 0)
    assert joined(nothing).inputs.shape == (0, 2)


def test_vectors_without_pulses_have_no_words() -> None:
    x, d = batch(25, 4)
    # Two of the 60 are zero as a whole, and no probability of the others is below 1 for all lines.
    made = words(x, d, 50_000.0, Trains(), 0)
    assert len(made.inputs) == len(made.outputs) == np.count_nonzero(x.any(1) & d.any(1)) < 60
    nothing = words(np.zeros_like(x), d, 50.0, Trains(), 0)
    assert nothing.inputs.shape == (0, 25) and nothing.outputs.shape == (0, 4)


def test_words_are_as_long_as_the_longest_train_of_the_batch() -> None:
    x, d = np.float32([[1], [1]]), np.float32([[1], [3]])
    assert words(x, d, 2.0, Trains(), 0).length == 6
    assert words(x, d, 2.0, Trains(4), 0).length == 4
    assert words(x, d, 2.0, Trains(9, fit_length=False), 0).length == 9
    assert words(x, d, 1e9, Trains(), 0).length == 31


def repeated(x: list[float], d: list[float], rate: float, trains: Trains, n: int = 20_000) -> Any:
    """(outputs, inputs) net pulses of one vector, and their spread, of so many alike."""
    rows, columns = np.float32([x] * n), np.float32([d] * n)
    up, down = coincidences(rows, columns, rate, trains, 11)
    assert not (up.astype(bool) & down.astype(bool)).any()
    # Of a binomial variable the spread is at most the root of the mean.
    return (up - down) / n, np.sqrt((up + down) / n) / np.sqrt(n) + 1e-6


def test_the_mean_of_coincidences_is_the_product_of_the_probabilities() -> None:
    x, d = [0.2, 0.5, -1.0, 0.0], [0.03, -0.01]
    trains = Trains(31, fit_length=False)
    mean, spread = repeated(x, d, 100.0, trains)
    rate = np.sqrt(100.0 / 31)
    p_x = np.abs(x) * rate * np.sqrt(0.03)
    p_d = np.abs(d) * rate / np.sqrt(0.03)
    expected = 31 * np.outer(p_d * np.sign(d), p_x * np.sign(x))
    # Probabilities have 16 bits.
    assert (np.abs(mean - expected) < 5 * spread + 31 * 2.0**-16).all()
    assert expected == pytest.approx(100 * np.outer(d, x))


@pytest.mark.parametrize("trains", [Trains(), Trains(fit_length=False), Trains(7)], ids=str)
@pytest.mark.parametrize("rate", [20.0, 100.0, 230.0])
def test_a_cell_moves_by_rate_times_x_times_d(trains: Trains, rate: float) -> None:
    x, d = [0.2, 0.5, -1.0, 0.0], [0.03, -0.01]
    mean, spread = repeated(x, d, rate, trains)
    assert (np.abs(mean - rate * np.outer(d, x)) < 5 * spread + 31 * 2.0**-16).all()


def test_trains_are_as_long_as_the_update_needs() -> None:
    """With both probabilities 1, each slot of a train is a pulse: the count is BL."""
    for k, slots in ((1.0, 1), (3.0, 3), (31.0, 31), (500.0, 31)):
        up, down = coincidences(np.float32([[1]]), np.float32([[1]]), k, Trains(), 0)
        assert (int(up[0, 0]), int(down[0, 0])) == (slots, 0)
    up, down = coincidences(np.float32([[-1]]), np.float32([[1]]), 9.0, Trains(5), 0)
    assert (int(up[0, 0]), int(down[0, 0])) == (0, 5)


def test_without_balance_small_errors_meet_clipped_inputs() -> None:
    """k = 400 at |x| = 1, |d| = 0.01: p_x clips at 1, and what it would have had more is lost."""
    unbalanced, _ = repeated([1.0], [0.01], 400.0, Trains(balance=False))
    expected = 4 * 0.01 * np.sqrt(400 / 4)
    assert unbalanced[0, 0] == pytest.approx(expected, rel=0.05)
    balanced, _ = repeated([1.0], [0.01], 400.0, Trains())
    assert balanced[0, 0] == pytest.approx(4.0, rel=0.01)


# --- layers --------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A layer whose weights are on an emulated chip only, and its algorithm."""

    chip: Chip
    board: Board
    model: nn.Module
    layer: InMemoryLayer
    algorithm: InMemorySgd

    @property
    def weights(self) -> torch.Tensor:
        """The weights that the cells hold, to the fraction of a step that converters do not see."""
        cells, places = self.chip.cells, self.layer._places
        at = places[:, 1] * self.board.description.columns + places[:, 2]
        tile = int(places[0, 0])
        g = cells.conductances[tile].astype(np.float64) + cells.hidden[tile]
        weights = (g[at] - g[at + 1]) * self.layer.rule.unit
        return torch.from_numpy(weights).reshape(self.layer.weight.shape)

    def count(self, name: str) -> int:
        return self.chip.cells.count(name)


Make = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[Make]:
    boards: list[Board] = []

    def make(source: nn.Module, profile: str = "rpu-large", **changed: Any) -> Bench:
        chip = Chip(catalogue.load(profile), 3)
        board = Board(chip.profile, InProcessLink(Firmware(chip)))
        boards.append(board)
        board.power_up()
        settings = Settings(**(PLAIN | changed))
        model = conversion.convert(nn.Sequential(source), board, settings, in_memory=True)
        conversion.program_weights(model, 10)
        (layer,) = conversion.analog_layers(model)
        assert isinstance(layer, InMemoryLayer)
        algorithm = InMemorySgd(model, board, settings, seed=1)
        return Bench(chip, board, model, layer, algorithm)

    yield make
    for board in boards:
        board.close()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(40, 12), (64, 40)),
    "convolution": (lambda: nn.Conv2d(3, 5, 3), (6, 3, 9, 8)),
    "strides": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3), padding=(1, 0)), (6, 2, 11, 10)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_in_both_directions_are_torchs_own_but_for_noise(bench: Make, name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    source = make()
    b = bench(source)
    inputs = torch.randn(shape, requires_grad=True)
    outputs = b.model(inputs)
    outer = torch.randn_like(outputs) * 0.01
    outputs.backward(outer)
    found = inputs.grad
    assert found is not None
    digital = inputs.detach().requires_grad_(True)
    wanted = source(digital)
    wanted.backward(outer)
    assert digital.grad is not None
    # 0.1 of output noise at inputs of 1, times the vector's scale and alpha.
    alpha = float(b.layer.scale.max())
    size = float(inputs.detach().abs().max())
    assert float((outputs - wanted).detach().std()) < 0.15 * alpha * size
    back = 0.15 * alpha * float(outer.abs().max()) * b.layer.weight[0, 0].numel() ** 0.5
    assert float((found - digital.grad).std()) < back


@pytest.mark.parametrize("name", LAYERS)
def test_digital_products_are_torchs_own_with_the_weights_of_the_chip(
    bench: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    source = make()
    b = bench(source, products="dat")
    monkeypatch.delattr(Board, "multiply")
    for _ in range(2):
        inputs = torch.randn(shape, requires_grad=True)
        outer = 1e-3 * torch.randn_like(source(inputs))
        b.model(inputs).backward(outer)
        digital = nn.Sequential(copy.deepcopy(source))
        digital[0].weight.data = (b.weights * b.layer.scale.detach()[0]).float()
        again = inputs.detach().requires_grad_(True)
        digital(again).backward(outer)
        assert inputs.grad is not None and again.grad is not None
        # A reading is of 9 bits, with a noise of a step and a quarter, averaged over the samples.
        step = 4 * (b.layer.rule.high - b.layer.rule.low) * b.layer.rule.unit / 511
        near = 5 * 2 * step * float(b.layer.scale[0]) * source.weight[0].numel() ** 0.5
        assert float((b.model(inputs) - digital(again)).detach().abs().max()) < near
        assert float((inputs.grad - again.grad).abs().max()) < near * float(outer.abs().max())
        b.algorithm.step()


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_moves_weights_down_the_gradient_in_the_mean(bench: Make, name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    source = make()
    # Small weights, so that no device is at its own bound.
    b = bench(source, lr=0.05, weight_scaling_omega=0.2)
    inputs = torch.rand(shape)
    before = b.weights
    outputs = b.model(inputs)
    outer = torch.randn_like(outputs) * 0.01
    outputs.backward(outer)
    source(inputs).backward(outer)
    bias = b.layer.bias.detach().clone()  # type: ignore[union-attr]
    b.algorithm.step()
    assert source.weight.grad is not None and source.bias.grad is not None
    alpha = b.layer.scale.detach().reshape((-1,) + (1,) * (before.dim() - 1)).double()
    moved = (b.weights - before) * alpha
    wanted = -0.05 * source.weight.grad.double()
    # Spread: the coincidences of each vector, and 0.3 of the step from device to device and from
    # pulse to pulse.
    x, d = b.layer.vectors(inputs), outer.movedim(1, -1).reshape(-1, outer.shape[1])
    pulses = (0.05 * d.abs().T @ x.abs()).reshape(before.shape).double() / DELTA / alpha
    spread = DELTA * alpha * (1.2 * pulses + 1).sqrt() + 0.3 * wanted.abs()
    off = (moved - wanted) / spread
    assert float(off.abs().max()) < 5
    assert abs(float(off.mean())) < 4 / off.numel() ** 0.5
    assert float((moved * wanted).sum() / (wanted * wanted).sum()) == pytest.approx(1, abs=0.15)
    assert torch.allclose(b.layer.bias, bias - 0.05 * source.bias.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("products", "wrong"), [("wa,wtd", "'dat' only on"), ("none", "'dat' only on")]
)
def test_an_update_of_cells_cannot_be_digital(bench: Make, products: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        bench(nn.Linear(3, 2), products=products)


def test_mixed_precision_makes_forward_products_on_the_chip_and_no_others() -> None:
    settings = Settings(products="wa")
    assert MixedPrecision.products(settings) == MixedPrecision.products(Settings()) == {"wa"}
    with pytest.raises(UsageError, match="'dat' not on the chip"):
        MixedPrecision.products(Settings(products="wa,dat"))


def test_the_references_stay_and_pulses_are_counted(bench: Make) -> None:
    b = bench(nn.Linear(10, 4))
    before = b.chip.cells.conductances[0].reshape(256, 256).copy()
    b.model(torch.rand(32, 10)).sum().backward()
    start = b.count("set_pulses") + b.count("reset_pulses")
    b.algorithm.step()
    given = b.count("set_pulses") + b.count("reset_pulses") - start
    assert given == b.algorithm.pulses > 0
    assert b.algorithm.pulses_per_weight == pytest.approx(given / 40)
    after = b.chip.cells.conductances[0].reshape(256, 256)
    changed = np.argwhere(before != after)
    assert changed[:, 0].max() < 10 and changed[:, 1].max() < 8
    assert not (changed[:, 1] % 2).any()
    # The gradient of a sum is positive here: every weight falls.
    assert (after[:10, 0:8:2] <= before[:10, 0:8:2]).all()


def test_more_pulses_than_a_command_may_carry_go_in_several(bench: Make) -> None:
    b = bench(nn.Linear(3, 2))
    rule = b.layer.rule
    few = dataclasses.replace(rule.pulse, most=4)
    b.layer.array = PulsedArray(b.board, b.layer._matrix, few, rule.low, rule.high)
    up = np.array([[10, 0, 1], [4, 5, 0]], dtype=np.int32)
    wear = b.board.tiles[0].wear()[:3, :4:2].T.astype(int)
    operations = b.count("operations")
    assert b.layer.pulse(up, np.zeros_like(up)) == 20
    assert np.array_equal(b.board.tiles[0].wear()[:3, :4:2].T - wear, up)
    assert b.count("operations") - operations == 3


@pytest.mark.parametrize("scaling", ["off", "tensor", "column"])
def test_weight_scaling_programs_omega_and_gives_the_size_back(bench: Make, scaling: str) -> None:
    torch.manual_seed(0)
    source = nn.Linear(20, 6)
    with torch.no_grad():
        source.weight.mul_(torch.linspace(0.1, 1, 6)[:, None])
    b = bench(source, weight_scaling=scaling, weight_scaling_omega=0.5)
    most = b.weights.abs().amax(1)
    alpha = b.layer.scale.detach().double()
    wanted = source.weight.detach().abs().amax(1).double()
    if scaling == "off":
        assert alpha.tolist() == [1] * 6
    elif scaling == "tensor":
        assert float(most.max()) == pytest.approx(0.5, abs=0.02)
        assert alpha.unique().numel() == 1
    else:
        assert most.tolist() == pytest.approx([0.5] * 6, abs=0.02)
    # Write-verify reads with a noise of 0.005.
    assert (most * alpha - wanted).abs().max() < 0.03 * float(alpha.max())


def test_zero_shift_puts_references_at_the_symmetry_points(bench: Make) -> None:
    b = bench(nn.Linear(30, 8), profile="softbounds-20", zero_shift=400)
    profile = b.chip.profile
    law = law_of(profile)
    places = b.layer._places
    own = own_of(profile, 3, 0, law)[places[:, 1] * 256 + places[:, 2]]
    wanted = symmetry_point(own)
    found = (b.layer.reference.numpy() - law.zero) / law.unit
    # A step is 0.1, with a spread of 0.03; the last pulse was one down.
    assert np.abs(found - wanted).mean() < 0.12
    assert float(np.corrcoef(found, wanted)[0, 1]) > 0.7
    unshifted = bench(nn.Linear(30, 8), profile="softbounds-20")
    assert unshifted.layer.reference.unique().tolist() == [round(law.zero)]


def test_halved_halves_the_rate_after_each_epoch(bench: Make) -> None:
    b = bench(nn.Linear(3, 2), lr_schedule="halved")
    seen = []
    for epoch in range(3):
        b.algorithm.schedule(epoch / 3, epoch)
        seen.append(b.algorithm.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.05, 0.025])


# --- what a board must have ----------------------------------------------------------------------


def test_a_missing_command_or_capability_is_named(bench: Make) -> None:
    b = bench(nn.Linear(3, 2))
    description = b.board.description
    for changed, name in (
        ({"opcodes": description.opcodes & ~(1 << Opcode.PULSE)}, "PULSE"),
        ({"capabilities": 0}, "SIGNED_INPUTS, TRANSPOSED"),
    ):
        b.board.description = dataclasses.replace(description, **changed)
        with pytest.raises(UnsupportedError, match=name):
            InMemorySgd.check(b.board, Settings())
    b.board.description = description
    InMemorySgd.check(b.board, Settings())


WITHOUT_TRANSPOSED = """
name: one-way
summary: an rpu-large that multiplies one way only
extends: rpu-large
chip:
  capabilities: [IMAGES, ROW_BLOCK_SUMS, DIFFERENTIAL, SIGNED_INPUTS, SNAPSHOT, LOAD]
"""


@pytest.mark.parametrize(
    ("board", "missing"), [("one-way.yaml", "TRANSPOSED"), ("emu", "device.step")]
)
def test_an_unsupported_board_is_refused_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], board: str, missing: str
) -> None:
    (tmp_path / "one-way.yaml").write_text(WITHOUT_TRANSPOSED)
    name = str(tmp_path / board) if board.endswith("yaml") else board
    code = run(
        ["train", "lenet", "--board", name, "--algorithm", "sgd", "--init", "program",
         "--out", str(tmp_path / "run")]
    )  # fmt: skip
    assert code == 2
    assert missing in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_that_are_all_zero_are_no_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert run(["train", "lenet", "--board", "rpu-large", "--algorithm", "sgd", *out]) == 2
    assert "--init program" in capsys.readouterr().err


# --- runs ----------------------------------------------------------------------------------------

DIGITS = datasets.load("digits")
FEW = replace(DIGITS, test_images=DIGITS.test_images[:10], test_labels=DIGITS.test_labels[:10])
ALL = (
    "lr=0.1", "lr_schedule=constant", "stochastic_rounding=true", "input_normalisation=true",
    "noise_management=running-mean",
)  # fmt: skip


def config(*pairs: str, **changed: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": "lenet", "board": "rpu-large", "dataset": "digits", "algorithm": "sgd",
        "epochs": 2, "batches_per_epoch": 3, "batch_size": 8, "seed": 5,
        "initial": "program", "settings": parse(pairs or ("lr=0.1", "lr_schedule=constant")),
    }  # fmt: skip
    return RunConfig(**(values | changed))


def opened(seed: int = 5, name: str = "rpu-large") -> Board:
    profile = catalogue.load(name)
    return Board(profile, InProcessLink(Firmware(Chip(profile, seed))))


def stopped_and_resumed(folder: Path, wanted: RunConfig, after: int) -> dict[str, Any]:
    """A run that is stopped after so many batches and goes on with a chip that is new."""
    with opened(name=wanted.board) as board:
        trainer = Trainer(wanted, FEW, board, folder)

        def stop(*_: float) -> None:
            trainer.stop = trainer.progress.batch == after

        with pytest.raises(Interrupted):
            trainer.run(stop)
    with opened(name=wanted.board) as board:
        state = checkpoint.load(folder)
        return Trainer(wanted, FEW, board, folder, resume=state).run()


@pytest.mark.parametrize(
    "pairs", [(), ALL, ("lr=0.1", "products=dat")], ids=["default", "running values", "digital"]
)
@pytest.mark.parametrize("after", [1, 3, 5, 6])
def test_a_resumed_run_ends_with_the_bits_of_one_never_stopped(
    tmp_path: Path, pairs: tuple[str, ...], after: int
) -> None:
    with opened() as board:
        (tmp_path / "whole").mkdir()
        whole = Trainer(config(*pairs), FEW, board, tmp_path / "whole").run()
    (tmp_path / "parts").mkdir()
    parts = stopped_and_resumed(tmp_path / "parts", config(*pairs), after)
    for key in ("weights_sha256", "pulses_per_weight", "test_accuracy", "tile_ops"):
        assert parts[key] == whole[key]
    assert whole["pulses_per_weight"] > 0
    assert whole["writes_per_weight"] == 0


def test_mixed_precision_with_compensations_resumes_bit_for_bit(tmp_path: Path) -> None:
    wanted = config("noise_management=running-mean", "stochastic_rounding=true",
                    "bound_management=iterative", "output_normalisation=true",
                    algorithm="mixed-precision", board="emu")  # fmt: skip
    with opened(name="emu") as board:
        (tmp_path / "whole").mkdir()
        whole = Trainer(wanted, FEW, board, tmp_path / "whole").run()
    (tmp_path / "parts").mkdir()
    parts = stopped_and_resumed(tmp_path / "parts", wanted, 4)
    assert parts["weights_sha256"] == whole["weights_sha256"]
    assert parts["tile_ops"] == whole["tile_ops"]


def test_a_run_learns_and_its_weights_can_be_taken_to_another_chip(tmp_path: Path) -> None:
    wanted = config(epochs=3, batches_per_epoch=40, batch_size=32)
    data = replace(DIGITS, test_images=DIGITS.test_images[:200])
    data = replace(data, test_labels=DIGITS.test_labels[:200])
    with opened() as board:
        summary = Trainer(wanted, data, board, tmp_path).run()
    assert summary["test_accuracy"] > 0.75
    state = checkpoint.load(tmp_path)
    with opened() as board:
        accuracy, how = evaluate(state, data, board)
        assert how == "restored"
        assert accuracy == pytest.approx(summary["test_accuracy"], abs=0.05)
    with opened(seed=77) as board:
        accuracy, how = evaluate(state, data, board)
        assert how == "programmed"
        assert accuracy == pytest.approx(summary["test_accuracy"], abs=0.1)
