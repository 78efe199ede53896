"""The regression suite of a board: it passes on the emulator, and fails on broken firmware."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cobs import cobs

from boards import capture, catalogue
from boards.errors import LinkError, NoBoardError, UsageError
from boards.links import InProcessLink, Link, open_port
from boards.profile import Profile
from cimctl.cli.root import run as command_line
from cimctl.conformance import report
from cimctl.conformance.cases import Case, Expectation, Group, NotApplicable, Wear, budget
from cimctl.conformance.runner import Result, Run, Settings, run, worst_pulses
from cimctl.conformance.suite import cases
from cimctl.conformance.wire import damaged, forged
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode, Status
from sim_backend import chip as chip_module
from sim_backend.chip import Chip
from sim_backend.commands import Commands, Refused
from sim_backend.converters import Adding, Converter
from sim_backend.firmware import Firmware
from sim_backend.outer import Trains
from sim_backend.server import PtyServer, Server, TcpServer

EMU, SOC, NATIVE = (catalogue.load(name) for name in ("emu", "brram-soc", "native"))
#: a device in this process answers at once, or never
HASTY = msgspec.structs.replace(EMU, link=msgspec.structs.replace(EMU.link, timeout_s=0.2))
DESTRUCTIVE = Settings(destructive=True)
FAST = [case for case in cases() if not case.slow]


def emulated(
    profile: Profile = HASTY,
    seed: int = 0,
    *,
    chosen: list[Case] | None = None,
    settings: Settings = DESTRUCTIVE,
    firmware: Firmware | None = None,
) -> Run:
    """A run on an emulated board in this process."""
    board = firmware or Firmware(Chip(profile, seed))
    return run(profile, lambda: InProcessLink(board), chosen or cases(), settings)


def failures(done: Run) -> list[Result]:
    return [result for result in done.results if result.outcome == "failed"]


def outcome_of(done: Run, name: str) -> str:
    (outcome,) = (r.outcome for r in done.results if r.name == name)
    return outcome


def skipped(done: Run) -> set[str]:
    return {result.name for result in done.results if result.outcome == "skipped"}


# --- boards that conform --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_emu() -> Run:
    return emulated()


def test_the_noisy_emulator_passes(on_emu: Run) -> None:
    assert failures(on_emu) == []
    assert on_emu.count("passed") > 190


def test_the_ideal_device_passes_to_the_bit() -> None:
    done = emulated(NATIVE, chosen=FAST)
    assert failures(done) == []
    exact = {"cells.ideal-pulses", "cells.ideal-program", "outer.ideal", "products.images"}
    assert not exact & skipped(done)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_chips_pass(seed: int) -> None:
    assert failures(emulated(seed=seed, chosen=FAST)) == []


def test_the_chip_of_table_1_passes() -> None:
    assert failures(emulated(catalogue.load("brram-256x64"), chosen=FAST)) == []


def test_the_chip_of_bits_passes_with_and_without_its_analog_errors() -> None:
    chip = catalogue.load("cap-imc-16nm")
    done = emulated(chip, chosen=FAST)
    assert failures(done) == []
    planes = {"products.ternary-groups", "products.ternary-input-bits", "commands.plane-counts",
              "refusals.program-target-between", "refusals.vmm-split-group"}  # fmt: skip
    assert not planes & skipped(done)
    assert {"products.pairs", "cells.pulse-directions"} <= skipped(done)
    none = {"adc_noise_lsb": 0.0, "cell_mismatch": 0.0, "column_noise_uS": 0.0, "adc_inl_lsb": 0.0}
    faults = msgspec.structs.replace(chip.imperfections, **none)
    exact = emulated(msgspec.structs.replace(chip, imperfections=faults), chosen=FAST)
    assert failures(exact) == []


def wrong_group(adding: Adding) -> Adding:
    return Adding(adding.group, np.abs(adding.weights))


def wrong_column(adding: Adding) -> Adding:
    return Adding(adding.group, np.roll(adding.weights, 1))


@pytest.mark.parametrize("fault", [wrong_group, wrong_column])
def test_columns_added_by_other_weights_are_found(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Adding], Adding]
) -> None:
    right = chip_module._adding
    monkeypatch.setattr(chip_module, "_adding", lambda *given: fault(right(*given)))
    done = emulated(catalogue.load("cap-imc-16nm"), chosen=cases(("products.",)))
    assert {"products.groups", "products.signed-groups"} <= {r.name for r in failures(done)}


@pytest.fixture
def served() -> Iterator[Callable[[Server], Server]]:
    opened: list[Server] = []

    def serve(server: Server) -> Server:
        threading.Thread(target=server.serve, daemon=True).start()
        opened.append(server)
        return server

    yield serve
    for server in opened:
        server.close()


def test_a_board_over_tcp_that_offers_less_passes(served: Any) -> None:
    server = served(TcpServer("127.0.0.1", 0, Firmware(Chip(SOC))))
    done = run(SOC, lambda: open_port(server.address, SOC.link.baud), cases(), DESTRUCTIVE)
    assert failures(done) == []
    assert {"snapshots.restored", "products.transposed", "cells.load-reads-back"} <= skipped(done)
    for name in ("transposed", "signed-inputs", "snapshot", "restore", "load", "outer"):
        assert outcome_of(done, f"refusals.without-{name}") == "passed"


def test_a_board_on_a_pseudo_terminal_passes(served: Any) -> None:
    server = served(PtyServer(Firmware(Chip(SOC, 3))))
    chosen = [case for case in FAST if case.group in ("wire", "order", "journal", "sizes")]
    done = run(SOC, lambda: open_port(server.address, SOC.link.baud), chosen, DESTRUCTIVE)
    assert failures(done) == []


def with_chip(profile: Profile, **changed: Any) -> Profile:
    return msgspec.structs.replace(profile, chip=msgspec.structs.replace(profile.chip, **changed))


#: a noisy board that offers all there is
UPDATING = with_chip(HASTY, capabilities=(*HASTY.chip.capabilities, "OUTER"))


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": 1, "columns": 2, "tiles": 1, "slots": 1},
        {"rows": 3, "columns": 4, "input_bits": 1, "adc_bits": 12},
        {"rows": 2, "columns": 6, "input_bits": 4, "adc_bits": 4, "pair_conversions": 2},
        {"capabilities": ()},
        {"capabilities": ("SIGNED_INPUTS", "LOAD")},
        {"capabilities": UPDATING.chip.capabilities},
        {"capabilities": (*UPDATING.chip.capabilities, "GROUPS"), "column_weights": (5, -3, 1)},
        {
            "input_coding": "bit-planes",
            "capabilities": ("SIGNED_INPUTS", "TERNARY", "TRANSPOSED", "LOAD", "ROW_BLOCK_SUMS"),
        },
        {
            "input_coding": "bit-planes",
            "capabilities": ("SIGNED_INPUTS", "TERNARY", "GROUPS", "IMAGES"),
            "column_weights": (-2, 1),
            "input_bits": 3,
        },
    ],
    ids=[
        "smallest",
        "fine-adc",
        "coarse",
        "nothing-offered",
        "little-offered",
        "all-offered",
        "groups-of-whole-codes",
        "planes",
        "planes-of-groups",
    ],
)
@pytest.mark.parametrize("profile", [HASTY, NATIVE], ids=["noisy", "ideal"])
def test_other_geometries_pass(profile: Profile, changed: dict[str, Any]) -> None:
    assert failures(emulated(with_chip(profile, **changed), chosen=FAST)) == []


@pytest.mark.parametrize("name", ["rpu-baseline", "softbounds-20", "reram-softbounds", "pcm"])
def test_boards_that_update_by_coincidence_pass(name: str) -> None:
    done = emulated(catalogue.load(name), chosen=FAST)
    assert failures(done) == []
    chosen = {c.name for c in FAST if c.group == "outer"}
    assert chosen & skipped(done) == {"outer.ideal"}


@pytest.mark.parametrize("window", [1, 2, 64])
def test_other_windows_and_payloads_pass(window: int) -> None:
    link = msgspec.structs.replace(HASTY.link, window=window, max_payload=1000)
    done = emulated(msgspec.structs.replace(HASTY, link=link), chosen=FAST)
    assert failures(done) == []
    assert outcome_of(done, "sizes.largest-read") == "passed"


def test_a_cell_near_the_end_of_its_life_is_refused_more_pulses() -> None:
    board = Firmware(Chip(HASTY))
    board.chip.cells.pulses[0] = HASTY.limits.lifetime_pulses - 500
    (case,) = cases(("refusals.lifetime",))
    done = emulated(chosen=[case], firmware=board)
    assert outcome_of(done, case.name) == "passed"


# --- what a run leaves behind ---------------------------------------------------------------------


def test_a_run_leaves_the_board_safe_and_its_cells_put_back() -> None:
    board = Firmware(Chip(HASTY))
    before = board.chip.cells.conductances.copy()
    done = emulated(firmware=board, chosen=FAST)
    assert [r.name for r in done.results[-2:]] == ["end.cells-put-back", "end.left-safe"]
    assert board.chip.slots == {}
    # Put back as 16 readings told them; cells beyond the region were not touched.
    moved = np.abs(board.chip.cells.conductances.astype(int) - before).reshape(4, 64, 64)
    assert moved.max() < 6 * 931 / 4 + 129
    moved[0, :4, :8] = 0
    assert not moved.any()


def test_without_permission_no_cell_changes_and_no_operation_counts() -> None:
    board = Firmware(Chip(HASTY))
    before = [array.tobytes() for array in (board.chip.cells.conductances, board.chip.cells.pulses)]
    done = emulated(firmware=board, chosen=FAST, settings=Settings(destructive=False))
    after = [array.tobytes() for array in (board.chip.cells.conductances, board.chip.cells.pulses)]
    assert failures(done) == []
    assert after == before and board.chip.cells.count("operations") == 0
    assert {c.name for c in FAST if c.destructive} <= skipped(done)


@pytest.mark.parametrize("profile", [UPDATING, SOC, NATIVE], ids=lambda p: p.name)
def test_no_cell_gets_more_pulses_than_the_budget_says(profile: Profile) -> None:
    board = Firmware(Chip(profile))
    done = emulated(profile, firmware=board, chosen=FAST)
    assert 0 < board.chip.cells.pulses.max() <= done.worst_pulses


def test_each_destructive_case_keeps_its_own_budget() -> None:
    for case in FAST:
        if case.wear is None:
            continue
        board = Firmware(Chip(UPDATING))
        emulated(UPDATING, chosen=[case], firmware=board)
        assert board.chip.cells.pulses.max() <= case.wear.bound(UPDATING), case.name


def test_an_interrupted_run_leaves_the_board_safe() -> None:
    group = Group("own")
    board = Firmware(Chip(HASTY))

    @group.case("nothing")
    def interrupted(bench: Any) -> None:
        assert board.chip.slots
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emulated(chosen=group.cases, firmware=board)
    assert board.chip.slots == {}


def test_a_run_that_could_wear_cells_out_is_refused_before_it_begins() -> None:
    limits = msgspec.structs.replace(
        HASTY.limits, lifetime_pulses=100 * worst_pulses(HASTY, FAST) - 1, lifetime_soft=0
    )
    profile = msgspec.structs.replace(HASTY, limits=limits)
    board = Firmware(Chip(profile))
    with pytest.raises(UsageError, match="1%"):
        emulated(profile, chosen=FAST, firmware=board)
    assert board.chip.cells.count("operations") == 0
    limits = msgspec.structs.replace(limits, lifetime_pulses=limits.lifetime_pulses + 1)
    assert emulated(msgspec.structs.replace(HASTY, limits=limits), chosen=FAST[:3]).results


def test_the_budget_adds_up_what_cases_declare() -> None:
    some = [replace(FAST[0], wear=w) for w in (None, Wear(1, 2), Wear(pulses=3), Wear(overfull=1))]
    assert budget(some) == Wear(2, 5, 1)
    assert worst_pulses(HASTY, some) == 2 * 31 * 5 + 5 + 1001
    assert worst_pulses(HASTY, some[:1]) == 0


# --- boards that do not conform -------------------------------------------------------------------


class RunsDuplicatesAgain(Firmware):
    def _in_session(self, frame: frames.Frame) -> bytes:
        if frame.sequence in self._kept:
            self._commands.duplicates += 1
            return self._executed(frame)
        return super()._in_session(frame)


class AnswersEarlyFrames(Firmware):
    def _in_session(self, frame: frames.Frame) -> bytes:
        if frame.sequence > self._expected:
            return self._executed(frame)
        return super()._in_session(frame)


class ForgetsTheLease(Firmware):
    def _check_lease(self) -> None:
        pass


class HearsNoRenewal(Firmware):
    """Counts the lease from its LEASE alone."""

    def _in_session(self, frame: frames.Frame) -> bytes:
        answer = super()._in_session(frame)
        self._ends = getattr(self, "_ends", 0.0)
        if frame.opcode == Opcode.LEASE:
            self._ends = self._clock() + self._lease
        return answer

    def _check_lease(self) -> None:
        if 0 < getattr(self, "_ends", 0.0) < self._clock():
            self._commands.lease_ends()


class KeepsOneAnswer(Firmware):
    def _in_session(self, frame: frames.Frame) -> bytes:
        answer = super()._in_session(frame)
        while len(self._kept) > 1:
            self._kept.popitem(last=False)
        return answer


class HearsEverySession(Firmware):
    def _answered(self, frame: frames.Frame) -> bytes:
        if frame.opcode not in (Opcode.HELLO, Opcode.JOURNAL) and self._session:
            frame = replace(frame, session=self._session)
        return super()._answered(frame)


class AnswersAnswers(Firmware):
    def receive(self, data: Any, decoder: Any = None) -> bytes:
        answers = []
        for frame in (decoder or self._decoder).feed(data):
            if isinstance(frame, frames.CorruptFrame):
                self._commands.corrupt_frames += 1
            else:
                answers.append(self._answered(frame))
        return b"".join(answers)


class CountsNoCorruption(Firmware):
    def receive(self, data: Any, decoder: Any = None) -> bytes:
        answer = super().receive(data, decoder)
        self._commands.corrupt_frames = 0
        return answer


class DamagesAnswers(Firmware):
    """Turns a bit in every answer to PING."""

    def _frame(self, request: frames.Frame, parts: Any, status: int) -> bytes:
        answer = super()._frame(request, parts, status)
        return damaged(answer, 8) if request.opcode == Opcode.PING else answer


class AnswersTwice(Firmware):
    """Says everything but HELLO twice."""

    def _frame(self, request: frames.Frame, parts: Any, status: int) -> bytes:
        answer = super()._frame(request, parts, status)
        return answer * (1 if request.opcode == Opcode.HELLO else 2)


class ForgetsOnReboot(Firmware):
    def reboot(self) -> None:
        super().reboot()
        self.chip.cells.pulses[:] = 0


class RebootsInNameOnly(Firmware):
    def reboot(self) -> None:
        self.chip.slots.clear()
        self._session = 0


BROKEN_FIRMWARE: list[tuple[type[Firmware], str]] = [
    (RunsDuplicatesAgain, "order.duplicate-not-executed"),
    (RunsDuplicatesAgain, "order.duplicate-update-not-executed"),
    (RunsDuplicatesAgain, "order.duplicate-answered-alike"),
    (AnswersEarlyFrames, "order.early"),
    (AnswersEarlyFrames, "order.early-not-executed"),
    (ForgetsTheLease, "safety.lease-lapses"),
    (KeepsOneAnswer, "order.kept-answers"),
    (HearsEverySession, "order.no-session"),
    (HearsEverySession, "hello.another-session"),
    (HearsEverySession, "wire.golden-requests"),
    (AnswersAnswers, "wire.response-flag"),
    (AnswersAnswers, "wire.golden-answers"),
    (CountsNoCorruption, "wire.flipped-bit"),
    (HearsNoRenewal, "safety.lease-renewed"),
    (DamagesAnswers, "sizes.smallest"),
    (AnswersTwice, "commands.plain"),
    (ForgetsOnReboot, "journal.outlives-reboot"),
    (RebootsInNameOnly, "journal.reboot"),
]


@pytest.mark.parametrize(
    ("kind", "name"), BROKEN_FIRMWARE, ids=[f"{k.__name__}-{n}" for k, n in BROKEN_FIRMWARE]
)
def test_a_case_tells_a_broken_firmware(kind: type[Firmware], name: str) -> None:
    done = emulated(chosen=cases((name,)), firmware=kind(Chip(UPDATING)))
    (result,) = (r for r in done.results if r.name == name)
    assert result.outcome == "failed"
    assert result.expected and result.found and "Error" not in result.found


_program, _configure, _pulse = Commands._program, Commands._configure, Commands._pulse
_check_region, _multiply = Commands._check_region, Commands._multiply
_outer, _trains = Commands._outer, Commands._trains


def half_program(self: Commands, r: m.ProgramRequest) -> m.ProgramResponse:
    """Programs the first cell before it looks at the others."""
    try:
        return _program(self, r)
    except Refused:
        if len(r.indices) > 1:
            _program(self, replace(r, indices=r.indices[:1], targets=r.targets[:1], read_back=0))
        raise


def half_pulse(self: Commands, r: m.PulseRequest) -> m.PulseResponse:
    try:
        return _pulse(self, r)
    except Refused:
        if len(r.indices) > 1:
            _pulse(self, replace(r, indices=r.indices[:1], counts=r.counts[:1]))
        raise


def next_shift(self: Commands, r: m.ConfigureRequest) -> m.ConfigureResponse:
    answer = _configure(self, r)
    slot = self._chip.slots[r.slot]
    self._chip.slots[r.slot] = replace(slot, shift=slot.shift - 1)
    return answer


def next_multiplier(self: Commands, r: m.ConfigureRequest) -> m.ConfigureResponse:
    answer = _configure(self, r)
    slot = self._chip.slots[r.slot]
    self._chip.slots[r.slot] = replace(slot, multiplier=slot.multiplier + 1)
    return answer


def one_slot(self: Commands, r: m.ConfigureRequest) -> m.ConfigureResponse:
    answer = _configure(self, r)
    for number in self._chip.slots:
        self._chip.slots[number] = self._chip.slots[r.slot]
    return answer


def configured_before_checks(self: Commands, r: m.ConfigureRequest) -> m.ConfigureResponse:
    if r.slot in self._chip.slots and 1 <= r.multiplier < 65536 and r.shift:
        slot = self._chip.slots[r.slot]
        self._chip.slots[r.slot] = replace(slot, multiplier=r.multiplier, shift=r.shift)
    return _configure(self, r)


def unsafe(self: Commands, r: m.SafeRequest) -> m.SafeResponse:
    return m.SafeResponse(powered=0)


def pulse_counted_twice(self: Commands, r: m.PulseRequest) -> m.PulseResponse:
    answer = _pulse(self, r)
    self._chip.cells.add("operations", 1)
    return answer


def pulse_twice(self: Commands, r: m.PulseRequest) -> m.PulseResponse:
    _pulse(self, r)
    return _pulse(self, r)


def indices_by_column(self: Commands, r: m.PulseRequest) -> m.PulseResponse:
    rows, columns = r.region.rows, r.region.columns
    turned = [(int(i) % rows) * columns + int(i) // rows for i in r.indices]
    return _pulse(self, replace(r, indices=turned))


def outer_twice(self: Commands, r: m.OuterRequest) -> m.OuterResponse:
    _outer(self, r)
    return _outer(self, r)


def outer_counted_twice(self: Commands, r: m.OuterRequest) -> m.OuterResponse:
    answer = _outer(self, r)
    return replace(answer, set_pulses=2 * answer.set_pulses)


def outer_uncounted(self: Commands, r: m.OuterRequest) -> m.OuterResponse:
    answer = _outer(self, r)
    self._chip.cells.add("reset_pulses", -answer.reset_pulses)
    return answer


def with_words(trains: Trains, change: Callable[[Any], Any]) -> Trains:
    return trains._replace(rows=change(trains.rows), columns=change(trains.columns))


def without_signs(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    return with_words(trains, lambda words: words & np.uint32((1 << trains.length) - 1)), cells


def row_signs_only(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    mask = np.uint32((1 << trains.length) - 1)
    return trains._replace(columns=trains.columns & mask), cells


def without_last_slot(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    return with_words(trains, lambda words: words & ~np.uint32(1 << (trains.length - 1))), cells


def first_update_only(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    return with_words(trains, lambda words: np.ascontiguousarray(words[:, :1])), cells


def updates_backwards(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    return with_words(trains, lambda words: np.ascontiguousarray(words[:, ::-1])), cells


def lines_first(self: Commands, r: m.OuterRequest) -> Any:
    """Takes words line by line instead of update by update."""
    trains, cells = _trains(self, r)
    return with_words(
        trains, lambda words: np.ascontiguousarray(words.T).reshape(words.shape)
    ), cells


def both_of_pairs(self: Commands, r: m.OuterRequest) -> Any:
    trains, cells = _trains(self, r)
    if r.flags & 2:
        cells = self._chip.cell_index(r.region)
        trains = trains._replace(columns=np.repeat(trains.columns, 2, axis=0))
    return trains, cells


def pairs_ignored(self: Commands, r: m.OuterRequest) -> Any:
    """Writes side by side what belongs to the first columns of pairs."""
    if not r.flags & 2:
        return _trains(self, r)
    half = replace(r.region, columns=r.region.columns // 2)
    return _trains(self, replace(r, region=half, flags=0))


def any_amplitude(self: Commands, amplitude: int, which: int) -> None:
    del self, amplitude, which


def any_region(self: Commands, region: m.Region, number: int = 0) -> None:
    """Whatever fits the flat array."""
    if region.rows < self._profile.chip.rows or not region.rows:
        return
    _check_region(self, region, number)


def kernel_turned(self: Commands, r: m.VmmRequest) -> m.VmmResponse:
    w = r.image
    turned = replace(w, stride_y=w.stride_x, stride_x=w.stride_y)
    return _multiply(self, replace(r, image=turned) if w.height == w.width else r)


def unsaturated(self: Commands, r: m.VmmRequest) -> m.VmmResponse:
    return replace(_multiply(self, r), saturated=0)


def refuse_bare(self: Commands, r: m.VmmRequest) -> m.VmmResponse:
    raise Refused(Status.DEVICE_FAULT)


BROKEN_COMMANDS: list[tuple[str, Any, str]] = [
    ("_program", half_program, "commands.atomic-program-last-index-bad"),
    ("_program", half_program, "commands.atomic-program-last-target-bad"),
    ("_pulse", half_pulse, "commands.atomic-pulse-last-index-bad"),
    ("_configure", next_shift, "products.columns"),
    ("_configure", next_shift, "products.pairs"),
    ("_configure", one_slot, "products.two-slots"),
    ("_configure", configured_before_checks, "safety.refused-configure"),
    ("_safe", unsafe, "safety.powered"),
    ("_safe", unsafe, "end.left-safe"),
    ("_pulse", pulse_counted_twice, "commands.operations"),
    ("_pulse", pulse_twice, "commands.pulse-counts"),
    ("_pulse", indices_by_column, "commands.pulse-counts"),
    ("_check_amplitude", any_amplitude, "refusals.pulse-set-amplitude-above"),
    ("_check_amplitude", any_amplitude, "refusals.pulse-reset-amplitude-below"),
    ("_check_region", any_region, "refusals.read-beside"),
    ("_outer", outer_twice, "outer.coincidences"),
    ("_outer", outer_counted_twice, "outer.coincidences"),
    ("_outer", outer_uncounted, "outer.status-counts"),
    ("_trains", without_signs, "outer.signs"),
    ("_trains", without_signs, "outer.coincidences"),
    ("_trains", row_signs_only, "outer.signs"),
    ("_trains", without_last_slot, "outer.lengths"),
    ("_trains", first_update_only, "outer.coincidences"),
    ("_trains", lines_first, "outer.coincidences"),
    ("_trains", both_of_pairs, "outer.pairs"),
    ("_trains", pairs_ignored, "outer.pairs"),
    ("_check_amplitude", any_amplitude, "refusals.outer-set-amplitude-above"),
    ("_check_amplitude", any_amplitude, "refusals.outer-reset-amplitude-below"),
    ("_multiply", unsaturated, "products.saturation"),
    ("_multiply", refuse_bare, "products.columns"),
]


@pytest.mark.parametrize(
    ("method", "broken", "name"),
    BROKEN_COMMANDS,
    ids=[f"{b.__name__}-{n}" for _, b, n in BROKEN_COMMANDS],
)
def test_a_case_tells_a_broken_command(
    monkeypatch: pytest.MonkeyPatch, method: str, broken: Any, name: str
) -> None:
    monkeypatch.setattr(Commands, method, broken)
    chosen = cases((name,)) or cases(("wire.garbage",))
    assert outcome_of(emulated(UPDATING, chosen=chosen), name) == "failed"


def narrower(self: Any, product: Any) -> Converter:
    """A converter without its lowest code."""
    settings = _converter(self, product)
    return settings._replace(low=settings.low + 1)


_converter = Chip._converter


def test_without_noise_a_multiplier_off_by_one_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commands, "_configure", next_multiplier)
    assert outcome_of(emulated(NATIVE, chosen=cases(("products.gains",))), "products.gains") == (
        "failed"
    )


def test_without_noise_a_range_off_by_one_code_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chip, "_converter", narrower)
    name = "products.saturation"
    assert outcome_of(emulated(NATIVE, chosen=cases((name,))), name) == "failed"


def test_without_noise_updates_in_the_wrong_order_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commands, "_trains", updates_backwards)
    assert outcome_of(emulated(NATIVE, chosen=cases(("outer.ideal",))), "outer.ideal") == "failed"


def test_a_board_that_is_noisier_than_its_profile_fails() -> None:
    faults = msgspec.structs.replace(HASTY.imperfections, adc_noise_lsb=30.0)
    board = Firmware(Chip(msgspec.structs.replace(HASTY, imperfections=faults)))
    done = emulated(chosen=cases(("products.columns",)), firmware=board)
    assert outcome_of(done, "products.columns") == "failed"


def test_a_board_of_another_geometry_fails_by_name() -> None:
    board = Firmware(Chip(with_chip(HASTY, tiles=2)))
    done = emulated(chosen=cases(("hello.",)), firmware=board)
    assert [r.name for r in failures(done)] == ["hello.geometry"]


class FallsSilent(Firmware):
    """Answers nothing after the first READ."""

    silent = False

    def receive(self, data: Any, decoder: Any = None) -> bytes:
        answers = super().receive(data, decoder)
        self.silent = self.silent or self._commands._chip.cells.count("reads") > 0
        return b"" if self.silent else answers


def test_a_board_that_falls_silent_ends_the_run_with_one_failure_and_the_reason() -> None:
    chosen = cases(("commands.", "sizes."))
    done = emulated(
        chosen=chosen, firmware=FallsSilent(Chip(HASTY)), settings=Settings(destructive=False)
    )
    assert [r.name for r in failures(done)] == ["commands.plain", "end.left-safe"]
    assert "silence" in failures(done)[0].found
    assert done.results[-2].expected == "the board has stopped answering"


class BreaksTheLink(InProcessLink):
    """A link that is gone once the board was asked to multiply."""

    def write(self, data: bytes) -> None:
        if bytes([Opcode.VMM]) == data[3:4]:
            raise LinkError("The link is gone")
        super().write(data)


def test_a_link_that_breaks_fails_the_case_and_is_opened_again() -> None:
    board = Firmware(Chip(HASTY))
    chosen = cases(("products.columns", "products.zero", "wire.garbage"))
    done = run(HASTY, lambda: BreaksTheLink(board), chosen, Settings())
    outcomes = {r.name: r.outcome for r in done.results}
    assert outcomes["wire.garbage"] == "passed" and outcomes["end.left-safe"] == "passed"
    assert [r.found for r in failures(done)] == ["The link is gone"] * 2


class DeafWhileItStarts(InProcessLink):
    """A board that hears nothing for a while after its REBOOT."""

    deaf_until = 0.0

    def write(self, data: bytes) -> None:
        now = time.monotonic()
        if now > self.deaf_until:
            super().write(data)
        if len(data) > 3 and cobs.decode(data[:-1].lstrip(b"\0"))[2] == Opcode.REBOOT:
            self.deaf_until = now + 0.3


def test_a_board_may_hear_nothing_while_it_starts() -> None:
    board = Firmware(Chip(HASTY))
    chosen = cases(("journal.reboot", "journal.outlives-reboot"))
    done = run(HASTY, lambda: DeafWhileItStarts(board), chosen, DESTRUCTIVE)
    assert failures(done) == []


def test_a_check_that_stumbles_is_a_failure_with_a_text_and_no_traceback() -> None:
    group = Group("own")

    @group.case("sense")
    def stumbles(bench: Any) -> None:
        raise ZeroDivisionError("of nothing")

    @group.case("sense")
    def is_skipped(bench: Any) -> None:
        raise NotApplicable("there is nothing")

    done = emulated(chosen=group.cases)
    assert "ZeroDivisionError" in done.results[0].found
    assert (done.results[1].outcome, done.results[1].expected) == ("skipped", "there is nothing")


def test_what_does_not_greet_as_a_board_is_no_board() -> None:
    class Mute:
        def receive(self, data: bytes) -> bytes:
            return b""

    foreign = Firmware(Chip(HASTY), spec_hash=1)
    for device in (Mute(), foreign):
        with pytest.raises(NoBoardError):
            run(HASTY, lambda device=device: InProcessLink(device), cases())  # type: ignore[misc]


# --- cases and frames -----------------------------------------------------------------------------


def test_names_are_unique_and_belong_to_their_group() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names) > 200
    assert all(case.name.startswith(f"{case.group}.") for case in cases())
    assert all(case.expects and not case.expects.endswith(".") for case in cases())


def test_only_picks_by_any_of_the_texts() -> None:
    assert {c.group for c in cases(("wire.", "hello."))} == {"wire", "hello"}
    assert cases(("no such case",)) == []


def test_forged_frames_are_those_of_the_codec_where_nothing_is_wrong() -> None:
    payload = bytes(range(100))
    assert forged(Opcode.PING, 5, 6, payload) == frames.encode(Opcode.PING, 5, 6, (payload,))
    assert isinstance(frames.decode(damaged(forged(2, 5, 6), 3)[:-1]), frames.CorruptFrame)


def test_an_expectation_says_both_sides() -> None:
    assert str(Expectation("1", "2")) == "expected 1, found 2"


# --- report and command line ----------------------------------------------------------------------


def test_the_report_has_a_line_a_case_and_one_of_counts(on_emu: Run) -> None:
    lines = report.text(on_emu).splitlines()
    marked = [line for line in lines if line.startswith("  ")]
    assert len(marked) == len(on_emu.results)
    assert lines[-1].startswith(f"{len(on_emu.results)} cases: {on_emu.count('passed')} passed, 0 ")


@dataclass(frozen=True)
class Outcome:
    """What a command line ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def conformance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs ``cimctl conformance`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = command_line(["conformance", *map(str, arguments)])
        return Outcome(code, *capsys.readouterr())

    return call


def test_list_names_the_cases_and_needs_no_board(conformance: Command) -> None:
    done = conformance("--list", "--only", "order.")
    assert done.code == 0
    assert any(line.startswith("order.early ") for line in done.out.splitlines())
    assert "order.duplicate-not-executed" in done.out and "[destructive]" in done.out
    said = json.loads(conformance("--list", "--json").out)
    assert said["schema"] == "cimctl.conformance.list/1"
    assert [c["name"] for c in said["cases"]] == [case.name for case in cases()]


def test_a_passing_run_ends_with_0_and_writes_its_reports(
    conformance: Command, tmp_path: Path
) -> None:
    done = conformance(
        "--board", "emu", "--only", "wire.", "--only", "cells.", "--json", "--report", "r.json",
        "--capture", "c.cap",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["schema"] == "cimctl.conformance/1"
    assert said["board"]["model"] == "emu" and said["worst_pulses"] > 0
    assert said["counts"]["failed"] == 0
    assert sum(said["counts"].values()) == len(said["cases"])
    assert {c["group"] for c in said["cases"]} == {"wire", "cells", "end"}
    assert set(said["cases"][0]) == {"name", "group", "outcome", "expected", "found", "seconds"}
    assert json.loads((tmp_path / "r.json").read_text()) == said
    assert len(list(capture.read(tmp_path / "c.cap"))) > 50


def test_a_failing_run_reports_and_ends_with_5(
    conformance: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Commands, "_check_amplitude", any_amplitude)
    name = "refusals.pulse-set-amplitude-above"
    done = conformance("--board", "emu", "--only", "amplitude-above", "--report", "r.json")
    assert done.code == 5
    assert "FAILED" in done.out and "1 failed" not in done.out and "2 failed" in done.out
    assert "found granted" in done.out
    assert name in done.err and "Traceback" not in done.err
    failed = [c for c in json.loads((tmp_path / "r.json").read_text())["cases"]
              if c["outcome"] == "failed"]  # fmt: skip
    assert failed[0]["name"] == name and failed[0]["found"]


def test_a_case_that_is_not_there_and_a_missing_board_are_usage_errors(
    conformance: Command,
) -> None:
    done = conformance("--board", "emu", "--only", "no-such-case")
    assert done.code == 2 and "no-such-case" in done.err
    assert conformance("--only", "wire.").code == 2
    assert conformance("--board", "no-board").code == 2
    assert conformance("--board", "brram-soc").code == 3
    assert conformance("--board", "emu", "--port", "/dev/no-such-port").code == 3


@pytest.fixture
def soc_port(served: Any) -> str:
    address: str = served(TcpServer("127.0.0.1", 0, Firmware(Chip(SOC)))).address
    return address


def test_on_a_port_no_cell_changes_unless_asked_for(conformance: Command, soc_port: str) -> None:
    asked = ("--board", "brram-soc", "--port", soc_port, "--only", "cells.", "--json")
    said = json.loads(conformance(*asked).out)
    assert said["worst_pulses"] == 0
    assert {c["outcome"] for c in said["cases"] if c["group"] == "cells"} == {"skipped"}
    done = conformance(*asked, "--destructive")
    assert done.code == 2
    assert "at most" in done.err and "--yes" in done.err
    done = conformance(*asked, "--destructive", "--yes")
    assert done.code == 0 and "32 cells of tile 0" in done.err
    outcomes = {c["name"]: c["outcome"] for c in json.loads(done.out)["cases"]}
    assert outcomes["cells.program-hits-targets"] in ("passed", "skipped")
    assert outcomes["cells.pulse-directions"] == "passed"


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 130)])
def test_on_a_terminal_the_question_says_what_cells_may_get(
    conformance: Command, soc_port: str, monkeypatch: pytest.MonkeyPatch, answer: bool, code: int
) -> None:
    questions: list[str] = []

    def confirm(text: str, **_: Any) -> bool:
        questions.append(text)
        if not answer:
            import click

            raise click.Abort
        return True

    monkeypatch.setattr("click.confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = ("--board", "brram-soc", "--port", soc_port, "--only", "cells.", "--destructive")
    assert conformance(*asked).code == code
    bound = worst_pulses(SOC, cases(("cells.",)))
    assert len(questions) == 1 and f"at most {bound} pulses" in questions[0]


def test_no_destructive_changes_nothing_on_an_emulated_board(conformance: Command) -> None:
    done = conformance("--board", "emu", "--only", "commands.", "--no-destructive", "--json")
    said = json.loads(done.out)
    assert done.code == 0 and said["worst_pulses"] == 0
    assert "end.cells-put-back" not in {c["name"] for c in said["cases"]}


def test_a_smaller_window_and_payload_of_the_caller_are_kept_to(conformance: Command) -> None:
    asked = ("--board", "emu", "--window", 2, "--max-payload", 300, "--only", "sizes.", "--json")
    said = {c["name"]: c["outcome"] for c in json.loads(conformance(*asked).out)["cases"]}
    assert said["sizes.largest-vmm"] == "skipped"
    assert said["sizes.largest-ping"] == "passed"


def test_a_busy_port_and_its_lock_are_respected(conformance: Command, soc_port: str) -> None:
    from boards import locks

    lock = locks.acquire(soc_port)
    try:
        assert conformance("--board", "brram-soc", "--port", soc_port).code == 4
    finally:
        lock.release()


def test_links_are_closed_after_a_run() -> None:
    closed: list[Link] = []

    class Watched(InProcessLink):
        def close(self) -> None:
            closed.append(self)
            super().close()

    board = Firmware(Chip(HASTY))
    run(HASTY, lambda: Watched(board), cases(("sizes.smallest",)))
    assert len(closed) == 1
