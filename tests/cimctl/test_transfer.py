"""Tiki-Taka to AGAD: the rules against the paper's equations, the fast array, runs and resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl import conversion, datasets
from cimctl.algorithms import ALGORITHMS
from cimctl.algorithms.settings import Settings, parse
from cimctl.algorithms.transfer import TikiTaka, Transfer
from cimctl.analog.fast_array import FastArray
from cimctl.analog.in_memory import InMemoryLayer
from cimctl.cli.root import run
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Interrupted, Trainer
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.steps import law_of, own_of, symmetry_point

Numbers = np.ndarray[Any, Any]
#: the mean step of softbounds-20
DELTA = 0.1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def devices() -> Profile:
    """softbounds-20 with converters that add no noise."""
    base = catalogue.load("softbounds-20")
    return msgspec.structs.replace(
        base, imperfections=msgspec.structs.replace(base.imperfections, adc_noise_lsb=0.0)
    )


@dataclass
class Bench:
    """A layer with a fast array on an emulated chip, and its algorithm."""

    chip: Chip
    board: Board
    model: nn.Module
    layer: InMemoryLayer
    algorithm: TikiTaka

    @property
    def fast(self) -> FastArray:
        assert self.layer.fast is not None
        return self.layer.fast

    def weights(self, array: Any) -> Numbers:
        """(outputs, inputs, 2) cells of an array of pairs, in weights above weight 0."""
        found = np.empty((*array.shape, 2))
        law = law_of(self.chip.profile)
        for region, inputs, outputs in array._parts():
            g = self.chip.cells.conductances[region.tile].reshape(256, 256).astype(np.float64)
            part = g[region.row :, region.column :][: region.rows, : region.columns]
            found[outputs, inputs] = part.reshape(region.rows, -1, 2).transpose(1, 0, 2)
        return (found - law.zero) / law.unit

    def symmetry_points(self, array: Any) -> Numbers:
        """(outputs, inputs) symmetry points of the first cells of an array's pairs."""
        found = np.empty(array.shape)
        for region, inputs, outputs in array._parts():
            own = own_of(self.chip.profile, 3, region.tile, law_of(self.chip.profile))
            points = symmetry_point(own).reshape(256, 256)[region.row :, region.column :]
            found[outputs, inputs] = points[: region.rows, : region.columns : 2].T
        return found


Make = Callable[..., Bench]


@pytest.fixture
def bench() -> Iterator[Make]:
    boards: list[Board] = []

    def make(name: str, source: nn.Module, **changed: Any) -> Bench:
        chip = Chip(devices(), 3)
        board = Board(chip.profile, InProcessLink(Firmware(chip)))
        boards.append(board)
        board.power_up()
        settings = Settings(**({"lr": 0.1, "lr_schedule": "constant"} | changed))
        kind = ALGORITHMS[name]
        model = conversion.convert(
            nn.Sequential(source), board, settings, in_memory=True, arrays=kind.ARRAYS
        )
        conversion.program_weights(model, 10)
        (layer,) = conversion.analog_layers(model)
        assert isinstance(layer, InMemoryLayer)
        algorithm = kind(model, board, settings, 1)
        assert isinstance(algorithm, TikiTaka)
        return Bench(chip, board, model, layer, algorithm)

    yield make
    for board in boards:
        board.close()


# --- the rules -----------------------------------------------------------------------------------


