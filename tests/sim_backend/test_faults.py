"""A board behind faults: what each fault does to frames, how often it comes, and what survives."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from boards import board as board_module
from boards import catalogue
from boards.board import Board
from boards.driver import Driver
from boards.errors import LinkError, UsageError
from boards.links import InProcessLink, open_port
from cimctl.cli.root import run
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import SPEC_HASH, VERSION, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.faults import (
    CUT_CELLS,
    KINDS,
    LATE_REQUESTS,
    STALLED_REQUESTS,
    Faults,
    FaultyBoard,
    FaultyConnection,
    FaultyDevice,
)
from sim_backend.firmware import Firmware
from sim_backend.server import Disconnected, PtyServer

EMU = catalogue.load("emu")
SESSION = 0xABCD
REBOOTS = ("reboot_before", "reboot_within", "reboot_after")


class Recorder(Firmware):
    """A firmware without a chip, which records what reaches it, and answers with it or as told."""

    def __init__(self, answers: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.chip = Powered()  # type: ignore[assignment]
        self.heard = b""
        self.cuts: list[int] = []
        self.answers = answers

    def connection(self) -> Any:
        return self

    def receive(self, data: Any, decoder: object = None) -> bytes:
        self.heard += data
        return self.answers(bytes(data))

    def reboot(self) -> None:
        self.chip.boot_id += 1

    def cut_next(self, cells: int) -> None:
        self.cuts.append(cells)


class Powered:
    """Of a chip, what faults look at."""

    profile = EMU
    boot_id = 1


def mute(_: bytes) -> bytes:
    return b""


def faulty(firmware: Firmware, **faults: Any) -> tuple[FaultyBoard, FaultyConnection]:
    board = FaultyBoard(firmware, Faults(**faults))
    return board, board.connection()


def ping(sequence: int, size: int = 4) -> bytes:
    return frames.encode(Opcode.PING, SESSION, sequence, [bytes([sequence % 256]) * size])


def request(message: Message, sequence: int) -> bytes:
    return frames.encode(message.OPCODE, SESSION, sequence, message.parts())


def pulse(counts: Sequence[int], indices: Sequence[int] = ()) -> m.PulseRequest:
    region = m.Region(0, 0, 1, 0, len(counts)) if not indices else m.Region(0, 0, 64, 0, 64)
    return m.PulseRequest(2000, 2000, 100, region, indices, counts)


HELLO = frames.encode(Opcode.HELLO, SESSION, 0, m.HelloRequest(VERSION, SPEC_HASH, 1).parts())
CONFIGURE = request(m.ConfigureRequest(0, 100, 1023, 1 << 15, 35), 1)


def decoded(data: bytes) -> list[frames.Frame]:
    """Frames, each of which must be sound."""
    found = list(frames.Decoder().feed(data))
    assert all(isinstance(f, frames.Frame) for f in found)
    return [f for f in found if isinstance(f, frames.Frame)]


def opened(**faults: Any) -> tuple[Firmware, FaultyBoard, FaultyConnection]:
    """A real firmware with session and slot, then faults before it."""
    firmware = Firmware(Chip(EMU, 0))
    assert [f.status for f in decoded(firmware.receive(HELLO + CONFIGURE))] == [Status.OK] * 2
    return firmware, *faulty(firmware, **faults)


# --- no faults -----------------------------------------------------------------------------------


def test_without_faults_no_byte_is_altered_in_either_direction() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, seed=3)
    noise = np.random.default_rng(0).bytes(3000)
    sent = b"\0" + HELLO + b"\0\0rubbish\0" + noise + b"\0" + ping(1, 5000)
    assert connection.receive(sent) == sent
    assert firmware.heard == sent
    assert sum(board.done.values()) == 0


def test_without_faults_a_real_firmware_gives_the_same_answers() -> None:
    sent = b"".join([ping(2), request(pulse([3, -2, 1]), 3), ping(9)])
    plain, _, _ = opened()
    _, _, connection = opened()
    assert connection.receive(sent) == plain.receive(sent) != b""


def test_connections_keep_their_unfinished_frames_apart() -> None:
    firmware = Recorder()
    board, one = faulty(firmware)
    two = board.connection()
    assert one.receive(ping(1)[:5]) + two.receive(ping(2)[:7]) == b""
    assert one.receive(ping(1)[5:]) == ping(1)
    assert two.receive(ping(2)[7:]) == ping(2)


def test_a_stream_without_delimiters_does_not_fill_the_memory_and_is_still_too_long() -> None:
    small = msgspec.structs.replace(EMU, link=msgspec.structs.replace(EMU.link, max_payload=256))
    firmware = Firmware(Chip(small))
    _, connection = faulty(firmware)
    for _ in range(50):
        assert connection.receive(b"\x07" * 1000) == b""
    assert len(connection._tail) < 2000
    (hello,) = decoded(connection.receive(b"\0" + HELLO))
    assert hello.status == Status.OK
    connection.receive(CONFIGURE)
    (answer,) = decoded(connection.receive(request(m.StatusRequest(), 2)))
    assert m.StatusResponse.decode(answer.payload).corrupt_frames == 1


# --- the line ------------------------------------------------------------------------------------


def bits_apart(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def sent_one_by_one(connection: FaultyConnection, count: int = 200) -> Iterator[tuple[int, bytes]]:
    for i in range(count):
        yield i, connection.receive(ping(i))


def test_a_dropped_request_does_not_arrive() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, drop=1)
    assert all(answer == b"" for _, answer in sent_one_by_one(connection))
    assert firmware.heard == b""
    assert board.done == {"drop": 200}


def test_a_dropped_answer_does_not_come_back_though_the_request_was_executed() -> None:
    firmware, board, connection = opened(drop=0.5, seed=1)
    before = board.done["drop"]
    lost_answers = 0
    for sequence in range(2, 40):
        data, lost = request(pulse([1]), sequence), b""
        while not lost:
            applied = firmware.chip.cells.count("operations")
            lost = connection.receive(data)
            lost_answers += not lost and firmware.chip.cells.count("operations") > applied
    assert lost_answers > 3
    assert board.done["drop"] > before
    assert firmware.chip.cells.pulses[0][0] == 38


def test_a_flip_changes_one_bit_of_each_frame_either_way() -> None:
    firmware = Recorder(lambda _: ping(77))
    board, connection = faulty(firmware, flip=1)
    flipped = set()
    for i, answer in sent_one_by_one(connection, 400):
        assert bits_apart(firmware.heard, ping(i)) == 1
        assert bits_apart(answer, ping(77)) == 1
        flipped.add(int.from_bytes(answer, "little") ^ int.from_bytes(ping(77), "little"))
        firmware.heard = b""
    assert board.done == {"flip": 800}
    # Any bit may be it: of 232, those never hit in 400 draws are 41 on average.
    assert len(flipped) > 150
    assert {bits.bit_length() % 8 for bits in flipped} == set(range(8))


def test_truncation_takes_a_tail_and_half_of_the_time_the_delimiter() -> None:
    firmware = Recorder(mute)
    board, connection = faulty(firmware, truncate=1)
    lengths, delimited = set(), 0
    for i, _ in sent_one_by_one(connection, 400):
        heard = firmware.heard.removesuffix(b"\0")
        assert ping(i)[:-1].startswith(heard) and len(heard) < len(ping(i)) - 1
        lengths.add(len(heard))
        delimited += firmware.heard.endswith(b"\0")
        firmware.heard = b""
    assert lengths == set(range(len(ping(0)) - 1))
    assert abs(delimited - 200) < 5 * math.sqrt(400 / 4)
    assert board.done == {"truncate": 400}


def test_bare_delimiters_are_no_frames_and_always_arrive() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, **{kind: 1 for kind in KINDS})
    assert connection.receive(b"\0\0\0") == b"\0\0\0"
    assert not board.done


def test_an_answer_is_truncated_too() -> None:
    firmware = Recorder(lambda _: ping(77))
    _, connection = faulty(firmware, truncate=1)
    for _, answer in sent_one_by_one(connection):
        assert len(answer) < len(ping(77)) and ping(77).startswith(answer.removesuffix(b"\0"))


def test_a_duplicate_arrives_twice_either_way() -> None:
    firmware = Recorder(lambda _: ping(77))
    board, connection = faulty(firmware, duplicate=1)
    assert connection.receive(ping(1)) == ping(77) * 2
    assert firmware.heard == ping(1) * 2
    assert board.done == {"duplicate": 2}


def test_the_second_copy_of_a_damaged_frame_is_sound() -> None:
    firmware = Recorder(mute)
    _, connection = faulty(firmware, duplicate=1, flip=1)
    for i, _ in sent_one_by_one(connection):
        assert firmware.heard.endswith(ping(i))
        assert bits_apart(firmware.heard, ping(i) * 2) == 1
        firmware.heard = b""


def test_a_duplicated_mutating_request_is_applied_once_and_answered_twice() -> None:
    firmware, _, connection = opened(duplicate=1)
    answers = decoded(connection.receive(request(pulse([5]), 2)))
    # Two copies of the request, and each answer twice.
    assert [a.status for a in answers] == [Status.OK] * 4
    assert firmware.chip.cells.pulses[0][0] == 5
    assert firmware.chip.cells.count("operations") == 1


# --- time ----------------------------------------------------------------------------------------


def test_a_late_answer_comes_after_those_of_a_later_request_and_in_time() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, late=0.3, seed=5)
    came: dict[int, int] = {}
    waits = set()
    for i, data in sent_one_by_one(connection, 250):
        for place, answer in enumerate(decoded(data)):
            assert answer.sequence not in came
            came[answer.sequence] = i
            waits.add(i - answer.sequence)
            # What is late stands behind the answer that is not.
            assert place == 0 or answer.sequence < i
    assert waits == set(range(LATE_REQUESTS + 1))
    assert set(range(250 - LATE_REQUESTS)) <= set(came)
    assert firmware.heard == b"".join(ping(i) for i in range(250))
    assert board.done["late"] == sum(i > sequence for sequence, i in came.items()) + 250 - len(came)
    assert set(board.done) == {"late"}


def test_at_probability_one_no_answer_comes_with_its_request() -> None:
    _, connection = faulty(Recorder(), late=1)
    for i, data in sent_one_by_one(connection):
        assert all(answer.sequence < i for answer in decoded(data))


def test_a_reordered_answer_comes_right_after_the_next_one() -> None:
    board, connection = faulty(Recorder(), reorder=1)
    answers = connection.receive(b"".join(ping(i) for i in range(6)))
    assert [a.sequence for a in decoded(answers)] == [1, 0, 3, 2, 5, 4]
    assert board.done == {"reorder": 3}


def test_a_stall_swallows_the_answers_to_three_requests_and_no_request() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, stall=0.04, seed=2)
    silent_for, stalls = 0, 0
    for i, answer in sent_one_by_one(connection, 300):
        if board.done["stall"] > stalls:
            stalls, silent_for = board.done["stall"], STALLED_REQUESTS
        assert answer == (b"" if silent_for else ping(i))
        silent_for = max(0, silent_for - 1)
    assert stalls > 3
    assert firmware.heard == b"".join(ping(i) for i in range(300))


def test_a_stall_swallows_all_that_a_request_brings_and_what_was_late() -> None:
    board, connection = faulty(Recorder(lambda data: data * 3), late=0.5, stall=1, seed=1)
    assert all(answer == b"" for _, answer in sent_one_by_one(connection))
    assert board.done["late"] > 100


# --- disconnecting -------------------------------------------------------------------------------


def test_a_disconnection_ends_the_connection_before_or_after_the_request_was_executed() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, disconnect=1)
    executed = 0
    for i in range(200):
        with pytest.raises(Disconnected):
            connection.receive(ping(i))
        assert firmware.heard in (b"", ping(i))
        executed += bool(firmware.heard)
        firmware.heard = b""
    assert abs(executed - 100) < 5 * math.sqrt(200 / 4)
    assert board.done == {"disconnect": 200}


def test_after_a_disconnection_nothing_of_before_comes_back() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, late=1)
    connection.receive(ping(1) + ping(2)[:5])
    board._faults = Faults(disconnect=1)
    with pytest.raises(Disconnected):
        connection.receive(ping(2)[5:] + ping(3) + ping(4)[:5])
    board._faults = Faults()
    answers = [connection.receive(ping(i)) for i in range(5, 12)]
    assert answers == [ping(i) for i in range(5, 12)]


def test_in_process_a_disconnection_is_a_link_that_is_gone_until_it_is_made_anew() -> None:
    board = FaultyBoard(Recorder(), Faults(disconnect=1))
    link = InProcessLink(FaultyDevice(board))
    with pytest.raises(LinkError, match="closed the connection"):
        link.write(ping(1))
    board._faults = Faults()
    with pytest.raises(LinkError):
        link.write(ping(2))
    again = InProcessLink(FaultyDevice(board))
    again.write(ping(3))
    assert again.read(0) == ping(3)


# --- power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "applied"), [("reboot_before", 0), ("reboot_after", 1)])
def test_a_reboot_loses_the_answer_and_the_session_and_before_it_also_the_request(
    kind: str, applied: int
) -> None:
    firmware, board, connection = opened(**{kind: 1})
    boot = firmware.chip.boot_id
    assert connection.receive(request(pulse([1, 2]), 2)) == b""
    assert firmware.chip.cells.count("operations") == applied
    assert firmware.chip.cells.pulses[0][:2].tolist() == [applied, 2 * applied]
    assert firmware.chip.boot_id != boot and not firmware.chip.slots
    assert board.done == {kind: 1}
    (answer,) = decoded(firmware.receive(request(m.StatusRequest(), 3)))
    assert answer.status == Status.NO_SESSION


def test_a_reboot_within_cuts_a_mutating_command_short_after_few_cells() -> None:
    done = set()
    for seed in range(40):
        firmware, board, connection = opened(reboot_within=1, seed=seed)
        assert connection.receive(request(pulse([1] * 9), 2)) == b""
        pulsed = firmware.chip.cells.pulses[0][:9].tolist()
        cells = sum(pulsed)
        assert pulsed == [1] * cells + [0] * (9 - cells)
        certain = firmware.chip.cells.count("journal_progress")
        # The next cell is in doubt: of an odd number it is done, of an even one it is not.
        assert cells == certain + certain % 2
        assert firmware.chip.cells.count("journal_in_doubt") == 1
        assert firmware.chip.cells.count("operations") == 0 and not firmware.chip.slots
        assert board.done["reboot_within"] == 1
        done.add(certain)
    assert done == set(range(CUT_CELLS + 1))


def test_a_reboot_within_spares_what_changes_no_cell() -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, reboot_within=1)
    read = request(m.ReadRequest(0, 1, 0, m.Region(0, 0, 1, 0, 1)), 3)
    for data in (HELLO, ping(1), read, b"rubbish\0", request(pulse([1]), 4)[:-2] + b"\0"):
        assert connection.receive(data) == data
    assert firmware.cuts == []
    connection.receive(request(pulse([1]), 4))
    assert len(firmware.cuts) == 1
    assert board.done["reboot_within"] == 0


def test_a_cut_that_finds_nothing_to_cut_comes_with_the_next_mutating_request() -> None:
    firmware, board, connection = opened()
    first = request(pulse([1]), 2)
    connection.receive(first)
    board._faults = Faults(reboot_within=1)
    assert len(decoded(connection.receive(first))) == 1
    assert board.done["reboot_within"] == 0
    board._faults = Faults()
    assert len(decoded(connection.receive(ping(3)))) == 1
    assert connection.receive(request(pulse([1]), 4)) == b""
    assert board.done["reboot_within"] == 1
    assert firmware.chip.cells.count("boots") == 2


@pytest.mark.parametrize("kind", REBOOTS)
def test_a_greeting_is_never_met_by_a_reboot(kind: str) -> None:
    firmware = Recorder()
    board, connection = faulty(firmware, **{kind: 1})
    assert connection.receive(HELLO) == HELLO
    assert (firmware.chip.boot_id, firmware.cuts) == (1, [])
    assert sum(board.done.values()) == 0


@pytest.mark.parametrize("kind", ["drop", "flip", "truncate", "duplicate", "late", "reorder"])
def test_a_greeting_meets_every_fault_of_the_line(kind: str) -> None:
    _, connection = faulty(Recorder(), **{kind: 1})
    assert connection.receive(HELLO) != HELLO


# --- chance --------------------------------------------------------------------------------------


def within_five_sigma(count: int, trials: int, chance: float) -> bool:
    return abs(count - trials * chance) <= 5 * math.sqrt(trials * chance * (1 - chance))


@pytest.mark.parametrize("chance", [0.02, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_comes_as_often_as_its_probability_says(kind: str, chance: float) -> None:
    firmware = Recorder()
    mutating = kind == "reboot_within"
    firmware.answers = mute if kind in ("drop", "flip", "truncate", "duplicate") else ping_back
    board, connection = faulty(firmware, **{kind: chance}, seed=9)
    data = request(pulse([1]), 1) if mutating else ping(1)
    trials = 3000
    for _ in range(trials):
        try:
            connection.receive(data)
        except Disconnected:
            assert kind == "disconnect"
    count = len(firmware.cuts) if mutating else board.done[kind]
    if kind == "reorder":
        # The answer that overtakes another is not itself overtaken: it is no trial.
        trials -= count
    assert within_five_sigma(count, trials, chance)
    assert not [other for other in KINDS if other != kind and board.done[other]]


def ping_back(_: bytes) -> bytes:
    return ping(7)


EVERYTHING = {kind: 0.05 for kind in KINDS if kind != "disconnect"}


def traffic() -> bytes:
    """Requests of all sizes, a greeting and rubbish among them."""
    chance = np.random.default_rng(4)
    sent = [request(pulse([1] * 4), i) if i % 5 == 0 else ping(i, int(chance.integers(400)))
            for i in range(300)]  # fmt: skip
    return b"\0" + HELLO + b"\0".join(sent) + b"rubbish\0"


def outcome(chunks: Sequence[bytes], seed: int) -> tuple[bytes, bytes, list[int], dict[str, int]]:
    """All that the host hears, all that reaches the board, cuts, and faults by kind."""
    firmware = Recorder()
    board, connection = faulty(firmware, **EVERYTHING, seed=seed)
    heard = b"".join([connection.receive(chunk) for chunk in chunks])
    return heard, firmware.heard, firmware.cuts, dict(board.done)


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert outcome([traffic()], 1) == outcome([traffic()], 1)
    assert outcome([traffic()], 1)[1] != outcome([traffic()], 2)[1]


def test_every_fault_came_in_the_comparison_of_seeds_and_chunks() -> None:
    heard, reached, cuts, done = outcome([traffic()], 1)
    assert heard != reached != traffic()
    assert cuts
    expected = set(EVERYTHING) - {"reboot_within"}
    assert set(done) == expected


def test_the_length_of_frames_does_not_change_which_of_them_are_lost() -> None:
    def dropped(size: int) -> list[int]:
        board, connection = faulty(Recorder(mute), drop=0.1, flip=0.5, truncate=0.5, seed=8)
        counts = []
        for _ in range(200):
            connection.receive(ping(1, size))
            counts.append(board.done["drop"])
        return counts

    assert dropped(4) == dropped(90) == dropped(200)


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_the_chunks_in_which_bytes_arrive_do_not_change_the_faults(size: int) -> None:
    data = traffic()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert outcome(chunks, 1) == outcome([data], 1)


def test_chunks_do_not_change_when_a_board_disconnects() -> None:
    def ended(size: int) -> int:
        _, connection = faulty(Recorder(), disconnect=0.02, seed=3)
        data = b"".join(ping(i) for i in range(250))
        firmware = connection._inner
        for at in range(0, len(data), size):
            try:
                connection.receive(data[at : at + size])
            except Disconnected:
                break
        return len(decoded(firmware.heard))  # type: ignore[attr-defined]

    assert 0 < ended(1) < 250
    assert ended(1) == ended(13) == ended(100_000)


# --- a whole stack -------------------------------------------------------------------------------

LINE = {kind: 0.05 for kind in ("drop", "flip", "duplicate", "truncate", "late", "reorder")}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device in this process answers at once or never: there is nothing to wait for."""
    monkeypatch.setattr("boards.driver._HELLO_SECONDS", 0.002)
    monkeypatch.setattr("boards.driver._HELLO_TRIES", 100)
    monkeypatch.setattr(board_module, "Driver", functools.partial(Driver, retries=200))


