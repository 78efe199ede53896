"""OUTER: which cells get how many pulses where row and column trains coincide."""

from __future__ import annotations

import numpy as np

from cimctl.conformance.bench import SAMPLES, SIGMAS, Bench, Units, skip_unless
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.programming import MOVING, exact_conductances, need_ideal
from firmware_protocol import messages as m
from firmware_protocol.constants import IDEAL_STEP, MAX_TRAIN, Capability, Opcode

OUTER = Group("outer")
PAIRS = 2
_UPDATES, _LENGTH = 6, 9
#: around each width at which a word takes one more whole byte, and the two ends
_LENGTHS = (1, 6, 7, 8, 15, 16, 23, 24, MAX_TRAIN)


def _sparse(seed: int, updates: int, lines: int, length: int) -> Units:
    """(updates, lines) words with a pulse in three of ten slots, and signs."""
    generator = np.random.default_rng(seed)
    slots = generator.random((updates, lines, length)) < 0.3
    signs = generator.integers(0, 2, (updates, lines))
    words: Units = (slots << np.arange(length)).sum(2) | signs << length
    return words


def _both(seed: int, bench: Bench, pairs: bool, updates: int, length: int) -> tuple[Units, Units]:
    """Words of the region's rows, and of its columns or pairs."""
    columns = bench.region.columns // (2 if pairs else 1)
    rows = _sparse(seed, updates, bench.region.rows, length)
    return rows, _sparse(seed + 1, updates, columns, length)


def _steps(rows: Units, columns: Units, length: int) -> Units:
    """(updates, rows, columns) pulses as the specification says; negative ones are RESET pulses."""
    row, column = rows[:, :, None], columns[:, None, :]
    slots = np.arange(length)
    both = ((row & column)[..., None] >> slots & 1).sum(3)
    steps: Units = np.where((row ^ column) >> length, -both, both)
    return steps


def _applied(steps: Units) -> tuple[int, int]:
    return int(steps[steps > 0].sum()), -int(steps[steps < 0].sum())


def _update(bench: Bench, rows: Units, columns: Units, length: int, pairs: bool = False) -> Units:
    """Sends the updates and judges the answer; gives the pulses due to each cell written."""
    steps = _steps(rows, columns, length)
    most = int(abs(steps).sum(0).max())
    allowed = most <= bench.description.pulses_per_command
    skip_unless(allowed, f"a command gives no cell {most} pulses")
    request = bench.coinciding(rows, columns, length=length, flags=PAIRS if pairs else 0)
    answer = bench.wire.answer(request, m.OuterResponse)
    said = (answer.set_pulses, answer.reset_pulses)
    expect_equal("SET and RESET pulses of the answer", said, _applied(steps))
    due: Units = abs(steps).sum(0)
    return due


def _expect_grown(bench: Bench, worn: Units, due: Units) -> None:
    grown = (bench.wear() - worn).reshape(due.shape)
    expect(bool((grown == due).all()), f"pulses {due.tolist()}", grown.tolist())


@OUTER.case("Each cell gets the pulses of its coincidences, update by update",
            wear=Wear(pulses=_UPDATES * _LENGTH))  # fmt: skip
def coincidences(bench: Bench) -> None:
    bench.need(Opcode.OUTER, Opcode.WEAR)
    worn = bench.wear()
    due = _update(bench, *_both(11, bench, False, _UPDATES, _LENGTH), _LENGTH)
    _expect_grown(bench, worn, due)


@OUTER.case("Trains may have any number of slots from 1 to 31", wear=Wear(pulses=sum(_LENGTHS)))
def lengths(bench: Bench) -> None:
    bench.need(Opcode.OUTER, Opcode.WEAR)
    for length in _LENGTHS:
        rows, columns = _both(length, bench, False, 1, length)
        # One coincidence in the last slot, whatever was drawn.
        rows[0, -1] |= 1 << (length - 1)
        columns[0, -1] |= 1 << (length - 1)
        worn = bench.wear()
        _expect_grown(bench, worn, _update(bench, rows, columns, length))


@OUTER.case("With pairs, the first column of each is updated and the second left alone",
            wear=Wear(pulses=_UPDATES * _LENGTH))  # fmt: skip
