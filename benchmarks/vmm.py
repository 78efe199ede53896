"""A product of 512 x 512, batch 4096, over ``torch.matmul`` in float32 of the same shape.

Tiles of 256 x 256 with conductances of 16 bits, inputs of 8 bits, converters, read noise and
converter noise on.  Columns are converted one by one (four tiles), or as pairs (eight).

    alone      what the emulated chip does: codes in, codes out
    wire       the same through ``Board.multiply``: packing, frames, checks, answers, in process

One thread, processor time, in turns; medians and 10th to 90th percentiles.

    python benchmarks/vmm.py [--turns 31] [--json benchmarks/results/vmm.json]
"""

from __future__ import annotations

import argparse
import json
import os
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
from boards.profile import Profile
from cimctl.bench.turns import Spread, take_turns
from firmware_protocol.messages import Region
from sim_backend.chip import Chip
from sim_backend.feed import Product
from sim_backend.firmware import Firmware

SIDE, TILE, BATCH = 512, 256, 4096
SLOT = 1
#: times ``torch.matmul``, at most
BARS = {"alone": 1.5, "wire": 2.5}
AIMS = {"alone": 1.0, "wire": 2.0}


def profile(tiles: int) -> Profile:
    """The noise of ``brram-256x64`` on arrays of 256 x 256."""
    base = load("brram-256x64")
    return msgspec.structs.replace(
        base, chip=msgspec.structs.replace(base.chip, tiles=tiles, columns=TILE)
    )


class Ours:
    """512 x 512 weights on one chip.

    Args:
        differential: whether a weight is a pair of cells.
    """

    def __init__(self, *, differential: bool) -> None:
        wide = SIDE * (2 if differential else 1) // TILE
        made = profile(wide * SIDE // TILE)
        generator = np.random.default_rng(0)
        self._chip = Chip(made, 0)
        window = [made.units(end) for end in made.programming.window_uS]
        for tile in range(made.chip.tiles):
            cells = generator.integers(*window, TILE * TILE, dtype=np.uint16)
            self._chip.load(tile, np.arange(TILE * TILE), cells)
        regions = tuple(Region(t, 0, TILE, 0, TILE) for t in range(made.chip.tiles))
        self._matrix = Matrix(regions, SIDE // TILE, differential)
        self._codes = generator.integers(0, 256, (BATCH, SIDE), dtype=np.uint8)
        self._board = Board(made, InProcessLink(Firmware(self._chip)))
        self._board.configure(SLOT, sum(self._board.gain_range) / 2)
        self._product = Product(
            self._chip.slots[SLOT], regions, self._matrix.row_blocks, False, differential, None
        )

    def alone(self) -> None:
        self._chip.multiply(self._product, self._codes)

    def wire(self) -> None:
        self._board.multiply(self._matrix, self._codes, slot=SLOT)


def measure(turns: int) -> dict[str, Any]:
    """Ratios and milliseconds of each, as (median, 10th, 90th percentile)."""
    torch.set_num_threads(1)
    inputs, weights = torch.rand(BATCH, SIDE), torch.rand(SIDE, SIDE)
    works = {"matmul": lambda: torch.matmul(inputs, weights)}
    for name, differential in (("columns", False), ("pairs", True)):
        ours = Ours(differential=differential)
        works |= {f"{name}, alone": ours.alone, f"{name}, wire": ours.wire}
    found = take_turns(works, turns, warm_up=2)
    return {
        "measure": f"{SIDE} x {SIDE}, batch {BATCH}, over torch.matmul in float32",
        "milliseconds": {n: _three(found.seconds(n), 1000) for n in works},
        "ratio": {n: _three(found.ratio(n, "matmul")) for n in works if n != "matmul"},
        "bars": BARS,
        "aims": AIMS,
        "turns": turns,
        "torch": torch.__version__,
    }


def _three(spread: Spread, factor: float = 1.0) -> list[float]:
    return [factor * value for value in (spread.median, spread.low, spread.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    print(f"{result['measure']}: milliseconds, and how many times matmul (10th to 90th percentile)")
    for name, (middle, low, high) in result["milliseconds"].items():
        line = f"  {name:16} {middle:7.2f} ({low:.2f} to {high:.2f})"
        if name in result["ratio"]:
            times, least, most = result["ratio"][name]
            bar = BARS[name.split(", ")[1]]
            line += f"   {times:5.2f} x ({least:.2f} to {most:.2f}), bar {bar:g}"
        print(line)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