def random_commands(board: Board, count: int) -> tuple[list[Any], int]:
    """What a random sequence of commands answers, and how many of them change cells."""
    chance = np.random.default_rng(6)
    answers: list[Any] = []
    mutating = 0
    for _ in range(count):
        tile = board.tiles[int(chance.integers(4))]
        cells = chance.choice(64 * 64, int(chance.integers(1, 12)), replace=False)
        rows, columns = cells // 64, cells % 64
        kind = int(chance.integers(3))
        mutating += kind > 0
        if kind == 0:
            row, column = (int(n) for n in chance.integers(0, 56, 2))
            answers.append(tile.read(m.Region(tile.index, row, 8, column, 8)).tolist())
        elif kind == 1:
            targets = chance.integers(15000, 50000, cells.size)
            done = tile.program(rows, columns, targets, cycles=2, tolerance=819, read_back=True)
            answers.append((done.set_pulses, done.reset_pulses, done.readings.tolist()))
        else:
            counts = chance.integers(-4, 5, cells.size)
            answers.append(
                tile.pulse(rows, columns, counts, set_mV=2000, reset_mV=1800, width_ns=100)
            )
    return answers, mutating


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_board_behind_a_bad_line_gives_the_answers_and_cells_of_a_good_one(seed: int) -> None:
    hasty = msgspec.structs.replace(EMU, link=msgspec.structs.replace(EMU.link, timeout_s=0.002))
    outcomes, boards = [], []
    for faults in (Faults(), Faults(**LINE, seed=seed)):
        chip = Chip(EMU, 5)
        device = FaultyBoard(Firmware(chip), faults)
        board = Board(hasty, InProcessLink(FaultyDevice(device)))
        board.power_up()
        answers, mutating = random_commands(board, 300)
        assert chip.cells.count("operations") == mutating > 100
        cells = [a.tobytes() for a in (chip.cells.conductances, chip.cells.pulses)]
        outcomes.append((answers, cells, chip.cells.positions.tolist()))
        boards.append(device)
        board.close()
    assert outcomes[0] == outcomes[1]
    assert sum(boards[0].done.values()) == 0
    assert all(boards[1].done[kind] > 5 for kind in LINE)


