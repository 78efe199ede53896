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
        #: version and thing of each place, the oldest first
        self.things: dict[Place, tuple[int, Thing]] = {}
        #: bytes that are kept now
        self.nbytes = 0

    def holds(self, place: Place, version: int) -> bool:
        """Whether there is something for a place in that version."""
        known = self.things.get(place)
        return known is not None and known[0] == version

    def of(self, place: Place, version: int, make: Callable[[], Thing]) -> Thing:
        """What there is for a place in that version, or else what ``make`` gives."""
        known = self.things.get(place)
        if known is not None and known[0] == version:
            return known[1]
        made = make()
        replaced = self.things.pop(place, None)
        self.things[place] = (version, made)
        self.nbytes += made.nbytes - (replaced[1].nbytes if replaced else 0)
        while self.nbytes > self._room and len(self.things) > 1:
            oldest = next(iter(self.things))
            self.nbytes -= self.things.pop(oldest)[1].nbytes
        return made
