"""The driver on links that lose, repeat, damage, delay and reorder frames."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from boards import catalogue
from boards import driver as driver_module
from boards.board import Board
from boards.driver import Driver
from boards.errors import (
    IndeterminateError,
    LinkError,
    LinkTimeoutError,
    NoBoardError,
    SafetyRefusal,
    SpecMismatchError,
)
from boards.links import Device, InProcessLink, TcpLink
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_HASH, VERSION, Flag, Opcode, Status
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
PATIENT = {"timeout": 0.05, "retries": 200}
READER = "cim-link-reader"


def with_timeout(seconds: float) -> object:
    return msgspec.structs.replace(EMU, link=msgspec.structs.replace(EMU.link, timeout_s=seconds))


@dataclass(frozen=True)
class Faults:
    """Chances of each fault for one frame, either way."""

    drop: float = 0.0
    duplicate: float = 0.0
    flip: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0


class FaultyLink:
    """An in-process device behind a line with seeded faults; HELLO passes unharmed.

    A delayed frame arrives a few frames later, a reordered one right after the next.
    """

    rate: float | None = None
    name = "faulty"

    def __init__(self, device: Device, faults: Faults, seed: int = 0) -> None:
        self.device = device
        self.faults = faults
        self.random = random.Random(seed)
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.to_board: list[tuple[int, bytes]] = []
        self.from_board: list[tuple[int, bytes]] = []
        self.applied = 0

    def write(self, data: bytes) -> None:
        for frame in split(data):
            for arriving in self.disturbed(frame, self.to_board):
                for answer in split(self.device.receive(arriving)):
                    for heard in self.disturbed(answer, self.from_board):
                        self.heard.put(heard)

    def disturbed(self, frame: bytes, held: list[tuple[int, bytes]]) -> list[bytes]:
        """What arrives at the other end when a frame is sent: late ones come along."""
        due = [data for wait, data in held if wait <= 1]
        held[:] = [(wait - 1, data) for wait, data in held if wait > 1]
        if is_hello(frame):
            return [frame, *due]
        faults, chance = self.faults, self.random.random
        sent = [frame]
        if chance() < faults.duplicate:
            self.applied += 1
            sent.append(frame)
        if chance() < faults.flip:
            self.applied += 1
            damaged = bytearray(frame)
            damaged[self.random.randrange(len(damaged))] ^= 1 << self.random.randrange(8)
            sent[0] = bytes(damaged)
        if chance() < faults.drop:
            self.applied += 1
            sent.pop()
        if sent and chance() < faults.delay:
            self.applied += 1
            held.append((self.random.randint(2, 25), sent.pop()))
        if sent and chance() < faults.reorder:
            self.applied += 1
            held.append((1, sent.pop()))
        return [*sent, *due]

    def read(self, timeout: float) -> bytes:
        return next_of(self.heard, timeout)

    def close(self) -> None:
        self.heard.put(b"")


class ScriptedLink:
    """An in-process device; ``on_write`` decides which bytes the host hears, and when."""

    rate: float | None = None
    name = "scripted"

    def __init__(self, device: Device) -> None:
        self.device = device
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.requests: list[frames.Frame] = []
        self.on_request: Callable[[frames.Frame, bytes], bytes] = lambda _, data: (
            self.device.receive(data)
        )

    def write(self, data: bytes) -> None:
        for frame in split(data):
            (request,) = frames.Decoder().feed(frame)
            assert isinstance(request, frames.Frame)
            self.requests.append(request)
            self.hear(
                self.device.receive(data)
                if request.opcode == Opcode.HELLO
                else self.on_request(request, frame)
            )

    def hear(self, data: bytes) -> None:
        if data:
            self.heard.put(data)

    def read(self, timeout: float) -> bytes:
        return next_of(self.heard, timeout)

    def close(self) -> None:
        self.heard.put(b"")


def next_of(heard: queue.SimpleQueue[bytes], timeout: float) -> bytes:
    try:
        return heard.get(timeout=timeout)
    except queue.Empty:
        return b""


def split(data: bytes) -> list[bytes]:
    """Frames on the wire, each with its delimiter."""
    return [piece + b"\0" for piece in data.split(b"\0") if piece]


def is_hello(frame: bytes) -> bool:
    decoded = next(iter(frames.Decoder().feed(frame)), None)
    return isinstance(decoded, frames.Frame) and decoded.opcode == Opcode.HELLO


def configure() -> m.ConfigureRequest:
    return m.ConfigureRequest(0, 100, 1023, 1 << 15, 35)


def pulse(cell: int, count: int) -> m.PulseRequest:
    return m.PulseRequest(2000, 2000, 100, m.Region(0, 0, 64, 0, 64), (cell,), (count,))


@contextlib.contextmanager
def opened(link: object, *, window: int = 1, **options: float) -> Iterator[Driver]:
    """A driver with its session open."""
    driver = Driver(link, window=window, **({"timeout": 2.0} | options))  # type: ignore[arg-type]
    try:
        driver.hello()
        yield driver
    finally:
        driver.close()


@pytest.fixture
def chip() -> Chip:
    return Chip(EMU, 0)


@pytest.fixture
def hasty_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    """For peers that will never answer: no need to wait for them as long as for a real one."""
    monkeypatch.setattr(driver_module, "_HELLO_SECONDS", 0.05)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == READER]


# --- exactly once --------------------------------------------------------------------------------

ALL_FAULTS = Faults(drop=0.08, duplicate=0.1, flip=0.05, delay=0.06, reorder=0.06)
CASES = [(ALL_FAULTS, window) for window in range(1, 9)] + [
    (Faults(**{name: 0.2}), window)
    for name in ("drop", "duplicate", "flip", "delay", "reorder")
    for window in (1, 5)
]


@pytest.mark.parametrize(("faults", "window"), CASES)
def test_every_request_is_executed_exactly_once(chip: Chip, faults: Faults, window: int) -> None:
    link = FaultyLink(Firmware(chip), faults, seed=window)
    wanted = [(cell, 1 + cell % 7) for cell in range(60)]
    with opened(link, window=window, **PATIENT) as driver:
        driver.call(configure(), m.ConfigureResponse)
        waiting = [driver.submit(pulse(cell, count)) for cell, count in wanted]
        answers = [driver.result(pending, m.PulseResponse).set_pulses for pending in waiting]
    assert link.applied > 5
    assert answers == [count for _, count in wanted]
    on_chip = np.zeros(64 * 64, dtype=np.int64)
    on_chip[[cell for cell, _ in wanted]] = answers
    assert np.array_equal(chip.cells.pulses[0].astype(np.int64), on_chip)
    assert chip.cells.count("operations") == len(wanted)


@pytest.mark.parametrize("window", range(1, 9))
def test_a_clean_link_needs_no_retry_and_keeps_the_order(chip: Chip, window: int) -> None:
    link = ScriptedLink(Firmware(chip))
    with opened(link, window=window, timeout=60.0) as driver:
        waiting = [driver.submit(m.PingRequest(bytes([i]))) for i in range(40)]
        echoes = [bytes(driver.result(p, m.PingResponse).echo) for p in waiting]
        assert driver.statistics.retries == 0
    assert echoes == [bytes([i]) for i in range(40)]
    assert [r.sequence for r in link.requests] == list(range(41))


@pytest.mark.parametrize("window", [2, 8])
def test_one_lost_answer_is_asked_for_before_the_board_has_forgotten_it(
    chip: Chip, window: int
) -> None:
    link = ScriptedLink(Firmware(chip))
    lost: list[int] = []

    def lose_the_third(request: frames.Frame, data: bytes) -> bytes:
        answer = link.device.receive(data)
        if request.sequence == 3 and not lost:
            lost.append(request.sequence)
            return b""
        return answer

    with opened(link, window=window, timeout=0.05, retries=200) as driver:
        driver.call(configure(), m.ConfigureResponse)
        link.on_request = lose_the_third
        waiting = [driver.submit(pulse(cell, 2)) for cell in range(60)]
        assert [driver.result(p, m.PulseResponse).set_pulses for p in waiting] == [2] * 60
    assert lost == [3]
    assert chip.cells.pulses[0].sum() == 120


def test_no_more_requests_are_in_flight_than_the_window(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    held: list[bytes] = []
    most = 0

    def hold_until_three(_: frames.Frame, data: bytes) -> bytes:
        nonlocal most
        held.append(link.device.receive(data))
        most = max(most, len(held))
        if len(held) < 3:
            return b""
        released = b"".join(held)
        held.clear()
        return released

    link.on_request = hold_until_three
    with opened(link, window=8, timeout=60.0) as driver:
        driver.limit_window(3)
        waiting = [driver.submit(m.PingRequest(bytes([i]))) for i in range(9)]
        echoes = [bytes(driver.result(p, m.PingResponse).echo) for p in waiting]
    assert echoes == [bytes([i]) for i in range(9)]
    assert most == 3


# --- late, foreign and stale answers -------------------------------------------------------------


def test_a_late_answer_is_counted_and_never_taken_for_the_next_request(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    late: list[bytes] = []

    def first_answer_comes_late(_: frames.Frame, data: bytes) -> bytes:
        late.append(link.device.receive(data))
        return b"" if len(late) == 1 else b"".join(late)

    link.on_request = first_answer_comes_late
    with opened(link, timeout=0.05, retries=200) as driver:
        one = driver.call(m.PingRequest(b"one"), m.PingResponse)
        assert driver.statistics.retries >= 1
        assert driver.statistics.stale >= 1
        two = driver.call(m.PingRequest(b"two"), m.PingResponse)
    assert (bytes(one.echo), bytes(two.echo)) == (b"one", b"two")


@pytest.mark.parametrize("wrong", ["session", "opcode", "request"])
def test_an_answer_that_names_something_else_is_not_taken(chip: Chip, wrong: str) -> None:
    link = ScriptedLink(Firmware(chip))

    def forged_first(request: frames.Frame, data: bytes) -> bytes:
        session = request.session ^ (wrong == "session")
        opcode = Opcode.STATUS if wrong == "opcode" else Opcode.PING
        flags = 0 if wrong == "request" else Flag.RESPONSE
        forged = frames.encode(opcode, session, request.sequence, [b"forged"], flags=flags)
        return forged + link.device.receive(data)

    link.on_request = forged_first
    with opened(link, timeout=60.0) as driver:
        answer = driver.call(m.PingRequest(b"true"), m.PingResponse)
        assert bytes(answer.echo) == b"true"
        assert driver.statistics.stale == (wrong != "request")


def test_garbage_between_answers_is_counted_and_skipped(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    link.on_request = lambda _, data: b"\x07rubbish\0\0" + link.device.receive(data)
    with opened(link, timeout=60.0) as driver:
        assert bytes(driver.call(m.PingRequest(b"x"), m.PingResponse).echo) == b"x"
        assert driver.statistics.corrupt == 1


# --- silence and loss ----------------------------------------------------------------------------


def test_a_board_that_falls_silent_is_given_up_within_the_limit(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    profile = with_timeout(0.02)
    board = Board(profile, link)  # type: ignore[arg-type]
    link.on_request = lambda *_: b""
    sent = len(link.requests)
    began = time.monotonic()
    with pytest.raises(LinkTimeoutError, match="stopped answering"):
        board.ping()
    # Six sendings of 0.02 s each; the rest is room for a busy machine.
    assert time.monotonic() - began < 10
    assert [r.sequence for r in link.requests[sent:]] == [1] * 6
    board.close(safe=False)


def test_closing_a_board_that_is_silent_ends(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    board = Board(with_timeout(0.02), link)  # type: ignore[arg-type]
    link.on_request = lambda *_: b""
    board.close()
    assert link.requests[-1].opcode == Opcode.SAFE
    assert readers() == []


def test_a_request_that_never_gets_through_is_given_up_though_later_ones_are_refused(
    chip: Chip,
) -> None:
    link = ScriptedLink(Firmware(chip))
    link.on_request = lambda r, data: b"" if r.sequence == 1 else link.device.receive(data)
    caught: list[Exception] = []

    def ask(driver: Driver) -> None:
        try:
            waiting = [driver.submit(m.PingRequest(b"x")) for _ in range(2)]
            driver.result(waiting[0], m.PingResponse)
        except LinkError as error:
            caught.append(error)

    with opened(link, window=4, timeout=0.02, retries=3) as driver:
        thread = threading.Thread(target=ask, args=(driver,), daemon=True)
        thread.start()
        thread.join(60)
        alive = thread.is_alive()
        driver._fail(LinkError("end of the test"))
        thread.join(10)
    assert not alive
    assert isinstance(caught[0], LinkTimeoutError)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_mutating_command_without_an_answer_is_indeterminate_and_names_its_cells(
    chip: Chip, lost: str
) -> None:
    link = ScriptedLink(Firmware(chip))
    with opened(link, timeout=0.02) as driver:
        driver.call(configure(), m.ConfigureResponse)

        def lose(_: frames.Frame, data: bytes) -> bytes:
            if lost == "answer":
                link.device.receive(data)
            return b""

        link.on_request = lose
        region = m.Region(2, 4, 10, 6, 20)
        request = m.PulseRequest(2000, 2000, 100, region, (0, 25), (3, -4))
        with pytest.raises(IndeterminateError, match="PULSE") as caught:
            driver.call(request, m.PulseResponse)
    assert caught.value.cells == ((2, 4, 6), (2, 5, 11))
    assert "tile 2 row 4 column 6" in caught.value.left
    applied = 7 if lost == "answer" else 0
    assert chip.cells.pulses[2].sum() == applied
    assert chip.cells.count("operations") == (lost == "answer")


def test_a_dense_command_names_every_cell_of_its_region(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    with opened(link, timeout=0.02) as driver:
        link.on_request = lambda *_: b""
        region = m.Region(1, 0, 2, 4, 3)
        request = m.ProgramRequest(0, 1, 800, 0, region, (), (20000,) * 6)
        with pytest.raises(IndeterminateError) as caught:
            driver.call(request, m.ProgramResponse)
    assert caught.value.cells == tuple(
        (1, row, 4 + column) for row in (0, 1) for column in range(3)
    )


def test_a_refusal_says_why_and_leaves_the_session_usable(chip: Chip) -> None:
    with opened(ScriptedLink(Firmware(chip))) as driver:
        driver.call(configure(), m.ConfigureResponse)
        with pytest.raises(SafetyRefusal, match="limit") as caught:
            driver.call(pulse(0, 32000), m.PulseResponse)
        assert caught.value.status == Status.SAFETY
        assert driver.call(pulse(0, 2), m.PulseResponse).set_pulses == 2
    assert chip.cells.pulses[0].sum() == 2


# --- restarts and other programs -----------------------------------------------------------------


def test_another_program_that_takes_the_session_is_noticed(chip: Chip) -> None:
    firmware = Firmware(chip)
    with (
        opened(ScriptedLink(firmware)) as first,
        opened(ScriptedLink(firmware)) as second,
    ):
        second.call(configure(), m.ConfigureResponse)
        with pytest.raises(LinkError, match="session"):
            first.call(m.PingRequest(b""), m.PingResponse)
        with pytest.raises(LinkError, match="session"):
            first.call(pulse(0, 1), m.PulseResponse)
        assert second.call(pulse(0, 1), m.PulseResponse).set_pulses == 1
    assert chip.cells.pulses[0].sum() == 1


def test_a_restart_before_the_answer_leaves_a_pulse_indeterminate(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    with opened(link, timeout=0.05) as driver:
        driver.call(configure(), m.ConfigureResponse)

        def restart(_: frames.Frame, data: bytes) -> bytes:
            answer = link.device.receive(data)
            if chip.cells.pulses[0].sum() and not isinstance(link.device, Restarted):
                link.device = Restarted(chip)
                return b""
            return answer

        link.on_request = restart
        with pytest.raises(IndeterminateError) as caught:
            driver.call(pulse(70, 5), m.PulseResponse)
    assert caught.value.cells == ((0, 1, 6),)
    assert chip.cells.pulses[0].sum() == 5


class Restarted(Firmware):
    """The firmware after a restart: it knows no session."""


# --- links that end ------------------------------------------------------------------------------


@pytest.fixture
def mute_peer() -> Iterator[tuple[TcpLink, socket.socket]]:
    """A TCP link, and the far end of it, which says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = TcpLink("127.0.0.1", listener.getsockname()[1])
        peer, _ = listener.accept()
        with peer:
            yield link, peer


