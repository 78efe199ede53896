"""Snapshots, where a board offers them."""

from __future__ import annotations

from cimctl.conformance.bench import Bench
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.wire import detail_name, granted
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode

SNAPSHOTS = Group("snapshots")


def _taken(bench: Bench) -> bytes:
    """A whole snapshot, in parts of two sizes."""
    data, room = b"", bench.max_payload - 4
    step = room
    while True:
        answer = bench.wire.answer(m.SnapshotRequest(len(data), step), m.SnapshotResponse)
        data += bytes(answer.data)
        if len(data) >= answer.total or not answer.data:
            expect_equal("bytes of the snapshot", len(data), answer.total)
            return data
        step = room // 2 if step == room else room


def _put_back(bench: Bench, blob: bytes) -> None:
    room = bench.max_payload - 8
    step = min(room, len(blob) // 2 + 1)
    for at in range(0, len(blob), step):
        request = m.RestoreRequest(at, len(blob), blob[at : at + step])
        answer = bench.wire.answer(request, m.RestoreResponse)
        expect_equal("complete", answer.complete, int(at + step >= len(blob)))


@SNAPSHOTS.case("RESTORE brings cells, wear and counters of the snapshot back", wear=Wear(pulses=5))
def restored(bench: Bench) -> None:
    bench.need(Opcode.SNAPSHOT, Opcode.RESTORE, Opcode.PULSE)
    before, worn = bench.status(), bench.wear()
    blob = _taken(bench)
    readings = bench.read()
    pulses = bench.pulsing(indices=(), counts=(5,) * bench.cells)
    granted(bench.wire.ask(pulses), m.PulseResponse)
    _put_back(bench, blob)
    # The noise position is the snapshot's too, so that even noisy readings come back.
    again = bench.read()
    expect(bool((again == readings).all()), str(readings.tolist()), again.tolist())
    expect_equal("pulses of the cells", bench.wear().tolist(), worn.tolist())
    after = bench.status()
    expect_equal("operations", after.operations, before.operations)
    expect_equal("set_pulses", after.set_pulses, before.set_pulses)


@SNAPSHOTS.case("A damaged or truncated snapshot is refused and changes nothing", wear=Wear())
def damaged(bench: Bench) -> None:
    bench.need(Opcode.SNAPSHOT, Opcode.RESTORE)
    blob = _taken(bench)
    before = bench.state()
    turned = bytearray(blob)
    turned[len(blob) // 2] ^= 1
    for wrong in (bytes(turned), blob[: len(blob) // 2], blob[:3]):
        step = min(bench.max_payload - 8, len(wrong))
        for at in range(0, len(wrong), step):
            request = m.RestoreRequest(at, len(wrong), wrong[at : at + step])
            if at + step < len(wrong):
                bench.wire.answer(request, m.RestoreResponse)
        status, refusal = bench.wire.refused(request)
        found = (status.name, detail_name(refusal.detail))
        expect_equal("refusal", found, ("BAD_REQUEST", "SNAPSHOT"))
    bench.expect_state(before)


@SNAPSHOTS.case("Parts change nothing before the last, and may begin anew", wear=Wear())
def parts(bench: Bench) -> None:
    bench.need(Opcode.SNAPSHOT, Opcode.RESTORE)
    blob = _taken(bench)
    before = bench.state()
    half = min(bench.max_payload - 8, len(blob) // 2)
    for _ in range(2):
        first = m.RestoreRequest(0, len(blob), blob[:half])
        expect_equal("complete", bench.wire.answer(first, m.RestoreResponse).complete, 0)
    status, refusal = bench.wire.refused(m.RestoreRequest(half + 1, len(blob), b"x"))
    expect_equal("refusal", (status.name, detail_name(refusal.detail)), ("BAD_REQUEST", "OFFSET"))
    bench.expect_state(before)
