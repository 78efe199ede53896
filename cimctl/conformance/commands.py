"""Commands that are granted: what they answer, and what they count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cimctl.conformance.bench import Bench, skip_unless
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.wire import refusal_of
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Capability, Opcode
from firmware_protocol.packing import packed_size

COMMANDS = Group("commands")
GROUPS = 8
_PLAIN: list[tuple[str, Opcode, Callable[[Bench], Message]]] = [
    ("PING", Opcode.PING, lambda b: m.PingRequest(b"\0\x55\xff")),
    ("STATUS", Opcode.STATUS, lambda b: m.StatusRequest()),
    ("CONFIGURE", Opcode.CONFIGURE, lambda b: b.configuring()),
    ("SAFE and CONFIGURE", Opcode.SAFE, lambda b: m.SafeRequest()),
    ("CONFIGURE of the last slot", Opcode.CONFIGURE,
     lambda b: b.configuring(slot=b.description.slots - 1)),
    ("CONFIGURE once more", Opcode.CONFIGURE, lambda b: b.configuring()),
    ("LEASE", Opcode.LEASE, lambda b: m.LeaseRequest(b.description.lease)),
    ("JOURNAL", Opcode.JOURNAL, lambda b: m.JournalRequest(0x5EED)),
    ("READ", Opcode.READ, lambda b: b.reading(samples=2)),
    ("WEAR", Opcode.WEAR, lambda b: m.WearRequest(b.region)),
    ("VMM", Opcode.VMM, lambda b: b.multiplying()),
    ("SNAPSHOT", Opcode.SNAPSHOT, lambda b: m.SnapshotRequest(0, 4)),
]  # fmt: skip


@COMMANDS.case("Commands that change no cell are granted and leave the operation counter")
def plain(bench: Bench) -> None:
    before = bench.status().operations
    for name, opcode, make in _PLAIN:
        without = opcode == Opcode.LEASE and not bench.description.lease
        if bench.knows(opcode) and not without:
            answer = bench.wire.ask(make(bench))
            expect_equal(f"status of {name}", answer.status, 0)
            m.RESPONSES[opcode].decode(answer.payload)
    expect_equal("operations", bench.status().operations, before)


@COMMANDS.case("Each command that changes cells adds one operation", wear=Wear(1, 3))
def operations(bench: Bench) -> None:
    makers: list[tuple[Opcode, Callable[[], Message]]] = [
        (Opcode.PROGRAM, bench.programming),
        (Opcode.PULSE, bench.pulsing),
        (Opcode.PULSE, lambda: bench.pulsing(counts=(0,))),
        (Opcode.OUTER, bench.coinciding),
        (Opcode.LOAD, bench.loading),
        (Opcode.WAIT, lambda: m.WaitRequest(1)),
    ]
    for opcode, make in makers:
        if bench.knows(opcode):
            before = bench.status().operations
            answer = bench.wire.ask(make())
            expect_equal(f"status of {opcode.name}", answer.status, 0)
            m.RESPONSES[opcode].decode(answer.payload)
            expect_equal(f"operations after {opcode.name}", bench.status().operations, before + 1)


@COMMANDS.case("READ gives a value of each cell, and counts cells times samples")
def read_counts(bench: Bench) -> None:
    for samples in (1, 3):
        before = bench.status().reads
        bench.read(samples)
        expect_equal("reads more:", bench.status().reads - before, samples * bench.cells)


@COMMANDS.case("READ of one cell and of the tile's last cell are granted")
def smallest_read(bench: Bench) -> None:
    d = bench.description
    for region in (m.Region(0, 0, 1, 0, 1), m.Region(d.tiles - 1, d.rows - 1, 1, d.columns - 1, 1)):
        bench.read(1, region)


@COMMANDS.case("READ of one cell agrees with READ of the region around it")
def read_places(bench: Bench) -> None:
    whole = bench.read()
    row, column = bench.region.rows - 1, bench.region.columns - 1
    one = bench.read(region=m.Region(0, row, 1, column, 1))[0, 0]
    limit = 6 * bench.reading_sigma * (2 / 64) ** 0.5 + bench.reading_step
    apart = abs(int(one) - int(whole[row, column]))
    expect(apart <= limit, f"readings of the last cell within {limit:.0f}", apart)


@COMMANDS.case("READ in parts gives, noise apart, what READ gives in one")
def read_in_parts(bench: Bench) -> None:
    rows = bench.region.rows
    parts = [
        bench.wire.answer(
            bench.reading(samples=1, more=int(row + 1 < rows), region=_row(bench.region, row)),
            m.ReadResponse,
        ).conductances
        for row in range(rows)
    ]
    apart = np.abs(np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])
                   - bench.read(1).reshape(-1))  # fmt: skip
    limit = 2 * 6 * bench.reading_sigma + (bench.reading_step if bench.reading_sigma else 0)
    expect(bool((apart <= limit).all()), f"readings within {limit:.0f}", int(apart.max()))


def _row(region: m.Region, row: int) -> m.Region:
    return m.Region(region.tile, region.row + row, 1, region.column, region.columns)


@COMMANDS.case("VMM counts vectors and conversions")
def vmm_counts(bench: Bench) -> None:
    before = bench.status()
    bits = bench.region.rows * 3
    answer = bench.wire.answer(
        bench.multiplying(count=3, codes=bytes((bits + 7) // 8)), m.VmmResponse
    )
    after = bench.status()
    expect_equal("bits", answer.bits, bench.description.answer_bits)
    expect_equal("vectors more:", after.vectors - before.vectors, 3)
    conversions = after.conversions - before.conversions
    expect_equal("conversions more:", conversions, 3 * bench.region.columns)
    saturations = after.saturations - before.saturations
    expect_equal("saturations more:", saturations, answer.saturated)


@COMMANDS.case("A pair counts the conversions that HELLO names")
def pair_counts(bench: Bench) -> None:
    bench.need(Capability.DIFFERENTIAL)
    before = bench.status().conversions
    bench.wire.answer(bench.multiplying(flags=2), m.VmmResponse)
    pairs = bench.region.columns // 2
    expected = pairs * bench.description.pair_conversions
    expect_equal("conversions more:", bench.status().conversions - before, expected)


@COMMANDS.case("Planes count a conversion and an operation each, groups one for each column")
def plane_counts(bench: Bench) -> None:
    bench.need(Capability.GROUPS)
    skip_unless(bench.description.input_bits > 1, "inputs have one bit")
    planes = 2 if bench.description.plane_conversions else 1
    region = bench.grouped()
    before = bench.status()
    request = bench.multiplying(
        flags=GROUPS, input_bits=2, regions=(region,), codes=bytes(packed_size(region.rows, 2))
    )
    bench.wire.answer(request, m.VmmResponse)
    after = bench.status()
    expect_equal("steps more:", after.steps - before.steps, planes)
    conversions = after.conversions - before.conversions
    expect_equal("conversions more:", conversions, planes * region.columns)


@COMMANDS.case("PULSE: WEAR grows by |count| where the indices say, answers and STATUS add up",
               wear=Wear(pulses=4))  # fmt: skip
def pulse_counts(bench: Bench) -> None:
    bench.need(Opcode.PULSE, Opcode.WEAR)
    counts = np.zeros(bench.cells, dtype=np.int64)
    last = bench.cells - 1
    counts[[0, 1, last]] = (3, -2, 1) if last > 1 else (3, -2, -2)
    chosen = np.flatnonzero(counts)
    before, worn = bench.status(), bench.wear()
    # Backwards, so that a board that ignores the order of the indices shows.
    request = bench.pulsing(indices=chosen[::-1], counts=counts[chosen][::-1])
    answer = bench.wire.answer(request, m.PulseResponse)
    grown = bench.wear() - worn
    expect(bool((grown == abs(counts)).all()), f"pulses {abs(counts).tolist()}", grown.tolist())
    sets, resets = int(counts[counts > 0].sum()), -int(counts[counts < 0].sum())
    said = (answer.set_pulses, answer.reset_pulses)
    expect_equal("SET and RESET pulses of the answer", said, (sets, resets))
    after = bench.status()
    more = (after.set_pulses - before.set_pulses, after.reset_pulses - before.reset_pulses)
    expect_equal("SET and RESET pulses of STATUS more:", more, (sets, resets))


@COMMANDS.case("PULSE with no indices takes the region's cells row by row", wear=Wear(pulses=2))
def pulse_whole(bench: Bench) -> None:
    bench.need(Opcode.PULSE, Opcode.WEAR)
    counts = np.arange(bench.cells) % 3
    worn = bench.wear()
    bench.wire.answer(bench.pulsing(indices=(), counts=counts), m.PulseResponse)
    grown = bench.wear() - worn
    expect(bool((grown == counts).all()), f"pulses {counts.tolist()}", grown.tolist())


@COMMANDS.case("An amplitude that no pulse of the command uses is not judged", wear=Wear(pulses=2))
def unused_amplitude(bench: Bench) -> None:
    bench.need(Opcode.PULSE)
    bench.wire.answer(bench.pulsing(reset_amplitude=0, counts=(1,)), m.PulseResponse)
    bench.wire.answer(bench.pulsing(set_amplitude=0, counts=(-1,)), m.PulseResponse)


@COMMANDS.case("Pulses at the very limits are granted", wear=Wear(pulses=4))
def pulse_limits(bench: Bench) -> None:
    bench.need(Opcode.PULSE)
    d = bench.description
    for amplitude in (d.amplitude_low, d.amplitude_high):
        for width in (d.width_low, min(d.width_high, bench.profile.programming.width_ns)):
            request = bench.pulsing(set_amplitude=amplitude, width=width)
            bench.wire.answer(request, m.PulseResponse)


@COMMANDS.case("PROGRAM counts the cells written and the pulses that WEAR shows", wear=Wear(1))
def program_counts(bench: Bench) -> None:
    bench.need(Opcode.PROGRAM, Opcode.WEAR)
    indices = tuple(range(min(4, bench.cells)))[::-1]
    low, high = (bench.profile.units(g) for g in bench.profile.programming.window_uS)
    targets = bench.settable(np.linspace(low, high, len(indices)).astype(int))
    before, worn = bench.status(), bench.wear()
    request = bench.programming(indices=indices, targets=targets)
    answer = bench.wire.answer(request, m.ProgramResponse)
    after, grown = bench.status(), bench.wear() - worn
    expect_equal("writes more:", after.writes - before.writes, len(indices))
    expect_equal("readings, not asked for:", len(answer.conductances), 0)
    spent = answer.set_pulses + answer.reset_pulses
    expect_equal("pulses that WEAR shows", int(grown[list(indices)].sum()), spent)
    expect_equal("pulses of cells that were not named", int(grown.sum()), spent)


@COMMANDS.case("A cell that reads within the tolerance is left alone", wear=Wear(1))
def program_within_tolerance(bench: Bench) -> None:
    bench.need(Opcode.PROGRAM, Opcode.WEAR)
    worn = bench.wear()
    request = bench.programming(tolerance=65535, read_back=1)
    answer = bench.wire.answer(request, m.ProgramResponse)
    said = (answer.set_pulses, answer.reset_pulses, answer.unconverged, len(answer.conductances))
    expect_equal("pulses, unconverged cells and readings", said, (0, 0, 0, 1))
    expect_equal("pulses of the cells more:", int((bench.wear() - worn).sum()), 0)


_HALF_BAD: list[tuple[str, Wear, Callable[[Bench], Message]]] = [
    ("program-last-index-bad", Wear(1),
     lambda b: b.programming(indices=(0, 1, b.cells), targets=(b.middle,) * 3)),
    ("program-last-target-bad", Wear(1), lambda b: _last_target(b)),
    ("pulse-last-index-bad", Wear(pulses=1),
     lambda b: b.pulsing(indices=(0, 1, b.cells), counts=(1, -1, 1))),
    ("pulse-last-count-bad", Wear(pulses=1, overfull=1),
     lambda b: b.pulsing(indices=(0, 1), counts=(1, min(32767, _overfull(b))))),
]  # fmt: skip


def _last_target(b: Bench) -> Message:
    low = b.description.target_low
    skip_unless(low > 0, "every target is allowed")
    return b.programming(indices=(0, 1), targets=(b.middle, low - 1))


def _overfull(b: Bench) -> int:
    most = b.description.pulses_per_command
    skip_unless(most < 32767, "every count is allowed")
    return most + 1


def _atomic(make: Callable[[Bench], Message]) -> Callable[[Bench], None]:
    def check(bench: Bench) -> None:
        bench.need(Opcode.WEAR)
        message = make(bench)
        bench.need(message.OPCODE)
        before, readings = bench.state(), bench.read()
        refusal_of(bench.wire.ask(message))
        bench.expect_state(before)
        moved = abs(bench.read() - readings).max()
        limit = 6 * bench.reading_sigma * (2 / 64) ** 0.5 + 2 * bool(bench.reading_sigma)
        expect(moved <= limit, f"readings as before within {limit:.0f}", int(moved))

    return check


for _name, _wear, _make in _HALF_BAD:
    COMMANDS.add(
        f"atomic-{_name}", "A list whose last entry is bad changes no cell", _atomic(_make), _wear
    )
