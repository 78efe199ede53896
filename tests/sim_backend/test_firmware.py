"""The firmware: bytes in, bytes out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue
from boards.profile import Profile
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import SPEC_HASH, VERSION, Capability, Detail, Opcode, Status
from firmware_protocol.frames import Decoder, Frame, encode
from firmware_protocol.packing import pack_codes, unpack_codes
from sim_backend.cells import COUNTERS, snapshot
from sim_backend.chip import Chip
from sim_backend.feed import Product
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
SESSION = 0xABCD
WHOLE = m.Region(0, 0, 64, 0, 64)
GAIN = {"multiplier": 1 << 15, "shift": 35}
CONFIGURE = m.ConfigureRequest(slot=0, read_voltage=100, word_line=1023, **GAIN)
DIFFERENTIAL = 2


class Host:
    """Speaks to a firmware over bytes, one request at a time."""

    def __init__(self, profile: Profile = EMU, seed: int = 0, firmware: Firmware | None = None):
        self.firmware = firmware or Firmware(Chip(profile, seed))
        self.chip = self.firmware.chip
        self.sequence = 1
        self.decoder = Decoder()

    def frames(self, data: bytes) -> list[Frame]:
        """The answers to any bytes; each must be a sound frame."""
        answers = list(self.decoder.feed(self.firmware.receive(data)))
        assert all(isinstance(a, Frame) and a.is_response for a in answers)
        return [a for a in answers if isinstance(a, Frame)]

    def send(
        self, opcode: int, payload: Sequence[Any], *, session: int = SESSION,
        sequence: int | None = None,
    ) -> Frame:  # fmt: skip
        """One request, one answer, which names what it answers."""
        number = self.sequence if sequence is None else sequence
        (answer,) = self.frames(encode(opcode, session, number, payload))
        assert (answer.opcode, answer.session, answer.sequence) == (opcode, session, number)
        if sequence is None:
            self.sequence += 1
        return answer

    def hello(self, spec_hash: int = SPEC_HASH, session: int = SESSION, flags: int = 1) -> Frame:
        request = m.HelloRequest(VERSION, spec_hash, flags)
        return self.send(Opcode.HELLO, request.parts(), session=session, sequence=0)

    def ask(self, request: Message) -> Frame:
        return self.send(opcode_of(request), request.parts())

    def answer(self, request: Message) -> Any:
        """The answer of a request that must be granted."""
        frame = self.ask(request)
        assert frame.status == Status.OK, m.Refusal.decode(frame.payload)
        return m.RESPONSES[frame.opcode].decode(frame.payload)

    def refusal(self, request: Message) -> tuple[Status, Detail]:
        """Status and detail of a request that must be refused."""
        before = self.cells()
        frame = self.ask(request)
        assert frame.status != Status.OK
        assert self.cells() == before
        return Status(frame.status), Detail(m.Refusal.decode(frame.payload).detail)

    def cells(self) -> list[bytes]:
        return [array.tobytes() for array in self.chip.cells.arrays()]

    def status(self) -> m.StatusResponse:
        answer: m.StatusResponse = self.answer(m.StatusRequest())
        return answer


def opcode_of(request: Message) -> int:
    return next(opcode for opcode, kind in m.REQUESTS.items() if kind is type(request))


def opened(profile: Profile = EMU, seed: int = 0, *, slot: bool = True) -> Host:
    host = Host(profile, seed)
    assert host.hello().status == Status.OK
    if slot:
        host.answer(CONFIGURE)
    return host


def pulse(counts: Sequence[int] = (3, -2), indices: Sequence[int] = (0, 65), **changed: Any) -> Any:
    fields: dict[str, Any] = {
        "set_amplitude": 2000, "reset_amplitude": 1800, "width": 100, "region": WHOLE,
        "indices": indices, "counts": counts,
    }  # fmt: skip
    return m.PulseRequest(**(fields | changed))


def program(targets: Sequence[int] = (30000, 20000), **changed: Any) -> Any:
    fields: dict[str, Any] = {
        "slot": 0, "cycles": 2, "tolerance": 819, "read_back": 1, "region": WHOLE,
        "indices": (130, 131), "targets": targets,
    }  # fmt: skip
    return m.ProgramRequest(**(fields | changed))


def read(**changed: Any) -> Any:
    fields: dict[str, Any] = {"slot": 0, "samples": 1, "more": 0, "region": WHOLE}
    return m.ReadRequest(**(fields | changed))


def vmm(codes: Any = None, **changed: Any) -> Any:
    codes = np.arange(128, dtype=np.uint8) if codes is None else codes
    fields: dict[str, Any] = {
        "slot": 0, "flags": DIFFERENTIAL, "input_bits": 8, "row_blocks": 1, "count": 2,
        "image": m.Window(), "regions": (WHOLE,), "codes": bytes(codes),
    }  # fmt: skip
    return m.VmmRequest(**(fields | changed))


# --- sessions ------------------------------------------------------------------------------------


def test_hello_tells_what_the_board_is() -> None:
    host = Host(seed=5)
    hello = m.HelloResponse.decode(host.hello().payload)
    assert (hello.version, hello.spec_hash, hello.model) == (VERSION, SPEC_HASH, "emu")
    assert hello.boot_id == host.chip.boot_id
    description = m.Description.decode(hello.description)
    assert (description.tiles, description.rows, description.columns) == (4, 64, 64)
    # The bulk-RRAM SoC updates no region by coincidence.
    assert (
        description.capabilities
        == sum(Capability) - Capability.OUTER - Capability.GROUPS - Capability.TERNARY
    )
    assert description.opcodes == sum(1 << o for o in Opcode if o is not Opcode.OUTER)
    assert description.conductance_full_scale == 40_000_000
    assert description.window == EMU.link.window


def test_the_board_id_belongs_to_the_seed_and_the_boot_id_to_the_start() -> None:
    one, two, other = (m.HelloResponse.decode(Host(seed=s).hello().payload) for s in (1, 1, 2))
    assert one.board_id == two.board_id != other.board_id
    assert one.boot_id != two.boot_id


def test_hello_of_another_specification_gets_spec_mismatch_and_opens_nothing() -> None:
    host = Host()
    answer = host.hello(SPEC_HASH ^ 1)
    assert answer.status == Status.SPEC_MISMATCH
    assert m.HelloResponse.decode(answer.payload).spec_hash == SPEC_HASH
    assert host.ask(m.StatusRequest()).status == Status.NO_SESSION


def test_a_board_of_another_specification_answers_hello_and_nothing_else() -> None:
    firmware = Firmware(Chip(EMU), spec_hash=SPEC_HASH ^ 0xFF)
    host = Host(firmware=firmware)
    answer = host.hello()
    assert answer.status == Status.SPEC_MISMATCH
    assert m.HelloResponse.decode(answer.payload).spec_hash == SPEC_HASH ^ 0xFF
    assert host.frames(encode(Opcode.STATUS, SESSION, 1)) == []


def test_without_a_session_every_command_is_refused() -> None:
    host = Host()
    before = host.cells()
    for opcode in Opcode:
        if opcode != Opcode.HELLO:
            for session in (SESSION, 0):
                answer = host.send(opcode, [], session=session, sequence=1)
                assert answer.status == Status.NO_SESSION
    assert host.cells() == before


def test_hello_without_the_open_bit_opens_nothing() -> None:
    host = Host()
    assert host.hello(flags=0).status == Status.OK
    assert host.ask(m.StatusRequest()).status == Status.NO_SESSION


def test_a_new_session_ends_the_old_one_and_counts_from_one() -> None:
    host = opened()
    assert host.hello(session=77).status == Status.OK
    assert host.send(Opcode.STATUS, [], session=SESSION, sequence=2).status == Status.NO_SESSION
    assert host.send(Opcode.STATUS, [], session=77, sequence=1).status == Status.OK


def test_the_same_session_opened_again_changes_nothing() -> None:
    host = opened()
    first = host.ask(pulse())
    assert host.hello().status == Status.OK
    again = host.send(Opcode.PULSE, pulse().parts(), sequence=host.sequence - 1)
    assert bytes(again.payload) == bytes(first.payload)
    assert host.status().set_pulses == 3


# --- order and duplicates ------------------------------------------------------------------------


def test_a_duplicate_is_answered_from_the_kept_answers_with_no_second_effect() -> None:
    host = opened()
    data = encode(Opcode.PULSE, SESSION, host.sequence, pulse().parts())
    first = host.firmware.receive(data)
    cells = host.cells()
    assert host.firmware.receive(data) == first
    assert host.cells() == cells
    host.sequence += 1
    status = host.status()
    assert (status.set_pulses, status.reset_pulses, status.operations) == (3, 2, 1)
    assert status.duplicates == 1


def test_a_refused_request_sent_again_gets_the_same_refusal() -> None:
    host = opened()
    data = encode(Opcode.PULSE, SESSION, host.sequence, pulse(set_amplitude=60000).parts())
    first = host.firmware.receive(data)
    host.chip.slots.clear()
    assert host.firmware.receive(data) == first


def test_an_early_sequence_number_gets_retry_and_runs_once_its_turn_has_come() -> None:
    host = opened()
    early = host.send(Opcode.PULSE, pulse().parts(), sequence=host.sequence + 1)
    assert early.status == Status.RETRY
    assert host.status().set_pulses == 0
    answer: m.PulseResponse = host.answer(pulse())
    assert (answer.set_pulses, answer.reset_pulses) == (3, 2)


def test_a_whole_window_of_answers_is_kept_and_older_ones_are_stale() -> None:
    host = opened()
    answers = {}
    for _ in range(5 * EMU.link.window):
        answers[host.sequence] = host.ask(pulse())
    last = host.sequence - 1
    cells = host.cells()
    for sequence in range(last - EMU.link.window + 1, last + 1):
        again = host.send(Opcode.PULSE, pulse().parts(), sequence=sequence)
        assert again.status == Status.OK
        assert bytes(again.payload) == bytes(answers[sequence].payload)
    assert host.send(Opcode.PULSE, pulse().parts(), sequence=1).status == Status.STALE
    assert host.cells() == cells


def test_a_window_of_requests_in_one_chunk_is_answered_in_order() -> None:
    host = opened()
    requests = [encode(Opcode.PING, SESSION, 2 + i, [bytes([i])]) for i in range(8)]
    answers = host.frames(b"".join(requests))
    assert [bytes(a.payload) for a in answers] == [bytes([i]) for i in range(8)]


def test_answers_of_another_board_on_the_line_are_not_answered() -> None:
    host = opened()
    assert host.frames(encode(Opcode.PING, SESSION, host.sequence, [b""], flags=1)) == []
    assert host.status().operations == 0


def test_corrupt_frames_are_counted_and_not_answered() -> None:
    host = opened()
    damaged = bytearray(encode(Opcode.PULSE, SESSION, host.sequence, pulse().parts()))
    damaged[9] ^= 4
    assert host.frames(bytes(damaged)) == []
    assert host.status().corrupt_frames == 1
    assert host.status().set_pulses == 0


# --- any input -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def board() -> Host:
    return opened()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_and_change_nothing(board: Host, data: bytes) -> None:
    before = board.cells()
    board.firmware.receive(data + b"\0")
    assert board.cells() == before


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    opcode=st.integers(2, 255).filter(lambda n: n != Opcode.REBOOT), payload=st.binary(max_size=80)
)
def test_arbitrary_payloads_of_any_command_get_one_answer_each(
    board: Host, opcode: int, payload: bytes
) -> None:
    before = board.cells()
    answer = board.send(opcode, [payload])
    if answer.status:
        m.Refusal.decode(answer.payload)
        assert board.cells() == before
    if opcode not in m.REQUESTS:
        assert answer.status == Status.UNSUPPORTED
    board.answer(CONFIGURE)


u8, u16, u32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)
slots = st.one_of(st.just(0), st.integers(0, 40), u8)


def near(*values: int, top: int = 65535) -> st.SearchStrategy[int]:
    """Values at the edge of what is allowed, and any others."""
    edges = {min(top, max(0, v + d)) for v in values for d in (-1, 0, 1)}
    return st.one_of(st.sampled_from(sorted(edges)), st.integers(0, top))


regions = st.one_of(
    st.just(WHOLE),
    st.builds(
        m.Region,
        st.integers(0, 5),
        st.integers(0, 65),
        st.integers(0, 20),
        st.integers(0, 65),
        st.integers(0, 20),
    ),
    st.builds(m.Region, u16, u16, u16, u16, u16),
)
indices = st.lists(near(0, 5, 4096), max_size=6)
windows = st.one_of(
    st.just(m.Window()),
    st.builds(
        m.Window, *(st.integers(0, 6),) * 3, *(st.integers(0, 3),) * 6, *(st.integers(0, 2),) * 4
    ),
    st.builds(m.Window, *(u16,) * 3, *(u8,) * 10),
)
requests: list[st.SearchStrategy[Any]] = [
    st.builds(
        m.ProgramRequest,
        slot=slots,
        cycles=near(0, 20, top=255),
        tolerance=u16,
        read_back=u8,
        region=regions,
        indices=indices,
        targets=st.lists(near(6554, 65535), max_size=6),
    ),
    st.builds(
        m.PulseRequest,
        set_amplitude=near(500, 3300),
        reset_amplitude=near(500, 3300),
        width=near(20, 10000, top=2**32 - 1),
        region=regions,
        indices=indices,
        counts=st.lists(
            st.one_of(
                st.integers(-3, 3),
                st.sampled_from((-32768, -1001, -1000, 1000, 1001, 32767)),
                st.integers(-32768, 32767),
            ),
            max_size=6,
        ),
    ),
    st.builds(m.ReadRequest, slot=slots, samples=st.integers(0, 3), more=u8, region=regions),
    st.builds(
        m.VmmRequest,
        slot=slots,
        flags=st.integers(0, 15),
        input_bits=near(0, 8, top=255),
        row_blocks=st.integers(0, 3),
        count=st.one_of(st.integers(0, 3), u32),
        image=windows,
        regions=st.lists(regions, max_size=4).map(tuple),
        codes=st.binary(max_size=80),
    ),
    st.builds(
        m.ConfigureRequest,
        slot=slots,
        read_voltage=near(100, 300),
        word_line=u16,
        multiplier=near(0, 65535, top=2**32 - 1),
        shift=near(0, 35, 48, top=255),
    ),
    st.builds(m.RestoreRequest, offset=u32, total=u32, data=st.binary(max_size=40)),
    st.builds(m.SnapshotRequest, offset=u32, length=u32),
]


@settings(max_examples=600, deadline=None, derandomize=True)
@given(request=st.one_of(requests), configured=st.booleans())
def test_malformed_requests_get_one_answer_and_a_refusal_leaves_the_cells(
    board: Host, request: Any, configured: bool
) -> None:
    board.answer(m.SafeRequest())
    if configured:
        board.answer(CONFIGURE)
    before = board.cells()
    powered = dict(board.chip.slots)
    answer = board.ask(request)
    if answer.status:
        refusal = m.Refusal.decode(answer.payload)
        assert Detail(refusal.detail) != Detail.NONE
        assert board.cells() == before
        assert board.chip.slots == powered
    else:
        m.RESPONSES[answer.opcode].decode(answer.payload)


REFUSED = [
    (pulse(set_amplitude=3301), Status.SAFETY, Detail.AMPLITUDE),
    (pulse(reset_amplitude=499), Status.SAFETY, Detail.AMPLITUDE),
    (pulse(width=19), Status.SAFETY, Detail.WIDTH),
    (pulse(width=10001), Status.SAFETY, Detail.WIDTH),
    (pulse((1001, 1)), Status.SAFETY, Detail.COUNT),
    (pulse((1, -32768)), Status.SAFETY, Detail.COUNT),
    (pulse((1, 2, 3)), Status.BAD_REQUEST, Detail.COUNT),
    (pulse((), ()), Status.BAD_REQUEST, Detail.COUNT),
    (pulse((1, 2), (7, 7)), Status.BAD_REQUEST, Detail.INDEX),
    (pulse((1, 2), (7, 4096)), Status.BAD_REQUEST, Detail.INDEX),
    (pulse(region=m.Region(4, 0, 64, 0, 64)), Status.BAD_REQUEST, Detail.TILE),
    (pulse(region=m.Region(0, 1, 64, 0, 64)), Status.BAD_REQUEST, Detail.REGION),
    (pulse(region=m.Region(0, 0, 0, 0, 64)), Status.BAD_REQUEST, Detail.REGION),
    (program((30000, 6553)), Status.BAD_REQUEST, Detail.TARGET),
    (program(cycles=0), Status.BAD_REQUEST, Detail.CYCLES),
    (program(cycles=21), Status.BAD_REQUEST, Detail.CYCLES),
    (program(slot=1), Status.SAFETY, Detail.SLOT_EMPTY),
    (program(slot=32), Status.BAD_REQUEST, Detail.SLOT),
    (read(samples=0), Status.BAD_REQUEST, Detail.COUNT),
    (read(region=m.Region(0, 0, 64, 1, 64)), Status.BAD_REQUEST, Detail.REGION),
    (vmm(count=0), Status.BAD_REQUEST, Detail.COUNT),
    (vmm(count=3), Status.BAD_REQUEST, Detail.LENGTH),
    (vmm(input_bits=9), Status.BAD_REQUEST, Detail.INPUT_BITS),
    (vmm(row_blocks=2), Status.BAD_REQUEST, Detail.GROUPING),
    (vmm(row_blocks=0), Status.BAD_REQUEST, Detail.GROUPING),
    (vmm(regions=()), Status.BAD_REQUEST, Detail.GROUPING),
    (vmm(regions=(m.Region(0, 0, 64, 1, 2),)), Status.BAD_REQUEST, Detail.REGION),
    (vmm(regions=(WHOLE, m.Region(0, 0, 63, 0, 64))), Status.BAD_REQUEST, Detail.GROUPING),
    (vmm(image=m.Window(1, 4, 4, 5, 5, 1, 1, 1, 1)), Status.BAD_REQUEST, Detail.WINDOW),
    (vmm(image=m.Window(1, 8, 8, 8, 8, 0, 1, 1, 1)), Status.BAD_REQUEST, Detail.WINDOW),
    (m.ConfigureRequest(32, 100, 0, **GAIN), Status.BAD_REQUEST, Detail.SLOT),
    (m.ConfigureRequest(0, 301, 0, **GAIN), Status.SAFETY, Detail.READ_VOLTAGE),
    (m.ConfigureRequest(0, 100, 0, 0, 35), Status.BAD_REQUEST, Detail.GAIN),
    (m.ConfigureRequest(0, 100, 0, 65536, 35), Status.BAD_REQUEST, Detail.GAIN),
    (m.ConfigureRequest(0, 100, 0, 32768, 0), Status.BAD_REQUEST, Detail.GAIN),
    (m.ConfigureRequest(0, 100, 0, 32768, 20), Status.BAD_REQUEST, Detail.GAIN),
    (m.RestoreRequest(5, 10, b"12345"), Status.BAD_REQUEST, Detail.OFFSET),
    (m.RestoreRequest(0, 3, b"12345"), Status.BAD_REQUEST, Detail.OFFSET),
    (m.SnapshotRequest(0, 2**24), Status.BAD_REQUEST, Detail.ANSWER_SIZE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    REFUSED,
    ids=[f"{i}-{r[2].name}" for i, r in enumerate(REFUSED)],
)
def test_each_refusal_has_its_status_and_detail(
    request_: Message, status: Status, detail: Detail
) -> None:
    assert opened().refusal(request_) == (status, detail)


def test_a_refusal_names_the_index_at_fault_and_the_limit() -> None:
    host = opened()
    refusal = m.Refusal.decode(host.ask(pulse((1, 1, 2000, 1), (1, 2, 3, 4))).payload)
    assert (refusal.index, refusal.limit) == (2, 1000)
    refusal = m.Refusal.decode(host.ask(program((30000, 30000, 1), indices=(1, 2, 3))).payload)
    assert refusal.index == 2
    regions = (WHOLE, m.Region(9, 0, 64, 0, 64))
    assert m.Refusal.decode(host.ask(vmm(regions=regions)).payload).index == 1


def limited(**changed: Any) -> Profile:
    return msgspec.structs.replace(EMU, limits=msgspec.structs.replace(EMU.limits, **changed))


def test_amplitudes_of_pulses_that_are_not_asked_for_are_not_judged() -> None:
    host = opened()
    assert host.ask(pulse((1, 2), reset_amplitude=0)).status == Status.OK
    assert host.ask(pulse((-1, 0), set_amplitude=0)).status == Status.OK


@pytest.mark.parametrize("lacking", ["TRANSPOSED", "SIGNED_INPUTS", "IMAGES", "ROW_BLOCK_SUMS"])
def test_what_a_board_does_not_offer_is_unsupported(lacking: str) -> None:
    names = tuple(name for name in EMU.chip.capabilities if name != lacking)
    chip = msgspec.structs.replace(EMU.chip, capabilities=names)
    half = (m.Region(0, 0, 32, 0, 64), m.Region(0, 32, 32, 0, 64))
    request = {
        "TRANSPOSED": vmm(np.zeros(64, np.uint8), flags=DIFFERENTIAL | 1),
        "SIGNED_INPUTS": vmm(flags=DIFFERENTIAL | 4),
        "IMAGES": vmm(np.zeros(200, np.uint8), image=m.Window(1, 10, 10, 8, 8, 1, 1, 1, 1)),
        "ROW_BLOCK_SUMS": vmm(regions=half, row_blocks=2),
    }[lacking]
    assert opened().ask(request).status == Status.OK
    status, _ = opened(msgspec.structs.replace(EMU, chip=chip)).refusal(request)
    assert status == Status.UNSUPPORTED


def test_a_board_without_snapshots_hides_and_refuses_them() -> None:
    names = tuple(name for name in EMU.chip.capabilities if name != "SNAPSHOT")
    chip = msgspec.structs.replace(EMU.chip, capabilities=names)
    host = opened(msgspec.structs.replace(EMU, chip=chip))
    hello = m.HelloResponse.decode(host.hello().payload)
    opcodes = m.Description.decode(hello.description).opcodes
    for request in (m.SnapshotRequest(0, 4), m.RestoreRequest(0, 4, b"1234")):
        assert host.refusal(request) == (Status.UNSUPPORTED, Detail.SNAPSHOT)
        assert not opcodes >> opcode_of(request) & 1


@pytest.mark.parametrize("answer", ["read", "vmm"])
def test_an_answer_larger_than_a_payload_is_refused(answer: str) -> None:
    link = msgspec.structs.replace(EMU.link, max_payload=1000)
    host = opened(msgspec.structs.replace(EMU, link=link))
    wide = vmm(np.zeros(32, np.uint8), count=32, regions=(m.Region(0, 0, 1, 0, 64),))
    request = read(region=m.Region(0, 0, 8, 0, 64)) if answer == "read" else wide
    assert host.refusal(request) == (Status.BAD_REQUEST, Detail.ANSWER_SIZE)


# --- commands ------------------------------------------------------------------------------------


def test_ping_gives_its_bytes_back() -> None:
    answer: m.PingResponse = opened().answer(m.PingRequest(bytes(range(256))))
    assert bytes(answer.echo) == bytes(range(256))


def test_program_reads_back_only_when_asked() -> None:
    host = opened()
    answer: m.ProgramResponse = host.answer(program())
    assert len(answer.conductances) == 2
    assert len(host.answer(program(read_back=0)).conductances) == 0
    assert host.status().operations == 2


def test_indices_name_cells_within_the_region() -> None:
    host = opened()
    before = host.chip.cells.pulses[2].copy()
    host.answer(pulse((4,), (7,), region=m.Region(2, 10, 5, 20, 6)))
    changed = np.flatnonzero(host.chip.cells.pulses[2] != before)
    assert changed.tolist() == [(10 + 1) * 64 + 20 + 1]
    assert host.chip.cells.pulses[2][changed] == 4


def test_vmm_over_the_wire_is_the_chips_product() -> None:
    host = opened(seed=3)
    codes = np.random.default_rng(0).integers(-4, 4, (2, 64))
    packed = pack_codes(codes, 3)
    answer: m.VmmResponse = host.answer(vmm(packed, input_bits=3, flags=DIFFERENTIAL | 4))
    twin = opened(seed=3)
    product = Product(twin.chip.slots[0], (WHOLE,), 1, False, True, None)
    expected, saturated = twin.chip.multiply(product, codes)
    found = unpack_codes(answer.codes, 64, answer.bits, signed=True)
    assert found.tolist() == expected.reshape(-1).tolist()
    assert answer.saturated == saturated


def test_row_blocks_travel_in_the_width_that_holds_their_sum() -> None:
    host = opened()
    host.chip.cells.conductances.reshape(4, 64, 64)[:, :, 0::2] = 65535
    host.chip.cells.conductances.reshape(4, 64, 64)[:, :, 1::2] = 0
    for blocks, bits in ((1, 8), (2, 9), (3, 10), (4, 10), (5, 11)):
        regions = tuple(m.Region(i % 4, 0, 64, 0, 4) for i in range(blocks))
        codes = np.full(64 * blocks, 255, np.uint8)
        answer: m.VmmResponse = host.answer(vmm(codes, count=1, regions=regions, row_blocks=blocks))
        assert answer.bits == bits and answer.saturated == 2 * blocks
        found = unpack_codes(answer.codes, 2, bits, signed=True)
        assert found.tolist() == [127 * blocks] * 2


def test_safe_empties_the_slots_and_analog_commands_are_then_refused() -> None:
    host = opened()
    assert host.status().powered == 1
    assert host.answer(m.SafeRequest()).powered == 0
    assert host.status().powered == 0
    for request in (read(), program(), pulse(), vmm()):
        assert host.refusal(request) == (Status.SAFETY, Detail.SLOT_EMPTY)
    host.answer(CONFIGURE)
    assert host.ask(read()).status == Status.OK


def test_a_new_board_is_safe() -> None:
    host = opened(slot=False)
    assert host.status().powered == 0
    assert host.refusal(vmm()) == (Status.SAFETY, Detail.SLOT_EMPTY)


def test_the_lifetime_budget_is_refused_before_anything_changes() -> None:
    host = opened(limited(lifetime_pulses=10))
    host.answer(pulse((10, -9), (0, 1)))
    assert host.refusal(pulse((1, 1), (1, 0))) == (Status.SAFETY, Detail.LIFETIME)
    host.answer(pulse((1,), (1,)))
    assert host.refusal(program()) == (Status.SAFETY, Detail.LIFETIME)


def test_programming_is_allowed_while_its_worst_case_fits_the_budget() -> None:
    worst = 31 * (2 * 2 + 1)
    assert opened(limited(lifetime_pulses=worst)).ask(program()).status == Status.OK
    refused = opened(limited(lifetime_pulses=worst - 1)).refusal(program())
    assert refused == (Status.SAFETY, Detail.LIFETIME)
    host = opened(limited(lifetime_pulses=worst))
    refusal = m.Refusal.decode(host.ask(program(cycles=3)).payload)
    assert refusal.limit == worst


def test_no_lifetime_budget_is_no_limit() -> None:
    host = opened(limited(lifetime_pulses=0))
    for _ in range(3):
        host.answer(pulse((1000, -1000)))


# --- snapshots -----------------------------------------------------------------------------------


def snapshot_of(host: Host, part: int = 5000) -> bytes:
    data = b""
    while True:
        answer: m.SnapshotResponse = host.answer(m.SnapshotRequest(len(data), part))
        data += bytes(answer.data)
        if len(data) == answer.total:
            return data


def restored(host: Host, blob: bytes, part: int = 7001) -> None:
    for at in range(0, len(blob), part):
        request = m.RestoreRequest(at, len(blob), blob[at : at + part])
        answer: m.RestoreResponse = host.answer(request)
        assert answer.complete == (at + part >= len(blob))


def later_results(host: Host) -> list[bytes]:
    """A run that draws from every noise stream."""
    asked = [vmm(), read(samples=2), program((50000, 15000)), pulse(), vmm(), read()]
    return [bytes(host.ask(request).payload) for request in asked]


def test_a_snapshot_restored_in_parts_gives_the_same_later_results() -> None:
    host = opened(seed=8)
    later_results(host)
    blob = snapshot_of(host)
    counters = host.chip.cells.counters.copy()
    expected = later_results(host)
    assert later_results(host) != expected
    restored(host, blob)
    lasting = [i for i, name in enumerate(COUNTERS) if not name.startswith("journal_")]
    assert np.array_equal(host.chip.cells.counters[lasting], counters[lasting])
    assert later_results(host) == expected


def test_a_snapshot_moves_to_another_chip_of_that_seed_and_keeps_its_boots() -> None:
    one, other = opened(seed=8), opened(seed=8)
    other.chip.cells.counters[COUNTERS.index("boots")] = 9
    later_results(one)
    restored(other, snapshot_of(one))
    assert other.chip.cells.count("boots") == 9
    assert later_results(one) == later_results(other)


@pytest.mark.parametrize("at", [0, 3, 4, 100, -1])
def test_a_damaged_snapshot_is_refused_and_nothing_changes(at: int) -> None:
    host = opened()
    damaged = bytearray(snapshot_of(host))
    damaged[at] ^= 1
    host.answer(pulse())
    assert host.refusal(m.RestoreRequest(0, len(damaged), bytes(damaged))) == (
        Status.BAD_REQUEST, Detail.SNAPSHOT,
    )  # fmt: skip


def test_a_truncated_snapshot_and_one_of_another_geometry_are_refused() -> None:
    host = opened()
    blob = snapshot_of(host)
    chip = msgspec.structs.replace(EMU.chip, tiles=3)
    smaller = snapshot_of(opened(msgspec.structs.replace(EMU, chip=chip)))
    nothing = zlib.crc32(b"").to_bytes(4, "little") + zlib.compress(b"")
    for wrong in (blob[:-10], blob[:3], b"", smaller, nothing):
        assert host.refusal(m.RestoreRequest(0, len(wrong), wrong)) == (
            Status.BAD_REQUEST, Detail.SNAPSHOT,
        )  # fmt: skip


def test_parts_of_a_restore_change_nothing_before_the_last() -> None:
    host = opened()
    blob = snapshot_of(host)
    host.answer(pulse())
    before = host.cells()
    half = len(blob) // 2
    host.answer(m.RestoreRequest(0, len(blob), blob[:half]))
    assert host.cells() == before
    assert host.refusal(m.RestoreRequest(half + 1, len(blob), b"x"))[1] == Detail.OFFSET
    # From the start again is always allowed.
    host.answer(m.RestoreRequest(0, len(blob), blob[:half]))
    assert host.answer(m.RestoreRequest(half, len(blob), blob[half:])).complete == 1
    assert host.cells() != before


def test_any_sound_snapshot_leaves_a_board_that_answers() -> None:
    host = opened()
    other = Chip(EMU)
    other.cells.positions[:] = 2**63
    blob = snapshot(other.cells)
    host.answer(m.RestoreRequest(0, len(blob), blob))
    host.ask(read())


def test_a_refused_snapshot_leaves_the_one_that_is_being_fetched() -> None:
    host = opened()
    whole = snapshot_of(host)
    first: m.SnapshotResponse = host.answer(m.SnapshotRequest(0, 1000))
    host.answer(pulse())
    host.refusal(m.SnapshotRequest(0, 2**24))
    rest: m.SnapshotResponse = host.answer(m.SnapshotRequest(1000, 100_000))
    assert bytes(first.data) + bytes(rest.data) == whole