# --- the option ----------------------------------------------------------------------------------


def test_faults_are_read_from_text() -> None:
    text = "drop=0.01, flip=1,late=5e-3,reboot_within=.5,seed=7"
    expected = Faults(drop=0.01, flip=1.0, late=0.005, reboot_within=0.5, seed=7)
    assert Faults.parse(text) == expected
    assert Faults.parse("drop=0") == Faults()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_named(kind: str) -> None:
    assert Faults.parse(f"{kind}=0.25") == Faults(**{kind: 0.25})


NONSENSE = [
    ("", ("''", "NAME=VALUE")),
    ("drop", ("'drop'", "NAME=VALUE")),
    ("drop=0.1,", ("'drop=0.1,'", "NAME=VALUE")),
    ("dorp=0.1", ("'dorp'", "Did you mean 'drop'?", "reboot_within", "seed")),
    ("xyzzy=0.1", ("'xyzzy'", "Known: drop, flip")),
    ("=0.1", ("''", "Known:")),
    ("drop=often", ("'often'", "'drop'", "number from 0 to 1")),
    ("drop=", ("''", "'drop'")),
    ("drop=0.1=0.2", ("'0.1=0.2'", "'drop'")),
    ("drop=1.5", ("'drop'", "1.5", "0 to 1")),
    ("drop=-0.1", ("'drop'", "-0.1")),
    ("drop=nan", ("'drop'", "nan")),
    ("drop=inf", ("'drop'", "inf")),
    ("drop=0.1,flip=0.1,drop=0.1", ("'drop'", "twice")),
    ("seed=1.5", ("'1.5'", "'seed'", "whole number")),
    ("seed=-1", ("-1", "seed")),
    ("__class__=1", ("'__class__'", "Known:")),
]


