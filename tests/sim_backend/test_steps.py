"""Devices that move by a step a pulse: equations, spreads, noises, write-verify."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from boards import device_settings
from boards.catalogue import load
from boards.profile import Profile
from sim_backend import steps_numpy
from sim_backend.chip import Chip
from sim_backend.steps import Steps, drive_of, mean_step

PULSE = {"amplitude_mV": 1000, "width_ns": 100, "threshold_mV": 400}
MODELS: dict[str, dict[str, Any]] = {
    "constant-step": {},
    "linear-step": {"slope": [0.3, 0.6], "slope_variation": [0.1, 0.2]},
    "soft-bounds": {},
    "soft-bounds-reference": {"reference": 0.1, "reference_variation": 0.05},
    "exponential-step": {"amplitude": [0.4, 0.2], "exponent": [1.5, 2.0], "scale": 0.7,
                         "shift": 0.1},
    "power-step": {"exponent": 1.4, "exponent_variation": 0.1, "exponent_asymmetry": 0.1},
    "piecewise-step": {"up": [1.5, 1.0, 0.2], "down": [0.1, 0.7, 1.3]},
    "phase-change": {},
}  # fmt: skip
SPREAD = {"bound_variation": [0.2, 0.3], "asymmetry": 0.1, "asymmetry_variation": 0.05}
QUIET = {"read_noise_uS": 0.0, "programming_error_uS": 0.0, "adc_noise_lsb": 0.0,
         "device_variation": 0.0, "cycle_variation": 0.0, "stuck_fraction": 0.0}  # fmt: skip
CELLS = np.arange(4096)
#: a chip is found at the 16-bit conductance nearest to weight 0
START = 4e-5


def profile(
    model: str, parameters: dict[str, Any] | None = None, **imperfections: float
) -> Profile:
    """The emulated SoC with another device: weight 0 at 20 uS, 10 uS a unit of weight."""
    base = load("emu")
    device = {
        "model": model, "low_uS": 10, "high_uS": 30, "initial_uS": [20, 20], "bounds": [-1, 1],
        "step": 0.02, "pulse": PULSE, **MODELS[model], **(parameters or {}),
    }  # fmt: skip
    faults = msgspec.structs.replace(base.imperfections, **(QUIET | imperfections))
    return msgspec.structs.replace(
        base, device=device_settings.decode(device), imperfections=faults
    )


def train(chip: Chip, count: int, tile: int = 0) -> None:
    """``count`` nominal pulses to every cell of a tile, downwards where negative."""
    chip.pulse(
        tile, CELLS, np.full(4096, count, dtype=np.int16),
        set_amplitude=1000, reset_amplitude=1000, width=100,
    )  # fmt: skip


def weights(chip: Chip, tile: int = 0) -> np.ndarray[Any, Any]:
    """The devices' own states."""
    unit = 65535 / chip.profile.chip.conductance_full_scale_uS
    g = chip.cells.conductances[tile] + chip.cells.hidden[tile]
    return (g / unit - 20) / 10


def noisy(model: str, **parameters: Any) -> Profile:
    """Every spread and noise at once."""
    return profile(
        model, SPREAD | parameters, read_noise_uS=0.3, programming_error_uS=0.2, adc_noise_lsb=1.0,
        device_variation=0.4, cycle_variation=0.6, stuck_fraction=0.1,
    )  # fmt: skip


def array_of(chip: Chip, cells: np.ndarray[Any, Any]) -> steps_numpy.Array:
    device, c = chip.device, chip.cells
    assert isinstance(device, Steps)
    return steps_numpy.Array(
        c.conductances[0], c.hidden[0], c.pulses[0], c.stuck[0], cells, device._law,
        device._own[0], device._table, device._keys[0], int(c.positions[0]),
    )  # fmt: skip


