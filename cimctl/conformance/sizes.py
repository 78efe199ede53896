"""The smallest payloads and the largest."""

from __future__ import annotations

from cimctl.conformance.bench import Bench, skip_unless
from cimctl.conformance.cases import Group, expect, expect_equal
from cimctl.conformance.expected import VMM_HEAD
from cimctl.conformance.wire import detail_name
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Opcode
from firmware_protocol.packing import fitting_count, packed_size

SIZES = Group("sizes")
_SNAPSHOT_HEAD = 4


@SIZES.case("An empty PING and one of one byte come back")
def smallest(bench: Bench) -> None:
    for echo in (b"", b"\0"):
        answer = bench.wire.answer(m.PingRequest(echo), m.PingResponse)
        expect_equal("echo", bytes(answer.echo), echo)


@SIZES.case("A PING of the largest payload comes back")
def largest_ping(bench: Bench) -> None:
    echo = (bytes(range(251)) * (bench.max_payload // 251 + 1))[: bench.max_payload]
    answer = bench.wire.answer(m.PingRequest(echo), m.PingResponse)
    expect(bytes(answer.echo) == echo, f"the {len(echo)} bytes that were sent",
           f"{len(answer.echo)} bytes, others among them")  # fmt: skip


@SIZES.case("A VMM whose answer just fits a payload is granted, one vector more ANSWER_SIZE")
def largest_vmm(bench: Bench) -> None:
    _need_whole_payload(bench)
    bits = bench.description.answer_bits
    most = fitting_count(bench.max_payload - VMM_HEAD, bits)
    one = m.Region(0, 0, 1, 0, 1)

    def request(count: int) -> m.VmmRequest:
        return bench.multiplying(regions=(one,), count=count, codes=bytes((count + 7) // 8))

    answer = bench.wire.answer(request(most), m.VmmResponse)
    expect_equal("bytes of codes", len(answer.codes), packed_size(most, bits))
    _refused_for_size(bench, request(most + 1))


@SIZES.case("A READ whose answer just fits a payload is granted, one row more ANSWER_SIZE")
def largest_read(bench: Bench) -> None:
    region, more = _regions(bench, 2)
    bench.read(1, region)
    _refused_for_size(bench, bench.reading(region=more))


@SIZES.case("A WEAR whose answer just fits a payload is granted, one row more ANSWER_SIZE")
def largest_wear(bench: Bench) -> None:
    bench.need(Opcode.WEAR)
    region, more = _regions(bench, 4)
    bench.wear(region)
    _refused_for_size(bench, m.WearRequest(more))


@SIZES.case("READ of a whole tile is granted where its answer fits a payload")
def whole_tile(bench: Bench) -> None:
    d = bench.description
    skip_unless(2 * d.rows * d.columns <= bench.max_payload, "a tile does not fit a payload")
    bench.read(1, m.Region(0, 0, d.rows, 0, d.columns))


@SIZES.case("A SNAPSHOT part of the largest payload is granted")
def largest_snapshot(bench: Bench) -> None:
    bench.need(Opcode.SNAPSHOT)
    room = bench.max_payload - _SNAPSHOT_HEAD
    answer = bench.wire.answer(m.SnapshotRequest(0, room), m.SnapshotResponse)
    expect_equal("bytes of the part", len(answer.data), min(room, answer.total))


def _regions(bench: Bench, size: int) -> tuple[m.Region, m.Region]:
    """The most whole rows whose values of that size fit a payload, and a row more."""
    _need_whole_payload(bench)
    d = bench.description
    rows = bench.max_payload // (size * d.columns)
    skip_unless(0 < rows < d.rows, "the answer for a whole tile fits a payload")
    return m.Region(0, 0, rows, 0, d.columns), m.Region(0, 0, rows + 1, 0, d.columns)


def _need_whole_payload(bench: Bench) -> None:
    less = bench.max_payload < bench.description.max_payload
    skip_unless(not less, "--max-payload keeps below the board's largest")


def _refused_for_size(bench: Bench, request: Message) -> None:
    status, refusal = bench.wire.refused(request)
    found = (status.name, detail_name(refusal.detail))
    expect_equal("refusal", found, ("BAD_REQUEST", "ANSWER_SIZE"))