@pytest.mark.parametrize(("text", "culprits"), NONSENSE)
def test_nonsense_is_a_usage_error_that_names_it(text: str, culprits: Sequence[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Faults.parse(text)
    assert not [c for c in culprits if c not in str(caught.value)]


def test_probabilities_are_also_checked_where_they_come_from_python() -> None:
    with pytest.raises(UsageError, match="'late'"):
        Faults(late=2)


def test_the_command_line_refuses_nonsense_with_2_and_serves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["emu", "serve", "--faults", "dorp=0.1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Did you mean 'drop'?" in said.err and "Traceback" not in said.err


def exchange(address: str, count: int) -> list[bytes]:
    """A greeting through a clean line, then pings; what came back of each, by a driver."""
    link = open_port(address, 115200)
    driver = Driver(link, window=4, timeout=0.05, retries=200)
    try:
        driver.hello()
        waiting = [driver.submit(m.PingRequest(bytes([i]))) for i in range(count)]
        echoes = [bytes(driver.result(p, m.PingResponse).echo) for p in waiting]
        assert driver.statistics.retries > 0
        return echoes
    finally:
        driver.close()


def test_a_served_board_has_the_faults_that_the_command_line_asks_for(serve_emulator: Any) -> None:
    address, _ = serve_emulator("--faults", "drop=0.1,flip=0.1,seed=4")
    assert exchange(address, 60) == [bytes([i]) for i in range(60)]


def test_a_served_board_hangs_up_where_it_is_asked_to(serve_emulator: Any) -> None:
    address, _ = serve_emulator("--faults", "disconnect=1")
    link = open_port(address, 0)
    link.write(ping(1))
    with pytest.raises(LinkError, match="closed the connection"):
        link.read(30.0)
    link.close()


def test_a_terminal_that_would_hang_up_is_silent_and_then_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("boards.driver._HELLO_SECONDS", 0.05)
    monkeypatch.setattr("boards.driver._HELLO_TRIES", 100)
    board = FaultyBoard(Firmware(Chip(EMU)), Faults(disconnect=0.2, seed=1))
    server = PtyServer(board)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        assert exchange(server.address, 30) == [bytes([i]) for i in range(30)]
    finally:
        server.close()
        thread.join(10)
    assert board.done["disconnect"] > 3
