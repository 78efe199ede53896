"""Estimates: update times and the cost of networks against the papers', and against a chip."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boards import catalogue, costs
from boards.board import Board
from boards.costs import Counts
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl import conversion
from cimctl.algorithms.settings import Settings
from cimctl.cli.root import run
from cimctl.estimate import ALGORITHMS, Update, UpdateTimes
from cimctl.mapping import cost, runs
from cimctl.mapping.choose import mapped
from cimctl.mapping.network import layers_of
from cimctl.models import MODELS
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware


@pytest.mark.parametrize(
    ("algorithm", "read_every", "pulse_length", "printed"),
    [
        ("ttv2", 2, 5, 56.3),
        ("c-ttv2", 2, 5, 56.3),
        ("agad", 2, 5, 62.1),
        ("sgd", 2, 5, 30.9),
        ("mixed-precision", 2, 5, 3024.5),
        ("agad", 10, 1, 17.1),
    ],
)
def test_update_times_are_the_papers(
    algorithm: str, read_every: int, pulse_length: int, printed: float
) -> None:
    found = ALGORITHMS[algorithm](Update(512, read_every, pulse_length), UpdateTimes())
    assert round(found, 1) == pytest.approx(printed)


def test_a_faster_digital_part_leaves_pulses_and_readings() -> None:
    found = ALGORITHMS["agad"](Update(512, 2, 5), UpdateTimes(flops=1e30))
    assert found == pytest.approx(5.5 * 5 + 40 / 2)


def test_the_command_says_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "--update", "agad", "--read-every", "2", "--pulse-length", "5"]
    assert run(command) == 0
    assert capsys.readouterr().out == ("62.1 ns for each vector: agad on an array of 512 x 512\n")
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "cimctl.estimate.update/1"
    assert found["update_ns"] == pytest.approx(62.13, abs=0.01)


@pytest.mark.parametrize(
    "arguments", [[], ["--update", "adam"], ["--update", "agad", "--size", "0"]]
)
def test_a_wrong_question_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["estimate", *arguments]) == 2
    assert "--" in capsys.readouterr().err


# --- networks ------------------------------------------------------------------------------------

#: Table 2 of arXiv 2305.14547, cell by cell as printed: devices, FLOPs, crossbars, with copies,
#: operations, tile operations, latency, pipelined, with copies (ms), energy (mJ)
TABLE_2 = {
    ("lenet", "brram-soc"): (
        "6.4 k", "273 k", "6", "9", "641", "707", "0.46", "0.42", "0.05", "0.0019",
    ),
    ("vgg8", "brram-256x64"): (
        "1.1 M", "77.8 M", "78", "85", "2690", "7713", "1.94", "0.74", "0.19", "0.023",
    ),
    ("resnet18", "brram-256x64"): (
        "22.3 M", "1.1 G", "1480", "1554", "6801", "81922", "4.90", "0.75", "0.20", "0.24",
    ),
}  # fmt: skip
COLUMNS = (
    "devices", "flops", "crossbars", "crossbars_with_copies", "operations", "tile_operations",
    "latency_ms", "pipelined_ms", "pipelined_with_copies_ms", "energy_mJ",
)  # fmt: skip
PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


def as_printed(value: float, like: str) -> str:
    """A number in the unit and with the digits that the table prints it with."""
    digits, _, prefix = like.partition(" ")
    places = len(digits.partition(".")[2])
    text = f"{value / PREFIXES.get(prefix, 1):.{places}f}"
    return f"{text} {prefix}".strip()


@pytest.fixture(scope="module")
def estimated() -> Callable[[str, str], dict[str, Any]]:
    """What the command says of a network on a board."""

    @functools.cache
    def ask(model: str, board: str) -> dict[str, Any]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert run(["estimate", model, "--board", board, "--json"]) == 0
        found: dict[str, Any] = json.loads(said.getvalue())
        return found

    return ask


@pytest.mark.parametrize(("model", "board"), TABLE_2)
@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=COLUMNS)
def test_an_inference_costs_what_table_2_prints(
    estimated: Callable[[str, str], dict[str, Any]], model: str, board: str, column: int
) -> None:
    found = estimated(model, board)
    assert (found["schema"], found["mapping"]) == ("cimctl.estimate/1", "paper")
    printed = TABLE_2[model, board][column]
    assert as_printed(found["inference"][COLUMNS[column]], printed) == printed


def with_chip(name: str, **changed: Any) -> Profile:
    profile = catalogue.load(name)
    chip = msgspec.structs.replace(profile.chip, **changed)
    return msgspec.structs.replace(profile, chip=chip)


@contextlib.contextmanager
def opened(profile: Profile) -> Iterator[tuple[Board, Chip]]:
    chip = Chip(profile, 1)
    with Board(profile, InProcessLink(Firmware(chip))) as board:
        board.power_up()
        yield board, chip


def plain(*capabilities: str) -> dict[str, Any]:
    """A chip with no more than these."""
    return {"capabilities": ("DIFFERENTIAL", *capabilities)}


def grown(chip: Chip, before: Counts) -> Counts:
    after = chip.counts()
    return Counts(*(getattr(after, n) - getattr(before, n) for n in Counts.__slots__))


#: networks, and boards that they fit by each rule
MAPPED = [
    ("lenet", with_chip("emu"), "packed"),
    ("lenet", with_chip("emu", tiles=6), "paper"),
    ("lenet", with_chip("emu", columns_per_adc=16, pair_conversions=2), "packed"),
    ("lenet", with_chip("emu", **plain()), "packed"),
    ("lenet-large", with_chip("brram-256x64"), "paper"),
    ("lenet-large", with_chip("brram-256x64"), "packed"),
    ("lstm", with_chip("brram-256x64"), "paper"),
    ("lstm", with_chip("brram-256x64", **plain("IMAGES")), "packed"),
    ("vgg8", with_chip("brram-256x64", tiles=78), "paper"),
]


@pytest.mark.parametrize(("name", "profile", "rule"), MAPPED)
def test_a_chip_counts_what_was_estimated(name: str, profile: Profile, rule: Any) -> None:
    network = MODELS[name]
    torch.manual_seed(0)
    with opened(profile) as (board, chip):
        model = conversion.convert(network.factory(), board, Settings(mapping=rule))
        image = torch.rand(2, *network.input_shape)
        with torch.no_grad():
            # In training every layer learns the sign of its inputs.
            model(image)
            before = chip.counts()
            model.eval()(image[:1])
        found = grown(chip, before)
    layers = layers_of(network.factory(), network.input_shape)
    plan = mapped([layer.demand for layer in layers], profile.chip, rule)
    one = cost.inference(profile, layers, plan)
    assert found == one.counts
    assert costs.time_ns(profile, found) == one.latency_ns
    assert costs.energy_pJ(profile, found) == one.energy_pJ


@pytest.mark.parametrize("rule", ["paper", "packed"])
def test_a_chip_counts_both_ways_of_in_memory_training(rule: Any) -> None:
    profile = with_chip("rpu-large", rows=64, tiles=16)
    source = nn.Sequential(nn.Linear(150, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh())
    torch.manual_seed(0)
    plain = Settings(mapping=rule, noise_management="max", bound_management="off")
    with opened(profile) as (board, chip):
        model = conversion.convert(source, board, plain, in_memory=True)
        # The first product of a board with several ranges looks for one.
        model(torch.rand(3, 150)).sum().backward()
        before = chip.counts()
        model(torch.rand(3, 150)).sum().backward()
        found = grown(chip, before)
    layers = layers_of(source, (150,))
    plan = mapped([layer.demand for layer in layers], profile.chip, rule)
    updates = replace(runs.PAPER, batch=3, per_weight=0.0)
    step = cost.training_step(profile, layers, plan, updates, in_memory=True)
    assert step.backward.steps
    assert found == step.forward + step.backward
    assert step.update == Counts()


def test_layers_that_share_tiles_are_no_pipeline() -> None:
    network = MODELS["lenet"]
    layers = layers_of(network.factory(), network.input_shape)
    profile = catalogue.load("emu")
    plan = mapped([layer.demand for layer in layers], profile.chip)
    assert cost.inference(profile, layers, plan).pipelined_ns is None


def test_updates_cost_pulses_and_verifying_reads() -> None:
    network = MODELS["lenet"]
    layers = layers_of(network.factory(), network.input_shape)
    profile = catalogue.load("emu")
    plan = mapped([layer.demand for layer in layers], profile.chip)
    updates = cost.Updates(
        batch=2, steps=10, per_weight=5.0, pulses_per_write=4.0, reads_per_write=6.0
    )
    step = cost.training_step(profile, layers, plan, updates, in_memory=False)
    assert (step.forward.steps, step.backward) == (2 * 641, Counts())
    # Half of the 3,220 weights are written in each step.
    assert (step.update.pulses, step.update.verify_reads) == (1610 * 4, 1610 * 6)
    assert step.update.pulse_width_ns == 1610 * 4 * 100
    assert step.time_ns == costs.time_ns(profile, step.forward + step.update)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(mean=st.floats(0.01, 500), number=st.integers(10, 10**7))
def test_the_worst_of_many_is_where_less_than_one_is_expected_above(
    mean: float, number: int
) -> None:
    worst = cost.most_of(mean, number)
    stats = pytest.importorskip("scipy.stats")
    assert number * stats.poisson.sf(worst, mean) < 1 + 1e-6
    if worst > np.floor(mean):
        assert number * stats.poisson.sf(worst - 1, mean) >= 1 - 1e-6


def test_what_nothing_writes_does_not_wear() -> None:
    assert cost.most_of(0.0, 1000) == 0


def test_the_command_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "resnet18", "--board", "brram-256x64"]) == 0
    said = capsys.readouterr().out
    for text in ("1,554", "81,922", "4.90 ms", "0.240 mJ", "a profile with 1554 would hold this"):
        assert text in said
    assert "share the columns of an array" in said


def test_copies_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "lenet", "--board", "brram-soc", "--json", "--copies"]
    assert run([*command, "0=2,3=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [layer["operations_with_copies"] for layer in found["layers"]] == [288, 32, 1]
    assert found["inference"]["crossbars_with_copies"] == 1 + 4 + 3
    assert run([*command, "none"]) == 0
    assert json.loads(capsys.readouterr().out)["inference"]["crossbars_with_copies"] == 6


def test_a_finished_run_says_how_its_weights_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train = ["train", "lenet", "--board", "emu", "--epochs", "1", "--batches-per-epoch", "8"]
    assert run([*train, "--batch-size", "8", "--out", str(folder), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert run(["estimate", "--run", str(folder), "--mapping", "auto", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["board"], found["mapping"]) == ("lenet", "emu", "packed")
    step, wear = found["training_step"], found["endurance"]
    assert (step["batch"], step["steps"]) == (8, 8)
    pulses = summary["costs"]["set_pulses"] + summary["costs"]["reset_pulses"]
    assert step["update"]["pulses"] == round(pulses / 8)
    assert wear["per_weight"] == summary["writes_per_weight"]
    assert wear["measured"] and wear["worst_cell_pulses"] == summary["wear"]["worst_cell_pulses"]
    assert wear["trainings"] == pytest.approx(10**8 / wear["worst_cell_pulses"])
    # Eight batches of eight, and 300 test images twice.
    images = 64 + 2 * 300
    assert summary["costs"]["conversions"] == images * found["inference"]["conversions"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet"], "Missing option '--board'"),
        (["lenet", "--board", "emu", "--update", "agad"], "leave out MODEL"),
        (["lenet", "--board", "cap-imc-16nm"], "lacks DIFFERENTIAL"),
        (["--run", "nowhere"], "is no summary of a finished run"),
        (["lenet", "--board", "brram-soc", "--algorithm", "sgd"], "transposed"),
        (["vgg8", "--board", "brram-256x64", "--mapping", "packed"], "3924 too few"),
        (["lenet", "--board", "emu", "--size", "9"], "'lenet' does not look at --size"),
        (["--update", "agad", "--batch", "9"], "--update agad does not look at --batch"),
        (["--update", "sgd", "--read-every", "3"], "--update sgd does not look at --read-every"),
        (["lenet", "--board", "emu", "--writes-per-weight", "nan"], "'nan' is no number"),
        (["lenet", "--board", "emu", "--writes-per-weight", "inf"], "not in the range"),
        (
            ["lenet", "--board", "cap-imc-16nm", "--algorithm", "radix4", "--copies", "none"],
            "--algorithm radix4 does not look at --copies",
        ),
    ],
)
def test_a_wrong_question_about_a_network_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["estimate", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_each_group_of_a_convolution_is_a_matrix_of_its_own() -> None:
    layers = layers_of(nn.Sequential(nn.Conv2d(6, 8, 3, groups=2)), (6, 5, 5))
    assert [layer.demand.name for layer in layers] == ["0.0", "0.1"]
    assert [(layer.demand.inputs, layer.demand.outputs) for layer in layers] == [(27, 4)] * 2
    assert [layer.vectors for layer in layers] == [9, 9]


def test_an_image_tells_signs_gradients_and_uses() -> None:
    network = MODELS["lstm"]
    cell, head = layers_of(network.factory(), network.input_shape)
    assert (cell.vectors, cell.backward, cell.signed) == (28, 27, True)
    assert (head.vectors, head.backward, head.signed) == (1, 1, True)
    vgg = layers_of(MODELS["vgg8"].factory(), MODELS["vgg8"].input_shape)
    assert [layer.backward for layer in vgg][:2] == [0, 1024]
    assert not any(layer.signed for layer in vgg)
