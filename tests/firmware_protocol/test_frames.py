"""Frames: what comes through, what is detected, and that nothing makes the decoder raise."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firmware_protocol
from firmware_protocol import frames, messages
from firmware_protocol.codec import PayloadError
from firmware_protocol.constants import CRC_SEED, SPEC_DIGEST, Flag, Opcode
from firmware_protocol.frames import CorruptFrame, Decoder, Frame, encode

words = st.integers(0, 2**32 - 1)
opcodes = st.sampled_from(sorted(Opcode))
zero_rich = st.lists(st.sampled_from((0, 0x55, 1, 255)), max_size=700).map(bytes)
payloads = st.one_of(st.binary(max_size=700), zero_rich)
GOOD = encode(Opcode.PING, 7, 3, [b"good"])
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(firmware_protocol.__file__).parent / "golden" / "vectors.json").read_text()
)["vectors"]
by_name = pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])


def content(frame: Frame | CorruptFrame) -> Any:
    assert isinstance(frame, Frame)
    return (
        frame.opcode, frame.session, frame.sequence, bytes(frame.payload), frame.flags,
        frame.status,
    )  # fmt: skip


def fed(decoder: Decoder, data: bytes, cuts: Any = ()) -> list[Frame | CorruptFrame]:
    """What a stream gives when it comes in chunks that end at the cuts."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [f for a, b in itertools.pairwise(edges) for f in decoder.feed(data[a:b])]


@st.composite
def any_frames(draw: st.DrawFn) -> tuple[bytes, Any]:
    opcode, session, sequence = draw(opcodes), draw(words), draw(words)
    flags, status = draw(st.sampled_from((0, 1))), draw(st.integers(0, 255))
    payload = draw(payloads)
    data = encode(opcode, session, sequence, [payload], flags=flags, status=status)
    return data, (opcode, session, sequence, payload, flags, status)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(any_frames())
def test_a_frame_comes_back_with_every_field(frame: tuple[bytes, Any]) -> None:
    data, expected = frame
    assert [content(f) for f in Decoder().feed(data)] == [expected]
    assert data.index(0) == len(data) - 1
    assert len(data) <= frames.wire_size(len(expected[3]))


@given(st.lists(payloads, max_size=4))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_payload_in_parts_makes_the_frame_of_the_payload_in_one(parts: list[bytes]) -> None:
    assert encode(Opcode.PING, 1, 2, parts) == encode(Opcode.PING, 1, 2, [b"".join(parts)])


def test_large_arrays_travel_as_they_lie_in_memory() -> None:
    array = np.arange(1000, dtype="<u2")
    (frame,) = Decoder().feed(encode(Opcode.READ, 1, 2, [array.data]))
    assert isinstance(frame, Frame) and bytes(frame.payload) == array.tobytes()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_any_bytes_in_any_chunks_never_raise_and_every_bad_piece_is_counted(
    data: bytes, cuts: list[int]
) -> None:
    decoder = Decoder(256)
    found = fed(decoder, data, cuts)
    pieces = [p for p in data.split(b"\0")[:-1] if p]
    assert len(found) == len(pieces)
    assert decoder.corrupt == sum(isinstance(f, CorruptFrame) for f in found)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    stream=st.lists(
        st.one_of(any_frames().map(lambda f: f[0]), st.binary(max_size=60)), max_size=6
    ),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
)
def test_chunking_does_not_matter(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)

    def seen(found: list[Frame | CorruptFrame]) -> list[Any]:
        return [f if isinstance(f, CorruptFrame) else content(f) for f in found]

    whole = seen(fed(Decoder(512), data))
    assert seen(fed(Decoder(512), data, cuts)) == whole
    assert seen(fed(Decoder(512), data, range(len(data)))) == whole


@settings(max_examples=200, deadline=None, derandomize=True)
@given(garbage=st.binary(max_size=600))
def test_after_garbage_and_a_delimiter_the_next_good_frame_is_found(garbage: bytes) -> None:
    found = list(Decoder(256).feed(garbage + b"\0" + GOOD))
    assert content(found[-1])[3] == b"good"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lost=st.sets(st.integers(0, len(GOOD) - 1), min_size=1), added=st.binary(max_size=5))
def test_lost_and_added_bytes_cost_no_more_than_the_frame_they_hit_and_the_next(
    lost: set[int], added: bytes
) -> None:
    """A lost delimiter takes the following frame along; the one after that is found."""
    damaged = bytes(b for i, b in enumerate(GOOD) if i not in lost) + added
    found = list(Decoder().feed(damaged + GOOD + GOOD))
    assert content(found[-1])[3] == b"good"


