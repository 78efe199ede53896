"""Pulses and write-verify: compiled against oracle, and what the algorithm promises."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue
from boards.profile import Profile
from sim_backend import bulk_rram, bulk_rram_numpy

EMU = catalogue.load("emu")
CELLS = 4096


def profile_with(**imperfections: float) -> Profile:
    return msgspec.structs.replace(
        EMU, imperfections=msgspec.structs.replace(EMU.imperfections, **imperfections)
    )


QUIET = profile_with(
    read_noise_uS=0.0, programming_error_uS=0.0, adc_noise_lsb=0.0, device_variation=0.0,
    cycle_variation=0.0,
)  # fmt: skip


class Array:
    """The flat state of one tile."""

    def __init__(self, profile: Profile, seed: int, stuck_fraction: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        low, high = (profile.units(g) for g in profile.device.initial_uS)
        self.conductances = rng.integers(low, high + 1, CELLS).astype(np.uint16)
        self.pulses = rng.integers(0, 50, CELLS).astype(np.uint32)
        self.stuck = (rng.random(CELLS) < stuck_fraction).astype(np.uint8)
        self.profile = profile
        self.keys = bulk_rram.keys_of(seed, 1)

    def state(self) -> list[Any]:
        return [self.conductances.tobytes(), self.pulses.tobytes(), self.stuck.tobytes()]

    def program(
        self,
        cells: Any,
        targets: Any,
        *,
        tolerance: int,
        cycles: int,
        epoch: int = 0,
        by: Any = bulk_rram,
    ) -> tuple[bulk_rram.ProgramOutcome, Any]:
        readings = np.empty(len(cells), dtype=np.uint16)
        outcome = by.program(
            self.conductances,
            self.pulses,
            self.stuck,
            np.asarray(cells, dtype=np.int64),
            np.asarray(targets, dtype=np.uint16),
            tolerance=tolerance,
            cycles=cycles,
            cell=bulk_rram.cell_of(self.profile),
            ramp=bulk_rram.ramp_of(self.profile),
            keys=self.keys,
            epoch=epoch,
            readings=readings,
        )
        return outcome, readings

    def pulse(
        self, cells: Any, counts: Any, *, amplitudes: tuple[int, int] = (2000, 1800),
        width: int = 100, by: Any = bulk_rram,
    ) -> None:  # fmt: skip
        by.pulse(
            self.conductances,
            self.pulses,
            self.stuck,
            np.asarray(cells, dtype=np.int64),
            np.asarray(counts, dtype=np.int16),
            set_amplitude=amplitudes[0],
            reset_amplitude=amplitudes[1],
            width=width,
            cell=bulk_rram.cell_of(self.profile),
            keys=self.keys,
        )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    def off_or(*values: float) -> float:
        return draw(st.sampled_from((0.0, *values)))

    changed = profile_with(
        read_noise_uS=off_or(0.1, 0.474, 3.0),
        programming_error_uS=off_or(0.3, 0.79, 5.0),
        adc_noise_lsb=off_or(0.5, 2.0),
        device_variation=off_or(0.1, 0.6),
        cycle_variation=off_or(0.2, 1.5),
    )
    device = msgspec.structs.replace(
        EMU.device,
        threshold_mV=draw(st.sampled_from((100.0, 1400.0, 2500.0))),
        set_step=draw(st.sampled_from((0.01, 0.2, 1.0))),
        reset_step=draw(st.sampled_from((0.02, 0.2, 1.0))),
        nominal_width_ns=draw(st.sampled_from((33.0, 100.0))),
    )
    programming = msgspec.structs.replace(
        EMU.programming, ramp_step_mV=draw(st.sampled_from((50, 70, 400)))
    )
    return msgspec.structs.replace(changed, device=device, programming=programming)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    profile=profiles(),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 200),
    stuck=st.sampled_from((0.0, 0.2)),
    tolerance=st.sampled_from((0, 100, 819, 20000)),
    cycles=st.integers(1, 5),
    epoch=st.sampled_from((0, 1, 2**40)),
)
def test_compiled_programming_has_the_bits_of_the_oracle(
    profile: Profile, seed: int, count: int, stuck: float, tolerance: int, cycles: int, epoch: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(CELLS)[:count]
    targets = rng.integers(profile.units(4.0), profile.units(40.0) + 1, count)
    one, other = Array(profile, seed, stuck), Array(profile, seed, stuck)
    asked: dict[str, int] = {"tolerance": tolerance, "cycles": cycles, "epoch": epoch}
    outcome, readings = one.program(cells, targets, **asked)
    expected, expected_readings = other.program(cells, targets, by=bulk_rram_numpy, **asked)
    assert outcome == expected
    assert one.state() == other.state()
    assert readings.tobytes() == expected_readings.tobytes()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    profile=profiles(),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 200),
    stuck=st.sampled_from((0.0, 0.2)),
    amplitudes=st.tuples(st.integers(500, 3300), st.integers(500, 3300)),
    width=st.integers(20, 10000),
)
def test_compiled_pulses_have_the_bits_of_the_oracle(
    profile: Profile,
    seed: int,
    count: int,
    stuck: float,
    amplitudes: tuple[int, int],
    width: int,
) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(CELLS)[:count]
    counts = rng.integers(-9, 10, count)
    one, other = Array(profile, seed, stuck), Array(profile, seed, stuck)
    one.pulse(cells, counts, amplitudes=amplitudes, width=width)
    other.pulse(cells, counts, amplitudes=amplitudes, width=width, by=bulk_rram_numpy)
    assert one.state() == other.state()


def test_the_oracle_is_no_call_into_the_compiled_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_stepped", "_reading", "_program", "_pulse_all", "program", "pulse"):
        monkeypatch.setattr(bulk_rram, name, None)
    array = Array(EMU, 5)
    array.program(range(50), [20000] * 50, tolerance=819, cycles=2, by=bulk_rram_numpy)
    array.pulse(range(50), [2] * 50, by=bulk_rram_numpy)


def test_a_set_pulse_raises_by_the_written_law_when_noise_is_off() -> None:
    array = Array(QUIET, 1)
    before = array.conductances.astype(float)
    array.pulse(range(CELLS), [1] * CELLS, amplitudes=(2000, 1800), width=50)
    high = QUIET.units(QUIET.device.high_uS)
    share = 0.20 * (2000 - 1400) / 1500 * 50 / 100
    np.testing.assert_allclose(array.conductances, before + share * (high - before), atol=0.51)


def test_a_reset_pulse_lowers_by_the_written_law_when_noise_is_off() -> None:
    array = Array(QUIET, 1)
    before = array.conductances.astype(float)
    array.pulse(range(CELLS), [-1] * CELLS, amplitudes=(2000, 1700), width=200)
    low = QUIET.units(QUIET.device.low_uS)
    share = 0.20 * (1700 - 1400) / 1500 * 200 / 100
    np.testing.assert_allclose(array.conductances, before - share * (before - low), atol=0.51)


def test_a_pulse_below_the_threshold_is_counted_and_moves_nothing() -> None:
    array = Array(QUIET, 2)
    before, counted = array.conductances.copy(), array.pulses.copy()
    array.pulse(range(CELLS), [3] * CELLS, amplitudes=(1400, 1400))
    assert np.array_equal(array.conductances, before)
    assert np.array_equal(array.pulses, counted + 3)


def test_conductances_never_leave_the_device_range() -> None:
    array = Array(profile_with(device_variation=0.8, cycle_variation=2.0), 3)
    low, high = QUIET.units(QUIET.device.low_uS), QUIET.units(QUIET.device.high_uS)
    for counts in ([1000] * CELLS, [-1000] * 2048 + [1000] * 2048):
        array.pulse(range(CELLS), counts, amplitudes=(3300, 3300), width=10000)
        assert low <= array.conductances.min() and array.conductances.max() <= high


def test_pulses_in_two_commands_do_what_they_do_in_one() -> None:
    one, other = Array(EMU, 4), Array(EMU, 4)
    one.pulse(range(CELLS), [5] * CELLS)
    other.pulse(range(CELLS), [2] * CELLS)
    other.pulse(range(CELLS), [3] * CELLS)
    assert one.state() == other.state()


def test_the_order_of_the_cells_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    targets = rng.integers(13435, 53903, CELLS)
    order = rng.permutation(CELLS)
    one, other = Array(EMU, 4), Array(EMU, 4)
    outcome, readings = one.program(range(CELLS), targets, tolerance=819, cycles=2)
    shuffled, shuffled_readings = other.program(order, targets[order], tolerance=819, cycles=2)
    assert outcome == shuffled and one.state() == other.state()
    assert np.array_equal(readings[order], shuffled_readings)


def test_without_noise_write_verify_converges_for_nearly_all_cells() -> None:
    profile = profile_with(read_noise_uS=0.0, programming_error_uS=0.0, adc_noise_lsb=0.0)
    array = Array(profile, 7)
    window = [profile.units(g) for g in profile.programming.window_uS]
    targets = np.random.default_rng(7).integers(window[0], window[1] + 1, CELLS)
    tolerance = profile.units(profile.programming.tolerance_uS)
    outcome, readings = array.program(range(CELLS), targets, tolerance=tolerance, cycles=5)
    error = np.abs(array.conductances.astype(int) - targets)
    # What a reading without noise says is the conductance: the count of the chip can be checked.
    assert outcome.unconverged == np.count_nonzero(error > tolerance)
    assert outcome.unconverged <= CELLS // 100
    assert np.array_equal(readings, array.conductances)


def test_programming_never_takes_more_than_the_worst_case() -> None:
    noisy = profile_with(read_noise_uS=5.0, cycle_variation=1.5, device_variation=0.6)
    for cycles in (1, 2, 5):
        array = Array(noisy, 8, stuck_fraction=0.3)
        before = array.pulses.astype(int)
        outcome, _ = array.program(
            range(CELLS), [60000, 13435] * (CELLS // 2), tolerance=0, cycles=cycles
        )
        spent = array.pulses - before
        worst = bulk_rram.worst_case_pulses(bulk_rram.ramp_of(noisy), cycles)
        assert spent.max() <= worst
        # The bound is of use only where something comes near it.
        assert spent.max() > worst / 4
        assert spent.sum() == outcome.set_pulses + outcome.reset_pulses
        assert outcome.reads == spent.sum() + CELLS


def test_a_cell_stuck_above_its_target_gets_every_reset_ramp_and_no_set() -> None:
    array = Array(profile_with(read_noise_uS=0.0, adc_noise_lsb=0.0), 9)
    array.stuck[:] = 1
    array.conductances[:] = 40000
    outcome, _ = array.program(range(CELLS), [14000] * CELLS, tolerance=10, cycles=3)
    # One reset to the lowest level, then a fine-tuning ramp of 31 rungs in each cycle.
    assert outcome.set_pulses == 0
    assert outcome.reset_pulses == CELLS * 31 * 4


def test_stuck_cells_do_not_move_and_their_pulses_count() -> None:
    array = Array(EMU, 10, stuck_fraction=0.25)
    before, counted = array.conductances.copy(), array.pulses.copy()
    array.program(range(CELLS), [45000] * CELLS, tolerance=819, cycles=2)
    array.pulse(range(CELLS), [-4] * CELLS)
    stuck = array.stuck == 1
    assert np.array_equal(array.conductances[stuck], before[stuck])
    assert (array.pulses[stuck] > counted[stuck]).all()
    assert (array.conductances[~stuck] != before[~stuck]).mean() > 0.99


def test_a_cell_that_reads_within_the_tolerance_is_left_alone() -> None:
    array = Array(QUIET, 11)
    array.conductances[:] = 20000
    before = array.state()
    outcome, _ = array.program(range(CELLS), [20500] * CELLS, tolerance=500, cycles=2)
    assert outcome == (0, 0, CELLS, 0)
    assert array.state() == before


def test_the_spread_of_programmed_cells_is_the_programming_error_and_the_tolerance() -> None:
    """Converged cells lie within tolerance of a noisy reading, then relax by the stated error.

    The distance from target is then the sum of a part within the tolerance (between nothing and
    the uniform distribution's width), the reading's noise (at most all of it, since selecting
    by a reading can only lower its variance), and the error: its standard deviation has both a
    floor and a ceiling.
    """
    array = Array(EMU, 12)
    window = [EMU.units(g) for g in EMU.programming.window_uS]
    targets = np.random.default_rng(12).integers(window[0], window[1] + 1, CELLS)
    tolerance = EMU.units(EMU.programming.tolerance_uS)
    array.program(range(CELLS), targets, tolerance=tolerance, cycles=5)
    cell = bulk_rram.cell_of(EMU)
    spread = float((array.conductances - targets.astype(float)).std())
    slack = 1 + 4 / np.sqrt(2 * CELLS)  # four standard errors of a standard deviation
    ceiling = np.hypot(cell.programming_error, np.hypot(tolerance, cell.reading_error))
    assert cell.programming_error / slack < spread < ceiling * slack


def test_the_programming_error_alone_has_its_stated_deviation() -> None:
    profile = profile_with(read_noise_uS=0.0, adc_noise_lsb=0.0, device_variation=0.0)
    quiet = msgspec.structs.replace(
        profile,
        imperfections=msgspec.structs.replace(profile.imperfections, programming_error_uS=0.0),
    )
    one, other = Array(profile, 13), Array(quiet, 13)
    one.conductances[:] = other.conductances[:] = 20000
    for array in (one, other):
        array.program(range(CELLS), [33000] * CELLS, tolerance=819, cycles=5)
    error = one.conductances.astype(float) - other.conductances
    sigma = bulk_rram.cell_of(profile).programming_error
    assert abs(error.mean()) < 4 * sigma / np.sqrt(CELLS)
    assert abs(error.std() / sigma - 1) < 4 / np.sqrt(2 * CELLS)
