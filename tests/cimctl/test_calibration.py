"""Calibration: what is measured holds on fresh products, and is refused where it no longer does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue, links
from boards.board import Board, gain_integers
from boards.errors import DeviceError, StorageError, UsageError
from boards.multiply import Matrix
from boards.profile import Profile
from cimctl.algorithms.settings import from_values
from cimctl.calibration import fit, record
from cimctl.calibration.fit import Lines
from cimctl.calibration.measure import Measured, Plan, kinds, measure, read_cells
from cimctl.calibration.record import Calibration
from cimctl.cli.root import run
from cimctl.conversion import convert, read_weights
from firmware_protocol import messages as m
from sim_backend import mismatch
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

if TYPE_CHECKING:
    from tests.conftest import ServeEmulator

EMU = catalogue.load("emu")
UNTRIMMED = catalogue.load("emu-uncalibrated")
QUICK = Plan(samples=1020, products=4096, repeats=32, zeros=512)


def with_faults(profile: Profile, **faults: float) -> Profile:
    changed = msgspec.structs.replace(profile.imperfections, **faults)
    return msgspec.structs.replace(profile, imperfections=changed)


def opened(profile: Profile, seed: int = 0) -> tuple[Board, Chip]:
    chip = Chip(profile, seed)
    board = Board(profile, links.InProcessLink(Firmware(chip), profile.name))
    board.power_up()
    return board, chip


def measured(board: Board, plan: Plan, tiles: tuple[int, ...] = (0,)) -> list[Measured]:
    found = []
    for tile in tiles:
        cells = read_cells(board.tiles[tile], plan.samples)
        found += [measure(board, tile, cells, kind, plan) for kind in kinds(board)]
    return found


@pytest.fixture(scope="module")
def untrimmed() -> tuple[Calibration, list[Measured]]:
    """All tiles of chip 3 of the untrimmed kind."""
    board, _ = opened(UNTRIMMED, 3)
    with board:
        found = measured(board, Plan(), (0, 1, 2, 3))
        return record.of(board, tuple(f.lines for f in found)), found


# --- the fit -------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    gain=st.floats(0.7, 1.4),
    offset=st.floats(-20, 20),
    bow=st.floats(-5, 5),
    seed=st.integers(0, 999),
)
def test_the_inverse_undoes_the_model(gain: float, offset: float, bow: float, seed: int) -> None:
    wanted = np.random.default_rng(seed).uniform(-90, 90, (20, 1))
    lines = Lines(np.array([gain]), np.array([offset]), np.array([bow]))
    level = wanted * gain
    codes = level + offset + bow * fit.shape(level / 128)
    # Four rounds, each leaves at most 2.6 * 5 / 128 of the error.
    assert np.abs(fit.inverse(codes, lines, 128.0) - wanted).max() < 1e-3


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_fit_finds_lines_to_their_standard_error(noise: float) -> None:
    rng = np.random.default_rng(1)
    count, size = 4000, 60
    true = Lines(rng.normal(1, 0.05, size), rng.normal(0, 4, size), rng.normal(0, 2, size))
    expected = rng.uniform(-100, 100, (count, size))
    level = expected * true.gain
    exact = level + true.offset + true.bow * fit.shape(level / 128)
    codes = np.rint(exact + noise * rng.standard_normal(exact.shape))
    zeros = np.rint(true.offset + noise * rng.standard_normal((1000, size)))
    found = fit.fit(expected, codes, zeros, 128.0)
    sigma = np.hypot(noise, 12**-0.5)
    # Gain and bow are not orthogonal: what is left of each beside the other is a third of it.
    seen = found.bow != 0
    assert np.abs(found.gain - true.gain)[seen].max() < 5 * 3 * sigma / 58 / np.sqrt(count)
    assert np.abs(found.offset - true.offset).max() < 5 * sigma / np.sqrt(1000) + 0.01
    assert np.abs(found.bow - true.bow)[seen].max() < 5 * 5 * sigma / np.sqrt(count)
    assert np.abs(true.bow[~seen]).max(initial=0) < 1.5


def test_a_straight_line_gets_no_bow() -> None:
    rng = np.random.default_rng(2)
    expected = rng.uniform(-100, 100, (2000, 300))
    codes = np.rint(expected + 2 * rng.standard_normal(expected.shape))
    zeros = np.rint(2 * rng.standard_normal((500, 300)))
    assert not fit.fit(expected, codes, zeros, 128.0).bow.any()


# --- on a chip -----------------------------------------------------------------------------------


def test_the_error_falls_tenfold_and_products_come_to_the_noise_floor(
    untrimmed: tuple[Calibration, list[Measured]],
) -> None:
    for found in untrimmed[1]:
        assert found.ratio >= 10.0 and found.reached
        assert found.before.rms > 1.15 * found.noise
        assert found.after.rms < 1.03 * found.noise
        assert np.median(found.before.by_line) > 10 * np.median(found.after.by_line)


@pytest.mark.parametrize("bow", [0.0, 8.0])
def test_lines_are_found_as_the_chip_has_them(bow: float) -> None:
    profile = with_faults(UNTRIMMED, adc_inl_lsb=bow)
    board, _ = opened(profile, 3)
    with board:
        for found in measured(board, Plan()):
            rows = found.lines.kind == "rows"
            errors = mismatch.converters(profile, 3, 0, transposed=rows)
            assert errors is not None
            gain, offset, bend = (values if rows else values[::2] for values in errors)
            assert rms(np.array(found.lines.offset) - offset) < 0.15
            bows = np.array(found.lines.bow)
            if bow:
                assert np.count_nonzero(bows) > len(bows) / 3
                # Where a line's products do not reach its ends, gain and bow stand for each other.
                assert np.corrcoef(bows, bend)[0, 1] > 0.85
            else:
                assert np.count_nonzero(bows) <= 1
                assert rms(np.array(found.lines.gain) - gain) < 0.006
            assert found.ratio >= 10


def rms(errors: Any) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def exact(chip: Chip, matrix: Matrix, inputs: Any) -> Any:
    """Integer sums of what the cells truly hold."""
    total, first = 0, 0
    for block in matrix.input_blocks():
        parts = []
        for r in block.regions:
            tile = chip.cells.conductances[r.tile].reshape(64, 64).astype(np.int64)
            g = tile[r.row : r.row + r.rows, r.column : r.column + r.columns]
            pairs = g[:, 0::2] - g[:, 1::2]
            parts.append(pairs.T if matrix.transposed else pairs)
        weights = np.concatenate(parts, axis=1)
        total = total + inputs[:, first : first + len(weights)].astype(np.int64) @ weights
        first += len(weights)
    return total


MATRICES = {
    "one region": Matrix((m.Region(1, 8, 40, 10, 30),)),
    "two columns of blocks": Matrix((m.Region(2, 0, 64, 20, 20), m.Region(0, 0, 64, 4, 8))),
    "two rows of blocks": Matrix(
        (m.Region(0, 0, 50, 0, 24), m.Region(1, 9, 50, 30, 24)), row_blocks=2
    ),
    "two by two": Matrix(
        tuple(m.Region(t, 0, 32, 8 * t, 16) for t in range(4)), row_blocks=2
    ),
    "transposed": Matrix((m.Region(3, 5, 30, 2, 62),), transposed=True),
    "transposed blocks": Matrix(
        tuple(m.Region(t, 3 * t, 20, 0, 48) for t in range(4)), row_blocks=2, transposed=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("split", [False, True], ids=["as one", "block by block"])
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_products_of_matrices_of_any_form_are_corrected(
    matrix: Matrix, split: bool, untrimmed: tuple[Calibration, list[Measured]]
) -> None:
    """Against the cells themselves, on inputs of another kind than the fit's.

    Of blocks that the chip adds up only the mean gain can be corrected.
    """
    board, chip = opened(UNTRIMMED, 3)
    fresh = np.random.default_rng(9).integers(0, 256, (40, matrix.shape[0])).astype(np.uint8)
    sums = exact(chip, matrix, fresh)
    gain = 70 / np.abs(sums).max()
    multiplier, shift = gain_integers(gain)
    repeats, first = 200, 0
    raw, corrected = np.zeros((2, 40 * repeats, matrix.shape[1]))
    with board:
        board.configure(1, gain)
        for block in matrix.input_blocks() if split else [matrix]:
            part = np.repeat(fresh[:, first : first + block.shape[0]], repeats, axis=0)
            codes = board.multiply(block, part, slot=1).codes
            raw += codes
            corrected += untrimmed[0].corrected(codes, block)
            first += block.shape[0]
    expected = sums * (multiplier / 2.0**shift)
    before, after = (
        rms(codes.reshape(40, repeats, -1).mean(axis=1) - expected) for codes in (raw, corrected)
    )
    # What the mean of 200 products keeps of their noise, of 4 to 12 codes here, is part of it.
    noise = raw.reshape(40, repeats, -1).std(axis=1).mean() / np.sqrt(repeats)
    assert before > 3.0
    single = split or matrix.blocks == 1
    assert after < max(before / (10 if single else 4), 1.4 * noise)


def test_products_of_images_are_corrected_channel_by_channel(
    untrimmed: tuple[Calibration, list[Measured]],
) -> None:
    matrix = Matrix((m.Region(0, 0, 64, 0, 20),))
    rng = np.random.default_rng(1)
    images = rng.integers(-90, 90, (3, 10, 4, 5)).astype(np.int16)
    flat = images.transpose(0, 2, 3, 1).reshape(-1, 10)
    one = untrimmed[0].corrected(images, matrix)
    other = untrimmed[0].corrected(flat, matrix)
    assert one.shape == images.shape
    assert np.array_equal(one.transpose(0, 2, 3, 1).reshape(-1, 10), other)


def test_differences_of_two_products_have_no_offset_left_to_correct(
    untrimmed: tuple[Calibration, list[Measured]],
) -> None:
    matrix = Matrix((m.Region(0, 0, 64, 0, 20),))
    codes = np.zeros((1, 10), dtype=np.int16)
    assert not untrimmed[0].corrected(codes, matrix, by_sign=True).any()
    assert np.abs(untrimmed[0].corrected(codes, matrix)).max() > 1


def test_a_chip_without_errors_is_left_as_good_as_it_was() -> None:
    board, _ = opened(EMU)
    with board:
        for found in measured(board, Plan()):
            assert found.after.rms < 1.005 * found.before.rms
            assert found.reached
            assert not any(found.lines.bow)


def test_without_noise_the_floor_is_that_of_rounding() -> None:
    board, _ = opened(with_faults(UNTRIMMED, read_noise_uS=0.0, adc_noise_lsb=0.0))
    with board:
        for found in measured(board, QUICK):
            assert found.ratio > 10.0
            # A code is a twelfth of its square off; the readings' rounding comes on top.
            assert found.after.rms < 2 * 12**-0.5


def test_errors_of_input_drivers_are_left_and_said_to_be() -> None:
    board, _ = opened(with_faults(UNTRIMMED, dac_gain_variation=0.05))
    with board:
        pairs, rows = measured(board, QUICK)
    assert not rows.reached and rows.after.lasting > 1.0
    assert pairs.after.lasting < pairs.before.lasting


def test_a_board_without_transposed_products_is_calibrated_by_its_pairs() -> None:
    soc = catalogue.load("brram-soc")
    board, _ = opened(with_faults(soc, adc_offset_lsb=4.0, adc_gain_variation=0.05))
    with board:
        (found,) = measured(board, QUICK)
        made = record.of(board, (found.lines,))
    assert found.lines.kind == "pairs" and found.reached
    rows = Matrix((m.Region(0, 0, 64, 0, 64),), transposed=True)
    with pytest.raises(UsageError, match="does not cover the rows of tile 0"):
        made.correction(rows)


def test_single_columns_are_refused(untrimmed: tuple[Calibration, list[Measured]]) -> None:
    with pytest.raises(UsageError, match="single columns"):
        untrimmed[0].correction(Matrix((m.Region(0, 0, 8, 0, 8),), differential=False))


# --- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [None, 2.0], ids=["chosen", "the narrowest"])
def test_products_fill_the_range_and_do_not_saturate(
    monkeypatch: pytest.MonkeyPatch, span: float | None
) -> None:
    board, _ = opened(with_faults(UNTRIMMED, adc_offset_lsb=15.0))
    seen: list[tuple[int, int, int]] = []
    multiply = Board.multiply

    def spied(self: Board, *a: Any, **k: Any) -> Any:
        products = multiply(self, *a, **k)
        seen.append((len(products.codes), products.saturated, int(np.abs(products.codes).max())))
        return products

    monkeypatch.setattr(Board, "multiply", spied)
    with board:
        cells = read_cells(board.tiles[0], QUICK.samples)
        found = measure(board, 0, cells, "pairs", replace(QUICK, span_uA=span))
    fits = [(saturated, top) for count, saturated, top in seen if count == 4096]
    assert all(saturated for saturated, _ in fits[:-1])
    assert fits[-1][0] == 0 and fits[-1][1] > 60
    assert found.ratio >= 10
    if span is not None:
        assert found.lines.span_uA == pytest.approx(span, rel=1e-3)


def test_a_chip_that_saturates_at_every_range_is_told_so() -> None:
    board, _ = opened(with_faults(UNTRIMMED, adc_offset_lsb=300.0))
    with board, pytest.raises(DeviceError, match="tile 0 saturate at every range"):
        measured(board, QUICK)


def test_cells_that_are_alike_are_told_so() -> None:
    board, chip = opened(UNTRIMMED)
    chip.cells.conductances[...] = 20000
    with board, pytest.raises(UsageError, match="too alike") as error:
        measured(board, QUICK)
    assert "--program" in error.value.next


# --- the file ------------------------------------------------------------------------------------


def test_a_calibration_comes_back_from_its_file_as_it_was(
    untrimmed: tuple[Calibration, list[Measured]], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "folder" / "it.json"
    record.save(path, untrimmed[0])
    assert record.load(path) == untrimmed[0]
    assert json.loads(path.read_text())["schema"] == "cimctl.calibration/1"
    assert [p.name for p in path.parent.iterdir()] == ["it.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.pop("identity"),
        lambda v: v.update(schema="cimctl.calibration/2"),
        lambda v: v["lines"][0]["gain"].pop(),
        lambda v: v["lines"][0]["gain"].__setitem__(0, 0.0),
        lambda v: v.update(made="2026-01-01T00:00:00"),
        lambda v: v.update(more=1),
    ],
)
def test_a_damaged_file_is_told_so(
    untrimmed: tuple[Calibration, list[Measured]], tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "it.json"
    record.save(path, untrimmed[0])
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="holds no calibration"):
        record.load(path)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no calibration") as error:
        record.load(tmp_path / "none.json")
    assert "cimctl calibrate" in error.value.next


def test_a_folder_that_cannot_be_made_is_told(
    untrimmed: tuple[Calibration, list[Measured]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        record.save(tmp_path / "file" / "it.json", untrimmed[0])


# --- stale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("board_id", "0123456789abcdef", "another board id: 0123456789abcdef"),
        ("model", "emu", "another model: emu"),
        ("specification", "00", "another specification"),
        ("tiles", 3, "another number of tiles"),
        ("rows", 32, "another number of rows: 32, the board 64"),
        ("columns", 32, "another number of columns"),
        ("adc_bits", 9, "another number of ADC bits"),
        ("read_voltage_mV", 200, "another read voltage"),
    ],
)
def test_a_calibration_of_another_chip_is_refused(
    untrimmed: tuple[Calibration, list[Measured]], field: str, value: Any, said: str
) -> None:
    identity = msgspec.structs.replace(untrimmed[0].identity, **{field: value})
    other = msgspec.structs.replace(untrimmed[0], identity=identity)
    board, _ = opened(UNTRIMMED, 3)
    with board:
        untrimmed[0].check(board)
        with pytest.raises(UsageError, match=said) as error:
            other.check(board)
    assert "cimctl calibrate" in error.value.next


@pytest.mark.parametrize(
    ("degrees", "holds"), [(19.9, False), (20.1, True), (29.9, True), (31.0, False)]
)
def test_a_calibration_holds_within_5_kelvin(
    untrimmed: tuple[Calibration, list[Measured]], degrees: float, holds: bool
) -> None:
    board, _ = opened(with_faults(UNTRIMMED, temperature_C=degrees), 3)
    with board:
        if holds:
            untrimmed[0].check(board)
        else:
            with pytest.raises(UsageError, match=f"made at 25.0 degrees.*at {degrees:.1f} now"):
                untrimmed[0].check(board)


def test_a_calibration_ages(untrimmed: tuple[Calibration, list[Measured]]) -> None:
    board, _ = opened(UNTRIMMED, 3)
    then = datetime.now(UTC) - timedelta(days=31)
    old = msgspec.structs.replace(untrimmed[0], made=then)
    with board:
        with pytest.raises(UsageError, match=r"31\.0 days old, 30 are accepted"):
            old.check(board)
        old.check(board, max_age_days=32)


def test_a_chip_without_a_thermometer_is_taken_at_its_word(
    untrimmed: tuple[Calibration, list[Measured]],
) -> None:
    board, _ = opened(UNTRIMMED, 3)
    with board:
        msgspec.structs.replace(untrimmed[0], temperature_C=None).check(board)


# --- the commands --------------------------------------------------------------------------------

BOARD = ("--board", "emu-uncalibrated")
FEW = ("--samples", "510", "--products", "2048")


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def test_the_command_says_what_it_brought_and_keeps_it_for_the_chip(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    plot = at_home / "plot.png"
    assert run(["calibrate", *BOARD, *FEW, "--json", "--plot", str(plot)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "cimctl.calibrate/1"
    assert said["reached"] and len(said["tiles"]) == 8
    one = said["tiles"][0]
    assert (one["tile"], one["kind"], one["lines"]) == (0, "pairs", 32)
    assert one["before"]["lasting"] / one["after"]["lasting"] > 10
    assert len(one["after"]["by_line"]) == 32
    name = f"emu-uncalibrated-{said['board_id']}.json"
    kept = at_home / "data" / "cimctl" / "calibrations" / name
    assert Path(said["out"]) == kept and len(record.load(kept).lines) == 8
    assert plot.read_bytes().startswith(b"\x89PNG")

    assert run(["calibrate", *BOARD, *FEW, "--tile", "1"]) == 2
    assert "holds other tiles too" in capsys.readouterr().err
    assert len(record.load(kept).lines) == 8


def test_vmm_takes_the_errors_out(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, inputs = at_home / "it.json", at_home / "inputs.csv"
    codes = np.random.default_rng(3).integers(0, 256, 64)
    np.savetxt(inputs, np.tile(codes, (400, 1)), fmt="%d", delimiter=",")
    assert run(["calibrate", *BOARD, "--tile", "2", "--out", str(out)]) == 0
    assert "fell by a factor of" in capsys.readouterr().out
    answers = []
    for board, more in (("emu-uncalibrated", ()), ("emu-uncalibrated", (f"--calibrated={out}",)),
                        ("emu", ())):  # fmt: skip
        options = ["--board", board, "--tile", "2", "--span", "40", "--input", str(inputs)]
        assert run(["vmm", *options, "--json", *more]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["calibrated"] == bool(more)
        answers.append(np.mean(said["codes"], axis=0))
    raw, corrected, even = answers
    assert np.sqrt(((raw - even) ** 2).mean()) > 3
    assert np.sqrt(((corrected - even) ** 2).mean()) < 0.4

    options = ["--tile", "2", "--input", str(inputs), "--calibrated", str(out)]
    assert run(["vmm", *BOARD, *options, "--seed", "5"]) == 2
    assert "another board id" in capsys.readouterr().err
    assert run(["vmm", *BOARD, *options, "--max-age", "0"]) == 2
    assert "days old" in capsys.readouterr().err
    assert run(["vmm", *BOARD, *options[:-1]]) == 2
    assert "There is no calibration" in capsys.readouterr().err


def test_a_pattern_is_written_over_a_port_only_where_somebody_agrees(
    serve_emulator: ServeEmulator, capsys: pytest.CaptureFixture[str]
) -> None:
    port, _ = serve_emulator("--board", "emu-uncalibrated")
    command = ["calibrate", *BOARD, *FEW, "--port", port, "--tile", "0", "--program"]
    assert run(command) == 2
    assert "All cells of tile 0 get a random pattern" in capsys.readouterr().err
    assert run([*command, "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # The whole window instead of the share that fresh cells are in: products are larger.
    assert said["tiles"][0]["span_uA"] > 22 and said["reached"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tile", "4"), "has tiles 0 to 3, not '4'"),
        (("--tile", "x"), "has tiles 0 to 3, not 'x'"),
        (("--span", "1"), "span is 2 to 280 uA"),
        (("--span", "280", "--tile", "0"), "Give a smaller --span"),
    ],
)
def test_senseless_options_are_told(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["calibrate", *BOARD, *FEW, *options]) == 2
    assert said in capsys.readouterr().err


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_management", ["auto", "max"])
def test_layers_of_a_training_are_corrected(
    noise_management: str,
    untrimmed: tuple[Calibration, list[Measured]],
    at_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the weights were read as is what products are judged by.
    monkeypatch.setattr("cimctl.analog.layers.INITIAL_SAMPLES", 255)
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(60, 10))
    inputs = torch.rand(2000, 60)
    wrong = {}
    for wish in ("off", "on"):
        board, _ = opened(UNTRIMMED, 3)
        record.save(record.usual_path(board), untrimmed[0])
        values = {"calibration": wish, "noise_management": noise_management}
        with board:
            model = convert(plain, board, from_values(values))
            read_weights(model, 1.2)
            layer = model.eval()[0]
            layer(inputs)
            error = layer(inputs) - torch.nn.functional.linear(
                inputs, layer.weight * layer.scale, layer.bias
            )
            wrong[wish] = float(error.detach().mean(0).square().mean().sqrt())
    # The mean error of a line is its offset above all; noise averages out over the vectors.
    assert wrong["on"] < 0.3 * wrong["off"]


def test_training_without_the_wanted_calibration_ends_before_it_begins(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["train", "lenet", "--board", "emu-uncalibrated", "--set", "calibration=on"])
    assert code == 2
    assert "There is no calibration" in capsys.readouterr().err
