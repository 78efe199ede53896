"""What is kept of prepared things, and what gives way."""

from __future__ import annotations

import numpy as np

from sim_backend.kept import Kept


def test_a_thing_is_made_once_for_a_version_and_the_oldest_gives_way() -> None:
    made: list[str] = []

    def make(name: str, size: int) -> np.ndarray:  # type: ignore[type-arg]
        made.append(name)
        return np.zeros(size, dtype=np.uint8)

    kept: Kept[str, np.ndarray] = Kept(100)  # type: ignore[type-arg]
    for _ in range(2):
        kept.of("a", 1, lambda: make("a", 40))
        kept.of("b", 1, lambda: make("b", 50))
    assert made == ["a", "b"]
    kept.of("a", 2, lambda: make("a again", 45))
    assert made == ["a", "b", "a again"]
    assert not kept.holds("a", 1)
    assert kept.holds("a", 2)
    assert kept.holds("b", 1)
    kept.of("c", 1, lambda: make("c", 50))
    assert [kept.holds(*key) for key in (("a", 2), ("b", 1), ("c", 1))] == [True, False, True]
    kept.of("large", 1, lambda: make("large", 500))
    assert [kept.holds(n, 1) for n in ("c", "large")] == [False, True]
