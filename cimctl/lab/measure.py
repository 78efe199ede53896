"""Measures pulse responses on a board: trains of pulses on some cells, a reading after each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cimctl.files import write_atomically
from cimctl.lab.pulses import COLUMNS, OPTIONAL

if TYPE_CHECKING:
    from boards.tile import Tile
    from firmware_protocol.messages import Region


#: pulses between two words of progress
_EVERY = 20


def measure(
    tile: Tile,
    region: Region,
    path: Path,
    *,
    train: tuple[int, int],
    cycles: int,
    amplitude_mV: int,
    width_ns: int,
    samples: int,
    said: Callable[[int, int], None],
) -> int:
    """Gives trains up and down, and writes what was read as CSV.

    Args:
        tile: of a board that is powered up.
        region: the cells.
        path: the file.
        train: pulses up, pulses down.
        cycles: how often.
        amplitude_mV, width_ns: of every pulse.
        samples: readings averaged.
        said: called with the pulses done, and all.

    Returns:
        Lines written.

    Raises:
        SafetyRefusal: a limit would be passed; nothing was sent.
        StorageError: no space or no permission.
    """
    rows, columns = (a.reshape(-1) for a in np.mgrid[: region.rows, : region.columns])
    rows, columns = rows + region.row, columns + region.column
    ways = ([1] * train[0] + [-1] * train[1]) * cycles
    lines = [",".join([*COLUMNS, *OPTIONAL])]
    scale = tile.board.profile.microsiemens(1)
    for pulse, way in enumerate([0, *ways]):
        if way:
            counts = np.full(len(rows), way, dtype=np.int16)
            tile.pulse(
                rows, columns, counts,
                set_mV=amplitude_mV, reset_mV=amplitude_mV, width_ns=width_ns,
            )  # fmt: skip
        readings = scale * tile.read(region, samples).reshape(-1)
        name = {0: "start", 1: "up", -1: "down"}[way]
        lines += [
            f"{tile.index}.{row}.{column},{pulse},{name},{g:.6g},{amplitude_mV},{width_ns}"
            for row, column, g in zip(rows, columns, readings, strict=True)
        ]
        if pulse % _EVERY == 0 or pulse == len(ways):
            said(pulse, len(ways))
    write_atomically(path, ("\n".join(lines) + "\n").encode(), advice="Name another --output")
    return len(lines) - 1
