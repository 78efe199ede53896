"""Works that take turns, so that a noisy machine slows all of them alike: ratios, with spreads.

Processor time of this process is what is compared; a busy neighbour disturbs it little.  Wall-clock
time stands beside it, for what waits or runs on several threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

#: a wall-clock ratio counts where the reference's own 90th over 10th percentile stays below this
STEADY = 1.3


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of repetitions, and their 10th and 90th percentiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
        return cls(float(median), float(low), float(high))

    def plain(self, scale: float = 1.0) -> dict[str, float]:
        """For JSON."""
        return {"median": scale * self.median, "p10": scale * self.low, "p90": scale * self.high}

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass
class Turns:
    """Seconds of each work's repetitions, in the order they were run.

    Attributes:
        processor, wall: seconds of one call, by the work's name.
    """

    processor: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, one: str, other: str, *, wall: bool = False) -> Spread:
        """Seconds of one over those of the other, turn by turn."""
        seconds = self.wall if wall else self.processor
        pairs = zip(seconds[one], seconds[other], strict=True)
        return Spread.of([a / b for a, b in pairs])

    def seconds(self, name: str, *, wall: bool = False) -> Spread:
        """Of one call."""
        return Spread.of((self.wall if wall else self.processor)[name])

    def rate(self, name: str, amount: float) -> Spread:
        """Of an amount that one call gets done, a second of the clock."""
        return Spread.of([amount / seconds for seconds in self.wall[name]])

    def steady(self, name: str) -> bool:
        """Whether a work's wall-clock times are close enough to compare with."""
        spread = self.seconds(name, wall=True)
        return spread.high / spread.low < STEADY


@dataclass(frozen=True)
class Effort:
    """How long a measurement may take.

    Attributes:
        turns: how often each work has its turn, at most.
        seconds: time after which no other turn begins; there is always one.
        on_turn: called after each turn.
    """

    turns: int
    seconds: float = math.inf
    on_turn: Callable[[], object] = lambda: None

    def share(self, part: float) -> Effort:
        """The same turns in a part of the time."""
        return replace(self, seconds=part * self.seconds)


def take_turns(
    works: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    calls: int = 1,
    warm_up: int = 1,
    effort: Effort | None = None,
) -> Turns:
    """Runs works in turns.

    Args:
        works: name and what to call.
        turns: how often each has its turn.
        calls: of a work in a turn; times are divided by it.
        warm_up: turns before those that count.
        effort: limits the time as well, and hears of each turn that counts.
    """
    effort = effort or Effort(turns)
    limit = math.inf
    found = Turns({name: [] for name in works}, {name: [] for name in works})
    for turn in range(-warm_up, turns):
        if turn == 0:
            limit = time.monotonic() + effort.seconds
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(calls):
                work()
            processor, wall = time.process_time() - processor, time.perf_counter() - wall
            if turn >= 0:
                found.processor[name].append(processor / calls)
                found.wall[name].append(wall / calls)
        if turn >= 0:
            effort.on_turn()
            if time.monotonic() > limit:
                break
    return found
