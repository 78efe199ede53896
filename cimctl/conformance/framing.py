"""Frames on the wire: what is answered, and what is dropped and counted."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from cimctl.conformance.bench import Bench, skip_unless
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.wire import damaged, forged, status_name
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import CRC_SEED, MIN_PAYLOAD, VERSION, Flag, Opcode, Status

WIRE = Group("wire")
_GARBAGE = bytes(range(1, 120))
#: places within a PING frame of 8 bytes: version, opcode, session, sequence, length, payload, CRC
_PLACES = (0, 2, 5, 9, 12, 18, 25)


def _ping(bench: Bench, echo: bytes = b"conforms") -> bytes:
    """A PING of the session that is due next, but is not counted as sent."""
    return bench.wire.request(m.PingRequest(echo), bench.wire.sequence)


def _dropped(bench: Bench, data: bytes, corrupt: int = 1) -> None:
    """The bytes cause no answer, and count as that many corrupt frames."""
    before = bench.status().corrupt_frames
    bench.wire.unanswered(data)
    expect_equal("corrupt_frames more:", bench.status().corrupt_frames - before, corrupt)


@WIRE.case("Golden requests of a foreign session are refused with NO_SESSION")
def golden_requests(bench: Bench) -> None:
    _foreign(bench, [v for v in _golden("Request") if v["opcode"] not in m.MUTATING])


@WIRE.case("Golden requests that change cells are refused likewise", wear=Wear(1, 4))
def golden_changes(bench: Bench) -> None:
    before = bench.state()
    _foreign(bench, [v for v in _golden("Request") if v["opcode"] in m.MUTATING])
    bench.expect_state(before)


def _foreign(bench: Bench, vectors: list[dict[str, Any]]) -> None:
    for vector in vectors:
        # These two are answered in any session.
        if vector["opcode"] in (Opcode.HELLO, Opcode.JOURNAL):
            continue
        bench.wire.write(bytes.fromhex(vector["frame"]))
        answer = bench.wire.matched(vector["opcode"], vector["session"], vector["sequence"])
        expect_equal(f"{vector['name']}:", status_name(answer.status), "NO_SESSION")


@WIRE.case("Golden answers, being answers, are answered by nothing")
def golden_answers(bench: Bench) -> None:
    for vector in _golden("Response"):
        frame = bytes.fromhex(vector["frame"])
        bench.wire.unanswered(frame)


@WIRE.case("The golden HELLO, of another specification, gets SPEC_MISMATCH and opens nothing")
def golden_hello(bench: Bench) -> None:
    (vector,) = (v for v in _golden("Request") if v["opcode"] == Opcode.HELLO)
    bench.wire.write(bytes.fromhex(vector["frame"]))
    answer = bench.wire.matched(Opcode.HELLO, vector["session"], 0)
    expect_equal("status", status_name(answer.status), "SPEC_MISMATCH")
    answer = bench.wire.ask(m.PingRequest(b""))
    expect_equal("the session before it goes on:", status_name(answer.status), "OK")


def _golden(kind: str) -> list[dict[str, Any]]:
    file = importlib.resources.files("firmware_protocol") / "golden" / "vectors.json"
    vectors: list[dict[str, Any]] = json.loads(file.read_text())["vectors"]
    return [v for v in vectors if v["message"].endswith(kind)]


@WIRE.case("Garbage up to a delimiter is dropped and counted, the frame after it answered")
def garbage(bench: Bench) -> None:
    _dropped(bench, _GARBAGE + b"\0")


@WIRE.case("Delimiters with nothing between them are no frames: neither answered nor counted")
def empty_frames(bench: Bench) -> None:
    _dropped(bench, b"\0" * 7, corrupt=0)


@WIRE.case("A frame that arrives byte by byte is answered")
def single_bytes(bench: Bench) -> None:
    for byte in _ping(bench):
        bench.wire.write(bytes([byte]))
    answer = bench.wire.matched(Opcode.PING, bench.wire.session, bench.wire.sequence)
    expect_equal("echo", bytes(answer.payload), b"conforms")


@WIRE.case("Two frames in one write get two answers in their order")
def two_in_one_write(bench: Bench) -> None:
    wire, first = bench.wire, bench.wire.sequence
    frames_ = [wire.request(m.PingRequest(bytes([i])), first + i) for i in range(2)]
    wire.write(b"".join(frames_))
    for i in range(2):
        answer = wire.matched(Opcode.PING, wire.session, first + i)
        expect_equal("echo", bytes(answer.payload), bytes([i]))


@WIRE.case("Payloads that stuffing and mask find hard come back as they were sent")
def stuffing(bench: Bench) -> None:
    whole = bytes(range(256))[:MIN_PAYLOAD]
    runs = [bytes([fill]) * size for fill in (0x00, 0x55, 0xFF) for size in (1, 233, 234, 256)]
    for echo in (whole, whole[::-1], *runs):
        answer = bench.wire.answer(m.PingRequest(echo), m.PingResponse)
        expect(bytes(answer.echo) == echo, f"{len(echo)} bytes of {echo[:3].hex()}... back",
               bytes(answer.echo).hex())  # fmt: skip


@WIRE.case("A frame with one bit turned, wherever, is not answered and counted as corrupt")
def flipped_bit(bench: Bench) -> None:
    for place in _PLACES:
        _dropped(bench, damaged(_ping(bench), place, place % 8))


@WIRE.case("A frame that lacks its end is not answered and counted as corrupt")
def truncated(bench: Bench) -> None:
    for missing in (2, 5, 20):
        _dropped(bench, _ping(bench)[:-missing] + b"\0")


@WIRE.case("A frame whose CRC another specification seeds is not answered")
def foreign_crc(bench: Bench) -> None:
    wire = bench.wire
    for seed in (0, CRC_SEED ^ 1):
        _dropped(bench, forged(Opcode.PING, wire.session, wire.sequence, b"x", seed=seed))


@WIRE.case("A frame of another version is not answered, however sound")
def foreign_version(bench: Bench) -> None:
    wire = bench.wire
    _dropped(bench, forged(Opcode.PING, wire.session, wire.sequence, version=VERSION + 1))


@WIRE.case("A frame whose length field is not its payload's is not answered, however sound")
def wrong_length(bench: Bench) -> None:
    wire = bench.wire
    for length in (0, 3, 5, 1 << 31):
        _dropped(bench, forged(Opcode.PING, wire.session, wire.sequence, b"four", length=length))


@WIRE.case("A frame flagged as an answer is answered by nothing and not counted as corrupt")
def response_flag(bench: Bench) -> None:
    wire = bench.wire
    frame = forged(Opcode.PING, wire.session, wire.sequence, flags=Flag.RESPONSE)
    _dropped(bench, frame, corrupt=0)


@WIRE.case("A stream longer than any frame is dropped, and the frame after it answered")
def endless_frame(bench: Bench) -> None:
    _need_whole_payload(bench)
    size = frames.wire_size(bench.description.max_payload) + 64
    _dropped(bench, b"\x01" * size + b"\0")


@WIRE.case("A request whose payload passes the largest is dropped, and the next answered")
def payload_over_limit(bench: Bench) -> None:
    _need_whole_payload(bench)
    wire, most = bench.wire, bench.description.max_payload
    # Zeros on the wire stuff worst, ones best: neither the size before nor after it may slip by.
    for fill in (b"\x55", b"\x01"):
        echo = fill * (most + 1)
        _dropped(bench, frames.encode(Opcode.PING, wire.session, wire.sequence, (echo,)))


def _need_whole_payload(bench: Bench) -> None:
    skip_unless(
        bench.max_payload == bench.description.max_payload, "--max-payload keeps below the largest"
    )


@WIRE.case("HELLO is read whatever version its header names")
def hello_of_another_version(bench: Bench) -> None:
    wire = bench.wire
    payload = m.HelloRequest(VERSION, 0, 0).encode()
    wire.write(forged(Opcode.HELLO, wire.session, 0, payload, version=VERSION + 1))
    answer = wire.matched(Opcode.HELLO, wire.session, 0)
    expect_equal("status", Status(answer.status).name, "SPEC_MISMATCH")