@pytest.mark.parametrize("cycle_noise", ["additive", "multiplicative"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_pulses_are_the_oracles_bit_for_bit(model: str, cycle_noise: str) -> None:
    made = noisy(model, cycle_noise=cycle_noise, write_noise=2.0)
    compiled, plain = Chip(made, 3), Chip(made, 3)
    generator = np.random.default_rng(1)
    for round_ in range(3):
        cells = generator.permutation(4096)[:700]
        counts = generator.integers(-30, 31, cells.size).astype(np.int16)
        compiled.pulse(0, cells, counts, set_amplitude=1100, reset_amplitude=900, width=90)
        device = plain.device
        assert isinstance(device, Steps)
        drives = [drive_of(device._device.pulse, v, 90) for v in (1100, 900)]
        steps_numpy.pulse(array_of(plain, cells), counts, drives[0], drives[1])
        for name in ("conductances", "hidden", "pulses"):
            ours, theirs = getattr(compiled.cells, name), getattr(plain.cells, name)
            assert np.array_equal(ours, theirs), (round_, name)


@pytest.mark.parametrize("model", MODELS)
def test_compiled_write_verify_is_the_oracles_bit_for_bit(model: str) -> None:
    made = noisy(model, write_noise=1.0)
    compiled, plain = Chip(made, 4), Chip(made, 4)
    generator = np.random.default_rng(2)
    for _ in range(2):
        cells = generator.permutation(4096)[:60]
        targets = generator.integers(16384, 49152, cells.size).astype(np.uint16)
        outcome, readings = compiled.program(0, cells, targets, tolerance=500, cycles=2)
        theirs = np.empty_like(readings)
        device = plain.device
        assert isinstance(device, Steps)
        array = array_of(plain, cells)
        assert steps_numpy.program(array, device._law, targets, 500, 2, theirs) == outcome
        assert np.array_equal(readings, theirs)
        for name in ("conductances", "hidden", "pulses"):
            assert np.array_equal(getattr(compiled.cells, name), getattr(plain.cells, name)), name


@pytest.mark.parametrize("model", MODELS)
def test_pulses_in_one_command_and_one_by_one_are_the_same(model: str) -> None:
    at_once, singly = Chip(noisy(model), 5), Chip(noisy(model), 5)
    train(at_once, 17)
    for _ in range(17):
        train(singly, 1)
    assert np.array_equal(at_once.cells.conductances, singly.cells.conductances)
    assert np.allclose(at_once.cells.hidden, singly.cells.hidden, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_a_device_without_spread_follows_the_mean_step(model: str) -> None:
    plain = {k: [0, 0] for k in ("slope_variation",) if k in MODELS[model]}
    plain |= {k: 0 for k in ("exponent_variation", "reference_variation") if k in MODELS[model]}
    made = profile(model, plain)
    chip = Chip(made, 0)
    device = made.device
    assert isinstance(device, device_settings.StepSettings)
    w = 0.0
    for count in (12, -25, 30, -8):
        for _ in range(abs(count)):
            w += float(mean_step(device, np.array([w]), count > 0)[0])
        train(chip, count)
        assert np.allclose(weights(chip), w, atol=START), count


def test_soft_bounds_approach_their_bound_by_a_constant_share() -> None:
    chip = Chip(profile("soft-bounds"), 0)
    train(chip, 40)
    assert np.allclose(weights(chip), 1 - 0.98**40, atol=START)
    train(chip, -30)
    assert np.allclose(weights(chip), (2 - 0.98**40) * 0.98**30 - 1, atol=START)


def test_a_linear_step_with_slope_1_is_a_soft_bound_and_with_slope_0_a_constant_step() -> None:
    none = {"slope_variation": [0, 0]}
    for slope, other in ((1.0, "soft-bounds"), (0.0, "constant-step")):
        linear = Chip(profile("linear-step", none | {"slope": [slope, slope]}), 0)
        alike = Chip(profile(other), 0)
        for count in (20, -35):
            train(linear, count)
            train(alike, count)
            assert np.allclose(weights(linear), weights(alike), atol=START)


def test_exponential_and_power_steps_have_their_printed_form() -> None:
    exponential = profile("exponential-step").device
    power = profile("power-step", {"exponent_asymmetry": 0}).device
    w = np.linspace(-0.95, 0.95, 7)
    z = w * 0.7 + 0.1
    assert isinstance(exponential, device_settings.StepSettings)
    assert isinstance(power, device_settings.StepSettings)
    assert np.allclose(
        mean_step(exponential, w, True), 0.02 * np.maximum(0, 1 - 0.4 * np.exp(1.5 * z))
    )
    assert np.allclose(mean_step(exponential, w, False), -0.02 * (1 - 0.2 * np.exp(-2 * z)))
    assert np.allclose(mean_step(power, w, True), 0.02 * ((1 - w) / 2) ** 1.4)
    assert np.allclose(mean_step(power, w, False), -0.02 * ((1 + w) / 2) ** 1.4)


def test_a_piecewise_step_reads_its_table_linearly() -> None:
    device = profile("piecewise-step").device
    assert isinstance(device, device_settings.StepSettings)
    w = np.array([-1.0, -0.5, 0.0, 0.5, 0.9])
    assert np.allclose(mean_step(device, w, True) / 0.02, [1.5, 1.25, 1.0, 0.6, 0.28])
    ends = mean_step(device, np.array([1.0, -0.5]), False) / -0.02
    assert np.allclose(ends, [1.3, 0.4])


def test_steps_and_bounds_of_devices_spread_as_asked() -> None:
    made = profile("constant-step", {"bound_variation": [0.1, 0.2], "step": 0.05},
                   device_variation=0.3)  # fmt: skip
    chip = Chip(made, 1)
    train(chip, 2)
    up = weights(chip) / 2
    assert up.mean() == pytest.approx(0.05, rel=5 * 0.3 / 64)
    assert up.std() / 0.05 == pytest.approx(0.3, rel=5 / math.sqrt(2 * 4096))
    train(chip, 1000)
    top = weights(chip)
    assert top.std() == pytest.approx(0.2, rel=0.06)
    train(chip, -1000)
    assert weights(chip).std() == pytest.approx(0.1, rel=0.06)
    assert abs(np.corrcoef(top, weights(chip))[0, 1]) < 5 / 64


def test_a_log_normal_step_has_a_normal_logarithm() -> None:
    made = profile("constant-step", {"step_distribution": "log-normal"}, device_variation=0.4)
    chip = Chip(made, 1)
    train(chip, 1)
    logarithm = np.log(weights(chip) / 0.02)
    assert logarithm.mean() == pytest.approx(0, abs=5 * 0.4 / 64)
    assert logarithm.std() == pytest.approx(0.4, rel=5 / math.sqrt(2 * 4096))


def test_asymmetry_weakens_one_direction_and_its_spread_sets_them_apart() -> None:
    chip = Chip(profile("constant-step", {"asymmetry": 0.2, "asymmetry_variation": 0.1}), 1)
    train(chip, 1)
    up = weights(chip) / 0.02
    train(chip, -1)
    down = up - weights(chip) / 0.02
    assert up.mean() == pytest.approx(1.0, abs=5 * 0.1 / 64)
    assert down.mean() == pytest.approx(0.8, abs=5 * 0.1 / 64)
    assert (up - down).std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * 4096))
    assert np.allclose(up + down, 1.8, atol=2 * START / 0.02)


@pytest.mark.parametrize(
    ("cycle_noise", "start", "spread"),
    [("multiplicative", 0.0, 1.0), ("additive", 0.0, 1.0), ("multiplicative", 0.5, 0.5),
     ("additive", 0.5, 1.0)],
)  # fmt: skip
def test_cycle_noise_scales_with_the_step_or_stands_by_itself(
    cycle_noise: str, start: float, spread: float
) -> None:
    made = profile("soft-bounds", {"cycle_noise": cycle_noise}, cycle_variation=0.3)
    chip = Chip(made, 1)
    unit = 65535 / 40
    chip.load(0, CELLS, np.full(4096, round((20 + 10 * start) * unit), dtype=np.uint16))
    before = weights(chip).copy()
    train(chip, 1)
    moved = (weights(chip) - before) / 0.02
    assert moved.mean() == pytest.approx(1 - start, abs=5 * 0.3 * spread / 64 + 1e-3)
    assert moved.std() == pytest.approx(0.3 * spread, rel=5 / math.sqrt(2 * 4096))


def test_a_pulse_moves_by_its_drive_above_threshold_and_its_width() -> None:
    made = profile("constant-step")
    for amplitude, width, drive in (
        (1000, 100, 1),
        (700, 100, 0.5),
        (1300, 50, 0.75),
        (400, 100, 0),
    ):
        chip = Chip(made, 0)
        chip.pulse(0, CELLS, np.full(4096, 3, dtype=np.int16), set_amplitude=amplitude,
                   reset_amplitude=1000, width=width)  # fmt: skip
        assert np.allclose(weights(chip), 3 * 0.02 * drive, atol=START)
        assert (chip.cells.pulses[0] == 3).all()


def test_write_noise_is_seen_and_leaves_the_state_alone() -> None:
    quiet, loud = (
        Chip(profile("soft-bounds"), 1),
        Chip(profile("soft-bounds", {"write_noise": 5}), 1),
    )
    for chip in (quiet, loud):
        train(chip, 10)
    assert np.allclose(weights(quiet), weights(loud), atol=START)
    apart = (loud.cells.conductances[0].astype(float) - quiet.cells.conductances[0]) * 40 / 65535
    assert apart.std() / 10 == pytest.approx(0.1, rel=5 / math.sqrt(2 * 4096))


def test_alternating_pulses_bring_soft_bounds_to_their_symmetry_point() -> None:
    parameters = {"asymmetry_variation": 0.2, "step": 0.05, "subtract_symmetry_point": True,
                  "reference": 0, "reference_variation": 0}  # fmt: skip
    plain = {"asymmetry_variation": 0.2, "step": 0.05}
    apart = Chip(profile("soft-bounds", plain), 1)
    shifted = Chip(profile("soft-bounds-reference", parameters), 1)
    for chip in (apart, shifted):
        for _ in range(200):
            train(chip, 1)
            train(chip, -1)
    assert weights(apart).std() > 0.1
    # Half a step remains of a device that has just moved down.
    assert np.abs(weights(shifted)).max() < 0.05


def test_a_reset_pulse_melts_a_phase_change_cell_at_once() -> None:
    chip = Chip(profile("phase-change", {"bounds": [0, 2], "initial_uS": [10, 10]}), 0)
    unit = 65535 / 40
    train(chip, 60)
    assert np.allclose(chip.cells.conductances[0] / unit, 10 + 20 * (1 - 0.99**60), atol=0.01)
    train(chip, -1)
    assert np.allclose(chip.cells.conductances[0] / unit, 10, atol=0.01)


def test_stuck_cells_count_their_pulses_and_stay() -> None:
    chip = Chip(profile("constant-step", stuck_fraction=0.3), 2)
    train(chip, 5)
    stuck = chip.cells.stuck[0] == 1
    assert 0.2 < stuck.mean() < 0.4
    assert np.allclose(weights(chip)[stuck], 0, atol=1e-4)
    assert np.allclose(weights(chip)[~stuck], 0.1, atol=START)
    assert (chip.cells.pulses[0] == 5).all()


@pytest.mark.parametrize("model", MODELS)
def test_write_verify_ends_within_the_tolerance_where_the_device_can(model: str) -> None:
    if model == "phase-change":
        pytest.skip("its RESET leaves only the low state: see the test of the profile pcm")
    chip = Chip(profile(model, {"step": 0.01}), 1)
    targets = (
        np.random.default_rng(0)
        .integers(chip.profile.units(14), chip.profile.units(26), 4096)
        .astype(np.uint16)
    )
    tolerance = chip.profile.units(0.12)
    outcome, readings = chip.program(0, CELLS, targets, tolerance=tolerance, cycles=3)
    assert outcome.unconverged == 0
    assert np.abs(readings.astype(int) - targets).max() <= tolerance
    assert int(chip.cells.pulses[0].sum()) == outcome.set_pulses + outcome.reset_pulses


def test_write_verify_never_gives_more_pulses_than_it_says() -> None:
    chip = Chip(profile("constant-step", stuck_fraction=1.0), 0)
    for cycles in (1, 3):
        before = chip.cells.pulses[0].copy()
        chip.program(0, CELLS, np.full(4096, 16384, dtype=np.uint16), tolerance=1, cycles=cycles)
        given = int((chip.cells.pulses[0] - before).max())
        assert 0 < given <= chip.device.worst_case_pulses(cycles)


@pytest.mark.parametrize(
    "name", ["rpu-baseline", "rpu-large", "softbounds-20", "reram-softbounds", "ecram", "pcm"]
)
def test_the_profiles_of_the_fields_devices_reach_what_they_are_programmed_to(name: str) -> None:
    made = load(name)
    chip = Chip(made, 0)
    low, high = (made.units(g) for g in made.programming.window_uS)
    cells = np.random.default_rng(1).permutation(65536)[:300]
    quarter = (high - low) // 4
    targets = np.random.default_rng(2).integers(low + quarter, high - quarter, 300)
    tolerance = made.units(made.programming.tolerance_uS)
    outcome, _ = chip.program(0, cells, targets.astype(np.uint16), tolerance=tolerance,
                              cycles=made.programming.cycles_characterising)  # fmt: skip
    # Devices whose own bounds end before the target cannot reach it.
    assert outcome.unconverged <= 300 * (0.02 if name != "reram-softbounds" else 0.05)


def test_a_package_outside_adds_a_model_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_memory.py").write_text(
        "from boards.device_settings import DeviceSettings\n"
        "from sim_backend.ideal_steps import IdealSteps\n"
        "class Settings(DeviceSettings, frozen=True, kw_only=True, tag='their-memory'):\n"
        "    flavour: float\n"
        "class Theirs(IdealSteps):\n"
        "    pass\n"
        "class Model:\n"
        "    Settings = Settings\n"
        "    build = staticmethod(Theirs)\n"
    )
    info = tmp_path / "their_memory-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-memory\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cimctl.device_models]\ntheir-memory = their_memory:Model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    path = tmp_path / "theirs.yaml"
    path.write_text("name: theirs\nextends: emu\ndevice: {model: their-memory, flavour: 3}\n")
    made = load(str(path))
    assert made.device.model == "their-memory"
    assert type(Chip(made, 0).device).__name__ == "Theirs"
    sys.modules.pop("their_memory", None)