class Paper:
    """The equations of arXiv 2303.04721, one line at a time, in double precision."""

    def __init__(self, name: str, outputs: int, inputs: int, beta: float) -> None:
        self.name, self.beta = name, beta
        self.h = np.zeros((outputs, inputs))
        self.c = np.ones(inputs)
        self.p: dict[int, Numbers] = {}
        self.p_ref: dict[int, Numbers] = {}

    def read(self, k: int, omega: Numbers, gain: float, flip: bool) -> Numbers:
        """Pulses for line k of W."""
        z = self.c[k] * omega
        if self.name == "agad":
            past, reference = self.p.get(k, omega), self.p_ref.get(k, omega)
            z = self.c[k] * (omega - reference)
            self.p[k] = (1 - self.beta) * past + self.beta * omega
            self.p_ref[k] = self.p[k] if flip else reference
        self.h[:, k] += gain * z
        pulses = np.where(np.abs(self.h[:, k]) >= 1, np.sign(self.h[:, k]), 0)
        self.h[pulses != 0, k] = 0
        if flip:
            self.c[k] = -self.c[k]
        return pulses


@pytest.mark.parametrize("chopping", [{"chop_period": 3}, {"chop_probability": 0.3}], ids=str)
@pytest.mark.parametrize("name", ["ttv2", "c-ttv2", "agad"])
def test_a_transfer_is_the_papers_equations(
    bench: Make, name: str, chopping: dict[str, Any]
) -> None:
    """Many reads of 3 lines and 2 outputs, two lines at a time, each line with an offset."""
    b = bench(name, nn.Linear(3, 2), baseline_rate=0.4, read_every=1, **chopping)
    paper, state, gain = Paper(name, 2, 3, 0.4), Transfer.fresh(2, 3), 0.7
    rng = np.random.default_rng(0)
    flipped = moved = 0
    for _ in range(60):
        lines = state.due(2, 1)
        flips = b.algorithm._flips(0, state, lines)
        read = 0.4 + 0.6 * rng.standard_normal((2, 2))
        found = b.algorithm._transferred(0, state, lines, read.astype(np.float32), gain)
        for k, omega, flip, pulses in zip(lines, read, flips, found, strict=True):
            assert np.array_equal(pulses, paper.read(int(k), omega, gain, bool(flip)))
        flipped, moved = flipped + int(flips.sum()), moved + int(np.abs(found).sum())
        assert np.allclose(state.hidden, paper.h, atol=1e-5)
        assert np.array_equal(state.chopper, paper.c)
    assert moved > 20
    assert (flipped > 20) == (name != "ttv2")
    if name == "agad":
        for k in range(3):
            assert np.allclose(state.past[:, k], paper.p[k], atol=1e-5)
            assert np.allclose(state.reference[:, k], paper.p_ref[k], atol=1e-5)


def test_the_first_read_of_agad_is_its_reference(bench: Make) -> None:
    b = bench("agad", nn.Linear(3, 2), read_every=1, chop_probability=0.0)
    state = Transfer.fresh(2, 3)
    first = np.float32([[5, -7]])
    assert not b.algorithm._transferred(0, state, state.due(1, 1), first, 10.0).any()
    assert state.reference[:, 0].tolist() == state.past[:, 0].tolist() == [5, -7]
    assert state.seen.tolist() == [True, False, False]
    state.due(2, 1)
    b.algorithm._transferred(0, state, state.due(1, 1), first + np.float32([[0.01, 0.02]]), 10.0)
    assert state.hidden[:, 0].tolist() == pytest.approx([0.1, 0.2], abs=1e-4)


def test_a_fixed_period_flips_every_line_after_so_many_reads_of_it(bench: Make) -> None:
    b = bench("c-ttv2", nn.Linear(3, 2), chop_period=4)
    state = Transfer.fresh(2, 3)
    signs = []
    for _ in range(12):
        b.algorithm._transferred(0, state, state.due(3, 1), np.zeros((3, 2)), 1.0)
        signs.append(state.chopper.tolist())
    assert signs == [[1, 1, 1]] * 3 + [[-1, -1, -1]] * 4 + [[1, 1, 1]] * 4 + [[-1, -1, -1]]