@pytest.mark.parametrize(
    "payload", [b"", b"\0\0\0\0", b"\x55" * 8, bytes(range(256)), b"\xaa" * 300], ids=len
)
@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.HELLO, Opcode.PULSE])
def test_every_single_bit_flip_is_detected(payload: bytes, opcode: Opcode) -> None:
    good = encode(opcode, 0x01020304, 9, [payload])
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << (bit % 8)
        # The delimiter behind ends the frame whose own delimiter was hit.
        found = list(Decoder().feed(bytes(flipped) + b"\0"))
        assert found and all(isinstance(f, CorruptFrame) for f in found), bit


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    frame=any_frames(),
    start=st.integers(0, 2**32 - 1),
    burst=st.integers(1, 2**24 - 1),
)
def test_a_burst_of_up_to_three_bytes_is_detected(
    frame: tuple[bytes, Any], start: int, burst: int
) -> None:
    data, expected = frame
    at = start % max(1, len(data) - 3)
    damaged = bytearray(data)
    for i in range(3):
        damaged[at + i] ^= (burst >> (8 * i)) & 255
    for found in Decoder().feed(bytes(damaged) + b"\0"):
        assert isinstance(found, CorruptFrame) or content(found) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(opcode=opcodes, payload=payloads, seed=words.filter(lambda s: s != CRC_SEED))
def test_a_foreign_seed_fails_for_all_commands_but_hello(
    opcode: Opcode, payload: bytes, seed: int
) -> None:
    (found,) = Decoder().feed(encode(opcode, 1, 2, [payload], crc_seed=seed))
    if opcode == Opcode.HELLO:
        assert content(found)[3] == payload
    else:
        assert isinstance(found, CorruptFrame) and found.reason == "checksum"


def test_another_protocol_version_is_read_in_hello_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for opcode, good in ((Opcode.HELLO, True), (Opcode.PING, False)):
        with monkeypatch.context() as patched:
            patched.setattr(frames, "VERSION", 2)
            data = encode(opcode, 1, 2)
        (found,) = Decoder().feed(data)
        assert isinstance(found, Frame) == good


def held_bytes(decoder: Decoder) -> int:
    """Memory that a decoder keeps, by walking over all that it refers to."""
    seen: set[int] = set()
    todo: list[Any] = [vars(decoder)]
    total = 0
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, list | tuple | set):
            todo += item
    return total


@pytest.mark.parametrize("chunk", [1, 1000, 100_000])
def test_a_stream_without_delimiters_stays_bounded_in_memory(chunk: int) -> None:
    decoder = Decoder(10_000)
    for _ in range(20_000 if chunk == 1 else 2_000_000 // chunk):
        assert not list(decoder.feed(b"\x11" * chunk))
    # One list entry a byte at worst, where the bytes came one by one.
    assert held_bytes(decoder) < 200_000
    found = list(decoder.feed(b"\0" + GOOD))
    assert len(found) == 2 and isinstance(found[0], CorruptFrame)
    assert content(found[1])[3] == b"good"


def test_an_over_long_stream_is_counted_once_and_names_its_size() -> None:
    decoder = Decoder(256)
    found = [f for _ in range(50) for f in decoder.feed(b"\x11" * 1000)] + list(decoder.feed(b"\0"))
    assert found == [CorruptFrame("too long", 50_000)]
    assert decoder.corrupt == 1


@pytest.mark.parametrize("size", [256, 1000, 65536])
def test_the_largest_payload_passes_whatever_its_bytes(size: int) -> None:
    for byte in (0x00, 0x55, 0xFF):
        (found,) = Decoder(size).feed(encode(Opcode.PING, 1, 1, [bytes([byte]) * size]))
        assert isinstance(found, Frame)


def test_the_reason_of_a_corrupt_frame_is_said() -> None:
    short = frames.cobs.encode(b"abc") + b"\0"
    body = bytearray(frames.cobs.decode(GOOD[:-1]))
    body[12] += 1
    length = frames.cobs.encode(bytes(body)) + b"\0"
    for data, reason in ((b"\x09\x01\0", "stuffing"), (short, "too short"), (length, "length")):
        (found,) = Decoder().feed(data)
        assert isinstance(found, CorruptFrame) and found.reason == reason


# --- golden vectors ------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A decoded field in the words of the vectors: hex, lists, dicts without zeros."""
    if isinstance(value, memoryview | bytes):
        return bytes(value).hex()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    if isinstance(value, messages.Region | messages.Window):
        return dataclasses.asdict(value)
    return value


def filled(expected: Any, found: Any) -> Any:
    """Expected fields; a struct's fields that an example leaves out are zero."""
    if isinstance(found, dict):
        return {k: filled(expected.get(k, 0), v) for k, v in found.items()}
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return [filled(e, f) for e, f in zip(expected, found, strict=True)]
    return expected


@by_name
def test_golden_frames_decode_to_their_fields_and_encode_to_the_same_bytes(
    vector: dict[str, Any],
) -> None:
    (frame,) = Decoder().feed(bytes.fromhex(vector["frame"]))
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.session, frame.sequence) == (
        vector["opcode"], vector["session"], vector["sequence"],
    )  # fmt: skip
    kind = getattr(messages, vector["message"])
    assert frame.is_response == vector["message"].endswith("Response")
    assert bytes(frame.payload).hex() == vector["payload"]
    message = kind.decode(frame.payload)
    found = {name: plain(getattr(message, name)) for name in vector["fields"]}
    assert found == {k: filled(v, found[k]) for k, v in vector["fields"].items()}
    assert message.encode().hex() == vector["payload"]
    flags = Flag.RESPONSE if frame.is_response else 0
    again = encode(frame.opcode, frame.session, frame.sequence, message.parts(), flags=flags)
    assert again.hex() == vector["frame"]
    table = messages.RESPONSES if frame.is_response else messages.REQUESTS
    assert table[frame.opcode] is kind


