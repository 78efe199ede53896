"""Sequence numbers: order, duplicates, kept answers."""

from __future__ import annotations

from collections.abc import Sequence

from cimctl.conformance.bench import Bench
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.wire import UNORDERED, answer_text, granted, refusal_of
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Detail, Opcode, Status

ORDER = Group("order")


def _again(bench: Bench, message: Message, first: frames.Frame, sequence: int) -> None:
    """The request sent once more gets the bytes of its first answer."""
    bench.wire.write(bench.wire.request(message, sequence))
    second = bench.wire.matched(message.OPCODE, bench.wire.session, sequence)
    same = (second.status, bytes(second.payload)) == (first.status, bytes(first.payload))
    expect(same, f"{message.OPCODE.name} answered as at first: {answer_text(first)}, "
           f"{bytes(first.payload[:24]).hex()}",
           f"{answer_text(second)}, {bytes(second.payload[:24]).hex()}")  # fmt: skip


@ORDER.case("A full window of requests in one write is answered in order")
def full_window(bench: Bench) -> None:
    wire, first = bench.wire, bench.wire.sequence
    requests = [wire.request(m.PingRequest(bytes([i])), first + i) for i in range(bench.window)]
    wire.write(b"".join(requests))
    for i in range(bench.window):
        answer = wire.matched(Opcode.PING, wire.session, first + i)
        expect_equal("echo", bytes(answer.payload), bytes([i]))


@ORDER.case("A duplicate gets the identical answer and counts in `duplicates`")
def duplicate_answered_alike(bench: Bench) -> None:
    before = bench.status().duplicates
    # A second reading would have other noise, were it taken.
    for message in (m.PingRequest(b"twice"), bench.reading(samples=2)):
        first = bench.wire.ask(message)
        _again(bench, message, first, bench.wire.sequence - 1)
    expect_equal("duplicates more:", bench.status().duplicates - before, 2)


@ORDER.case("A duplicate of PULSE is not applied again", wear=Wear(pulses=3))
def duplicate_not_executed(bench: Bench) -> None:
    _executed_once(bench, bench.pulsing())


@ORDER.case("A duplicate of OUTER is not applied again", wear=Wear(pulses=3))
def duplicate_update_not_executed(bench: Bench) -> None:
    _executed_once(bench, bench.coinciding())


def _executed_once(bench: Bench, message: Message) -> None:
    """The request, which gives the first cell one pulse, is sent three times."""
    bench.need(Opcode(message.OPCODE), Opcode.WEAR)
    before, worn = bench.status().operations, bench.wear()
    first = bench.wire.ask(message)
    granted(first, m.RESPONSES[message.OPCODE])
    for _ in range(2):
        _again(bench, message, first, bench.wire.sequence - 1)
    expect_equal("operations more:", bench.status().operations - before, 1)
    expect_equal("pulses of the cell more:", int(bench.wear()[0] - worn[0]), 1)


@ORDER.case("A duplicate of a refused request gets the same refusal, also once it could be granted")
def duplicate_of_refusal(bench: Bench) -> None:
    bench.safe()
    message = bench.reading()
    first, sequence = bench.wire.ask(message), bench.wire.sequence - 1
    expect_equal("status", Status(first.status).name, "SAFETY")
    bench.configure()
    if bench.window > 1:
        _again(bench, message, first, sequence)


@ORDER.case("The last window of answers is kept")
def kept_answers(bench: Bench) -> None:
    wire, size = bench.wire, bench.window
    messages = [m.PingRequest(bytes([i, 0xA5])) for i in range(size + 3)]
    first = [wire.ask(message) for message in messages]
    start = wire.sequence - len(messages)
    for i in list(range(len(messages)))[-size:]:
        _again(bench, messages[i], first[i], start + i)


@ORDER.case("A request ahead of its turn gets RETRY, and is done when its turn has come")
def early(bench: Bench) -> None:
    wire = bench.wire
    for ahead in (1, 2, 1000):
        answer = wire.exchange(Opcode.PING, sequence=wire.sequence + ahead)
        expect_equal(f"{ahead} ahead:", answer_text(answer), "RETRY NONE")
    for _ in range(2):
        granted(wire.ask(m.PingRequest(b"")), m.PingResponse)