def test_choppers_flip_with_their_probability(bench: Make) -> None:
    b = bench("c-ttv2", nn.Linear(3, 2), chop_probability=0.1)
    state, count, reads = Transfer.fresh(2, 3), 0, 6000
    for _ in range(reads // 3):
        count += int(b.algorithm._flips(0, state, state.due(3, 1)).sum())
    assert abs(count - 0.1 * reads) < 5 * (0.1 * 0.9 * reads) ** 0.5
    never = bench("ttv2", nn.Linear(3, 2), chop_probability=1.0)
    assert not never.algorithm._flips(0, state, np.arange(3)).any()


def test_ttv1_pulses_with_the_probability_of_what_was_read(bench: Make) -> None:
    b = bench("ttv1", nn.Linear(3, 2))
    state, reads = Transfer.fresh(2, 3), 4000
    read, total, largest = np.float32([[0.05, -0.02]]), np.zeros(2), 0.0
    for _ in range(reads):
        pulses = b.algorithm._transferred(0, state, state.due(1, 1), read, 10.0)
        total, largest = total + pulses[0], max(largest, float(np.abs(pulses).max()))
    wanted = np.array([0.5, -0.2])
    spread = np.sqrt(np.abs(wanted) * (1 - np.abs(wanted)) / reads)
    assert (np.abs(total / reads - wanted) < 5 * spread).all()
    assert largest == 1
    certain = b.algorithm._transferred(0, state, state.due(1, 1), np.float32([[3, -2]]), 10.0)
    assert certain.tolist() == [[1, -1]]


# --- which lines, and how fast -------------------------------------------------------------------


def test_a_line_falls_due_after_so_many_vectors_in_turn() -> None:
    state = Transfer.fresh(2, 4)
    due = [state.due(3, 5).tolist() for _ in range(10)]
    assert due == [[], [0], [], [1], [2], [], [3], [], [0], [1]]
    assert state.reads == 6 and state.vectors == 0


def test_a_batch_makes_each_line_due_once_at_most() -> None:
    state = Transfer.fresh(2, 4)
    assert state.due(12, 5).tolist() == [0, 1]
    assert state.due(8, 5).tolist() == [2, 3]
    assert state.due(100, 5).tolist() == [0, 1, 2, 3]
    assert state.due(5, 5).tolist() == [0]
    assert state.due(100, 5).tolist() == [1, 2, 3, 0]


def test_the_means_follow_the_largest_inputs_and_errors() -> None:
    state = Transfer.fresh(2, 3)
    state.see(np.float32([[1, -2, 0], [0, 0, 0]]), np.float32([[0.5, 0]]))
    assert (state.x_mean, state.d_mean) == (2, 0.5)
    state.see(np.float32([[3, 0, 0], [0, 5, 0]]), np.float32([[0, 0]]))
    assert state.x_mean == pytest.approx(0.99 * 2 + 0.01 * 4)
    assert state.d_mean == 0.5


def learn(b: Bench, x: Numbers, d: Numbers) -> None:
    """One step from (vectors, inputs) and (vectors, outputs) descent directions."""
    b.layer.tape.append((torch.from_numpy(np.float32(x)), np.float32(d)))
    b.algorithm.step()


def test_lambda_a_gives_the_largest_cell_its_longest_train(bench: Make) -> None:
    """``lambda_A = eta_0 l_max delta_A / (mu_x mu_d)``, and a cell of |x|, |d| gets its share."""
    x, d, vectors = np.float32([0.5, -0.25, 0, 0.1]), np.float32([0.02, 0.005]), 300
    for changed, longest in (
        ({"pulse_length": 6}, 6.0),
        ({"pulse_length": 20, "fast_rate": 0.3}, 6.0),
        ({"fast_rate": 6 * DELTA / 0.01, "fast_rate_rule": "literal"}, 6.0),
    ):
        b = bench("ttv2", nn.Linear(4, 2), read_every=10**6, **changed)
        learn(b, np.tile(x, (vectors, 1)), np.tile(d, (vectors, 1)))
        wanted = vectors * longest * float(x.__abs__().sum() / 0.5 * d.sum() / 0.02)
        # Cells of one line share its train, so their spreads add up; 16 bits of probability.
        assert abs(b.algorithm.pulses - wanted) < 5 * (8 * wanted) ** 0.5


def test_lambda_a_falls_where_a_batch_passes_between_two_reads_of_a_line(bench: Make) -> None:
    """A line of four, due every 8 vectors, is read after 400: a vector counts a fiftieth."""
    x, d, vectors = np.float32([0.5, 0.5, 0.5, 0.5]), np.float32([0.02, 0.02]), 400
    b = bench("ttv2", nn.Linear(4, 2), read_every=2, pulse_length=20, lr=1e-6)
    learn(b, np.tile(x, (vectors, 1)), np.tile(d, (vectors, 1)))
    wanted = vectors * 20 * 8 * (2 * 4 / vectors)
    assert abs(b.algorithm.pulses - wanted) < 5 * (8 * wanted) ** 0.5


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every lambda_H from here on."""
    found: list[float] = []
    plain = TikiTaka._transferred

    def noted(self: TikiTaka, number: int, state: Any, lines: Any, read: Any, gain: float) -> Any:
        found.append(gain)
        return plain(self, number, state, lines, read, gain)

    monkeypatch.setattr(TikiTaka, "_transferred", noted)
    return found


@pytest.mark.parametrize(
    ("vectors", "read_every", "every"), [(10, 5, 5), (7, 5, 5), (40, 2, 10), (1, 1, 1)]
)
def test_lambda_h_is_the_papers(
    bench: Make, vectors: int, read_every: int, every: float, gains: list[float]
) -> None:
    """``lambda n_s n / (gamma_0 delta_W)``; n_s is longer where a batch reads each line once."""
    b = bench("ttv2", nn.Linear(4, 2), read_every=read_every, lr=0.3, transfer_damping=50.0)
    learn(b, np.ones((vectors, 4)), np.ones((vectors, 2)))
    assert gains == [pytest.approx(0.3 * every * 4 / (50 * DELTA))]


def test_the_places_of_an_image_are_one_input_to_lambda_h(bench: Make, gains: list[float]) -> None:
    """Ten images of 12 places: each of the 4 lines is read once in 10 images."""
    b = bench("ttv2", nn.Conv2d(4, 2, 1), read_every=5, lr=0.3, transfer_damping=50.0)
    b.layer.tape.append((torch.ones(10, 4, 3, 4), np.ones((120, 2), dtype=np.float32)))
    b.algorithm.step()
    assert gains == [pytest.approx(0.3 * 10 / (50 * DELTA))]


# --- the fast array ------------------------------------------------------------------------------


def test_prepare_puts_the_pair_at_the_symmetry_points_of_a(bench: Make) -> None:
    b = bench("agad", nn.Linear(40, 12))
    b.fast.prepare(400, 0.0, 0.0, np.random.default_rng(0))
    wanted = b.symmetry_points(b.fast.array)
    a, r = np.moveaxis(b.weights(b.fast.array), 2, 0)
    # Programming stops within half a step; the devices' own spread is a step.
    assert np.abs(r - wanted).mean() < 0.4 * DELTA < 0.4 * wanted.std()
    assert np.corrcoef(r.ravel(), wanted.ravel())[0, 1] > 0.9
    assert np.abs(a - r).mean() < DELTA


def test_prepare_misses_the_symmetry_points_by_what_it_is_asked(bench: Make) -> None:
    b = bench("agad", nn.Linear(40, 12))
    b.fast.prepare(400, 0.1, 0.2, np.random.default_rng(0))
    a, r = np.moveaxis(b.weights(b.fast.array), 2, 0)
    missed = r - b.symmetry_points(b.fast.array)
    assert missed.mean() == pytest.approx(0.1, abs=0.04)
    assert missed.std() == pytest.approx(0.2, abs=0.05)
    assert np.abs(a - r).mean() < DELTA


def test_without_symmetry_pulses_the_reference_is_where_a_was(bench: Make) -> None:
    b = bench("agad", nn.Linear(40, 12))
    before = b.weights(b.fast.array)[..., 0]
    b.fast.prepare(0, 0.0, 0.0, np.random.default_rng(0))
    assert np.abs(b.weights(b.fast.array)[..., 1] - before).max() < 2 * DELTA


def test_a_read_is_a_minus_r(bench: Make) -> None:
    b = bench("agad", nn.Linear(300, 12))
    b.fast.prepare(20, 0.0, 0.3, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    b.fast.array.send(rng.integers(-4, 5, b.fast.array.shape).astype(np.int32))
    lines = np.array([0, 7, 299, 150, 31])
    found = b.fast.read(lines)
    cells = b.weights(b.fast.array)
    wanted = (cells[..., 0] - cells[..., 1])[:, lines].T
    side = b.fast.products._forward
    step = b.layer.rule.unit / (side.gain * 127)
    assert np.abs(wanted).mean() > 3 * step
    # Half a step for each of the two blocks of 300 lines.
    assert np.abs(found - wanted).max() < 1.1 * step


def test_the_host_sends_the_pulses_that_a_board_finds_in_the_trains(bench: Make) -> None:
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((50, 300)), 0.1 * rng.standard_normal((50, 12))
    worn, pulses = [], []
    for outer in ("board", "sparse"):
        b = bench("c-ttv2", nn.Linear(300, 12), outer=outer, read_every=10**6)
        before = [tile.wear() for tile in b.board.tiles]
        learn(b, x, d)
        worn.append([tile.wear() - old for tile, old in zip(b.board.tiles, before, strict=True)])
        pulses.append(b.algorithm.pulses)
    assert pulses[0] == pulses[1] > 1000
    assert np.array_equal(worn[0], worn[1])
    assert sum(int(w.sum()) for w in worn[0]) == pulses[0]


# --- runs ----------------------------------------------------------------------------------------

MODEL = """
from torch import nn

def small():
    layers = nn.Linear(49, 12), nn.ReLU(), nn.Linear(12, 10)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), *layers)
