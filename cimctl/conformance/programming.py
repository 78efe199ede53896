"""Cells: what programming, pulses and loading leave in them, in microsiemens."""

from __future__ import annotations

import numpy as np

from cimctl.conformance.bench import SAMPLES, SIGMAS, Bench, Units, skip_unless
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from firmware_protocol import messages as m
from firmware_protocol.constants import IDEAL_STEP, Capability, Opcode

CELLS = Group("cells")
#: pulses that move the mean of a region for certain, also of devices that write with much noise
MOVING = 200


def _uS(bench: Bench, units: float) -> str:
    return f"{bench.profile.microsiemens(units):.3f} uS"


def _within(
    bench: Bench, found: Units, expected: Units, limit: float, what: str, lost: int = 0
) -> None:
    """The farthest cell, those apart that may be off, is no farther than the limit."""
    apart = np.abs(found - expected).reshape(-1)
    worst = int(apart.argsort()[-1 - lost])
    expect(
        bool(apart[worst] <= limit),
        f"{what} within {_uS(bench, limit)} of "
        f"{_uS(bench, float(np.ravel(expected)[worst]))} at cell {worst}",
        _uS(bench, float(np.ravel(found)[worst])),
    )


@CELLS.case("SET pulses raise conductances and RESET pulses lower them",
            wear=Wear(pulses=2 * MOVING))  # fmt: skip
def pulse_directions(bench: Bench) -> None:
    bench.need(Opcode.PULSE)
    moving = min(MOVING, bench.description.pulses_per_command)
    means = []
    for count in (-moving, moving):
        counts = (count,) * bench.cells
        bench.wire.answer(bench.pulsing(indices=(), counts=counts), m.PulseResponse)
        means.append(float(bench.read().mean()))
    margin = SIGMAS * bench.reading_sigma / (SAMPLES * bench.cells) ** 0.5
    expect(means[1] > means[0] + margin, f"a mean above {_uS(bench, means[0] + margin)} after SET",
           _uS(bench, means[1]))  # fmt: skip


@CELLS.case("Programmed cells read their targets, within tolerance and 6 sigma", wear=Wear(1))
def program_hits_targets(bench: Bench) -> None:
    bench.need(Opcode.PROGRAM)
    profile, targets = bench.profile, bench.pattern()
    request = bench.programming(indices=(), targets=targets.reshape(-1), read_back=1)
    answer = bench.wire.answer(request, m.ProgramResponse)
    expect_equal("readings", len(answer.conductances), bench.cells)
    if answer.unconverged > bench.cells // 4:
        steady = bench.reading_sigma <= 2 * request.tolerance
        skip_unless(steady, "its readings are too noisy to verify what it programs")
        expect(False, f"at most {bench.cells // 4} cells unconverged", answer.unconverged)
    error = profile.units(profile.imperfections.programming_error_uS)
    # The verifying reading and the one after it each have their noise.
    once = float(np.hypot(error, bench.reading_sigma * 2**0.5))
    often = float(np.hypot(error, bench.reading_sigma * (1 + 1 / SAMPLES) ** 0.5))
    tolerance = request.tolerance
    if profile.device.model == "ideal-steps":
        # Nearest whole step, but not nearer than the bounds allow.
        tolerance = max(tolerance, IDEAL_STEP)
    back = np.asarray(answer.conductances, dtype=np.int64).reshape(targets.shape)
    _within(bench, back, targets, tolerance + SIGMAS * once, "read-back", answer.unconverged)
    found = bench.read()
    limit = tolerance + SIGMAS * often + bench.reading_step / 2
    _within(bench, found, targets, limit, "READ", answer.unconverged)
    skip_unless(not answer.unconverged, "the mean is not judged: some cells did not converge")
    mean = float((found - targets).mean())
    limit = tolerance + SIGMAS * often / bench.cells**0.5 + bench.reading_step / 2
    expect(abs(mean) <= limit, f"a mean error within {_uS(bench, limit)}", _uS(bench, mean))


@CELLS.case("Loaded conductances read as what was loaded, as the converter rounds", wear=Wear())
def load_reads_back(bench: Bench) -> None:
    bench.need(Capability.LOAD)
    known = bench.known().units
    found = bench.read()
    if bench.reading_sigma:
        limit = SIGMAS * bench.reading_sigma / SAMPLES**0.5 + bench.reading_step / 2
        _within(bench, found, known, limit, "READ")
    else:
        expected = read_exactly(bench, known)
        expect(bool((found == expected).all()), f"{expected.reshape(-1).tolist()}",
               found.reshape(-1).tolist())  # fmt: skip


