"""The state of a chip: cells, noise positions and counters, in memory or in a file.

All of it is a handful of arrays, so that a snapshot is their bytes and a state file their mapping:
what a killed process had written to them is in the file, as it would be in non-volatile cells.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from boards.errors import StorageError, UsageError
from boards.profile import Profile
from firmware_protocol import constants as c
from sim_backend import noise

#: names of the counters, in their order in ``Cells.counters``
COUNTERS: Final = (
    "operations", "vectors", "steps", "tile_operations", "conversions", "saturations", "reads",
    "verify_reads", "writes", "set_pulses", "reset_pulses", "pulse_width_ns", "boots",
    "journal_number", "journal_session", "journal_sequence", "journal_cells", "journal_progress",
    "journal_in_doubt", "waited_ns",
)  # fmt: skip
_PLACE: Final = {name: place for place, name in enumerate(COUNTERS)}
#: what stays the chip's own when a snapshot is laid over it
_OWN = tuple(n == "boots" or n.startswith("journal_") for n in COUNTERS)
_LAID_OVER = ~np.array(_OWN)
_MAGIC = b"CIMCELL3"
_HEAD = struct.Struct("<8sI")
_HEAD_ROOM = 4096


class SnapshotError(ValueError):
    """A snapshot is damaged or belongs to another chip geometry."""


@dataclass(frozen=True)
class Cells:
    """Arrays of a chip, changed in place.

    Attributes:
        conductances: (tiles, rows * columns), 16-bit conductance of each cell.
        pulses: (tiles, rows * columns), pulses that each cell got in its life.
        stuck: (tiles, rows * columns), 1 where a cell no longer moves.
        hidden: (tiles, rows * columns), what a device's own state has beyond the 16-bit conductance
            that the converters see, in its units; (tiles, 0) where devices have no finer state.
        written: (tiles, rows * columns), chip time at which each cell was last written, ns;
            (tiles, 0) where time changes nothing.
        positions: (tiles,), vector counter of each tile: where its noise is.
        counters: one 64-bit counter for each name in ``COUNTERS``.
    """

    conductances: npt.NDArray[np.uint16]
    pulses: npt.NDArray[np.uint32]
    stuck: npt.NDArray[np.uint8]
    hidden: npt.NDArray[np.float64]
    written: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint64]
    counters: npt.NDArray[np.uint64]

    def add(self, name: str, amount: int) -> None:
        self.counters[_PLACE[name]] += np.uint64(amount)

    def count(self, name: str) -> int:
        return int(self.counters[_PLACE[name]])

    def put(self, name: str, value: int) -> None:
        self.counters[_PLACE[name]] = value

    def begin(self, session: int, sequence: int, cells: int) -> None:
        """Writes down what is about to change that many cells, before any of them changes."""
        # The session last: until it is there, the entry is nobody's, and nothing has changed yet.
        self.put("journal_session", 0)
        self.put("journal_sequence", sequence)
        self.put("journal_cells", cells)
        self.put("journal_progress", 0)
        self.put("journal_in_doubt", cells)
        self.put("journal_number", self.count("operations") + 1)
        self.put("journal_session", session)

    def commit(self) -> None:
        """All cells are changed: one word says so, and with it the journal's entry is closed."""
        self.put("operations", self.count("journal_number"))

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return tuple(getattr(self, f.name) for f in fields(self))


def fresh(profile: Profile, seed: int) -> Cells:
    """A chip as it is found: initial conductances and stuck cells drawn from its seed."""
    cells = _allocate(profile)
    _manufacture(cells, profile, seed)
    return cells


def opened(path: Path, profile: Profile, seed: int) -> Cells:
    """The chip whose cells live in a file; made, and the file with it, when there is none.

    Raises:
        UsageError: the file is no state file, or holds another chip.
        StorageError: no space or no permission.
    """
    identity = {"profile": profile.name, "seed": seed, "tiles": profile.chip.tiles,
                "rows": profile.chip.rows, "columns": profile.chip.columns}  # fmt: skip
    try:
        if not path.exists():
            _create(path, profile, seed, identity)
        _check_identity(path, identity)
        return _mapped(path, profile)
    except OSError as error:
        raise StorageError(
            f"The state file '{path}' cannot be used: {error.strerror or error}",
            left="No chip was started",
            next="Free some space, or name another file with --state",
        ) from None


def snapshot_room(cells: Cells) -> int:
    """Bytes that no snapshot of this chip exceeds, however badly it compresses."""
    size = sum(array.nbytes for array in cells.arrays())
    return size + size // 100 + 1024


def snapshot(cells: Cells) -> bytes:
    """All arrays in one compressed, checked blob."""
    body = zlib.compress(b"".join(array.tobytes() for array in cells.arrays()), 1)
    # Of the compressed bytes: in a run of zeros, damage to them need not change what comes out.
    return zlib.crc32(body).to_bytes(4, "little") + body


