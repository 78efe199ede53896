"""Plans: every weight has its place, by the rule that was asked for; products are exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.errors import UsageError
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl import conversion
from cimctl.algorithms.settings import Settings
from cimctl.analog.layers import AnalogConv2d
from cimctl.cli.root import run
from cimctl.mapping.asked import parse_shape
from cimctl.mapping.choose import fits, mapped, without_limit
from cimctl.mapping.demand import EVERY_ROW, Avoid, Demand, Geometry, read_avoid
from cimctl.mapping.plan import Plan
from cimctl.mapping.rules import Copies
from cimctl.models import build
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
LENET = [Demand("0", 25, 4, 25), Demand("3", 100, 12, 25), Demand("7", 192, 10, 1)]


# --- plans ---------------------------------------------------------------------------------------


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        channel = draw(st.sampled_from([1, 4, 9, 25, 49]))
        inputs = channel * draw(st.integers(1, 12))
        found.append(Demand(f"layer {number}", inputs, draw(st.integers(1, 40)), channel))
    return found


@st.composite
def cells(draw: st.DrawFn) -> set[tuple[int, int, int]]:
    one = st.tuples(st.integers(0, 3), st.integers(EVERY_ROW, 63), st.integers(0, 31))
    return draw(st.sets(one, max_size=12))


def check(plan: Plan, wanted: list[Demand], avoid: set[tuple[int, int, int]]) -> None:
    """Each weight of each copy has a pair of cells of its own, none on a cell to avoid."""
    taken: set[tuple[int, int, int]] = set()
    assert [layer.demand for layer in plan.layers] == wanted
    for layer in plan.layers:
        weights = np.zeros((layer.copies, layer.demand.inputs, layer.demand.outputs), dtype=int)
        for part in layer.parts:
            r = part.region
            assert r.row + r.rows <= plan.rows and r.column + r.columns <= plan.columns
            assert r.column % 2 == 0 and r.columns % 2 == 0
            inputs = slice(part.first_input, part.first_input + r.rows)
            outputs = slice(part.first_output, part.first_output + part.outputs)
            weights[part.copy, inputs, outputs] += 1
            rows, columns = range(r.row, r.row + r.rows), range(r.column, r.column + r.columns)
            mine = set(product([r.tile], rows, columns))
            assert len(mine) == 2 * weights[part.copy, inputs, outputs].size
            assert not mine & taken
            taken |= mine
        assert (weights == 1).all()
        for copy in range(layer.copies):
            assert layer.matrix(copy).shape == (layer.demand.inputs, layer.demand.outputs)
    for tile, row, column in avoid:
        everything = range(plan.rows) if row == EVERY_ROW else [row]
        assert not any((tile, each, column) in taken for each in everything)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(wanted=demands(), avoid=cells(), rule=st.sampled_from(["paper", "packed", "auto"]),
       copies=st.integers(1, 5), printed=st.booleans())  # fmt: skip
def test_every_weight_has_its_place_and_none_lies_on_a_cell_to_avoid(
    wanted: list[Demand], avoid: set[tuple[int, int, int]], rule: Any, copies: int, printed: bool
) -> None:
    arrays = Geometry(24, 64, 32)
    try:
        plan = mapped(
            wanted, arrays, rule, avoid=Avoid(avoid), copies=Copies({"layer 0": copies}, printed)
        )
    except UsageError:
        assume(False)
    check(plan, wanted, avoid)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(wanted=demands(), rows=st.integers(49, 256), columns=st.sampled_from([8, 32, 64]))
def test_the_papers_rule_takes_whole_channels_and_an_array_for_each_block(
    wanted: list[Demand], rows: int, columns: int
) -> None:
    plan = mapped(wanted, without_limit(Geometry(1, rows, columns)), "paper")
    for layer, demand in zip(plan.layers, wanted, strict=True):
        channels = rows // demand.channel
        down = math.ceil(demand.inputs / demand.channel / channels)
        across = math.ceil(demand.outputs / (columns // 2))
        assert len(layer.tiles()) == len(layer.parts) == down * across
        for part in layer.parts:
            assert part.region.rows % demand.channel == 0
            assert part.region.rows == min(
                channels * demand.channel, demand.inputs - part.first_input
            )


def test_lenet_lies_side_by_side_on_four_small_tiles_as_ever() -> None:
    plan = mapped(LENET, EMU.chip)
    assert plan.rule == "packed"
    regions = [[part.region.values() for part in layer.parts] for layer in plan.layers]
    assert regions == [
        [(0, 0, 25, 0, 8)],
        [(1, 0, 50, 0, 24), (2, 0, 50, 0, 24)],
        [(3, 0, 64, 0, 20), (0, 0, 64, 8, 20), (1, 0, 64, 24, 20)],
    ]


def test_auto_takes_the_papers_rule_where_it_fits() -> None:
    plan = mapped(LENET, catalogue.load("brram-256x64").chip)
    assert plan.rule == "paper"
    assert [len(layer.parts) for layer in plan.layers] == [1, 1, 1]
    assert not plan.shared
    assert mapped(LENET, Geometry(6, 64, 64)).rule == "paper"
    assert mapped(LENET, Geometry(5, 64, 64)).rule == "packed"


def test_a_bad_column_moves_a_block_aside_or_makes_it_narrower() -> None:
    demand = [Demand("a", 10, 16, 1)]
    beside = mapped([Demand("a", 10, 15, 1)], Geometry(1, 16, 32), avoid=Avoid([(0, 3, 1)]))
    assert beside.layers[0].parts[0].region.column == 2
    narrow = mapped(demand, Geometry(2, 16, 32), "packed", avoid=Avoid([(0, 3, 9), (1, 3, 9)]))
    assert len(narrow.layers[0].parts) > 1
    below = mapped(demand, Geometry(1, 16, 32), avoid=Avoid([(0, 12, 9)]))
    assert below.layers[0].parts[0].region.columns == 32


def test_copies_share_an_array_where_rows_and_columns_suffice() -> None:
    plan = mapped(LENET, without_limit(EMU.chip), "paper", copies=Copies({"0": 8, "3": 2}))
    assert [len(layer.tiles()) for layer in plan.layers] == [4, 4, 3]
    assert not any(layer.overlapping for layer in plan.layers)


def test_as_printed_two_copies_share_an_array_also_without_columns_for_both() -> None:
    conv = [Demand("0", 27, 32, 9)]
    arrays = without_limit(Geometry(1, 256, 64))
    printed = mapped(conv, arrays, "paper", copies=Copies({"0": 4}, as_printed=True))
    assert len(printed.tiles()) == 2 and printed.layers[0].overlapping
    apart = mapped(conv, arrays, "paper", copies=Copies({"0": 4}))
    assert len(apart.tiles()) == 4 and not apart.layers[0].overlapping


@pytest.mark.parametrize(
    ("wanted", "arrays", "rule", "said"),
    [
        (LENET, Geometry(2, 64, 64), "packed", "128 on 2 tiles, too few of them side by side"),
        (LENET, Geometry(1, 64, 64), "auto", "the board has 64 on 1 tiles, 52 too few"),
        (LENET, Geometry(4, 64, 64), "paper", "take 6 arrays, the board has 4, 2 too few"),
        (LENET, Geometry(4, 64, 64), "paper", "mapping packed"),
        ([Demand("a", 200, 100, 1)], Geometry(4, 64, 64), "auto", "brram-256x64"),
        ([Demand("a", 63000, 3200, 9)], Geometry(16, 256, 64), "auto", "{tiles: 25000}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_by_how_much_and_what_would_hold_it(
    wanted: list[Demand], arrays: Geometry, rule: Any, said: str
) -> None:
    avoid = Avoid((1, EVERY_ROW, c) for c in range(16)) if arrays.tiles == 2 else Avoid()
    with pytest.raises(UsageError) as caught:
        mapped(wanted, arrays, rule, avoid=avoid)
    assert said in str(caught.value)


@pytest.mark.parametrize("cell", [(1, 0, 0), (0, 16, 0), (0, 0, 32), (0, EVERY_ROW, 32)])
def test_a_cell_to_avoid_that_is_not_there_is_named(cell: tuple[int, int, int]) -> None:
    arrays = Geometry(1, 16, 32)
    mapped([Demand("a", 4, 4, 1)], arrays, avoid=Avoid([(0, 15, 31), (0, EVERY_ROW, 31)]))
    with pytest.raises(UsageError, match=f"column {cell[2]} of tile {cell[0]}"):
        mapped([Demand("a", 4, 4, 1)], arrays, avoid=Avoid([(0, 0, 0), cell]))


def test_the_board_that_is_named_does_hold_it() -> None:
    assert not fits([Demand("a", 200, 100, 1)], EMU.chip, "packed")
    assert fits([Demand("a", 200, 100, 1)], catalogue.load("brram-256x64").chip, "packed")


# --- products ------------------------------------------------------------------------------------


def quiet(tiles: int) -> Profile:
    """No noise, and the finest converter there is."""
    silence = msgspec.structs.replace(
        EMU.imperfections, read_noise_uS=0, programming_error_uS=0, adc_noise_lsb=0
    )
    chip = msgspec.structs.replace(EMU.chip, tiles=tiles, adc_bits=12, adc_span_uA=(0.001, 2000.0))
    return msgspec.structs.replace(EMU, imperfections=silence, chip=chip)


QUIET = quiet(12)


@contextmanager
def opened(profile: Profile, seed: int) -> Iterator[tuple[Board, Chip]]:
    chip = Chip(profile, seed)
    with Board(profile, InProcessLink(Firmware(chip))) as board:
        board.power_up()
        yield board, chip


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Callable[[], nn.Conv2d], tuple[int, ...]]:
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    inputs, outputs = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    size = [
        max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) + draw(st.integers(0, 6))
        for i in range(2)
    ]
    bias = draw(st.booleans())

    def make() -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias)

    return make, (2, inputs, *size)


def held(chip: Chip, plan: Plan) -> torch.Tensor:
    """(outputs, inputs) differences of pairs, read from where the plan says each weight lies."""
    (layer,) = plan.layers
    weights = torch.zeros(layer.demand.outputs, layer.demand.inputs, dtype=torch.float64)
    for part in layer.parts:
        r = part.region
        tile = chip.cells.conductances[r.tile].reshape(plan.rows, plan.columns).astype(np.int64)
        g = torch.from_numpy(tile[r.row : r.row + r.rows, r.column : r.column + r.columns])
        outputs = slice(part.first_output, part.first_output + part.outputs)
        inputs = slice(part.first_input, part.first_input + r.rows)
        weights[outputs, inputs] = (g[:, 0::2] - g[:, 1::2]).T.double()
    return weights


@settings(max_examples=25, deadline=None, derandomize=True)
@given(layer=convolutions(), rule=st.sampled_from(["paper", "packed"]), seed=st.integers(0, 99),
       signed=st.booleans(), avoid=cells())  # fmt: skip
def test_a_mapped_convolution_is_the_digital_one_to_the_converters_resolution(
    tmp_path_factory: pytest.TempPathFactory,
    layer: tuple[Callable[[], nn.Conv2d], tuple[int, ...]],
    rule: Any,
    seed: int,
    signed: bool,
    avoid: set[tuple[int, int, int]],
) -> None:
    make, shape = layer
    torch.manual_seed(seed)
    path = tmp_path_factory.mktemp("avoid") / "cells.npy"
    np.save(path, np.array(sorted(avoid), dtype=np.int64).reshape(-1, 3))
    source = make()
    with opened(QUIET, seed) as (board, chip):
        asked = Settings(mapping=rule, avoid=str(path) if avoid else "")
        try:
            model = conversion.convert(nn.Sequential(source), board, asked)
        except UsageError:
            assume(False)
        (analog,) = conversion.analog_layers(model)
        assert isinstance(analog, AnalogConv2d)
        plan = mapped([analog.demand()], QUIET.chip, rule, avoid=Avoid(avoid))
        exact = held(chip, plan) * analog.rule.unit
        analog.weight.data = exact.reshape(analog.weight.shape).float()
        inputs = torch.rand(shape) * (2 if signed else 1) - (1 if signed else 0)
        geometry = (source.stride, source.padding, source.dilation)
        bias = None if source.bias is None else source.bias.detach().double()
        weight = exact.reshape(analog.weight.shape)
        wanted = nn.functional.conv2d(inputs.double(), weight, bias, *geometry)
        most = nn.functional.conv2d(inputs.double().abs(), weight.abs(), None, *geometry).max()
        analog.ranges.see_inputs(float(inputs.min()), float(inputs.max()))
        step = analog.ranges.input_step(QUIET.chip.input_bits)
        # A range that no sum, nor what rounding adds to it, leaves.
        largest = float(most + weight.abs().flatten(1).sum(1).max() * step)
        analog.ranges.gain = 2047 * step * analog.rule.unit / largest
        model.eval()
        with torch.no_grad():
            found = model(inputs).double()
        # Each input is off by half a DAC step at most, each block's sum by half an ADC code, and
        # the gain travels as 16 bits.
        code = analog.rule.unit * step / analog.ranges.configured
        limit = weight.abs().flatten(1).sum(1) * step / 2 + analog._matrix.blocks * 0.6 * code
    off = (found - wanted).abs()
    assert found.shape == wanted.shape
    assert (off <= limit[:, None, None] + 1e-6).all()
    # The bound is one of resolution: it is far below what the layer can compute.
    reach = float(weight.abs().flatten(1).sum(1).max() * inputs.abs().max())
    assert float(limit.max()) < 0.02 * reach


@pytest.mark.parametrize("rule", ["paper", "packed"])
def test_a_mapped_network_is_the_digital_one(rule: Any) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 28, 28)
    with opened(QUIET, 3) as (board, _):
        model = conversion.convert(build("lenet"), board, Settings(mapping=rule, saturation=0.0))
        conversion.read_weights(model, 1.2)
        digital = build("lenet")
        with torch.no_grad():
            pairs = zip(conversion.analog_layers(model), (digital[0], digital[3], digital[7]),
                        strict=True)  # type: ignore[index]  # fmt: skip
            for mine, plain in pairs:
                plain.weight.copy_(mine.weight * mine.scale)
                plain.bias.copy_(mine.bias)
            for _ in range(30):
                # The ranges widen until nothing saturates.
                model(images)
            found, wanted = model.eval()(images), digital(images)
    assert float((found - wanted).std()) < 0.03 * float(wanted.std())


# --- the command ---------------------------------------------------------------------------------


def test_map_shows_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["map", "lenet", "--board", "emu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lenet on emu, mapping packed: 4 tiles of 64 x 64"
    cells = [line.split() for line in lines[2:]]
    assert cells[0] == [
        "layer", "copy", "tile", "rows", "columns", "inputs", "channels", "outputs",
    ]  # fmt: skip
    assert cells[3] == ["3", "1/1", "2", "0-49", "0-23", "50-99", "2-3", "0-11"]
    assert len(cells) == 1 + 6


def test_map_tells_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["map", "vgg8", "--board", "brram-256x64", "--mapping", "paper", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "cimctl.map/1" and not said["fits"]
    assert (said["tiles"], said["tiles_used"]) == (16, 85)
    layer = said["layers"][1]
    assert (layer["name"], layer["copies"], layer["row_blocks"]) == ("3", 4, 2)
    assert [part["rows"] for part in layer["parts"]] == [252, 36] * 4


def test_map_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "lenet.png"
    assert run(["map", "lenet", "--board", "emu", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(["map", "lenet", "--board", "emu", "--plot", str(tmp_path / "no" / "x.png")]) == 8
    assert "cannot be written" in capsys.readouterr().err


def test_map_leaves_cells_free_that_a_file_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("0,3,2\n3,-1,0\n")
    command = ["map", "lenet", "--board", "emu", "--json", "--avoid", str(tmp_path / "bad.csv")]
    assert run(command) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    # Tile 0 has room from column 4 on only: the next one has more.
    assert [layers[0]["parts"][0][key] for key in ("tile", "column")] == [1, 0]
    taken = [part for layer in layers for part in layer["parts"] if part["tile"] in (0, 3)]
    assert {(part["tile"], part["column"]) for part in taken} == {(0, 4), (3, 2)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet-large", "--board", "emu"], "does not fit the board"),
        (["lenet", "--board", "emu", "--avoid", "nowhere.csv"], "There is no file"),
        (["lenet", "--board", "emu", "--input-shape", "a"], "is no shape"),
        (["lenet", "--board", "emu", "--input-shape", "3,28,28"], "does not take images"),
        (["lenet", "--board", "emu", "--copies", "conv=2"], "layers: 0, 3, 7"),
        (["lenet", "--board", "emu", "--copies", "0=0"], "names no layer and count"),
        (["lenet", "--board", "nosuch"], "There is no board"),
        (["nosuch", "--board", "emu"], "There is no model"),
    ],
)
def test_a_wrong_question_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["map", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_cells_to_avoid_are_three_numbers_each(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("0,3\n")
    with pytest.raises(UsageError, match="expected tile, row and column"):
        read_avoid(str(tmp_path / "bad.csv"))


def test_a_shape_is_written_with_commas() -> None:
    assert parse_shape("3,32,32") == (3, 32, 32)
    with pytest.raises(UsageError, match="3,32,32"):
        parse_shape("3,0,32")


OWN = """
from torch import nn

def known():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 10))

def says():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    model.input_shape = (3, 2, 2)
    return model

def unknown():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))

def digital():
    return nn.Flatten()
"""


def test_ones_own_model_tells_its_shape_or_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)

    def ask(factory: str, *more: str) -> int:
        return run(["map", f"{path}:{factory}", "--board", "ecram", "--mapping", "paper", *more])

    assert ask("known") == 0
    assert ask("says") == 0
    assert ask("unknown") == 2
    assert "--input-shape" in capsys.readouterr().err
    assert ask("unknown", "--input-shape", "3,2,2") == 0
    assert ask("digital", "--input-shape", "3,2,2") == 2
    assert "no linear, convolutional or LSTM cell layer" in capsys.readouterr().err