@CELLS.case("LOAD gives no pulse and leaves the cells beside alone", wear=Wear())
def load_is_no_pulse(bench: Bench) -> None:
    bench.need(Capability.LOAD, Opcode.WEAR)
    bench.known()
    worn, readings = bench.wear(), bench.read()
    low = bench.description.target_low
    corner = m.Region(0, 0, 1, 0, 1)
    bench.wire.answer(bench.loading(region=corner, conductances=(low,)), m.LoadResponse)
    expect_equal("pulses more:", int((bench.wear() - worn).sum()), 0)
    readings[0, 0] = low
    limit = SIGMAS * bench.reading_sigma * (2 / SAMPLES) ** 0.5 + bench.reading_step
    _within(bench, bench.read(), readings, limit, "READ")


@CELLS.case("The ideal device moves by whole steps and stops at its bounds", wear=Wear(pulses=900))
def ideal_pulses(bench: Bench) -> None:
    need_ideal(bench)
    d, start = bench.description, bench.middle
    counts = np.array((5, -5, 17, -1, min(900, d.pulses_per_command), -900))[: bench.cells]
    counts = np.clip(counts, -d.pulses_per_command, d.pulses_per_command)
    indices = np.arange(counts.size)
    values = np.full(bench.cells, start)
    bench.wire.answer(bench.loading(conductances=values), m.LoadResponse)
    bench.wire.answer(bench.pulsing(indices=indices, counts=counts), m.PulseResponse)
    values[indices] = np.clip(start + IDEAL_STEP * counts, d.target_low, d.target_high)
    expect_equal("conductances", exact_conductances(bench).tolist(), values.tolist())


@CELLS.case("Programming the ideal device takes the nearest whole number of pulses", wear=Wear(1))
def ideal_program(bench: Bench) -> None:
    need_ideal(bench)
    start = np.full(bench.cells, bench.middle)
    bench.wire.answer(bench.loading(conductances=start), m.LoadResponse)
    away = np.array((31, 32, 95, 96, -32, -97, 6400, -6400))[: bench.cells]
    indices, targets = np.arange(away.size), bench.middle + away
    request = bench.programming(indices=indices, targets=targets, tolerance=31, read_back=1)
    answer = bench.wire.answer(request, m.ProgramResponse)
    steps = np.where(abs(away) > 31, (abs(away) + IDEAL_STEP // 2) // IDEAL_STEP, 0)
    expected = bench.middle + np.sign(away) * steps * IDEAL_STEP
    expect_equal("readings", list(map(int, answer.conductances)), expected.tolist())
    pulses = (answer.set_pulses, answer.reset_pulses)
    wanted = (int(steps[away > 0].sum()), int(steps[away < 0].sum()))
    expect_equal("SET and RESET pulses", pulses, wanted)
    missed = int(np.count_nonzero(abs(expected - targets) > 31))
    expect_equal("unconverged", answer.unconverged, missed)


def need_ideal(bench: Bench) -> None:
    """Skips the case unless the device is the ideal one."""
    skip_unless(bench.profile.device.model == "ideal-steps", "the device is not the ideal one")
    bench.need(Capability.LOAD, Opcode.PULSE, Opcode.PROGRAM)


def exact_conductances(bench: Bench) -> Units:
    """Conductances of an ideal device: the read-back of a PROGRAM that finds nothing to do."""
    targets = (bench.middle,) * bench.cells
    request = bench.programming(indices=(), targets=targets, tolerance=65535, read_back=1)
    answer = bench.wire.answer(request, m.ProgramResponse)
    return np.asarray(answer.conductances, dtype=np.int64)


def read_exactly(bench: Bench, units: Units) -> Units:
    """What a converter without noise reads of these conductances."""
    top = (1 << bench.description.adc_bits) - 1
    # No half can come up: 65535 is odd.
    steps = (2 * units * top + 65535) // (2 * 65535)
    whole, rest = np.divmod(steps * 65535, top)
    up = (2 * rest > top) | ((2 * rest == top) & (whole % 2 == 1))
    exact: Units = whole + up
    return exact