@ORDER.case("An early PULSE is not applied", wear=Wear(pulses=1))
def early_not_executed(bench: Bench) -> None:
    bench.need(Opcode.PULSE)
    before = bench.state()
    message, wire = bench.pulsing(), bench.wire
    answer = wire.exchange(Opcode.PULSE, message.parts(), sequence=wire.sequence + 1)
    expect_equal("status", answer_text(answer), "RETRY NONE")
    bench.expect_state(before)


@ORDER.case("A request older than the kept answers gets STALE")
def stale(bench: Bench) -> None:
    # Twice over, as the specification does not say how many answers a board keeps at most.
    for _ in range(2 * bench.description.window):
        granted(bench.wire.ask(m.PingRequest(b"")), m.PingResponse)
    answer = bench.wire.exchange(Opcode.PING, sequence=1)
    expect_equal("status", answer_text(answer), "STALE NONE")


@ORDER.case("A refused request has had its turn: the next number follows it")
def refusals_count(bench: Bench) -> None:
    expect_equal("status", bench.wire.ask(bench.reading(samples=0)).status, Status.BAD_REQUEST)
    granted(bench.wire.ask(m.PingRequest(b"")), m.PingResponse)


@ORDER.case("Requests of no session are refused with NO_SESSION", wear=Wear(1, 2))
def no_session(bench: Bench) -> None:
    before, other = bench.state(), bench.wire.session ^ 0x20
    requests: Sequence[Message] = (
        m.PingRequest(b""), m.StatusRequest(), m.SafeRequest(), bench.configuring(),
        bench.reading(), bench.multiplying(), bench.pulsing(), bench.coinciding(),
        bench.programming(),
    )  # fmt: skip
    for message in requests:
        for session in (other, 0):
            answer = bench.wire.exchange(
                message.OPCODE, message.parts(), session=session, sequence=1
            )
            expect_equal(f"{message.OPCODE.name}:", answer_text(answer), "NO_SESSION NONE")
    bench.expect_state(before)


@ORDER.case("LEASE and JOURNAL with a sequence number are refused with BAD_REQUEST ORDER")
def unordered_in_order(bench: Bench) -> None:
    messages = (m.LeaseRequest(max(1, bench.description.lease)), m.JournalRequest(7))
    for message in messages:
        bench.need(message.OPCODE)
        wire = bench.wire
        answer = wire.exchange(message.OPCODE, message.parts(), sequence=wire.sequence)
        status, refusal = refusal_of(answer)
        expect_equal("status", (status.name, Detail(refusal.detail).name), ("BAD_REQUEST", "ORDER"))
        wire.sequence += 1
    granted(bench.wire.ask(m.PingRequest(b"")), m.PingResponse)


@ORDER.case("Any other command with sequence number 0 is refused with BAD_REQUEST ORDER")
def ordered_out_of_order(bench: Bench) -> None:
    before = bench.state()
    messages = (m.PingRequest(b""), m.StatusRequest(), m.SafeRequest(), bench.reading())
    for message in messages:
        answer = bench.wire.exchange(message.OPCODE, message.parts(), sequence=0)
        status, refusal = refusal_of(answer)
        expect_equal("status", (status.name, Detail(refusal.detail).name), ("BAD_REQUEST", "ORDER"))
    bench.expect_state(before)


@ORDER.case("LEASE and JOURNAL take no turn: the sequence goes on as if they had not been")
def unordered_take_no_turn(bench: Bench) -> None:
    for opcode in UNORDERED:
        if bench.knows(opcode) and (opcode != Opcode.LEASE or bench.description.lease):
            message = (
                m.LeaseRequest(bench.description.lease)
                if opcode == Opcode.LEASE
                else m.JournalRequest(7)
            )
            for _ in range(2):
                expect_equal(f"{opcode.name}:", answer_text(bench.wire.ask(message)), "OK")
        granted(bench.wire.ask(m.PingRequest(b"")), m.PingResponse)
