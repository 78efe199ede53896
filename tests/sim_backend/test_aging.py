"""Time: drift, retention and diffusion, and WAIT on the wire."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from boards import device_settings
from boards.board import Board
from boards.catalogue import load
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from boards.profile import Profile
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

HOUR = 3_600_000_000_000
CELLS = np.arange(65536)
QUIET = {"read_noise_uS": 0.0, "adc_noise_lsb": 0.0, "device_variation": 0.0,
         "cycle_variation": 0.0}  # fmt: skip


def pcm(stuck: float = 0.0, **aging: float) -> Profile:
    """The phase-change profile without noise, with another way to age."""
    base = load("pcm")
    device = msgspec.structs.replace(base.device, aging=device_settings.Aging(**aging))
    faults = msgspec.structs.replace(base.imperfections, **QUIET, stuck_fraction=stuck)
    return msgspec.structs.replace(base, device=device, imperfections=faults)


def written(profile: Profile, seed: int = 0) -> Chip:
    """A chip whose first tile was just written to conductances from 5 to 20 uS."""
    chip = Chip(profile, seed)
    values = np.linspace(profile.units(5), profile.units(20), 65536).astype(np.uint16)
    chip.load(0, CELLS, values)
    return chip


def test_drift_follows_its_power_law_from_the_moment_of_writing() -> None:
    chip = written(pcm(drift_exponent=0.05, drift_start_s=20.0))
    before = chip.cells.conductances[0].astype(float)
    for waited, age in ((10, 20.0), (190, 200.0), (19_800, 20_000.0)):
        chip.wait(waited * 1_000_000_000)
        expected = before * (age / 20.0) ** -0.05
        assert np.abs(chip.cells.conductances[0] - expected).max() <= 1.0, age


def test_waiting_in_parts_is_waiting_at_once() -> None:
    aging = {"drift_exponent": 0.05, "drift_variation": 0.02, "retention_s": 1e5, "rest_uS": 1.0}
    whole, parts = written(pcm(**aging)), written(pcm(**aging))
    whole.wait(10 * HOUR)
    for share in (1, 2, 3, 4):
        parts.wait(share * HOUR)
    apart = whole.cells.conductances[0].astype(int) - parts.cells.conductances[0]
    # Drift and relaxation take turns in another rhythm; each by itself composes exactly.
    assert np.abs(apart).max() < 0.01 * 65535
    for only in ({"drift_exponent": 0.05, "drift_variation": 0.02}, {"retention_s": 1e5}):
        whole, parts = written(pcm(**only)), written(pcm(**only))
        whole.wait(10 * HOUR)
        for share in (1, 2, 3, 4):
            parts.wait(share * HOUR)
        apart = whole.cells.conductances[0].astype(int) - parts.cells.conductances[0]
        assert np.abs(apart).max() <= 1


def test_exponents_of_cells_spread_and_are_never_negative() -> None:
    chip = written(pcm(drift_exponent=0.05, drift_variation=0.02, drift_start_s=1.0))
    before = chip.cells.conductances[0].astype(float)
    chip.wait(HOUR)
    nu = -np.log(chip.cells.conductances[0] / before) / math.log(3600)
    assert nu.mean() == pytest.approx(0.05, abs=5 * 0.02 / 256 + 1e-4)
    assert nu.std() == pytest.approx(0.02, rel=0.02)
    assert nu.min() > -1e-4


def test_a_cell_written_again_starts_to_drift_anew() -> None:
    chip = written(pcm(drift_exponent=0.1, drift_start_s=1.0))
    chip.wait(HOUR)
    fresh = np.array([7, 8])
    chip.load(0, fresh, np.array([30000, 30000], dtype=np.uint16))
    old = chip.cells.conductances[0, 100].astype(float)
    chip.wait(HOUR)
    assert np.allclose(chip.cells.conductances[0, fresh], 30000 * 3600**-0.1, atol=1)
    assert chip.cells.conductances[0, 100] == pytest.approx(old * 2**-0.1, abs=1)


def test_retention_relaxes_to_the_resting_state() -> None:
    chip = written(pcm(retention_s=3600.0, rest_uS=2.0))
    rest = 2.0 * 65535 / 40
    before = chip.cells.conductances[0].astype(float)
    chip.wait(HOUR)
    assert np.allclose(chip.cells.conductances[0], rest + (before - rest) / math.e, atol=1)
    chip.wait(100 * HOUR)
    assert np.allclose(chip.cells.conductances[0], rest, atol=1)


def test_diffusion_grows_with_the_root_of_time() -> None:
    chip = written(pcm(diffusion_uS=0.01))
    before = chip.cells.conductances[0].astype(float)
    scale = 40 / 65535
    chip.wait(100 * 1_000_000_000)
    first = (chip.cells.conductances[0] - before) * scale
    assert first.std() == pytest.approx(0.1, rel=5 / math.sqrt(2 * 65536))
    chip.wait(300 * 1_000_000_000)
    second = (chip.cells.conductances[0] - before) * scale
    assert second.std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * 65536))


def test_stuck_cells_do_not_age() -> None:
    chip = written(pcm(stuck=0.5, drift_exponent=0.1, diffusion_uS=0.1))
    stuck = chip.cells.stuck[0] == 1
    before = chip.cells.conductances[0].copy()
    chip.wait(HOUR)
    assert np.array_equal(chip.cells.conductances[0][stuck], before[stuck])
    assert (chip.cells.conductances[0][~stuck] != before[~stuck]).mean() > 0.9


def test_a_device_that_keeps_its_state_lets_time_pass_unmoved() -> None:
    chip = Chip(load("rpu-baseline"), 0)
    before = chip.cells.conductances.copy()
    chip.wait(1000 * HOUR)
    assert np.array_equal(chip.cells.conductances, before)
    assert chip.time_ns() >= 1000 * HOUR


def test_the_bulk_rram_may_age_too() -> None:
    base = load("emu")
    aging = device_settings.Aging(drift_exponent=0.05)
    profile = msgspec.structs.replace(
        base, device=msgspec.structs.replace(base.device, aging=aging)
    )
    chip = Chip(profile, 0)
    before = chip.cells.conductances[0].astype(float)
    chip.wait(HOUR)
    assert np.abs(chip.cells.conductances[0] - before * 3600**-0.05).max() <= 1
    chip.program(0, np.arange(10), np.full(10, 30000, np.uint16), tolerance=800, cycles=2)
    assert (chip.cells.hidden[0, :10] == 0).all()


def test_finer_states_and_times_of_writing_survive_snapshot_and_file(tmp_path: Path) -> None:
    profile = pcm(drift_exponent=0.05)
    path = tmp_path / "cells"
    with Board(profile, InProcessLink(Firmware(Chip(profile, 1, path)))) as board:
        board.configure(0, board.gain_range[0])
        index = np.arange(50)
        board.tiles[0].pulse(index, index, np.full(50, 7), set_mV=1000, reset_mV=1000, width_ns=100)
        assert board.wait(3600) >= 3600
        kept = board.snapshot()
        board.tiles[0].pulse(index, index, np.full(50, 3), set_mV=1000, reset_mV=1000, width_ns=100)
        later = board.tiles[0].read()
        board.restore(kept)
        assert board.status().waited == HOUR
        board.tiles[0].pulse(index, index, np.full(50, 3), set_mV=1000, reset_mV=1000, width_ns=100)
        assert np.array_equal(board.tiles[0].read(), later)
    again = Chip(profile, 1, path)
    assert again.cells.written[0].max() >= HOUR
    assert np.abs(again.cells.hidden[0]).max() > 0


def test_a_board_without_emulated_time_says_so() -> None:
    native = load("native")
    with (
        Board(native, InProcessLink(Firmware(Chip(native, 0)))) as board,
        pytest.raises(UnsupportedError, match="cannot be advanced"),
    ):
        board.wait(1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e18])
def test_a_time_that_cannot_pass_is_refused(seconds: float) -> None:
    profile = load("pcm")
    with (
        Board(profile, InProcessLink(Firmware(Chip(profile, 0)))) as board,
        pytest.raises(UsageError, match="more than 0"),
    ):
        board.wait(seconds)
