"""Refusals: a table of requests that are wrong in one thing each, and of what they get.

A new one is a line of ``_ROWS``.  A request of a command that changes cells is sent only where that
is allowed: a board that grants it wrongly does what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cimctl.conformance.bench import Bench, Gain, skip_unless
from cimctl.conformance.cases import Group, Wear, expect_equal
from cimctl.conformance.wire import detail_name
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import MAX_TRAIN, Capability, Detail, Opcode, Status
from firmware_protocol.packing import pack_codes, packed_size

REFUSALS = Group("refusals")
TRANSPOSED, DIFFERENTIAL, SIGNED, GROUPS, TERNARY = 1, 2, 4, 8, 16
BAD, UNSUPPORTED, SAFETY = Status.BAD_REQUEST, Status.UNSUPPORTED, Status.SAFETY
#: what a request of a command does to a cell where it is granted by mistake
WEAR = {
    Opcode.PROGRAM: Wear(programs=1),
    Opcode.PULSE: Wear(pulses=1),
    Opcode.OUTER: Wear(pulses=1),
    Opcode.RESTORE: Wear(),
    Opcode.LOAD: Wear(),
}


@dataclass(frozen=True)
class Row:
    """A request that is refused.

    Attributes:
        name: of the case.
        opcode: the command.
        make: the request; may skip the case.
        status, detail: what it gets.
        index: index at fault, where one is checked.
        needs: capabilities that the request uses.
        wear: what it does to a cell where it is granted by mistake.
    """

    name: str
    opcode: Opcode
    make: Callable[[Bench], Message]
    status: Status
    detail: Detail
    index: int | None = None
    needs: tuple[Capability, ...] = ()
    wear: Wear | None = None


def _field(value: int, bits: int = 16) -> int:
    """A value beyond a limit, where the field can hold one."""
    skip_unless(0 <= value < 1 << bits, "the field cannot hold a value beyond the limit")
    return value


def _whole(b: Bench, count: int) -> tuple[int, ...]:
    return (b.middle,) * count


def _tile(b: Bench) -> m.Region:
    return replace(b.region, tile=_field(b.description.tiles))


def _outside(b: Bench) -> m.Region:
    return replace(b.region, row=b.description.rows - b.region.rows + 1)


def _beside(b: Bench) -> m.Region:
    return replace(b.region, column=b.description.columns - b.region.columns + 1)


def _empty(b: Bench) -> m.Region:
    return replace(b.region, rows=0)


def _last_slot(b: Bench) -> int:
    skip_unless(b.description.slots > 1, "there is one slot")
    return b.description.slots - 1


def _window(b: Bench, **changed: int) -> m.VmmRequest:
    """One image, whose window makes as many inputs as the region has rows."""
    image = replace(m.Window(1, 3, b.region.rows + 2, 1, b.region.rows, 1, 1, 1, 1), **changed)
    pixels = image.height * image.width
    return b.multiplying(image=image, codes=bytes((pixels + 7) // 8))


def _without(name: str) -> Callable[[Bench], Message]:
    """The same with one dimension of the window 0."""
    return lambda b: _window(b, **{name: 0})


def _two(b: Bench, second: m.Region, row_blocks: int = 1) -> m.VmmRequest:
    rows = b.region.rows * row_blocks
    return b.multiplying(
        regions=(b.region, second), row_blocks=row_blocks, codes=bytes((rows + 7) // 8)
    )


def _pair(b: Bench, **changed: int) -> m.VmmRequest:
    skip_unless(b.description.columns > 2, "there is one pair of columns")
    region = replace(b.region, columns=2)
    return b.multiplying(flags=DIFFERENTIAL, regions=(replace(region, **changed),))


def _two_cells(b: Bench) -> tuple[int, int]:
    """The first two cells of the region, the smallest there is."""
    return (0, 1)


_ROWS = [
    Row("configure-slot", Opcode.CONFIGURE,
        lambda b: b.configuring(slot=_field(b.description.slots, 8)), BAD, Detail.SLOT),
    Row("configure-read-voltage", Opcode.CONFIGURE,
        lambda b: replace(b.configuring(),
                          read_voltage=_field(b.description.read_voltage_limit + 1)),
        SAFETY, Detail.READ_VOLTAGE),
    Row("configure-multiplier-0", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=Gain(0, b.gain().shift)), BAD, Detail.GAIN),
    Row("configure-multiplier-of-17-bits", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=_same_gain_in_17_bits(b)), BAD, Detail.GAIN),
    Row("configure-shift-0", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=Gain(1, 0)), BAD, Detail.GAIN),
    Row("configure-shift-49", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=Gain(65535, 49)), BAD, Detail.GAIN),
    Row("configure-gain-below", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=_beyond(b.gain(0), -1)), BAD, Detail.GAIN),
    Row("configure-gain-above", Opcode.CONFIGURE,
        lambda b: b.configuring(gain=_beyond(b.gain(1e30), 1)), BAD, Detail.GAIN),
    Row("lease-0", Opcode.LEASE, lambda b: m.LeaseRequest(0), SAFETY, Detail.LEASE),
    Row("lease-too-long", Opcode.LEASE,
        lambda b: m.LeaseRequest(_field(b.description.lease + 1, 32)), SAFETY, Detail.LEASE),

    Row("read-slot", Opcode.READ,
        lambda b: b.reading(slot=_field(b.description.slots, 8)), BAD, Detail.SLOT),
    Row("read-slot-empty", Opcode.READ,
        lambda b: b.reading(slot=_last_slot(b)), SAFETY, Detail.SLOT_EMPTY),
    Row("read-tile", Opcode.READ, lambda b: b.reading(region=_tile(b)), BAD, Detail.TILE),
    Row("read-outside", Opcode.READ, lambda b: b.reading(region=_outside(b)), BAD, Detail.REGION),
    Row("read-beside", Opcode.READ, lambda b: b.reading(region=_beside(b)), BAD, Detail.REGION),
    Row("read-empty", Opcode.READ, lambda b: b.reading(region=_empty(b)), BAD, Detail.REGION),
    Row("read-no-sample", Opcode.READ, lambda b: b.reading(samples=0), BAD, Detail.COUNT),
    Row("wear-tile", Opcode.WEAR, lambda b: m.WearRequest(_tile(b)), BAD, Detail.TILE),
    Row("wear-outside", Opcode.WEAR, lambda b: m.WearRequest(_outside(b)), BAD, Detail.REGION),
    Row("wear-empty", Opcode.WEAR, lambda b: m.WearRequest(_empty(b)), BAD, Detail.REGION),

    Row("program-slot", Opcode.PROGRAM,
        lambda b: b.programming(slot=_field(b.description.slots, 8)), BAD, Detail.SLOT),
    Row("program-slot-empty", Opcode.PROGRAM,
        lambda b: b.programming(slot=_last_slot(b)), SAFETY, Detail.SLOT_EMPTY),
    Row("program-tile", Opcode.PROGRAM,
        lambda b: b.programming(region=_tile(b)), BAD, Detail.TILE),
    Row("program-outside", Opcode.PROGRAM,
        lambda b: b.programming(region=_outside(b)), BAD, Detail.REGION),
    Row("program-empty", Opcode.PROGRAM,
        lambda b: b.programming(region=_empty(b)), BAD, Detail.REGION),
    Row("program-no-target", Opcode.PROGRAM,
        lambda b: b.programming(indices=(), targets=()), BAD, Detail.COUNT),
    Row("program-target-missing", Opcode.PROGRAM,
        lambda b: b.programming(indices=_two_cells(b)), BAD, Detail.COUNT),
    Row("program-target-too-many", Opcode.PROGRAM,
        lambda b: b.programming(targets=_whole(b, 2)), BAD, Detail.COUNT),
    Row("program-cell-too-few", Opcode.PROGRAM,
        lambda b: b.programming(indices=(), targets=_whole(b, b.cells - 1)), BAD, Detail.COUNT),
    Row("program-index-outside", Opcode.PROGRAM,
        lambda b: b.programming(indices=(0, b.cells), targets=_whole(b, 2)), BAD, Detail.INDEX, 1),
    Row("program-index-twice", Opcode.PROGRAM,
        lambda b: b.programming(indices=(1, 1), targets=_whole(b, 2)), BAD, Detail.INDEX),
    Row("program-no-cycle", Opcode.PROGRAM,
        lambda b: b.programming(cycles=0), BAD, Detail.CYCLES),
    Row("program-cycles-over", Opcode.PROGRAM,
        lambda b: b.programming(cycles=_field(b.description.cycles_limit + 1, 8)),
        BAD, Detail.CYCLES),
    Row("program-target-below", Opcode.PROGRAM,
        lambda b: b.programming(indices=_two_cells(b),
                                targets=(b.middle, _field(b.description.target_low - 1))),
        BAD, Detail.TARGET, 1),
    Row("program-target-above", Opcode.PROGRAM,
        lambda b: b.programming(indices=_two_cells(b),
                                targets=(b.middle, _field(b.description.target_high + 1))),
        BAD, Detail.TARGET, 1),
    Row("program-target-between", Opcode.PROGRAM,
        lambda b: b.programming(indices=_two_cells(b), targets=(b.middle, _between(b))),
        BAD, Detail.TARGET, 1),

    Row("pulse-tile", Opcode.PULSE, lambda b: b.pulsing(region=_tile(b)), BAD, Detail.TILE),
    Row("pulse-outside", Opcode.PULSE,
        lambda b: b.pulsing(region=_outside(b)), BAD, Detail.REGION),
    Row("pulse-empty", Opcode.PULSE, lambda b: b.pulsing(region=_empty(b)), BAD, Detail.REGION),
    Row("pulse-no-count", Opcode.PULSE,
        lambda b: b.pulsing(indices=(), counts=()), BAD, Detail.COUNT),
    Row("pulse-count-missing", Opcode.PULSE,
        lambda b: b.pulsing(indices=_two_cells(b)), BAD, Detail.COUNT),
    Row("pulse-count-too-many", Opcode.PULSE,
        lambda b: b.pulsing(counts=(1, 1)), BAD, Detail.COUNT),
    Row("pulse-index-outside", Opcode.PULSE,
        lambda b: b.pulsing(indices=(0, b.cells), counts=(1, 1)), BAD, Detail.INDEX, 1),
    Row("pulse-index-twice", Opcode.PULSE,
        lambda b: b.pulsing(indices=(1, 1), counts=(1, 1)), BAD, Detail.INDEX),
    Row("pulse-set-count-over", Opcode.PULSE,
        lambda b: b.pulsing(indices=_two_cells(b), counts=(1, _overfull(b))),
        SAFETY, Detail.COUNT, 1, wear=Wear(overfull=1)),
    Row("pulse-reset-count-over", Opcode.PULSE,
        lambda b: b.pulsing(indices=_two_cells(b), counts=(1, -_overfull(b))),
        SAFETY, Detail.COUNT, 1, wear=Wear(overfull=1)),
    Row("pulse-set-amplitude-above", Opcode.PULSE,
        lambda b: b.pulsing(set_amplitude=_field(b.description.amplitude_high + 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("pulse-set-amplitude-below", Opcode.PULSE,
        lambda b: b.pulsing(set_amplitude=_field(b.description.amplitude_low - 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("pulse-reset-amplitude-above", Opcode.PULSE,
        lambda b: b.pulsing(reset_amplitude=_field(b.description.amplitude_high + 1),
                            counts=(-1,)),
        SAFETY, Detail.AMPLITUDE),
    Row("pulse-reset-amplitude-below", Opcode.PULSE,
        lambda b: b.pulsing(reset_amplitude=_field(b.description.amplitude_low - 1),
                            counts=(-1,)),
        SAFETY, Detail.AMPLITUDE),
    Row("pulse-width-above", Opcode.PULSE,
        lambda b: b.pulsing(width=_field(b.description.width_high + 1, 32)), SAFETY, Detail.WIDTH),
    Row("pulse-width-below", Opcode.PULSE,
        lambda b: b.pulsing(width=_field(b.description.width_low - 1, 32)), SAFETY, Detail.WIDTH),

    Row("outer-tile", Opcode.OUTER, lambda b: b.coinciding(region=_tile(b)), BAD, Detail.TILE),
    Row("outer-outside", Opcode.OUTER,
        lambda b: b.coinciding(region=_outside(b)), BAD, Detail.REGION),
    Row("outer-beside", Opcode.OUTER,
        lambda b: b.coinciding(region=_beside(b)), BAD, Detail.REGION),
    Row("outer-empty", Opcode.OUTER, lambda b: b.coinciding(region=_empty(b)), BAD, Detail.REGION),
    Row("outer-half-pair", Opcode.OUTER,
        lambda b: _update_of_pairs(b, columns=1), BAD, Detail.REGION),
    Row("outer-split-pair", Opcode.OUTER,
        lambda b: _update_of_pairs(b, column=1), BAD, Detail.REGION),
    Row("outer-no-slot", Opcode.OUTER, lambda b: b.coinciding(length=0), BAD, Detail.COUNT),
    Row("outer-32-slots", Opcode.OUTER, lambda b: b.coinciding(length=32), BAD, Detail.COUNT),
    Row("outer-no-update", Opcode.OUTER,
        lambda b: b.coinciding(count=0, words=b""), BAD, Detail.COUNT),
    Row("outer-updates-missing", Opcode.OUTER,
        lambda b: b.coinciding(count=9), BAD, Detail.LENGTH, wear=Wear(pulses=9)),
    Row("outer-words-too-many", Opcode.OUTER,
        lambda b: b.coinciding(words=bytes(b.coinciding().words) + bytes(9)), BAD, Detail.LENGTH),
    Row("outer-set-count-over", Opcode.OUTER,
        lambda b: _overfull_update(b, 0), SAFETY, Detail.COUNT, 1, wear=Wear(overfull=1)),
    Row("outer-reset-count-over", Opcode.OUTER,
        lambda b: _overfull_update(b, 1), SAFETY, Detail.COUNT, 1, wear=Wear(overfull=1)),
    Row("outer-set-amplitude-above", Opcode.OUTER,
        lambda b: b.coinciding(set_amplitude=_field(b.description.amplitude_high + 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("outer-set-amplitude-below", Opcode.OUTER,
        lambda b: b.coinciding(set_amplitude=_field(b.description.amplitude_low - 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("outer-reset-amplitude-above", Opcode.OUTER,
        lambda b: b.resetting(reset_amplitude=_field(b.description.amplitude_high + 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("outer-reset-amplitude-below", Opcode.OUTER,
        lambda b: b.resetting(reset_amplitude=_field(b.description.amplitude_low - 1)),
        SAFETY, Detail.AMPLITUDE),
    Row("outer-width-above", Opcode.OUTER,
        lambda b: b.coinciding(width=_field(b.description.width_high + 1, 32)),
        SAFETY, Detail.WIDTH),
    Row("outer-width-below", Opcode.OUTER,
        lambda b: b.coinciding(width=_field(b.description.width_low - 1, 32)),
        SAFETY, Detail.WIDTH),

    Row("wait-nothing", Opcode.WAIT, lambda b: m.WaitRequest(0), BAD, Detail.COUNT),
    Row("load-tile", Opcode.LOAD, lambda b: b.loading(region=_tile(b)), BAD, Detail.TILE),
    Row("load-outside", Opcode.LOAD, lambda b: b.loading(region=_outside(b)), BAD, Detail.REGION),
    Row("load-value-missing", Opcode.LOAD,
        lambda b: b.loading(conductances=_whole(b, b.cells - 1)), BAD, Detail.COUNT),
    Row("load-value-below", Opcode.LOAD,
        lambda b: b.loading(conductances=(*_whole(b, b.cells - 1),
                                          _field(b.description.target_low - 1))),
        BAD, Detail.TARGET),

    Row("load-value-between", Opcode.LOAD,
        lambda b: b.loading(conductances=(*_whole(b, b.cells - 1), _between(b))),
        BAD, Detail.TARGET, None),

    Row("vmm-slot", Opcode.VMM,
        lambda b: b.multiplying(slot=_field(b.description.slots, 8)), BAD, Detail.SLOT),
    Row("vmm-slot-empty", Opcode.VMM,
        lambda b: b.multiplying(slot=_last_slot(b)), SAFETY, Detail.SLOT_EMPTY),
    Row("vmm-no-input-bits", Opcode.VMM,
        lambda b: b.multiplying(input_bits=0), BAD, Detail.INPUT_BITS),
    Row("vmm-input-bits-over", Opcode.VMM,
        lambda b: _wide(b, b.description.input_bits + 1), BAD, Detail.INPUT_BITS),
    Row("vmm-no-vector", Opcode.VMM,
        lambda b: b.multiplying(count=0, codes=b""), BAD, Detail.COUNT),
    Row("vmm-codes-missing", Opcode.VMM,
        lambda b: b.multiplying(count=9), BAD, Detail.LENGTH),
    Row("vmm-no-region", Opcode.VMM,
        lambda b: b.multiplying(regions=()), BAD, Detail.GROUPING),
    Row("vmm-no-row-block", Opcode.VMM,
        lambda b: b.multiplying(row_blocks=0), BAD, Detail.GROUPING),
    Row("vmm-blocks-do-not-divide", Opcode.VMM,
        lambda b: b.multiplying(row_blocks=2), BAD, Detail.GROUPING),
    Row("vmm-blocks-unequal", Opcode.VMM,
        lambda b: _two(b, replace(b.region, rows=_smaller(b.region.rows))),
        BAD, Detail.GROUPING, 1),
    Row("vmm-tile", Opcode.VMM, lambda b: _two(b, _tile(b)), BAD, Detail.TILE, 1),
    Row("vmm-outside", Opcode.VMM, lambda b: _two(b, _outside(b)), BAD, Detail.REGION, 1),
    Row("vmm-empty", Opcode.VMM,
        lambda b: b.multiplying(regions=(replace(b.region, columns=0),)), BAD, Detail.REGION, 0),
    Row("vmm-half-pair", Opcode.VMM,
        lambda b: _pair(b, columns=1), BAD, Detail.REGION, 0, (Capability.DIFFERENTIAL,)),
    Row("vmm-split-pair", Opcode.VMM,
        lambda b: _pair(b, column=1), BAD, Detail.REGION, 0, (Capability.DIFFERENTIAL,)),
    Row("vmm-half-group", Opcode.VMM,
        lambda b: _group(b, columns=len(b.column_weights) - 1),
        BAD, Detail.REGION, 0, (Capability.GROUPS,)),
    Row("vmm-split-group", Opcode.VMM,
        lambda b: _group(b, column=1), BAD, Detail.REGION, 0, (Capability.GROUPS,)),
    Row("vmm-groups-transposed", Opcode.VMM,
        lambda b: b.multiplying(flags=GROUPS | TRANSPOSED),
        BAD, Detail.GROUPS, None, (Capability.GROUPS, Capability.TRANSPOSED)),
    Row("vmm-groups-of-pairs", Opcode.VMM,
        lambda b: b.multiplying(flags=GROUPS | DIFFERENTIAL),
        BAD, Detail.GROUPS, None, (Capability.GROUPS, Capability.DIFFERENTIAL)),
    Row("vmm-ternary-lowest", Opcode.VMM, lambda b: _lowest(b),
        BAD, Detail.TERNARY, 0, (Capability.TERNARY,)),
    Row("vmm-kernel-too-large", Opcode.VMM,
        lambda b: _window(b, width=b.region.rows - 1) if b.region.rows > 1 else _window(b, width=0),
        BAD, Detail.WINDOW, needs=(Capability.IMAGES,)),
    Row("vmm-kernel-of-other-size", Opcode.VMM,
        lambda b: _window(b, kernel_height=2), BAD, Detail.WINDOW, needs=(Capability.IMAGES,)),
    *(Row(f"vmm-window-no-{name.replace('_', '-')}", Opcode.VMM, _without(name),
          BAD, Detail.WINDOW, needs=(Capability.IMAGES,))
      for name in ("height", "kernel_height", "stride_y", "stride_x", "dilation_y", "dilation_x")),

    Row("snapshot-too-long", Opcode.SNAPSHOT,
        lambda b: m.SnapshotRequest(0, b.description.max_payload), BAD, Detail.ANSWER_SIZE),
    Row("restore-from-the-middle", Opcode.RESTORE,
        lambda b: m.RestoreRequest(5, 10, b"12345"), BAD, Detail.OFFSET),
    Row("restore-over-total", Opcode.RESTORE,
        lambda b: m.RestoreRequest(0, 3, b"12345"), BAD, Detail.OFFSET),
    Row("restore-of-nonsense", Opcode.RESTORE,
        lambda b: m.RestoreRequest(0, 5, b"12345"), BAD, Detail.SNAPSHOT),
]  # fmt: skip


def _same_gain_in_17_bits(b: Bench) -> Gain:
    """A gain within the range, which only the width of its multiplier forbids."""
    gain = b.gain()
    return Gain(65536, 16 + gain.shift - gain.multiplier.bit_length())


def _beyond(gain: Gain, direction: int) -> Gain:
    """A gain past the end of the range that this one is next to."""
    return Gain(gain.multiplier, gain.shift - direction)


def _overfull(b: Bench) -> int:
    return min(_field(b.description.pulses_per_command + 1, 15), 32767)


def _overfull_update(b: Bench, sign: int) -> m.OuterRequest:
    """The first cell gets one pulse, the second one more than a command may give."""
    count = b.description.pulses_per_command + 1
    whole, rest = divmod(count, MAX_TRAIN)
    second = np.array([(1 << MAX_TRAIN) - 1] * whole + [(1 << rest) - 1])
    columns = np.stack([np.zeros_like(second), second], axis=1)
    columns[0, 0] = 1
    rows = np.full((len(second), 1), (1 << MAX_TRAIN) - 1 | sign << MAX_TRAIN)
    request = b.coinciding(rows, columns, length=MAX_TRAIN, region=m.Region(0, 0, 1, 0, 2))
    fits = len(request.encode()) <= b.max_payload
    skip_unless(fits, "a payload does not hold more pulses than a command may give")
    return request


def _update_of_pairs(b: Bench, **changed: int) -> m.OuterRequest:
    skip_unless(b.description.columns > 2, "there is one pair of columns")
    region = replace(b.region, **{"columns": 2, **changed})
    return b.coinciding(region=region, flags=DIFFERENTIAL)


def _between(b: Bench) -> int:
    skip_unless(b.description.levels > 0, "a cell holds any conductance")
    return b.description.target_low + 1


def _group(b: Bench, **changed: int) -> m.VmmRequest:
    size = len(b.column_weights)
    skip_unless(b.description.columns > size > 1, "there is one group of columns, or none")
    region = replace(b.region, **{"columns": size, **changed})
    return b.multiplying(flags=GROUPS, regions=(region,))


def _lowest(b: Bench) -> m.VmmRequest:
    """Ternary codes of two bits, the first of them -2, which has no magnitude of one bit."""
    skip_unless(b.description.input_bits > 1, "inputs have one bit")
    codes = np.zeros(b.region.rows, dtype=np.int8)
    codes[0] = -2
    return b.multiplying(flags=SIGNED | TERNARY, input_bits=2, codes=bytes(pack_codes(codes, 2)))


def _wide(b: Bench, bits: int) -> m.VmmRequest:
    return b.multiplying(input_bits=bits, codes=bytes(packed_size(b.region.rows, bits)))


def _smaller(rows: int) -> int:
    skip_unless(rows > 1, "the tile has one row")
    return rows - 1


def _checked(row: Row) -> Callable[[Bench], None]:
    def check(bench: Bench) -> None:
        bench.need(row.opcode, *row.needs)
        message = row.make(bench)
        before = bench.state()
        status, refusal = bench.wire.refused(message)
        expect_equal("status", status.name, row.status.name)
        expect_equal("detail", detail_name(refusal.detail), row.detail.name)
        if row.index is not None:
            expect_equal("index at fault", refusal.index, row.index)
        bench.expect_state(before)

    return check


for _row in _ROWS:
    REFUSALS.add(
        _row.name,
        f"{_row.opcode.name} is refused with {_row.status.name} {_row.detail.name} and changes "
        "nothing",
        _checked(_row),
        _row.wear if _row.wear is not None else WEAR.get(_row.opcode),
    )


# ------------------------------------------------------------------ what is not offered


@dataclass(frozen=True)
class Lacking:
    """A request that a board without a capability refuses as UNSUPPORTED."""

    capability: Capability
    detail: Detail
    make: Callable[[Bench], Message]


_LACKING = [
    Lacking(Capability.TRANSPOSED, Detail.TRANSPOSED,
            lambda b: b.multiplying(flags=TRANSPOSED, codes=bytes((b.region.columns + 7) // 8))),
    Lacking(Capability.IMAGES, Detail.IMAGES, _window),
    Lacking(Capability.ROW_BLOCK_SUMS, Detail.ROW_BLOCKS, lambda b: _two(b, b.region, 2)),
    Lacking(Capability.SIGNED_INPUTS, Detail.SIGNED, lambda b: b.multiplying(flags=SIGNED)),
    Lacking(Capability.DIFFERENTIAL, Detail.DIFFERENTIAL, _pair),
    Lacking(Capability.GROUPS, Detail.GROUPS, lambda b: b.multiplying(flags=GROUPS)),
    Lacking(Capability.TERNARY, Detail.TERNARY, lambda b: b.multiplying(flags=TERNARY)),
    Lacking(Capability.SNAPSHOT, Detail.SNAPSHOT, lambda b: m.SnapshotRequest(0, 4)),
    Lacking(Capability.SNAPSHOT, Detail.SNAPSHOT, lambda b: m.RestoreRequest(0, 4, b"1234")),
    Lacking(Capability.LOAD, Detail.LOAD, lambda b: b.loading()),
    Lacking(Capability.WAIT, Detail.WAIT, lambda b: m.WaitRequest(1)),
    Lacking(Capability.OUTER, Detail.OUTER, lambda b: b.coinciding()),
]  # fmt: skip

_LACKING_WEAR = {Capability.LOAD: WEAR[Opcode.LOAD], Capability.OUTER: WEAR[Opcode.OUTER]}


def _unsupported(lacking: Lacking) -> Callable[[Bench], None]:
    def check(bench: Bench) -> None:
        name = lacking.capability.name
        skip_unless(not bench.offers(lacking.capability), f"the board offers {name}")
        before = bench.state()
        status, refusal = bench.wire.refused(lacking.make(bench))
        found = (status.name, detail_name(refusal.detail))
        expect_equal("refusal", found, ("UNSUPPORTED", lacking.detail.name))
        bench.expect_state(before)

    return check


for _lacking in _LACKING:
    _name = (
        "restore" if _lacking.make is _LACKING[8].make else str(_lacking.capability.name).lower()
    )
    REFUSALS.add(
        f"without-{_name.replace('_', '-')}",
        f"A board without {_lacking.capability.name} refuses it as UNSUPPORTED "
        f"{_lacking.detail.name}",
        _unsupported(_lacking),
        _LACKING_WEAR.get(_lacking.capability),
    )


@REFUSALS.case("A cell near its lifetime budget is refused SAFETY LIFETIME", wear=Wear(overfull=1))
def lifetime(bench: Bench) -> None:
    bench.need(Opcode.PULSE, Opcode.WEAR)
    d = bench.description
    most = min(d.pulses_per_command, 32767)
    spent = int(bench.wear()[0])
    reach = bool(d.lifetime_pulses) and spent + most > d.lifetime_pulses
    skip_unless(reach, "one command brings no cell near its budget")
    before = bench.state()
    status, refusal = bench.wire.refused(bench.pulsing(counts=(d.lifetime_pulses - spent + 1,)))
    expect_equal("refusal", (status.name, detail_name(refusal.detail)), ("SAFETY", "LIFETIME"))
    expect_equal("limit", refusal.limit, d.lifetime_pulses)
    bench.expect_state(before)