def wait_in_thread(driver: Driver, request: object) -> tuple[threading.Thread, list[Exception]]:
    caught: list[Exception] = []

    def wait() -> None:
        try:
            driver.call(request, m.PingResponse)  # type: ignore[arg-type]
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, caught


@pytest.mark.parametrize("end", ["link", "peer", "driver"])
def test_a_link_that_ends_under_a_waiting_request_raises_and_does_not_hang(
    mute_peer: tuple[TcpLink, socket.socket], end: str
) -> None:
    link, peer = mute_peer
    driver = Driver(link, window=1, timeout=0.5 if end == "driver" else 300.0)
    thread, caught = wait_in_thread(driver, m.PingRequest(b"x"))
    # Wait for the request itself, so that somebody does wait for its answer.
    assert peer.recv(1)
    {"link": link, "peer": peer, "driver": driver}[end].close()  # type: ignore[attr-defined]
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(caught[0], LinkError)
    driver.close()


def test_a_link_that_ends_under_a_waiting_pulse_leaves_it_indeterminate(
    mute_peer: tuple[TcpLink, socket.socket],
) -> None:
    link, peer = mute_peer
    driver = Driver(link, window=1, timeout=300.0)
    thread, caught = wait_in_thread(driver, pulse(3, 1))
    assert peer.recv(1)
    peer.close()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(caught[0], IndeterminateError)
    assert caught[0].cells == ((0, 0, 3),)
    driver.close()


