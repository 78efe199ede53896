"""Time and memory of an operation on a tile, on chips of 4 to 1,480 tiles.

Arrays of ``brram-256x64``, each operation one request through the wire in this process, tile after
tile:

    multiply   64 vectors of 256 inputs, 64 columns
    read       64 cells
    write      write-verify of 64 cells
    update     64 cells, one pulse each

Processor time, in turns; medians and 10th to 90th percentiles.  A turn of a small chip goes over
its tiles again until it has done as many operations as one of a large chip.  Memory is
that of fresh processes: what is resident after all operations, over what it is before.

    python benchmarks/tiles.py [--turns 5] [--json benchmarks/results/tiles.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import torch

from boards.board import Board
from boards.catalogue import load
from boards.links import InProcessLink
from boards.multiply import Matrix
from cimctl.bench.turns import Spread, Turns, take_turns
from firmware_protocol.messages import Region
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

TILES = 4, 64, 1480
OPERATIONS = "multiply", "read", "write", "update"
SLOT, SIDE, BATCH = 1, 8, 64
#: the largest chip's time and memory of an operation over the smallest's, at most, and the aim
BAR, AIM = 1.2, 1.1


class Works:
    """A chip of that many tiles, and one operation of each kind on each of its tiles."""

    def __init__(self, tiles: int) -> None:
        base = load("brram-256x64")
        self._profile = msgspec.structs.replace(
            base, chip=msgspec.structs.replace(base.chip, tiles=tiles)
        )
        self._board = Board(self._profile, InProcessLink(Firmware(Chip(self._profile, 0))))
        self._board.power_up()
        self._board.configure(SLOT, sum(self._board.gain_range) / 2)
        chip, generator = self._profile.chip, np.random.default_rng(0)
        self._codes = generator.integers(0, 256, (BATCH, chip.rows), dtype=np.uint8)
        self._place = np.divmod(np.arange(SIDE * SIDE), SIDE)
        ends = [self._profile.units(end) for end in self._profile.programming.window_uS]
        self._targets = generator.integers(*ends, (2, SIDE * SIDE))
        self._written = 0

    def multiply(self, tile: int) -> None:
        chip = self._profile.chip
        region = Region(tile, 0, chip.rows, 0, chip.columns)
        self._board.multiply(Matrix((region,), differential=False), self._codes, slot=SLOT)

    def read(self, tile: int) -> None:
        self._board.tiles[tile].read(Region(tile, 0, SIDE, 0, SIDE))

    def write(self, tile: int) -> None:
        # Other targets than the last time, so that there is something to write.
        self._written += tile == 0
        programming = self._profile.programming
        self._board.tiles[tile].program(
            *self._place, self._targets[self._written % 2],
            cycles=programming.cycles_training,
            tolerance=self._profile.units(programming.tolerance_uS),
        )  # fmt: skip

    def update(self, tile: int) -> None:
        signs = np.where(self._place[0] % 2, 1, -1)
        self._board.tiles[tile].pulse(
            *self._place, signs, set_mV=2000, reset_mV=2000,
            width_ns=self._profile.programming.width_ns,
        )  # fmt: skip

    def everywhere(self, operation: str, times: int = 1) -> None:
        """One operation on each tile, so many times over."""
        work = getattr(self, operation)
        for _ in range(times):
            for tile in range(self._profile.chip.tiles):
                work(tile)


def measure_time(turns: int) -> dict[str, Any]:
    """Microseconds of each operation on each chip, and the largest's over the smallest's."""
    most = max(TILES)
    made = {tiles: Works(tiles) for tiles in TILES}
    found: dict[str, Any] = {}
    for operation in OPERATIONS:
        works: dict[str, Callable[[], object]] = {
            str(tiles): partial(each.everywhere, operation, most // tiles)
            for tiles, each in made.items()
        }
        taken = take_turns(works, turns)
        for tiles in TILES:
            done = most // tiles * tiles
            for kind in (taken.processor, taken.wall):
                kind[str(tiles)] = [seconds / done for seconds in kind[str(tiles)]]
        found[operation] = {
            "microseconds": {n: _three(taken.seconds(n), 1e6) for n in works},
            "ratio": _three(_largest(taken)),
        }
    return found


def _largest(taken: Turns) -> Spread:
    return taken.ratio(str(max(TILES)), str(min(TILES)))


def _three(spread: Spread, factor: float = 1.0) -> list[float]:
    return [factor * value for value in (spread.median, spread.low, spread.high)]


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_of(tiles: int) -> int:
    """Bytes that a chip takes with each operation done on each tile."""
    torch.set_num_threads(1)
    small = Works(4)
    for operation in OPERATIONS:
        small.everywhere(operation)
    before = resident()
    works = Works(tiles)
    for operation in OPERATIONS:
        works.everywhere(operation)
    return resident() - before


def measure_memory() -> dict[str, Any]:
    """KiB a tile, of the chips large enough to be told from a process's own noise."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        total = {t: pool.apply(memory_of, (t,)) for t in TILES[1:]}
    each = {str(t): size / t / 1024 for t, size in total.items()}
    return {"kib_a_tile": each, "ratio": each[str(TILES[-1])] / each[str(TILES[1])]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    times, memory = measure_time(options.turns), measure_memory()
    print(f"microseconds of an operation on a tile, chips of {TILES} tiles; bar {BAR:g}")
    for operation, found in times.items():
        three = found["microseconds"].values()
        each = "  ".join(f"{v[0]:7.1f} ({v[1]:.1f} to {v[2]:.1f})" for v in three)
        middle, low, high = found["ratio"]
        print(f"  {operation:9} {each}   {middle:.2f} x ({low:.2f} to {high:.2f})")
    each = "  ".join(f"{tiles} tiles {size:.0f}" for tiles, size in memory["kib_a_tile"].items())
    print(f"  KiB a tile: {each}   {memory['ratio']:.2f} x")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"bar": BAR, "aim": AIM, "time": times, "memory": memory, "turns": options.turns}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
