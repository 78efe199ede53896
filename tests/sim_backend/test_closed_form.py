"""Updates in closed form and pulse by pulse: the oracle's bits, and the moments of both."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import device_settings
from boards.catalogue import load
from boards.errors import UsageError
from boards.profile import Profile
from sim_backend import steps_numpy
from sim_backend.chip import Chip
from sim_backend.outer import Trains, totals, totals_numpy
from sim_backend.steps import Steps, drive_of

SIDE = 100
CELLS = np.arange(SIDE * SIDE)
MODELS: dict[str, dict[str, Any]] = {
    "constant-step": {},
    "linear-step": {"slope": [0.3, 0.6], "slope_variation": [0.05, 0.05]},
    "soft-bounds": {},
    "soft-bounds-reference": {"reference": 0.1, "reference_variation": 0.05},
}
NOISE = [("multiplicative", 0.3), ("multiplicative", 1.5), ("additive", 0.3), ("additive", 2.0)]


def profile(model: str, pulses: str, device_variation: float = 0.3, **changes: Any) -> Profile:
    """10,000 devices a tile, with the baseline's spreads unless told otherwise."""
    base = load("rpu-baseline")
    values = {
        "model": model, "low_uS": 30.0, "high_uS": 70.0, "initial_uS": [50.0, 50.0],
        "bounds": [-1, 1], "bound_variation": [0.2, 0.2], "step": 0.01, "asymmetry_variation": 0.05,
        "pulse": {"amplitude_mV": 1000, "width_ns": 1}, "pulses": pulses, **MODELS[model],
    }  # fmt: skip
    faults = {"device_variation": device_variation, "cycle_variation": 0.3, "stuck_fraction": 0.0}
    for key in faults:
        faults[key] = changes.pop(key, faults[key])
    chip = msgspec.structs.replace(
        base.chip, tiles=1, rows=SIDE, columns=SIDE, conductance_full_scale_uS=100.0
    )
    return msgspec.structs.replace(
        base, chip=chip, device=device_settings.decode(values | changes),
        imperfections=msgspec.structs.replace(base.imperfections, **faults),
    )  # fmt: skip


def trains(updates: int, length: int, share: float, rows: int = SIDE, seed: int = 0) -> Trains:
    generator = np.random.default_rng(seed)
    found = []
    for lines in (rows, SIDE):
        slots = generator.random((lines, updates, length)) < share
        sign = generator.integers(0, 2, (lines, updates))
        found.append(((slots << np.arange(length)).sum(2) | sign << length).astype(np.uint32))
    return Trains(found[0], found[1], length)


def update(chip: Chip, batch: Trains, amplitude: int = 1000, cells: Any = CELLS) -> None:
    chip.outer(
        0, cells, batch, totals(batch), set_amplitude=1000, reset_amplitude=amplitude, width=1
    )  # fmt: skip


def weights(chip: Chip) -> np.ndarray[Any, Any]:
    g = chip.cells.conductances[0] + chip.cells.hidden[0]
    return (g * 100 / 65535 - 50) / 20


def array_of(chip: Chip, cells: np.ndarray[Any, Any]) -> steps_numpy.Array:
    device, c = chip.device, chip.cells
    assert isinstance(device, Steps)
    return steps_numpy.Array(
        c.conductances[0], c.hidden[0], c.pulses[0], c.stuck[0], cells, device._law,
        device._own[0], device._table, device._keys[0],
    )  # fmt: skip


def drives_of(chip: Chip, amplitude: int) -> tuple[float, float]:
    device = chip.device
    assert isinstance(device, Steps)
    pulse = device._device.pulse
    return drive_of(pulse, 1000, 1), drive_of(pulse, amplitude, 1)


def assert_same(one: Chip, other: Chip) -> None:
    for name in ("conductances", "hidden", "pulses"):
        assert np.array_equal(getattr(one.cells, name), getattr(other.cells, name)), name


@pytest.mark.parametrize("cycle_noise", ["additive", "multiplicative"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_closed_forms_are_the_oracles_bit_for_bit(model: str, cycle_noise: str) -> None:
    made = profile(
        model, "closed-form", cycle_noise=cycle_noise, write_noise=2.0, stuck_fraction=0.1,
        step=0.2, asymmetry=0.1,
    )  # fmt: skip
    compiled, plain = Chip(made, 3), Chip(made, 3)
    generator = np.random.default_rng(1)
    for seed in range(2):
        cells = generator.permutation(SIDE * SIDE)[:700]
        counts = generator.integers(-80, 81, cells.size).astype(np.int16)
        compiled.pulse(0, cells, counts, set_amplitude=1000, reset_amplitude=900, width=1)
        steps_numpy.pulse_closed(array_of(plain, cells), counts, drives_of(plain, 900))
        assert_same(compiled, plain)
        for share, rows in ((0.6, SIDE), (0.05, 37)):
            batch, region = trains(20, 31, share, rows, seed), CELLS[: rows * SIDE]
            update(compiled, batch, 900, region)
            steps_numpy.outer_closed(array_of(plain, region), batch, drives_of(plain, 900))
            assert_same(compiled, plain)


@pytest.mark.parametrize("pulses", ["each", "closed-form"])
@pytest.mark.parametrize("cycle_noise", ["additive", "multiplicative"])
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 12), wide=st.sampled_from([1, 7, 16, 25, 63, 64, 65, 80, 100]),
    updates=st.integers(1, 40), length=st.integers(1, 31), share=st.floats(0, 1),
    kept=st.floats(0, 1), seed=st.integers(0, 9),
)  # fmt: skip
def test_updates_of_any_shape_are_the_oracles_bit_for_bit(
    model: str, cycle_noise: str, pulses: str, rows: int, wide: int, updates: int, length: int,
    share: float, kept: float, seed: int,
) -> None:  # fmt: skip
    made = profile(
        model, pulses, cycle_noise=cycle_noise, write_noise=2.0, stuck_fraction=0.1, step=0.2
    )
    compiled, plain = Chip(made, 3), Chip(made, 3)
    whole = trains(updates, length, share, rows, seed)
    batch = Trains(whole.rows, whole.columns[:wide], length)
    # What is left when a fault cuts the command short.
    cells = CELLS.reshape(SIDE, SIDE)[5 : 5 + rows, SIDE - wide :].reshape(-1)
    cells = cells[: round(kept * cells.size)]
    for _ in range(2):
        update(compiled, batch, 900, cells)
        oracle = array_of(plain, cells)
        for u in range(updates):
            sets, resets = totals_numpy(Trains(*(w[:, u : u + 1] for w in batch[:2]), length))
            counts = (sets.astype(np.int64) - resets)[: cells.size]
            if pulses == "closed-form":
                oracle.move(counts, drives_of(plain, 900))
                continue
            for k in range(length):
                for upwards, drive in zip((True, False), drives_of(plain, 900), strict=True):
                    oracle.step((np.abs(counts) > k) & ((counts > 0) == upwards), drive, upwards)
        oracle.look(np.ones(cells.size, dtype=bool))
        oracle.store()
        assert_same(compiled, plain)


