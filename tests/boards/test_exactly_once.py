"""Every mutating command is applied once, or the error says how far it came; limits and the lease.

The reference and the host that resolves errors are those of ``benchmarks/exactly_once.py``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from boards import catalogue
from boards import driver as driver_module
from boards.board import Board
from boards.errors import (
    IndeterminateError,
    LinkError,
    Outcome,
    RestartedError,
    SafetyRefusal,
)
from boards.links import InProcessLink
from boards.profile import Profile
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import IDEAL_STEP, Detail, Opcode, Status
from firmware_protocol.packing import pack_codes
from sim_backend.chip import Chip
from sim_backend.faults import Faults, FaultyBoard
from sim_backend.firmware import Firmware


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "exactly_once.py"
    spec = importlib.util.spec_from_file_location("exactly_once", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


exactly = _benchmark()
NATIVE: Profile = exactly.hasty(catalogue.load("native"))
TILES, ROWS, COLUMNS = NATIVE.chip.tiles, NATIVE.chip.rows, NATIVE.chip.columns
LOW, HIGH = NATIVE.units(NATIVE.device.low_uS), NATIVE.units(NATIVE.device.high_uS)
PULSES = {"set_mV": 2000, "reset_mV": 1800, "width_ns": 100}


def limited(profile: Profile = NATIVE, **limits: Any) -> Profile:
    """A profile with other limits."""
    return msgspec.structs.replace(
        profile, limits=msgspec.structs.replace(profile.limits, **limits)
    )


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    with exactly.hasty_driver(0):
        yield


# --- random commands through every fault ---------------------------------------------------------

LINE = {"drop": 0.08, "flip": 0.05, "duplicate": 0.08, "late": 0.15, "truncate": 0.03,
        "reorder": 0.1}  # fmt: skip
ENDS = {"stall": 0.02, "disconnect": 0.03}
POWER = {"reboot_before": 0.03, "reboot_after": 0.03, "reboot_within": 0.05}

tiles = st.integers(0, TILES - 1)
# Few cells, so that commands meet on them.
cells = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True
)
conductances = st.integers(LOW, HIGH)


@st.composite
def regions(draw: st.DrawFn) -> m.Region:
    return m.Region(
        draw(tiles), draw(st.integers(0, 2)), draw(st.integers(1, 3)),
        draw(st.integers(0, 2)), draw(st.integers(1, 3)),
    )  # fmt: skip


class Commanded(RuleBasedStateMachine):
    """A board behind faults, and the reference that it must agree with after every step."""

    @initialize(
        seed=st.integers(0, 1 << 20),
        rates=st.sampled_from([LINE, POWER, LINE | ENDS, LINE | POWER, LINE | ENDS | POWER]),
        window=st.sampled_from([1, 8]),
    )
    def start(self, seed: int, rates: dict[str, float], window: int) -> None:
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(exactly.hasty_driver(seed))
        self.patches.enter_context(
            mock.patch.object(driver_module, "_RESTART_SECONDS", exactly.SILENCE_SECONDS)
        )
        # A board that is gone cannot be told to go safe; here that happens all the time.
        self.patches.enter_context(
            mock.patch.object(logging.getLogger("boards.board"), "disabled", True)
        )
        self.chip = exactly.SeededChip(NATIVE, seed)
        self.reference = exactly.Reference(self.chip)
        device = FaultyBoard(Firmware(self.chip), Faults(**rates, seed=seed))
        self.host = exactly.Host(NATIVE, device, self.reference, window)

    def teardown(self) -> None:
        if hasattr(self, "host"):
            with self.patches:
                self.host.read_all()
                self.host.leave()

    @rule(
        tile=tiles,
        cells=cells,
        wanted=st.lists(conductances, min_size=6, max_size=6),
        tolerance=st.sampled_from([0, 40, 5000]),
    )
    def program(
        self, tile: int, cells: list[tuple[int, int]], wanted: list[int], tolerance: int
    ) -> None:
        values = tuple(wanted[: len(cells)])
        self.host.apply(exactly.Command("program", tile, tuple(cells), values, tolerance))

    @rule(tile=tiles, cells=cells, counts=st.lists(st.integers(-9, 9), min_size=6, max_size=6))
    def pulse(self, tile: int, cells: list[tuple[int, int]], counts: list[int]) -> None:
        self.host.apply(exactly.Command("pulse", tile, tuple(cells), tuple(counts[: len(cells)])))

    @rule(region=regions(), values=st.lists(conductances, min_size=9, max_size=9))
    def load(self, region: m.Region, values: list[int]) -> None:
        cells = tuple(
            (region.row + i, region.column + j)
            for i in range(region.rows)
            for j in range(region.columns)
        )
        values = values[: len(cells)]
        self.host.apply(exactly.Command("load", region.tile, cells, tuple(values)))

    @rule(region=regions())
    def read(self, region: m.Region) -> None:
        self.host.read(region)

    @rule(region=regions())
    def wear(self, region: m.Region) -> None:
        self.host.wear(region)

    @rule(places=st.lists(regions(), min_size=2, max_size=8))
    def read_many_at_once(self, places: list[m.Region]) -> None:
        def ask(board: Board) -> list[Any]:
            driver = board._driver
            asked = [driver.submit(m.ReadRequest(0, 1, 0, region)) for region in places]
            return [driver.result(pending, m.ReadResponse).conductances for pending in asked]

        for region, found in zip(places, self.host.insist(ask), strict=True):
            expected = self.reference.reading(region, NATIVE.chip.adc_bits)
            assert list(found) == expected.reshape(-1).tolist()

    @rule()
    def reboot(self) -> None:
        self.host.insist(lambda board: board.reboot())
        assert not self.chip.slots

    @rule()
    def reconnect(self) -> None:
        self.host.leave()

    @rule()
    def read_everything(self) -> None:
        self.host.read_all()

    @precondition(lambda self: hasattr(self, "host"))
    @invariant()
    def the_chip_is_as_the_reference(self) -> None:
        shape = self.reference.pulses.shape
        found = self.chip.cells.pulses.reshape(shape)
        assert np.array_equal(found, self.reference.pulses)
        found = self.chip.cells.conductances.reshape(shape)
        assert np.array_equal(found, self.reference.conductances)
        assert self.chip.cells.count("operations") == self.host.counts["operations"]


TestRandomCommandsAreAppliedOnce = Commanded.TestCase
TestRandomCommandsAreAppliedOnce.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None
)


def measured(commands: int, seed: int) -> dict[str, Any]:
    return exactly.measure(commands, seed, progress=False)["results"]  # type: ignore[no-any-return]


WRONG = ("lost", "doubled", "otherwise_wrong", "wrong_answers", "cells_different")


def test_a_short_run_of_the_benchmark_finds_nothing_lost_and_nothing_doubled() -> None:
    results = measured(1500, 3)
    assert [results[name] for name in WRONG] == [0] * len(WRONG)
    assert results["applied_whole"] + results["applied_partly"] == 1500
    assert results["retries"] > 20


def test_the_benchmark_notices_a_board_that_executes_duplicates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_session = Firmware._in_session

    def forgetful(self: Firmware, frame: frames.Frame) -> bytes:
        if frame.sequence in self._kept:
            del self._kept[frame.sequence]
            self._expected = frame.sequence
        return in_session(self, frame)

    monkeypatch.setattr(Firmware, "_in_session", forgetful)
    assert measured(500, 3)["doubled"] > 5


@pytest.mark.parametrize(
    ("said", "wrongly", "found"),
    [
        (Outcome.APPLIED, Outcome.NOT_APPLIED, "doubled"),
        (Outcome.NOT_APPLIED, Outcome.APPLIED, "lost"),
    ],
)
def test_the_benchmark_notices_a_wrong_outcome(
    said: Outcome, wrongly: Outcome, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from boards import recovery

    outcome_of = recovery.outcome_of

    def mistaken(*arguments: Any) -> tuple[Outcome, int, list[Any]]:
        outcome, done, cells = outcome_of(*arguments)
        return wrongly if outcome is said else outcome, done, cells

    monkeypatch.setattr(recovery, "outcome_of", mistaken)
    monkeypatch.setitem(exactly.RATES, "disconnect", 0.02)
    assert measured(500, 3)[found] > 0


# --- one command, one fault ----------------------------------------------------------------------


class Meeting:
    """A device at which the first PULSE meets what a test wants; keeps the requests it heard."""

    def __init__(self, profile: Profile = NATIVE) -> None:
        self.chip = Chip(profile, 1)
        self.firmware = Firmware(self.chip)
        self.heard: list[int] = []
        self.on_pulse: Callable[[bytes], bytes] | None = None
        self.met = Opcode.PULSE

    def receive(self, data: bytes) -> bytes:
        for piece in filter(None, data.split(b"\0")):
            frame = frames.decode(piece)
            assert isinstance(frame, frames.Frame)
            self.heard.append(frame.opcode)
            if frame.opcode == self.met and self.on_pulse is not None:
                then, self.on_pulse = self.on_pulse, None
                return then(data)
        return self.firmware.receive(data)

    def reboot_before(self, _: bytes) -> bytes:
        self.firmware.reboot()
        return b""

    def reboot_after(self, data: bytes) -> bytes:
        self.firmware.receive(data)
        self.firmware.reboot()
        return b""

    def reboot_within(self, cells: int) -> Callable[[bytes], bytes]:
        def cut(data: bytes) -> bytes:
            self.firmware.cut_next(cells)
            return self.firmware.receive(data)

        return cut

    def board(self, profile: Profile = NATIVE, window: int = 8) -> Board:
        board = Board(profile, InProcessLink(self), window=window)
        board.power_up()
        return board

    def pulses(self) -> list[int]:
        """Of the cells that ``PULSE`` names."""
        return self.chip.cells.pulses[0][:5].tolist()  # type: ignore[no-any-return]


PULSE = m.PulseRequest(2000, 1800, 100, m.Region(0, 0, 1, 0, 5), (), (2, -3, 4, 5, 6))
NAMED = tuple((0, 0, column) for column in range(5))
ALL, NONE = [2, 3, 4, 5, 6], [0] * 5
READ = m.ReadRequest(0, 1, 0, m.Region(0, 0, 1, 0, 5))


def pulsed_among_reads(board: Board) -> Exception:
    """What becomes of a PULSE with reads before and after it in flight; they must tell too."""
    driver = board._driver
    before = [driver.submit(READ) for _ in range(3)]
    pulse = driver.submit(PULSE)
    after = [driver.submit(READ) for _ in range(3)]
    for pending in before:
        assert len(driver.result(pending, m.ReadResponse).conductances) == 5
    with pytest.raises((RestartedError, IndeterminateError)) as caught:
        driver.result(pulse, m.PulseResponse)
    for pending in after:
        with pytest.raises(RestartedError):
            driver.result(pending, m.ReadResponse)
    return caught.value


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize(
    ("kind", "outcome", "pulses"),
    [("reboot_before", Outcome.NOT_APPLIED, NONE), ("reboot_after", Outcome.APPLIED, ALL)],
)
def test_a_reboot_before_or_after_a_command_tells_whether_it_was_applied(
    kind: str, outcome: Outcome, pulses: list[int], window: int
) -> None:
    device = Meeting()
    board = device.board(window=window)
    device.on_pulse = getattr(device, kind)
    error = pulsed_among_reads(board)
    assert isinstance(error, RestartedError)
    assert error.outcome is outcome
    assert device.pulses() == pulses
    board.close()


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("cells", range(5))
def test_a_reboot_within_a_command_tells_the_cells_done_and_the_one_in_doubt(
    cells: int, window: int
) -> None:
    device = Meeting()
    board = device.board(window=window)
    device.on_pulse = device.reboot_within(cells)
    error = pulsed_among_reads(board)
    assert isinstance(error, IndeterminateError)
    assert (error.outcome, error.done) == (Outcome.PARTLY, cells)
    assert error.cells == (NAMED[cells],)
    found = device.pulses()
    assert found[:cells] == ALL[:cells]
    assert found[cells] == (ALL[cells] if cells % 2 else 0)
    assert found[cells + 1 :] == NONE[cells + 1 :]
    board.close()


def outer(pairs: bool, updates: int = 2) -> m.OuterRequest:
    """Updates of two rows: the second RESETs, the first SETs, by trains of 2, 3 and 4 pulses."""
    lines = [0b0011, 0b0111, 0b1111][: 2 if pairs else 3]
    rows = np.array([[0b01111, 0b11111]] * updates, dtype=np.uint32)
    columns = np.array([lines] * updates, dtype=np.uint32)
    words = b"".join(bytes(pack_codes(each, 5)) for each in (rows, columns))
    region = m.Region(0, 3, 2, 2, 4 if pairs else 3)
    return m.OuterRequest(2000, 1800, 100, region, 2 * pairs, 4, updates, words)


UPDATED = {
    False: ([(3, 2), (3, 3), (3, 4), (4, 2), (4, 3), (4, 4)], [4, 6, 8, -4, -6, -8]),
    True: ([(3, 2), (3, 4), (4, 2), (4, 4)], [4, 6, -4, -6]),
}


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("cut", range(6))
def test_a_reboot_within_an_update_names_the_cell_in_doubt(pairs: bool, cut: int) -> None:
    places, pulses = UPDATED[pairs]
    cut = min(cut, len(places) - 1)
    device = Meeting()
    board = device.board()
    before = device.chip.cells.conductances[0].reshape(ROWS, COLUMNS).astype(int)
    device.firmware.cut_next(cut)
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_outer(outer(pairs))
    assert (caught.value.outcome, caught.value.done) == (Outcome.PARTLY, cut)
    assert caught.value.cells == ((0, *places[cut]),)
    moved = np.zeros((ROWS, COLUMNS), dtype=int)
    for place, steps in zip(places[: cut + cut % 2], pulses, strict=False):
        moved[place] = steps
    after = device.chip.cells.conductances[0].reshape(ROWS, COLUMNS).astype(int)
    expected = np.clip(before + IDEAL_STEP * moved, LOW, HIGH)
    assert np.array_equal(after, np.where(moved == 0, before, expected))
    assert np.array_equal(device.chip.cells.pulses[0].reshape(ROWS, COLUMNS), abs(moved))
    board.close()


@pytest.mark.parametrize("pairs", [False, True])
def test_an_update_that_was_lost_names_every_cell_that_it_writes(pairs: bool) -> None:
    device = Meeting()
    board = device.board()
    device.on_pulse = gone(device.firmware.receive)
    device.met = Opcode.OUTER
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_outer(outer(pairs))
    assert caught.value.cells == tuple((0, *place) for place in UPDATED[pairs][0])
    board.close()
    with device.board() as board:
        expected = (Outcome.APPLIED, len(caught.value.cells), [])
        assert board.outcome(caught.value) == expected


def test_after_a_reboot_a_new_connection_goes_on_where_the_old_one_stopped() -> None:
    device = Meeting()
    with device.board() as board:
        device.on_pulse = device.reboot_before
        with pytest.raises(RestartedError):
            board.exchange_pulse(PULSE)
    with device.board() as board:
        board.exchange_pulse(PULSE)
        assert board.tiles[0].wear(PULSE.region).tolist() == [ALL]
        assert board.status().operations == 1


def gone(then: Callable[[bytes], bytes] | None) -> Callable[[bytes], bytes]:
    """A link that ends with the PULSE, before it arrives or after the board had it."""

    def ends(data: bytes) -> bytes:
        if then is not None:
            then(data)
        raise LinkError("The link is gone")

    return ends


@pytest.mark.parametrize(
    ("arrives", "cut", "outcome", "done", "doubt"),
    [
        (False, None, Outcome.NOT_APPLIED, 0, []),
        (True, None, Outcome.APPLIED, 5, []),
        (True, 0, Outcome.PARTLY, 0, [NAMED[0]]),
        (True, 3, Outcome.PARTLY, 3, [NAMED[3]]),
        (True, 4, Outcome.PARTLY, 4, [NAMED[4]]),
    ],
)
def test_what_a_lost_link_left_unknown_is_told_on_a_new_one(
    arrives: bool, cut: int | None, outcome: Outcome, done: int, doubt: list[Any]
) -> None:
    device = Meeting()
    board = device.board()
    then = device.firmware.receive if cut is None else device.reboot_within(cut)
    device.on_pulse = gone(then if arrives else None)
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_pulse(PULSE)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.cells == NAMED
    board.close()
    with device.board() as board:
        assert board.outcome(caught.value) == (outcome, done, doubt)


@pytest.mark.parametrize("arrives", [False, True])
def test_what_a_silent_board_left_unknown_is_told_on_a_new_connection(arrives: bool) -> None:
    device = Meeting()
    board = device.board()
    line = mock.patch.object(device, "receive", return_value=b"")

    def falls_silent(data: bytes) -> bytes:
        line.start()
        return device.firmware.receive(data)[:0] if arrives else b""

    device.on_pulse = falls_silent
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_pulse(PULSE)
    board.close()
    line.stop()
    expected = (Outcome.APPLIED, 5, []) if arrives else (Outcome.NOT_APPLIED, 0, [])
    with device.board() as board:
        assert board.outcome(caught.value) == expected
    assert device.pulses() == (ALL if arrives else NONE)


def test_a_duplicated_command_cut_short_is_not_told_as_unchanged_without_the_journal() -> None:
    device = Meeting()
    board = device.board()
    receive = device.firmware.receive
    line = mock.patch.object(device, "receive", return_value=b"")

    def twice(data: bytes) -> bytes:
        device.firmware.cut_next(3)
        answers = receive(data + data)
        line.start()
        return answers

    device.on_pulse = twice
    try:
        with pytest.raises(IndeterminateError):
            board.exchange_pulse(PULSE)
    finally:
        line.stop()
        board.close()


def test_a_partly_applied_command_has_the_same_outcome_when_asked_for_again() -> None:
    device = Meeting()
    board = device.board()
    device.on_pulse = device.reboot_within(3)
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_pulse(PULSE)
    board.close()
    with device.board() as board:
        assert board.outcome(caught.value) == (Outcome.PARTLY, 3, [NAMED[3]])


def test_an_outcome_that_the_journal_no_longer_holds_is_unknown() -> None:
    device = Meeting()
    board = device.board()
    device.on_pulse = gone(device.firmware.receive)
    with pytest.raises(IndeterminateError) as caught:
        board.exchange_pulse(PULSE)
    board.close()
    with device.board() as board:
        board.exchange_pulse(PULSE)
        assert board.outcome(caught.value)[0] is not Outcome.NOT_APPLIED


def test_a_command_that_was_never_sent_is_a_link_error_that_leaves_nothing_open() -> None:
    device = Meeting()
    board = device.board()
    device.on_pulse = gone(None)
    with pytest.raises(IndeterminateError):
        board.exchange_pulse(PULSE)
    with pytest.raises(LinkError):
        board.exchange_pulse(PULSE)
    assert device.heard.count(Opcode.PULSE) == 1
    board.close()


def test_a_mutating_request_waits_for_the_one_before_it_and_others_do_not() -> None:
    device = Meeting()
    board = device.board()
    driver = board._driver
    del device.heard[:]

    def unheard(data: bytes) -> bytes:
        device.firmware.receive(data)
        return b""

    device.on_pulse = unheard
    asked = [driver.submit(message) for message in (PULSE, READ, PULSE, READ)]
    first, _, second, _ = (
        driver.result(p, m.PulseResponse if p.message is PULSE else m.ReadResponse) for p in asked
    )
    assert first == second
    # The second PULSE goes out after the first one's answer, which had to be asked for again.
    again = [Opcode.PULSE]
    assert device.heard == [Opcode.PULSE, Opcode.READ, *again, Opcode.PULSE, Opcode.READ]
    assert device.pulses() == [2 * n for n in ALL]
    board.close()


# --- the lease -----------------------------------------------------------------------------------


def test_the_driver_renews_the_lease_while_the_program_is_silent() -> None:
    device = Meeting(short := limited(lease_ms=200))
    with device.board(short) as board:
        time.sleep(0.7)
        assert board.tiles[0].read(m.Region(0, 0, 2, 0, 2)).shape == (2, 2)
        board.exchange_pulse(PULSE)
        status = board.status()
        assert (status.powered, status.lapses) == (1, 0)
        assert device.heard.count(Opcode.LEASE) >= 3


def test_the_lease_lasts_while_the_journal_is_asked_for() -> None:
    device = Meeting(short := limited(lease_ms=200))
    with device.board(short) as board:
        for _ in range(15):
            board.journal()
            time.sleep(0.03)
        assert board.status().lapses == 0


def test_the_lease_runs_out_when_the_driver_is_gone_and_the_link_stays_open() -> None:
    device = Meeting(short := limited(lease_ms=200))
    board = device.board(short)
    driver = board._driver
    board.close(safe=False)
    time.sleep(0.5)
    assert device.heard.count(Opcode.LEASE) == 0

    def raw(message: Message) -> frames.Frame:
        driver._sequence += 1
        sent = frames.encode(message.OPCODE, driver._session, driver._sequence, message.parts())
        (answer,) = frames.Decoder().feed(device.receive(sent))
        assert isinstance(answer, frames.Frame)
        return answer

    status = m.StatusResponse.decode(raw(m.StatusRequest()).payload)
    assert (status.powered, status.lapses) == (0, 1)
    refused = raw(READ)
    assert refused.status == Status.SAFETY
    assert m.Refusal.decode(refused.payload).detail == Detail.LEASE
    assert raw(PULSE).status == Status.SAFETY
    assert device.pulses() == NONE


# --- closing -------------------------------------------------------------------------------------


def test_closing_takes_the_supplies_to_ground_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Meeting()
    board = device.board()
    assert device.chip.slots
    board.close()
    board.close()
    assert not device.chip.slots
    assert device.heard.count(Opcode.SAFE) == 1
    assert not caplog.records


@pytest.mark.parametrize(("lease_ms", "then"), [(5000, "within 5 s"), (0, "switch it off")])
def test_closing_a_board_that_is_out_of_reach_warns_and_tells_what_follows(
    lease_ms: int, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = Meeting(profile := limited(lease_ms=lease_ms))
    board = device.board(profile)
    with mock.patch.object(device, "receive", return_value=b""):
        board.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "could not be told to go safe" in record.getMessage()
    assert then in record.getMessage()


def test_closing_a_board_whose_supplies_stay_on_warns(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Meeting()
    board = device.board()
    handlers = device.firmware._commands._handlers
    monkeypatch.setitem(handlers, m.SafeRequest, lambda _: m.SafeResponse(1))
    board.close()
    (record,) = caplog.records
    assert "supplies are still on" in record.getMessage()


def test_closing_a_board_that_was_restarted_is_silent_as_its_supplies_are_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Meeting()
    board = device.board()
    device.firmware.reboot()
    board.close()
    assert not caplog.records


# --- limits --------------------------------------------------------------------------------------

LIMITS: list[tuple[dict[str, Any], dict[str, int], Sequence[int], str]] = [
    ({}, {"set_mV": 3301}, [1], "SET pulse of 3301 mV"),
    ({}, {"set_mV": 499}, [1], "SET pulse of 499 mV"),
    ({}, {"reset_mV": 3301}, [-1], "RESET pulse of 3301 mV"),
    ({}, {"reset_mV": 499}, [-1], "RESET pulse of 499 mV"),
    ({}, {"width_ns": 10001}, [1], "pulse of 10001 ns"),
    ({}, {"width_ns": 19}, [1], "pulse of 19 ns"),
    ({}, {}, [1, 1001], "1001 pulses to one cell"),
    ({}, {}, [1, -1001], "1001 pulses to one cell"),
    ({"amplitude_mV": (1000, 1900)}, {}, [1], "SET pulse of 2000 mV"),
    ({"amplitude_mV": (1900, 2500)}, {}, [-1], "RESET pulse of 1800 mV"),
    ({"width_ns": (200, 300)}, {}, [1], "pulse of 100 ns"),
    ({"width_ns": (20, 90)}, {}, [1], "pulse of 100 ns"),
    ({"pulses_per_command": 3}, {}, [4], "4 pulses to one cell"),
]


@pytest.mark.parametrize("stricter", ["host", "board"])
@pytest.mark.parametrize(("limits", "settings_", "counts", "what"), LIMITS)
def test_pulses_past_a_limit_of_host_or_board_are_refused_before_anything_is_sent(
    limits: dict[str, Any],
    settings_: dict[str, int],
    counts: Sequence[int],
    what: str,
    stricter: str,
) -> None:
    strict, loose = limited(**limits), NATIVE
    device = Meeting(strict if stricter == "board" else loose)
    with device.board(loose if stricter == "board" else strict) as board:
        frames_before = board.statistics.frames
        place = np.arange(len(counts))
        with pytest.raises(SafetyRefusal, match=what) as caught:
            board.tiles[0].pulse(place, place, np.array(counts), **PULSES | settings_)
        assert caught.value.left == "Nothing was sent"
        assert board.statistics.frames == frames_before
    assert Opcode.PULSE not in device.heard


def test_an_amplitude_that_no_pulse_uses_may_be_anything() -> None:
    with Meeting().board() as board:
        place = np.arange(2)
        done = board.tiles[0].pulse(place, place, np.array([1, 2]), **PULSES | {"reset_mV": 0})
        assert done == (3, 0)
        done = board.tiles[0].pulse(place, place, np.array([-1, 0]), **PULSES | {"set_mV": 9999})
        assert done == (0, 1)


@pytest.mark.parametrize("stricter", ["host", "board"])
def test_a_read_voltage_past_the_limit_of_host_or_board_is_refused_before_anything_is_sent(
    stricter: str,
) -> None:
    strict = limited(read_voltage_mV=99)
    device = Meeting(strict if stricter == "board" else NATIVE)
    profile = NATIVE if stricter == "board" else strict
    with Board(profile, InProcessLink(device)) as board:
        with pytest.raises(SafetyRefusal, match="read voltage of 100 mV"):
            board.power_up()
        assert Opcode.CONFIGURE not in device.heard
    assert not device.chip.slots


# --- lifetime ------------------------------------------------------------------------------------


def pulse_once(board: Board, count: int) -> None:
    board.tiles[0].pulse(np.array([0]), np.array([1]), np.array([count]), **PULSES)


def test_the_soft_lifetime_budget_warns_once_and_lets_pulses_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Meeting(profile := limited(lifetime_soft=10, lifetime_pulses=2000))
    with device.board(profile) as board:
        pulse_once(board, 10)
        assert not caplog.records
        pulse_once(board, 1)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith("1 cells just written have had more than 10 pulses")
        pulse_once(board, 5)
        done = board.tiles[0].program(
            np.array([0]), np.array([1]), np.array([LOW]), cycles=1, tolerance=0
        )
        assert done.worn == 1
        assert len(caplog.records) == 1
    assert device.chip.cells.pulses[0][1] > 16


def test_the_hard_lifetime_budget_refuses_a_command_whole() -> None:
    device = Meeting(profile := limited(lifetime_soft=0, lifetime_pulses=1000))
    place = np.array([0, 0]), np.array([0, 1])
    with device.board(profile) as board:
        tile = board.tiles[0]
        pulse_once(board, 990)
        pulse_once(board, -10)
        state = [a.tobytes() for a in device.chip.cells.arrays()]
        with pytest.raises(SafetyRefusal, match="lifetime") as caught:
            tile.pulse(*place, np.array([3, 1]), **PULSES)
        assert (caught.value.detail, caught.value.index) == (Detail.LIFETIME, 1)
        with pytest.raises(SafetyRefusal, match="lifetime"):
            tile.program(*place, np.array([HIGH, HIGH]), cycles=1, tolerance=0)
        assert [a.tobytes() for a in device.chip.cells.arrays()] == state
        assert board.status().operations == 2
        tile.pulse(*place, np.array([3, 0]), **PULSES)