def test_after_a_failure_requests_fail_at_once(mute_peer: tuple[TcpLink, socket.socket]) -> None:
    link, peer = mute_peer
    driver = Driver(link, window=1, timeout=300.0)
    peer.close()
    for _ in range(2):
        with pytest.raises(LinkError):
            driver.call(m.PingRequest(b""), m.PingResponse)
    driver.close()


def test_close_may_be_called_twice_and_no_thread_stays(chip: Chip) -> None:
    for link, threads in ((ScriptedLink(Firmware(chip)), 1), (InProcessLink(Firmware(chip)), 0)):
        board = Board(EMU, link)
        board.power_up()
        assert chip.slots
        assert len(readers()) == threads
        board.close()
        board.close()
        assert not chip.slots
        assert readers() == []


# --- greetings -----------------------------------------------------------------------------------


class Echo:
    def receive(self, data: bytes) -> bytes:
        return data


class Garbage:
    def receive(self, _: bytes) -> bytes:
        return bytes(random.Random(0).randrange(256) for _ in range(400)) + b"\0login: \0"


class Silent:
    def receive(self, _: bytes) -> bytes:
        return b""


class Impostor:
    """Answers HELLO with a sound frame that holds no HELLO."""

    def receive(self, data: bytes) -> bytes:
        (request,) = frames.Decoder().feed(data)
        assert isinstance(request, frames.Frame)
        return frames.encode(Opcode.HELLO, request.session, 0, [b"hi"], flags=Flag.RESPONSE)