def test_golden_vectors_cover_every_message_of_this_specification() -> None:
    path = Path(firmware_protocol.__file__).parent / "golden" / "vectors.json"
    assert json.loads(path.read_text())["spec"] == SPEC_DIGEST
    every = {k.__name__ for t in (messages.REQUESTS, messages.RESPONSES) for k in t.values()}
    assert {v["message"] for v in VECTORS} == every


#: messages whose last field takes the rest of the payload, with the size of its items
OPEN_ENDED = {
    "HelloResponse": 1, "PingRequest": 1, "PingResponse": 1, "ReadResponse": 2,
    "ProgramRequest": 2, "ProgramResponse": 2, "PulseRequest": 2, "VmmRequest": 1,
    "VmmResponse": 1, "SnapshotResponse": 1, "RestoreRequest": 1, "WearResponse": 4,
    "LoadRequest": 2, "OuterRequest": 1,
}  # fmt: skip


@by_name
def test_truncated_payloads_raise_payload_error_and_nothing_else(vector: dict[str, Any]) -> None:
    kind = getattr(messages, vector["message"])
    payload = bytes.fromhex(vector["payload"])
    item = OPEN_ENDED.get(vector["message"], 0)
    refused = 0
    for size in range(len(payload)):
        try:
            message = kind.decode(payload[:size])
        except PayloadError:
            refused += 1
        else:
            # Only what lies in an open end may be missing, and in whole items.
            assert item and (len(payload) - size) % item == 0
            assert message.encode() == payload[:size]
    if not item:
        assert refused == len(payload)


@by_name
def test_lengthened_payloads_raise_payload_error_and_nothing_else(vector: dict[str, Any]) -> None:
    kind = getattr(messages, vector["message"])
    payload = bytes.fromhex(vector["payload"])
    item = OPEN_ENDED.get(vector["message"], 0)
    for extra in range(1, 9):
        longer = payload + bytes(extra)
        if item and extra % item == 0:
            assert kind.decode(longer).encode() == longer
        else:
            with pytest.raises(PayloadError):
                kind.decode(longer)


kinds = st.sampled_from([*messages.REQUESTS.values(), *messages.RESPONSES.values()])


@settings(max_examples=500, deadline=None, derandomize=True)
@given(kind=kinds, payload=st.binary(max_size=200))
def test_any_payload_decodes_or_raises_payload_error(
    kind: type[messages.Message], payload: bytes
) -> None:
    try:
        message = kind.decode(payload)
    except PayloadError:
        return
    assert kind.decode(message.encode()) == message


def test_a_count_larger_than_the_payload_is_refused_without_taking_its_memory() -> None:
    head = bytes(5) + messages.Region(0, 0, 1, 0, 1).encode()
    with pytest.raises(PayloadError):
        messages.ProgramRequest.decode(head + b"\xff\xff\xff\xff" + bytes(4))


def test_a_value_that_does_not_fit_its_field_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        messages.SnapshotRequest(offset=-1, length=0).encode()
    with pytest.raises(ValueError, match="does not fit"):
        messages.Region(tile=65536).encode()
