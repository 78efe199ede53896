"""4-bit training on a chip of bit planes: its products, its ranges, its resume, its energy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boards import catalogue
from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from cimctl import datasets
from cimctl.algorithms import settings
from cimctl.algorithms.radix4 import Radix4
from cimctl.analog.adaptability import PlaneConverters, best_span
from cimctl.analog.int4_layers import Int4Layer
from cimctl.cli.root import run
from cimctl.mapping.demand import Avoid, Demand
from cimctl.mapping.network import Layer, layers_of
from cimctl.mapping.plane_training import DigitalMac, plane_training
from cimctl.mapping.scratch import Scratch
from cimctl.models import lenet
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.spent import chip_counts, costs_since
from cimctl.training.trainer import Interrupted, Trainer
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

CAP = catalogue.load("cap-imc-16nm")
NONE = {"adc_noise_lsb": 0.0, "cell_mismatch": 0.0, "column_noise_uS": 0.0, "adc_inl_lsb": 0.0}
#: a code a cell, and converters that nothing here saturates: products are exact
QUIET = msgspec.structs.replace(
    CAP, imperfections=msgspec.structs.replace(CAP.imperfections, **NONE)
)
EXACT = ("adaptability=two-level", "two_level=[255, 510]")


@contextmanager
def opened(profile: Any = QUIET) -> Iterator[Board]:
    with Board(profile, InProcessLink(Firmware(Chip(profile, seed=3)))) as board:
        board.power_up()
        yield board


def network(stride: int = 1, padding: int = 0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=stride, padding=padding, dilation=1 + (stride == 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


def trained(board: Board, model: nn.Module, x: Tensor, *chosen: str) -> list[Tensor]:
    """Outputs, and the gradients of the inputs and of all parameters, of one batch."""
    found = Radix4.convert(model, board, settings.parse(chosen)).train()
    x = x.clone().requires_grad_()
    outputs = found(x)
    nn.functional.cross_entropy(outputs, torch.arange(len(x)) % 4).backward()
    assert x.grad is not None
    return [outputs.detach(), x.grad, *(p.grad for p in found.parameters() if p.grad is not None)]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 0)])
def test_the_chip_makes_the_products_of_digital_integers(
    stride: int, padding: int, signed: bool
) -> None:
    x = torch.rand(6, 2, 9, 8, generator=torch.Generator().manual_seed(1)) - 0.5 * signed
    model = network(stride, padding)
    model(x)
    with opened() as board:
        digital = trained(board, model, x, "products=none")
        chip = trained(board, model, x, *EXACT)
    for one, other in zip(digital, chip, strict=True):
        assert float(one.abs().max()) > 0
        # A range of 255 cells for signed planes has steps of a cell.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_activations_go_to_the_chip_round_by_round() -> None:
    small = msgspec.structs.replace(QUIET.chip, rows=24, columns=64, tiles=3)
    x = torch.rand(5, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.LazyLinear(4)
    )
    model(x)
    with opened(msgspec.structs.replace(QUIET, chip=small)) as board:
        digital = trained(board, model, x, "products=none")
        chip = trained(board, model, x, *EXACT, "products=dat")
    for one, other in zip(digital, chip, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_scratch_cells_are_beside_the_weights_and_hold_every_vector() -> None:
    held = [Demand("a", 100, 30, 1, 4), Demand("b", 1152, 60, 1, 4)]
    cut = Scratch(held, CAP.chip, Avoid()).cut(36864, 25, 4)
    assert cut.rounds * cut.vectors >= 36864 and cut.matrix.shape[1] == 25
    assert cut.vectors * cut.rounds - 36864 < cut.rounds * cut.matrix.row_blocks
    wide = Scratch(held, CAP.chip, Avoid()).cut(64, 600, 4)
    assert wide.parts * wide.elements >= 600 > (wide.parts - 1) * wide.elements
    full = [Demand(f"{i}", 1152, 64, 1, 4) for i in range(CAP.chip.tiles)]
    with pytest.raises(UsageError, match="no room"):
        Scratch(full, CAP.chip, Avoid()).cut(64, 600, 4)


def test_activations_wider_than_what_is_free_go_to_the_chip_in_parts() -> None:
    small = msgspec.structs.replace(QUIET.chip, rows=32, columns=64, tiles=3)
    x = torch.rand(70, 100, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(100, 6), nn.ReLU(), nn.Linear(6, 4))
    with opened(msgspec.structs.replace(QUIET, chip=small)) as board:
        digital = trained(board, model, x, "products=none")
        chip = trained(board, model, x, *EXACT, "products=dat")
    for one, other in zip(digital, chip, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_chip_without_room_for_activations_is_refused_before_anything_is_trained() -> None:
    full = msgspec.structs.replace(QUIET.chip, rows=10, columns=40, tiles=1)
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 4))
    with (
        opened(msgspec.structs.replace(QUIET, chip=full)) as board,
        pytest.raises(UsageError, match="no room"),
    ):
        Radix4.convert(model, board, settings.parse(("products=wa,dat",)))


def test_a_range_is_as_wide_as_what_it_sees() -> None:
    rng = np.random.default_rng(0)
    spans = np.geomspace(64, 510, 24)
    few, many = rng.poisson(10, 4000), rng.poisson(300, 4000)
    assert best_span(few, spans, 255, ternary=False) == 64
    found = best_span(many, spans, 255, ternary=False)
    assert 300 < found < 400 and best_span(many, spans, 255, ternary=True) > found


def test_no_range_has_a_step_below_one_count() -> None:
    with opened() as board:
        converters = PlaneConverters(board, 1, ternary=True, levels=None)
        gain = converters.gain(100, lambda: np.array([-3, 0, 0, 2]), learning=True)
        assert gain == board.profile.gain(255) and converters.span.used == 255
        wide = PlaneConverters(board, 2, ternary=True, levels=None)
        wide.gain(1152, lambda: np.array([-900, 900]), learning=True)
        assert wide.span.used == pytest.approx(510)


def test_two_level_ranges_are_fixed_by_the_rows() -> None:
    with opened() as board:
        model = Radix4.convert(
            lenet(), board, settings.parse(("adaptability=two-level", "two_level=[64, 512]"))
        ).train()
        model(torch.rand(4, 1, 28, 28)).square().sum().backward()
        layers = [m for m in model.modules() if isinstance(m, Int4Layer)]
        spans = [[c.span.used for c in layer.products.converters()] for layer in layers]
    # wa: 16, 45 and 75 cells; W^T d of 300 rows: 42, the first layer has none; d a^T of 1152: 82,
    # of 256: 38, of 4: 5.
    assert spans == [[64, 0, 512], [64, 64, 64], [512, 64, 64]]


@pytest.mark.parametrize(
    "chosen",
    [
        ("adaptability=none", "products=wa"),
        ("gradients=fp32", "products=wa,wtd"),
        ("mapping=paper",),
    ],
)
def test_settings_that_contradict_each_other_are_refused(chosen: tuple[str, ...]) -> None:
    with opened() as board, pytest.raises(UsageError, match="Setting"):
        Radix4.convert(lenet(), board, settings.parse(chosen))


def config(**values: Any) -> RunConfig:
    chosen = settings.parse(("stochastic_rounding=true",))
    plain = dict(
        model="lenet", board="cap-imc-16nm", dataset="digits", algorithm="radix4", epochs=2,
        batches_per_epoch=1, batch_size=8, seed=1, initial="read", settings=chosen,
    )  # fmt: skip
    return RunConfig(**{**plain, **values})


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    data = datasets.load("digits")
    with opened(CAP) as board:
        trainer = Trainer(config(), data, board, tmp_path)
        whole = trainer.run()
    with opened(CAP) as board:
        (tmp_path / "again").mkdir()
        again = Trainer(config(), data, board, tmp_path / "again")
        again.stop = True
        with pytest.raises(Interrupted):
            again.run()
    state = checkpoint.load(tmp_path / "again")
    with opened(CAP) as board:
        resumed = Trainer(config(), data, board, tmp_path / "again", resume=state).run()
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    same = ("test_accuracy", "costs", "writes_per_weight")
    assert [resumed[key] for key in same] == [whole[key] for key in same]


def test_a_board_without_groups_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(["train", "lenet", "--board", "emu", "--algorithm", "radix4"])
    assert code == 2
    said = capsys.readouterr().err
    assert "GROUPS" in said and "TERNARY" in said and "Traceback" not in said


# ---------------------------------------------------------------------- energy


def test_no_factor_is_above_what_the_digital_products_allow() -> None:
    layers = layers_of(lenet(), (1, 28, 28))
    step = plane_training(CAP, layers, 64, DigitalMac())
    assert step.cases[1].bound == pytest.approx(2.58, abs=0.005)
    for mac in (DigitalMac(), DigitalMac(reuse=1.0), DigitalMac(multiply_pJ=1e9)):
        for case in plane_training(CAP, layers, 64, mac).cases:
            assert case.bound is None or case.factor < case.bound
    inner = [Layer(Demand("inner", 96, 96, 1), vectors=1, backward=1, signed=False)]
    assert plane_training(CAP, inner, 64, DigitalMac()).cases[1].bound == pytest.approx(3.0)


def test_counters_of_a_batch_are_those_of_the_estimate() -> None:
    """Forward to the last conversion; of gradients the chip is spared planes that are all zero."""
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    step = plane_training(CAP, layers_of(model, (1, 8, 8)), 16, DigitalMac())
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with opened(CAP) as board:
        found = Radix4.convert(model, board, settings.parse(())).train()
        before = chip_counts(board)
        outputs = found(x)
        forward = costs_since(before, board)
        before = chip_counts(board)
        nn.functional.cross_entropy(outputs, torch.arange(16) % 10).backward()
        backward = costs_since(before, board)
    for name in ("conversions", "tile_operations"):
        assert forward[name] == getattr(step.counts["wa"], name)
        most = getattr(step.counts["wtd"], name) + getattr(step.counts["dat"], name)
        assert 0.1 * most < backward[name] <= most


def test_the_estimate_shows_factors_beside_bounds_and_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["estimate", "lenet", "--algorithm", "radix4", "--board"]
    assert run([*asked, "cap-imc-16nm", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [case["paper"] for case in said["cases"]] == ["over 400", "3", None]
    assert run([*asked, "emu"]) == 2
    assert "GROUPS" in capsys.readouterr().err


@pytest.mark.parametrize("levels", ["[510, 255]", "[255, 255]", "[10, 255]", "[255, 9000]"])
def test_two_ranges_that_are_none_of_the_board_are_refused(levels: str) -> None:
    chosen = settings.parse(("adaptability=two-level", f"two_level={levels}"))
    with opened() as board, pytest.raises(UsageError, match="two_level"):
        Radix4.check(board, chosen)


def test_a_board_of_fewer_bits_than_activations_have_is_refused_before_a_cell_is_touched() -> None:
    narrow = msgspec.structs.replace(QUIET, chip=msgspec.structs.replace(QUIET.chip, input_bits=3))
    with opened(narrow) as board, pytest.raises(UnsupportedError, match="3 bits"):
        Radix4.check(board, settings.parse(()))
    with pytest.raises(UnsupportedError, match="3 bits"):
        plane_training(narrow, layers_of(lenet(), (1, 28, 28)), 64, DigitalMac())


def test_the_last_bit_is_the_same_wherever_a_product_is_made() -> None:
    x = torch.rand(16, 30, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(30, 6), nn.ReLU(), nn.Linear(6, 4))
    with opened() as board:
        digital = trained(board, model, x, "products=none")
        chip = trained(board, model, x, *EXACT)
    for one, other in zip(digital[1:], chip[1:], strict=True):
        assert torch.equal(one, other)


def test_the_map_of_a_chip_without_pairs_has_w_and_its_transpose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["map", "lenet", "--board", "cap-imc-16nm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [layer["name"] for layer in found["layers"]]
    assert names == ["0", "3", "7", "0, W^T", "3, W^T", "7, W^T"]
    assert [part["columns"] for part in found["layers"][0]["parts"]] == [4 * 4]


def test_an_estimate_says_where_the_board_is_too_small_and_names_its_constants(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["estimate", "mlp", "--board", "cap-imc-16nm", "--algorithm", "radix4"]
    assert run(command) == 0
    text = capsys.readouterr().out
    assert "the board is too small" in text and "conversion_pJ 0.9" in text
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"] and found["chip_constants"]["conversion_pJ"] == CAP.costs.conversion_pJ
