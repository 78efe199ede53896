"""What a case is, how it fails, and how it says that a board does not offer its subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from boards.profile import Profile
from firmware_protocol.constants import IDEAL_STEP

if TYPE_CHECKING:
    from cimctl.conformance.bench import Bench

Check = Callable[["Bench"], None]
#: cells that the suite works on, at most
ROWS, COLUMNS = 4, 8
#: share of a cell's lifetime budget that one run of the suite may take at worst
LIFETIME_SHARE = 0.01


class Expectation(Exception):
    """A board did something else than the specification says.

    Args:
        expected: what should have been.
        found: what was.
    """

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class NotApplicable(Exception):
    """A case has no subject on this board; the text says why."""


@dataclass(frozen=True)
class Wear:
    """The most that a case does to one cell, requests included that a faulty board would grant.

    Attributes:
        programs: PROGRAM commands.
        pulses: single pulses.
        overfull: PULSE and OUTER commands with one more than the most pulses of a command.
    """

    programs: int = 0
    pulses: int = 0
    overfull: int = 0

    def __add__(self, other: Wear) -> Wear:
        return Wear(
            self.programs + other.programs,
            self.pulses + other.pulses,
            self.overfull + other.overfull,
        )

    def bound(self, profile: Profile) -> int:
        """The most pulses to one cell."""
        per_program = worst_program(profile)
        per_overfull = profile.limits.pulses_per_command + 1
        return self.programs * per_program + self.pulses + self.overfull * per_overfull


@dataclass(frozen=True)
class Case:
    """One thing that a board must do.

    Attributes:
        name: group and name, as ``--only`` finds it.
        group: subject.
        expects: what is expected, in one sentence without a full stop.
        check: raises ``Expectation`` or ``NotApplicable``.
        wear: what it does to cells; None where it changes none.
        slow: waits for wall time.
    """

    name: str
    group: str
    expects: str
    check: Check
    wear: Wear | None = None
    slow: bool = False

    @property
    def destructive(self) -> bool:
        return self.wear is not None


class Group:
    """Cases of one subject, in the order of their definition."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []

    def add(
        self, name: str, expects: str, check: Check, wear: Wear | None = None, slow: bool = False
    ) -> None:
        """Adds a case."""
        self.cases.append(Case(f"{self.name}.{name}", self.name, expects, check, wear, slow))

    def case(
        self, expects: str, *, wear: Wear | None = None, slow: bool = False
    ) -> Callable[[Check], Check]:
        """Makes a function a case, named like the function."""

        def decorate(check: Check) -> Check:
            self.add(check.__name__.strip("_").replace("_", "-"), expects, check, wear, slow)
            return check

        return decorate


def expect(holds: bool, expected: str, found: object) -> None:
    """Raises ``Expectation`` unless it holds."""
    if not holds:
        raise Expectation(expected, str(found))


def expect_equal(what: str, found: object, expected: object) -> None:
    """Raises ``Expectation`` unless the two are equal."""
    expect(found == expected, f"{what} {expected}", found)


def worst_program(profile: Profile) -> int:
    """The most pulses that one PROGRAM of the suite gives to a cell."""
    if profile.device.model == "ideal-steps":
        span = profile.units(profile.device.high_uS) - profile.units(profile.device.low_uS)
        return -(-span // IDEAL_STEP)
    if not profile.device.PULSED:
        return 1
    p = profile.programming
    ramp = (p.ramp_mV[1] - p.ramp_mV[0]) // p.ramp_step_mV + 1
    return ramp * (2 * p.cycles_training + 1)


def budget(cases: list[Case]) -> Wear:
    """The most that these cases, and putting the cells back after them, do to one cell."""
    wear = [c.wear for c in cases if c.wear is not None]
    return sum(wear, Wear(programs=1)) if wear else Wear()
