"""Payloads of the wrong length, and commands that the board does not know."""

from __future__ import annotations

from collections.abc import Callable

from cimctl.conformance.bench import Bench, skip_unless
from cimctl.conformance.cases import Group, Wear, expect_equal
from cimctl.conformance.refusals import WEAR
from cimctl.conformance.wire import detail_name, refusal_of
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Opcode

MALFORMED = Group("malformed")


def _lengths(opcode: Opcode) -> Callable[[Bench], None]:
    """A payload without its last byte, and one with a byte more."""

    def check(bench: Bench) -> None:
        bench.need(opcode)
        payload = _sound(bench, opcode).encode()
        before = bench.state()
        # RESTORE takes any number of bytes of the snapshot.
        longer = b"" if opcode == Opcode.RESTORE else b"\1"
        for wrong in sorted({payload[:1], payload[:-1], payload + longer} - {payload}):
            status, refusal = refusal_of(bench.wire.send(opcode, wrong))
            found = (len(wrong), status.name, detail_name(refusal.detail))
            expect_equal("size and refusal", found, (len(wrong), "BAD_REQUEST", "LENGTH"))
        bench.expect_state(before)

    return check


def _sound(bench: Bench, opcode: Opcode) -> Message:
    """A request that would be granted, of a length that no other list of values has."""
    makers: dict[Opcode, Callable[[], Message]] = {
        Opcode.STATUS: m.StatusRequest,
        Opcode.CONFIGURE: bench.configuring,
        Opcode.SAFE: m.SafeRequest,
        Opcode.LEASE: lambda: m.LeaseRequest(max(1, bench.description.lease)),
        Opcode.JOURNAL: lambda: m.JournalRequest(3),
        Opcode.REBOOT: m.RebootRequest,
        Opcode.READ: bench.reading,
        Opcode.PROGRAM: bench.programming,
        Opcode.PULSE: bench.pulsing,
        Opcode.OUTER: bench.coinciding,
        Opcode.WEAR: lambda: m.WearRequest(bench.region),
        Opcode.VMM: bench.multiplying,
        Opcode.SNAPSHOT: lambda: m.SnapshotRequest(0, 4),
        Opcode.RESTORE: lambda: m.RestoreRequest(0, 4, b""),
        Opcode.LOAD: bench.loading,
        Opcode.WAIT: lambda: m.WaitRequest(1),
    }
    return makers[opcode]()


for _opcode in Opcode:
    if _opcode not in (Opcode.HELLO, Opcode.PING):
        MALFORMED.add(
            f"{_opcode.name.lower()}-length",
            f"{_opcode.name} with a byte too few or too many is refused with BAD_REQUEST LENGTH",
            _lengths(_opcode),
            WEAR.get(_opcode),
        )


@MALFORMED.case("A list that claims more entries than follow is refused with LENGTH", wear=Wear(1))
def index_count(bench: Bench) -> None:
    bench.need(Opcode.PROGRAM)
    before = bench.state()
    payload = bytearray(bench.programming().encode())
    at = len(payload) - 2 - 2 - 4  # before one target and one index: their 32-bit count
    for count in (3, 0xFFFFFFFF):
        payload[at : at + 4] = count.to_bytes(4, "little")
        status, refusal = refusal_of(bench.wire.send(Opcode.PROGRAM, bytes(payload)))
        expect_equal(
            "refusal", (status.name, detail_name(refusal.detail)), ("BAD_REQUEST", "LENGTH")
        )
    bench.expect_state(before)


@MALFORMED.case("Commands that the specification does not have are UNSUPPORTED OPCODE")
def unknown_opcodes(bench: Bench) -> None:
    before = bench.state()
    for opcode in (0x00, 0x0F, 0x3F, 0x40, 0x7F, 0xFF):
        status, refusal = refusal_of(bench.wire.send(opcode, b"payload"))
        found = (opcode, status.name, detail_name(refusal.detail))
        expect_equal("opcode and refusal", found, (opcode, "UNSUPPORTED", "OPCODE"))
    bench.expect_state(before)


@MALFORMED.case("Commands whose bit HELLO does not set are UNSUPPORTED", wear=Wear(1, 2))
def hidden_opcodes(bench: Bench) -> None:
    hidden = [op for op in Opcode if not bench.knows(op)]
    skip_unless(bool(hidden), "the board knows every command")
    for opcode in hidden:
        status, _ = bench.wire.refused(_sound(bench, opcode))
        expect_equal(opcode.name, status.name, "UNSUPPORTED")
