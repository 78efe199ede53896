"""Ratios of works that take turns."""

from __future__ import annotations

import time

import pytest

from cimctl.bench.turns import Spread, Turns, take_turns


def test_works_take_turns_after_their_warm_up() -> None:
    order: list[str] = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = take_turns(works, 3, calls=2, warm_up=1)
    assert order == ["a", "a", "b", "b"] * 4
    assert [len(found.processor[name]) for name in works] == [3, 3]


def test_ratios_are_those_of_each_turn() -> None:
    found = Turns({"a": [2.0, 6.0, 30.0], "b": [1.0, 2.0, 3.0]}, {"a": [1.0] * 3, "b": [1, 1, 2]})
    assert found.ratio("a", "b").median == 3.0
    assert found.steady("a") and not found.steady("b")
    assert str(Spread.of([1.0, 2.0, 3.0])) == "2 (1.2 to 2.8)"


def test_sleep_costs_wall_clock_time_but_no_processor_time() -> None:
    found = take_turns({"sleep": lambda: time.sleep(0.05)}, 1, warm_up=0)
    assert found.seconds("sleep", wall=True).median >= 0.05 > found.seconds("sleep").median * 2
    with pytest.raises(KeyError):
        found.ratio("sleep", "work")
