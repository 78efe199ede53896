"""Running cases: one after the other, each from a fresh session, the board safe at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from boards.capture import CaptureWriter
from boards.errors import CimError, LinkError, UsageError
from boards.links import Link
from boards.profile import Profile
from cimctl.conformance.bench import Bench
from cimctl.conformance.cases import (
    LIFETIME_SHARE,
    Case,
    Expectation,
    NotApplicable,
    budget,
    expect_equal,
)
from cimctl.conformance.wire import Wire
from firmware_protocol import messages as m
from firmware_protocol.constants import Capability, Opcode

Outcome = Literal["passed", "failed", "skipped"]
_FIRST_SAMPLES = 16
_NO_PERMISSION = "it changes cells, which needs --destructive"


@dataclass(frozen=True)
class Settings:
    """How a suite is run.

    Attributes:
        destructive: whether cells may be changed.
        window, max_payload: less than what the board grants.
        recorder: takes every byte.
    """

    destructive: bool = False
    window: int | None = None
    max_payload: int | None = None
    recorder: CaptureWriter | None = None


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        name, group: of the case.
        outcome: what became of it.
        expected: what was expected; of a skipped case why it was skipped.
        found: what was found where it failed.
        seconds: how long it took.
    """

    name: str
    group: str
    outcome: Outcome
    expected: str
    found: str = ""
    seconds: float = 0.0


@dataclass
class Run:
    """A run of the suite.

    Attributes:
        hello, description: of the board.
        results: of each case, in order; the last ones are the runner's own.
        worst_pulses: the most pulses that the run could have given to one cell.
    """

    hello: m.HelloResponse
    description: m.Description
    worst_pulses: int = 0
    results: list[Result] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)


def run(
    profile: Profile,
    open_link: Callable[[], Link],
    cases: Sequence[Case],
    settings: Settings | None = None,
    progress: Callable[[Result], None] = lambda _: None,
) -> Run:
    """Runs cases on a board; ends with its cells put back and its supplies off.

    Raises:
        UsageError: the cases could take too much of a cell's life.
        NoBoardError, LinkError: there is no board to run them on.
    """
    settings = settings or Settings()
    wire = Wire(open_link, max(profile.link.timeout_s, 0.05), settings.recorder)
    try:
        bench = Bench(
            profile,
            wire,
            destructive=settings.destructive,
            window=settings.window,
            max_payload=settings.max_payload,
        )
        worst = worst_pulses(profile, cases) if settings.destructive else 0
        check_budget(worst, bench.description.lifetime_pulses)
        done = Run(bench.hello, bench.description, worst)
        try:
            _take_first_readings(bench)
            _run_all(bench, cases, done, progress)
        finally:
            for result in _end(bench):
                done.results.append(result)
                progress(result)
        return done
    finally:
        wire.close()


def _run_all(
    bench: Bench, cases: Sequence[Case], done: Run, progress: Callable[[Result], None]
) -> None:
    lost = False
    for case in cases:
        if lost:
            result = Result(case.name, case.group, "skipped", "the board has stopped answering")
        else:
            result = _run_case(bench, case)
            lost = result.outcome == "failed" and not _recovered(bench)
        done.results.append(result)
        progress(result)


def worst_pulses(profile: Profile, cases: Sequence[Case]) -> int:
    """The most pulses that these cases can give to one cell."""
    return budget(list(cases)).bound(profile)


def check_budget(worst: int, lifetime: int) -> None:
    """Refuses a run that could take too much of a cell's life.

    Raises:
        UsageError: it could.
    """
    if lifetime and worst > LIFETIME_SHARE * lifetime:
        raise UsageError(
            f"These cases could give up to {worst} pulses to a cell, more than "
            f"{LIFETIME_SHARE:.0%} of its budget of {lifetime}",
            left="No cell was changed",
            next="Choose fewer with --only, or leave them out with --no-destructive",
        )


# ------------------------------------------------------------------ one case


def _run_case(bench: Bench, case: Case) -> Result:
    if case.destructive and (not bench.destructive or bench.first is None):
        reason = "the cells could not be read before" if bench.destructive else _NO_PERMISSION
        return Result(case.name, case.group, "skipped", reason)
    return _timed(bench, case)


def _timed(bench: Bench, case: Case, prepare: Callable[[], object] | None = None) -> Result:
    """Judges a case, after a fresh session with slot 0 filled unless told otherwise."""
    start = time.monotonic()
    outcome, expected, found = _judged(bench, case, prepare or bench.fresh)
    return Result(case.name, case.group, outcome, expected, found, time.monotonic() - start)


def _judged(bench: Bench, case: Case, prepare: Callable[[], object]) -> tuple[Outcome, str, str]:
    try:
        prepare()
        case.check(bench)
    except NotApplicable as skipped:
        return "skipped", str(skipped), ""
    except Expectation as failure:
        return "failed", failure.expected, failure.found
    except CimError as error:
        return "failed", case.expects, error.what
    except Exception as error:
        # Whatever a board makes the check stumble over is the board's answer: no traceback.
        return "failed", case.expects, f"an answer that cannot be judged: {error!r}"
    return "passed", case.expects, ""


def _recovered(bench: Bench) -> bool:
    """Opens a new session and makes the board safe; the link anew where that takes it."""
    for attempt in range(2):
        try:
            if attempt:
                bench.wire.reopen()
            bench.wire.open_session()
            bench.safe()
            return True
        except LinkError:
            continue
        except (Expectation, CimError):
            return False
    return False


# ------------------------------------------------------------------ before and after


def _take_first_readings(bench: Bench) -> None:
    if bench.destructive:
        with contextlib.suppress(Expectation, CimError):
            bench.fresh()
            bench.first = bench.read(_FIRST_SAMPLES)


def _end(bench: Bench) -> list[Result]:
    """Puts the cells back and makes the board safe, whatever happened before."""
    put_back = Case("end.cells-put-back", "end", "The cells are put back", _put_back)
    expects = "The board is left with its supplies off"
    left_safe = Case("end.left-safe", "end", expects, _left_safe)
    results = []
    try:
        if bench.first is not None:
            results.append(_timed(bench, put_back))
    finally:
        # Nothing that fills a slot again comes before it; a link that is gone is opened again.
        results.append(_timed(bench, left_safe, lambda: _recovered(bench)))
    return results


def _put_back(bench: Bench) -> None:
    """Programs the cells to their first readings, or loads them where that is offered."""
    assert bench.first is not None
    d = bench.description
    targets = np.clip(bench.first, d.target_low, d.target_high).reshape(-1)
    if bench.offers(Capability.LOAD):
        bench.wire.answer(bench.loading(conductances=targets), m.LoadResponse)
        return
    bench.need(Opcode.PROGRAM)
    bench.wire.answer(bench.programming(indices=(), targets=targets), m.ProgramResponse)


def _left_safe(bench: Bench) -> None:
    expect_equal("powered of SAFE", bench.safe().powered, 0)
    expect_equal("powered of STATUS", bench.status().powered, 0)