def pairs(bench: Bench) -> None:
    bench.need(Opcode.OUTER, Opcode.WEAR)
    skip_unless(bench.region.columns % 2 == 0, "the region's columns are no pairs")
    worn = bench.wear()
    first = _update(bench, *_both(31, bench, True, _UPDATES, _LENGTH), _LENGTH, pairs=True)
    due = np.zeros((bench.region.rows, bench.region.columns), dtype=np.int64)
    due[:, ::2] = first
    _expect_grown(bench, worn, due)


@OUTER.case("STATUS counts the pulses of an update", wear=Wear(pulses=_UPDATES * _LENGTH))
def status_counts(bench: Bench) -> None:
    bench.need(Opcode.OUTER)
    rows, columns = _both(41, bench, False, _UPDATES, _LENGTH)
    before = bench.status()
    _update(bench, rows, columns, _LENGTH)
    after = bench.status()
    more = (after.set_pulses - before.set_pulses, after.reset_pulses - before.reset_pulses)
    applied = _applied(_steps(rows, columns, _LENGTH))
    expect_equal("SET and RESET pulses of STATUS more:", more, applied)


@OUTER.case("Signs that agree raise conductances, signs that differ lower them",
            wear=Wear(pulses=4 * MOVING))  # fmt: skip
def signs(bench: Bench) -> None:
    bench.need(Opcode.OUTER)
    length = 20
    every = (1 << length) - 1
    updates = max(1, min(MOVING, bench.description.pulses_per_command) // length)
    means = []
    for row, column in ((0, 1), (1, 1), (1, 0), (0, 0)):
        rows = np.full((updates, bench.region.rows), every | row << length)
        columns = np.full((updates, bench.region.columns), every | column << length)
        _update(bench, rows, columns, length)
        means.append(float(bench.read().mean()))
    margin = SIGMAS * bench.reading_sigma / (SAMPLES * bench.cells) ** 0.5
    ups = (means[1] - means[0], means[1] - means[2], means[3] - means[2])
    expect(min(ups) > margin, f"means that move up, down and up by more than {margin:.1f}",
           [round(up, 1) for up in ups])  # fmt: skip


@OUTER.case("An amplitude that no coincidence uses is not judged", wear=Wear(pulses=2))
def unused_amplitude(bench: Bench) -> None:
    bench.need(Opcode.OUTER)
    bench.wire.answer(bench.coinciding(reset_amplitude=0), m.OuterResponse)
    bench.wire.answer(bench.resetting(set_amplitude=0), m.OuterResponse)


@OUTER.case("Updates without a coincidence give no pulse and are one operation",
            wear=Wear(pulses=MAX_TRAIN))  # fmt: skip
def nothing_coincides(bench: Bench) -> None:
    bench.need(Opcode.OUTER)
    before = bench.state()
    rows = np.full((2, bench.region.rows), 0x55555555)
    columns = np.full((2, bench.region.columns), 0x2AAAAAAA)
    _update(bench, rows, columns, MAX_TRAIN)
    after = bench.state()
    expect_equal("operations more:", after.operations - before.operations, 1)
    expect_equal("pulses of the cells", after.pulses, before.pulses)


@OUTER.case("The ideal device moves by whole steps, update by update, and stops at its bounds",
            wear=Wear(pulses=_UPDATES * _LENGTH))  # fmt: skip
def ideal(bench: Bench) -> None:
    bench.need(Opcode.OUTER, Capability.LOAD)
    need_ideal(bench)
    d = bench.description
    rows, columns = _both(51, bench, False, _UPDATES, _LENGTH)
    # A step below the bound, so that the order of the updates shows.
    values = np.full((bench.region.rows, bench.region.columns), d.target_high - IDEAL_STEP)
    values[:, 1::2] = d.target_low + IDEAL_STEP
    bench.wire.answer(bench.loading(conductances=values.reshape(-1)), m.LoadResponse)
    _update(bench, rows, columns, _LENGTH)
    for steps in _steps(rows, columns, _LENGTH):
        values = np.clip(values + IDEAL_STEP * steps, d.target_low, d.target_high)
    found = exact_conductances(bench)
    expect_equal("conductances", found.tolist(), values.reshape(-1).tolist())
