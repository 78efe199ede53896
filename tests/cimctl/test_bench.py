"""cimctl bench: what it measures, what it refuses, and that a board's cells are as before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from boards import catalogue
from boards.board import Board
from boards.links import InProcessLink
from cimctl.bench import keep, update
from cimctl.bench.turns import Effort, take_turns
from cimctl.cli.root import run
from cimctl.connect import BoardOptions, connect
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["bench", *arguments, "--turns", "2", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == f"cimctl.bench.{arguments[0]}/1"
    return found


def without_snapshot() -> Board:
    """A board that offers none, as silicon."""
    profile = catalogue.load("emu")
    kept = tuple(c for c in profile.chip.capabilities if c != "SNAPSHOT")
    chip = msgspec.structs.replace(profile.chip, capabilities=kept)
    profile = msgspec.structs.replace(profile, chip=chip)
    return Board(profile, InProcessLink(Firmware(Chip(profile, 0))))


@pytest.mark.parametrize("board", ["emu", "cap-imc-16nm"])
def test_a_link_is_measured_whatever_the_chip(
    board: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(capsys, "link", "--board", board)
    assert 0 < found["round_trip"]["p10"] <= found["round_trip"]["median"] < 1
    assert found["throughput"]["median"] > 0 and found["window"] == 8
    assert 1 < found["overhead"] < 1.02


def test_products_of_one_tile_and_of_several_are_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = measured(capsys, "vmm", "--board", "emu")["products"]
    assert [(row["shape"], row["batch"]) for row in rows] == [
        ([64, 32], 64), ([64, 32], 4096), ([256, 32], 64), ([256, 32], 4096),
    ]  # fmt: skip
    for row, blocks in zip(rows, (1, 1, 4, 4), strict=True):
        # Each block of rows is converted by itself.
        ratio = row["conversions"]["median"] / row["vectors"]["median"]
        assert ratio == pytest.approx(32 * blocks)
        assert row["over_matmul"]["median"] > 0 and row["link_share"]["median"] > 0


def test_training_is_compared_with_plain_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, "train", "--board", "emu")
    assert found["algorithm"] == "mixed-precision"
    assert found["over_fp32"]["median"] > 1 and found["writes"] > 0
    # 4.75 kB an image and its frames (docs/training.md), reading the chip first apart.
    assert 4500 < found["link_bytes"] < 7000


def test_updates_count_the_pulses_of_the_chip(capsys: pytest.CaptureFixture[str]) -> None:
    pulses, outer = measured(capsys, "update", "--board", "rpu-large")["updates"]
    # A cell of the first kind gets one pulse an update.
    assert pulses["pulses"]["median"] == pytest.approx(1024 * pulses["updates"]["median"])
    assert outer["kind"] == "rank one" and outer["pulses"]["median"] > outer["updates"]["median"]
    assert 1 <= outer["slots"] <= 31


def test_a_board_without_pulses_refuses_updates(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "update", "--board", "cap-imc-16nm"]) == 2
    said = capsys.readouterr().err
    assert "takes no updates by pulses (PULSE)" in said and "Nothing was changed" in said


def test_an_algorithm_that_needs_no_chip_is_not_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["bench", "train", "--board", "emu", "--algorithm", "fp32"]) == 2
    assert "Known: mixed-precision" in capsys.readouterr().err


@pytest.mark.parametrize("work", ["update", "train"])
def test_a_board_on_a_port_is_asked_for_before_its_cells_change(
    work: str, serve_emulator: Callable[..., tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = serve_emulator("--board", "brram-soc")
    place = ["--board", "brram-soc", "--port", address]
    assert run(["bench", work, *place, "--turns", "1"]) == 2
    said = capsys.readouterr().err
    assert "pulses" in said and "--yes" in said and "The board was not touched" in said
    with connect(BoardOptions("brram-soc", address)) as board:
        assert board.status().operations == 0
    assert run(["bench", work, *place, "--turns", "1", "--yes"]) == 0
    assert "programmed back" in capsys.readouterr().out


def test_a_snapshot_brings_every_cell_and_its_noise_back() -> None:
    with connect(BoardOptions("emu")) as untouched:
        untouched.power_up()
        before = untouched.tiles[0].read()
    with connect(BoardOptions("emu")) as board:
        with keep.kept(board, keep.way_back(board, None)):
            update.measure(board, Effort(2))
            assert board.status().set_pulses > 0
        assert board.status().set_pulses == 0
        board.power_up()
        assert np.array_equal(board.tiles[0].read(), before)


def test_programming_brings_cells_back_within_their_tolerance() -> None:
    with without_snapshot() as board:
        assert keep.way_back(board, None) == "nothing"
        way = keep.way_back(board, "/dev/ttyUSB0")
        assert way == "programming"
        board.power_up()
        tile = board.tiles[0]
        before = tile.read(samples=64).astype(int)
        with keep.kept(board, way):
            update.measure(board, Effort(2))
            rows, columns = np.divmod(np.arange(400), 64)
            tile.pulse(rows, columns, np.full(400, 9), set_mV=2500, reset_mV=2500, width_ns=100)
            moved = np.abs(tile.read(samples=64).astype(int) - before)
        left = np.abs(tile.read(samples=64).astype(int) - before)
        other = board.tiles[1].read(samples=64)
    # Write-verify leaves the chip's own programming error.
    sigma = board.profile.units(board.profile.imperfections.programming_error_uS)
    assert np.median(moved.reshape(-1)[:400]) > 3 * sigma
    assert np.median(left.reshape(-1)[:400]) < 1.5 * sigma
    assert np.quantile(left, 0.99) < 5 * sigma
    assert other.any()


def test_pulses_said_beforehand_are_an_upper_bound() -> None:
    with connect(BoardOptions("rpu-large")) as board:
        most = update.most_pulses(board, 2)
        update.measure(board, Effort(2))
        status = board.status()
    given = status.set_pulses + status.reset_pulses
    assert 0.8 * most < given <= most


def test_a_measurement_ends_with_its_time_but_not_before_a_turn() -> None:
    heard: list[int] = []
    start = time.monotonic()
    found = take_turns(
        {"sleep": lambda: time.sleep(0.01)},
        10000,
        effort=Effort(10000, 0.1, lambda: heard.append(1)),
    )
    assert time.monotonic() - start < 5
    assert 1 <= len(heard) == len(found.wall["sleep"]) < 20
    assert len(take_turns({"a": int}, 5, effort=Effort(5, 0.0)).wall["a"]) == 1


@pytest.mark.parametrize("in_flight", [1, 3, 64, None])
def test_round_trips_keep_to_their_number_in_flight(in_flight: int | None) -> None:
    with connect(BoardOptions("emu")) as board:
        before = board.statistics.frames
        board.ping(b"\0U", 20, in_flight)
        assert board.statistics.frames - before == 40