@pytest.mark.parametrize("pulses", ["each", "closed-form"])
def test_an_amplitude_below_threshold_moves_nothing(pulses: str) -> None:
    # Cells begin anywhere, also beyond their bounds, and what moves is seen with another error.
    pulse = {"amplitude_mV": 1000, "width_ns": 1, "threshold_mV": 700}
    made = profile(
        "soft-bounds", pulses, pulse=pulse, write_noise=5.0, initial_uS=[30.0, 70.0],
        bound_variation=[0.5, 0.5],
    )  # fmt: skip
    compiled, plain = Chip(made, 3), Chip(made, 3)
    downwards = trains(20, 31, 0.6)
    signs = np.uint32(1 << 31)
    downwards = Trains(downwards.rows | signs, downwards.columns & ~signs, 31)
    update(compiled, downwards, 600)
    assert np.array_equal(compiled.cells.conductances, plain.cells.conductances)
    assert np.array_equal(compiled.cells.hidden, plain.cells.hidden)
    assert compiled.cells.pulses.sum() == totals(downwards)[1].sum() > 0
    if pulses == "closed-form":
        compiled, plain = Chip(made, 3), Chip(made, 3)
        update(compiled, trains(20, 31, 0.6), 600)
        steps_numpy.outer_closed(array_of(plain, CELLS), trains(20, 31, 0.6), drives_of(plain, 600))
        assert_same(compiled, plain)


@pytest.mark.parametrize(("cycle_noise", "variation"), NOISE)
@pytest.mark.parametrize("model", MODELS)
def test_mean_and_spread_of_a_population_are_those_of_pulse_by_pulse(
    model: str, cycle_noise: str, variation: float
) -> None:
    found = {}
    for pulses in ("each", "closed-form"):
        chip = Chip(profile(model, pulses, cycle_noise=cycle_noise, cycle_variation=variation), 5)
        for seed in range(10):
            update(chip, trains(20, 31, 0.5, seed=seed))
        found[pulses] = weights(chip)
    # The range is 2.
    assert abs(found["each"].mean() - found["closed-form"].mean()) < 0.02
    assert found["closed-form"].std() == pytest.approx(found["each"].std(), rel=0.05)
    assert found["each"].std() > 0.05


@pytest.mark.parametrize(("cycle_noise", "variation"), NOISE)
@pytest.mark.parametrize("model", MODELS)
def test_devices_that_are_alike_spread_by_the_noise_of_their_pulses_alone(
    model: str, cycle_noise: str, variation: float
) -> None:
    found = {}
    alike = {"asymmetry_variation": 0.0, "bound_variation": [0.0, 0.0]}
    alike |= {k: [0.0, 0.0] for k in MODELS[model] if k == "slope_variation"}
    alike |= {k: 0.0 for k in MODELS[model] if k == "reference_variation"}
    for pulses in ("each", "closed-form"):
        made = profile(
            model, pulses, 0.0, cycle_noise=cycle_noise, cycle_variation=variation, **alike
        )
        chip = Chip(made, 5)
        for count in (31, -12, 7):
            chip.pulse(
                0, CELLS, np.full(CELLS.size, count, dtype=np.int16), set_amplitude=1000,
                reset_amplitude=1000, width=1,
            )  # fmt: skip
        found[pulses] = weights(chip)
    # Five standard errors of a mean, and of a standard deviation, of 10,000.
    spread = found["each"].std()
    assert abs(found["each"].mean() - found["closed-form"].mean()) < 5 * 1.5 * spread / 100
    assert found["closed-form"].std() == pytest.approx(spread, rel=5 / 100)


@pytest.mark.parametrize("model", ["exponential-step", "power-step", "phase-change"])
def test_a_model_without_a_closed_form_refuses_it(model: str, tmp_path: Any) -> None:
    extra = {"exponential-step": "amplitude: [0.1, 0.1]\n  exponent: [1.0, 1.0]",
             "power-step": "exponent: 1.5", "phase-change": ""}[model]  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nsummary: none\nextends: rpu-baseline\ndevice:\n"
        f"  model: {model}\n  pulses: closed-form\n  bounds: [-1, 1]\n  step: 0.01\n"
        f"  pulse: {{amplitude_mV: 1000, width_ns: 1}}\n  {extra}\n"
    )
    with pytest.raises(UsageError, match=r"(?s)device\.pulses.*each"):
        load(str(path))