"""
WITHOUT_OUTER = """
name: no-outer
summary: softbounds-20 without updates by coincidence
extends: softbounds-20
chip:
  capabilities: [IMAGES, ROW_BLOCK_SUMS, DIFFERENTIAL, TRANSPOSED, SIGNED_INPUTS, SNAPSHOT, LOAD]
"""
DIGITS = datasets.load("digits")
FEW = replace(DIGITS, test_images=DIGITS.test_images[:10], test_labels=DIGITS.test_labels[:10])


def test_a_board_without_outer_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no-outer.yaml").write_text(WITHOUT_OUTER)
    (tmp_path / "model.py").write_text(MODEL)
    command = [
        "train", f"{tmp_path}/model.py:small", "--board", f"{tmp_path}/no-outer.yaml",
        "--algorithm", "agad", "--init", "program", "--epochs", "1", "--batches-per-epoch", "2",
        "--batch-size", "4", "--out", f"{tmp_path}/run", "--set", "symmetry_pulses=4",
    ]  # fmt: skip
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "OUTER" in said and "outer=sparse" in said
    assert not (tmp_path / "run").exists()
    assert run([*command, "--set", "outer=sparse"]) == 0


def config(folder: Path, algorithm: str, *pairs: str, **changed: Any) -> RunConfig:
    (folder / "model.py").write_text(MODEL)
    values: dict[str, Any] = {
        "model": f"{folder}/model.py:small", "board": "softbounds-20", "dataset": "digits",
        "algorithm": algorithm, "epochs": 2, "batches_per_epoch": 6, "batch_size": 8, "seed": 5,
        "initial": "program",
        "settings": parse(("lr=0.1", "symmetry_pulses=6", "read_every=1", *pairs)),
    }  # fmt: skip
    return RunConfig(**(values | changed))


def opened(chip: Chip) -> Board:
    return Board(chip.profile, InProcessLink(Firmware(chip)))


@pytest.mark.parametrize("pairs", [("chop_period=2",), ("chop_probability=0.2",)], ids=str)
@pytest.mark.parametrize("name", ["c-ttv2", "agad"])
def test_a_run_resumes_in_the_middle_of_a_chopper_period_bit_for_bit(
    tmp_path: Path, name: str, pairs: tuple[str, ...]
) -> None:
    wanted, profile = config(tmp_path, name, *pairs), catalogue.load("softbounds-20")
    # Ranges to choose from, which follow what is read of A.
    profile = msgspec.structs.replace(
        profile, chip=msgspec.structs.replace(profile.chip, adc_span_uA=(1.0, 40.0))
    )
    (tmp_path / "whole").mkdir()
    whole = Chip(profile, 5)
    with opened(whole) as board:
        through = Trainer(wanted, FEW, board, tmp_path / "whole")
        summary = through.run()
    (tmp_path / "parts").mkdir()
    with opened(Chip(profile, 5)) as board:
        trainer = Trainer(wanted, FEW, board, tmp_path / "parts")

        def stop(*_: float) -> None:
            trainer.stop = trainer.progress.batch == 7

        with pytest.raises(Interrupted):
            trainer.run(stop)
    parts = Chip(profile, 5)
    with opened(parts) as board:
        state = checkpoint.load(tmp_path / "parts")
        resumed = Trainer(wanted, FEW, board, tmp_path / "parts", resume=state)
        assert resumed.run()["weights_sha256"] == summary["weights_sha256"]
    assert np.array_equal(whole.cells.conductances, parts.cells.conductances)
    assert np.array_equal(whole.cells.hidden, parts.cells.hidden)
    for mine, other in zip(through.algorithm._state, resumed.algorithm._state, strict=True):  # type: ignore[attr-defined]
        for key, value in vars(mine).items():
            assert np.array_equal(value, getattr(other, key)), key
        assert mine.hidden.any()
        assert mine.past.any() == (name == "agad")
    # Its first 7 batches read line 6 of the first layer for the second time.
    kept = state["algorithm"]["transfer"][0]
    assert kept["line"] == 7 and (kept["chopper"] < 0).any() and (kept["chopper"] > 0).any()


def test_on_another_chip_a_resumed_run_prepares_its_fast_array(tmp_path: Path) -> None:
    wanted = config(tmp_path, "agad", "reference_spread=0.3", epochs=1)
    profile = catalogue.load("softbounds-20")
    with opened(Chip(profile, 5)) as board:
        Trainer(wanted, FEW, board, tmp_path).save()
    other = Chip(profile, 6)
    with opened(other) as board:
        trainer = Trainer(
            wanted, FEW, board, tmp_path, resume=checkpoint.load(tmp_path), notify=print
        )
        (layer, _) = conversion.analog_layers(trainer.model)
        assert isinstance(layer, InMemoryLayer) and layer.fast is not None
        a, r = np.moveaxis(layer.fast.array.readings(4), 2, 0) * layer.rule.unit
        assert r.std() > 2 * DELTA
        assert np.abs(a - r).mean() < DELTA
        trainer.run()


def test_agad_learns_the_digits_with_references_far_off(tmp_path: Path) -> None:
    wanted = config(
        tmp_path, "agad", "reference_spread=0.3", "lr=0.3", "read_every=2", "pulse_length=5",
        "symmetry_pulses=100", "input_normalisation=true",
        epochs=4, batches_per_epoch=100, batch_size=16,
    )  # fmt: skip
    data = replace(DIGITS, test_images=DIGITS.test_images[:200])
    data = replace(data, test_labels=DIGITS.test_labels[:200])
    with opened(Chip(catalogue.load("softbounds-20"), 5)) as board:
        summary = Trainer(wanted, data, board, tmp_path).run()
    assert summary["test_accuracy"] > 0.8
