"""Things prepared from a tile's cells, kept until these change or room runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Place = TypeVar("Place", bound=Hashable)
Thing = TypeVar("Thing", bound=_Sized)


class Kept(Generic[Place, Thing]):
    """What was made for each place, in one version.

    Args:
        room: bytes that are kept; the oldest gives way, the newest always stays.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._things: dict[Place, tuple[int, Thing]] = {}
        self._bytes = 0

    def holds(self, place: Place, version: int) -> bool:
        """Whether there is something for a place in that version."""
        known = self._things.get(place)
        return known is not None and known[0] == version

    def of(self, place: Place, version: int, make: Callable[[], Thing]) -> Thing:
        """What there is for a place in that version, or else what ``make`` gives."""
        known = self._things.get(place)
        if known is not None and known[0] == version:
            return known[1]
        made = make()
        replaced = self._things.pop(place, None)
        self._things[place] = (version, made)
        self._bytes += made.nbytes - (replaced[1].nbytes if replaced else 0)
        while self._bytes > self._room and len(self._things) > 1:
            oldest = next(iter(self._things))
            self._bytes -= self._things.pop(oldest)[1].nbytes
        return made