@pytest.mark.usefixtures("hasty_hello")
@pytest.mark.parametrize("peer", [Echo(), Garbage(), Silent(), Impostor()])
def test_a_peer_that_is_no_board_is_called_so(peer: Device) -> None:
    with pytest.raises(NoBoardError, match="in-process") as caught:
        Board(EMU, InProcessLink(peer))
    assert not isinstance(caught.value, SpecMismatchError)
    assert readers() == []


@pytest.mark.usefixtures("hasty_hello")
def test_a_peer_that_is_no_board_gets_nothing_but_greetings() -> None:
    link = ScriptedLink(Silent())
    with pytest.raises(NoBoardError):
        Board(EMU, link)
    assert {r.opcode for r in link.requests} == {Opcode.HELLO}


def test_what_the_line_picked_up_before_does_not_spoil_the_greeting(chip: Chip) -> None:
    link = ScriptedLink(Firmware(chip))
    link.device.receive(b"\x11\x22\x33 half a frame")
    link.hear(b"boot 1.2\r\n\x07\0")
    with opened(link) as driver:
        assert driver.call(m.PingRequest(b"x"), m.PingResponse).echo == b"x"


def test_another_specification_is_named_on_both_sides_and_changes_nothing(chip: Chip) -> None:
    other = SPEC_HASH ^ 1
    before = [array.tobytes() for array in chip.cells.arrays()]
    with pytest.raises(SpecMismatchError) as caught:
        Board(EMU, InProcessLink(Firmware(chip, spec_hash=other)))
    assert f"{other:016x}" in str(caught.value)
    assert f"{SPEC_HASH:016x}" in str(caught.value)
    assert f"version {VERSION}" in str(caught.value)
    assert [array.tobytes() for array in chip.cells.arrays()] == before
    assert readers() == []