def opened_snapshot(cells: Cells, blob: bytes) -> bytes:
    """The state that a snapshot holds, found sound and of this chip's geometry.

    Raises:
        SnapshotError: it is damaged, or another chip's.
    """
    if zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "little"):
        raise SnapshotError("checksum")
    size = sum(array.nbytes for array in cells.arrays())
    try:
        # One byte more than there is room for tells a larger chip, however large it claims to be.
        stream = zlib.decompressobj()
        body = stream.decompress(blob[4:], size + 1)
    except zlib.error as error:
        raise SnapshotError(str(error)) from None
    if len(body) != size:
        raise SnapshotError("geometry")
    if not stream.eof or stream.unused_data:
        raise SnapshotError("length")
    return body


def restore(cells: Cells, body: bytes, session: int, sequence: int) -> None:
    """Lays a snapshot's state over the chip; its boots and its journal stay its own."""
    cells.begin(session, sequence, cells.conductances.size)
    at = 0
    for array in cells.arrays():
        data = np.frombuffer(body, dtype=array.dtype, count=array.size, offset=at)
        keep = _LAID_OVER if array is cells.counters else ...
        array[keep] = data.reshape(array.shape)[keep]
        at += array.nbytes
    cells.put("journal_number", cells.count("operations"))


def _shapes(profile: Profile) -> tuple[tuple[tuple[int, ...], type[np.generic]], ...]:
    tiles, cells = profile.chip.tiles, profile.chip.rows * profile.chip.columns
    ages = profile.device.aging.moves
    return (
        ((tiles, cells), np.uint16),
        ((tiles, cells), np.uint32),
        ((tiles, cells), np.uint8),
        ((tiles, cells if profile.device.FINE or ages else 0), np.float64),
        ((tiles, cells if ages else 0), np.uint64),
        ((tiles,), np.uint64),
        ((len(COUNTERS),), np.uint64),
    )


def _allocate(profile: Profile) -> Cells:
    return Cells(*(np.zeros(shape, dtype=kind) for shape, kind in _shapes(profile)))


def _manufacture(cells: Cells, profile: Profile, seed: int) -> None:
    low, high = (profile.units(g) for g in profile.device.initial_uS)
    index = np.arange(cells.conductances.shape[1], dtype=np.uint64)
    for tile in range(profile.chip.tiles):
        place = noise.uniform(noise.key(seed, tile, c.STREAM_INITIAL), index)
        if profile.device.LEVELS:
            place = np.floor(place * profile.device.LEVELS) / (profile.device.LEVELS - 1)
        cells.conductances[tile] = np.rint(low + place * (high - low))
        fault = noise.uniform(noise.key(seed, tile, c.STREAM_STUCK), index)
        cells.stuck[tile] = fault < profile.imperfections.stuck_fraction


def _create(path: Path, profile: Profile, seed: int, identity: dict[str, Any]) -> None:
    """Writes a new chip under another name first: a kill leaves no half-made chip."""
    head = json.dumps(identity).encode()
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write((_HEAD.pack(_MAGIC, len(head)) + head).ljust(_HEAD_ROOM, b"\0"))
        for array in fresh(profile, seed).arrays():
            file.write(array.tobytes())
    temporary.replace(path)


def _check_identity(path: Path, identity: dict[str, Any]) -> None:
    with path.open("rb") as file:
        head = file.read(_HEAD_ROOM)
    found: Any = None
    if len(head) == _HEAD_ROOM and head.startswith(_MAGIC):
        size = _HEAD.unpack_from(head)[1]
        with contextlib.suppress(ValueError):
            found = json.loads(head[_HEAD.size : _HEAD.size + size])
    if not isinstance(found, dict):
        raise UsageError(
            f"'{path}' is no state file of an emulated chip",
            left="It was not touched",
            next="Name another file with --state; a new one is made where there is none",
        )
    differs = [k for k in identity if found.get(k) != identity[k]]
    if differs:
        said = ", ".join(f"{k} {found.get(k)} instead of {identity[k]}" for k in differs)
        raise UsageError(
            f"The state file '{path}' holds another chip: {said}",
            left="It was not touched",
            next="Start with the board and seed that it was made with, or name another file",
        )


def _mapped(path: Path, profile: Profile) -> Cells:
    at = _HEAD_ROOM
    arrays = []
    for shape, kind in _shapes(profile):
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if path.stat().st_size < at + size:
            raise UsageError(
                f"The state file '{path}' is truncated",
                left="It was not touched",
                next="Name another file with --state, or put back a copy",
            )
        arrays.append(np.memmap(path, dtype=kind, mode="r+", offset=at, shape=shape))
        at += size
    return Cells(*arrays)
