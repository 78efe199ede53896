"""Write-verify of a 64 x 64 tile to 16 levels, on the emulated SoC.

Each cell goes from one random level to another, by the ramps and with the tolerance of a profile:

    alone    the emulated chip
    wire     through ``Tile.program_region``: packing, frames, checks, answers, in this process
    numpy    the plain twin of the compiled function, alone

One thread, processor time, in turns; medians and 10th to 90th percentiles.

    python benchmarks/write_verify.py [--turns 101] [--json benchmarks/results/write_verify.json]
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

from boards.board import Board
from boards.catalogue import load
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl.bench.turns import take_turns
from firmware_protocol.messages import Region
from sim_backend import bulk_rram_numpy
from sim_backend.bulk_rram import cell_of, keys_of, ramp_of
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

SIDE, LEVELS = 64, 16
#: milliseconds, at most, and the aim; of the chip alone
BAR, AIM = 5.0, 1.0


def profile() -> Profile:
    """The SoC in this process, its cells programmed to 16 levels."""
    base = load("emu")
    programming = msgspec.structs.replace(base.programming, levels=LEVELS)
    return msgspec.structs.replace(base, programming=programming)


class Works:
    """A chip and a board, each written again and again."""

    def __init__(self) -> None:
        self._profile = made = profile()
        self._generator = np.random.default_rng(0)
        ends = [made.units(end) for end in made.programming.window_uS]
        self._levels = np.rint(np.linspace(*ends, LEVELS)).astype(np.uint16)
        self._settings = {
            "tolerance": made.units(made.programming.tolerance_uS),
            "cycles": made.programming.cycles_training,
        }
        self._chip = Chip(made, 0)
        self._board = Board(made, InProcessLink(Firmware(Chip(made, 1))))
        self._board.power_up()
        self._twin = Chip(made, 2).cells
        self._index = np.arange(SIDE * SIDE)
        self.outcome: dict[str, int] = {}

    def _targets(self) -> Any:
        return self._levels[self._generator.integers(0, LEVELS, SIDE * SIDE)]

    def alone(self) -> None:
        outcome, _ = self._chip.program(0, self._index, self._targets(), **self._settings)
        self.outcome = outcome._asdict()

    def wire(self) -> None:
        targets = self._targets().reshape(SIDE, SIDE)
        self._board.tiles[0].program_region(Region(0, 0, SIDE, 0, SIDE), targets)

    def numpy(self) -> None:
        cells = self._twin
        bulk_rram_numpy.program(
            cells.conductances[0], cells.pulses[0], cells.stuck[0], self._index, self._targets(),
            **self._settings, cell=cell_of(self._profile), ramp=ramp_of(self._profile),
            keys=keys_of(2, 0), epoch=0,
            readings=np.empty(SIDE * SIDE, dtype=np.uint16),
        )  # fmt: skip


def measure(turns: int) -> dict[str, Any]:
    """Milliseconds of each as (median, 10th, 90th percentile)."""
    ours = Works()
    works = {"alone": ours.alone, "wire": ours.wire, "numpy": ours.numpy}
    found = take_turns(works, turns, warm_up=3)
    spreads = {name: found.seconds(name) for name in works}
    return {
        "measure": f"write-verify of {SIDE} x {SIDE} cells to {LEVELS} levels",
        "milliseconds": {
            n: [1000 * value for value in (s.median, s.low, s.high)] for n, s in spreads.items()
        },
        "outcome_of_the_last": ours.outcome,
        "bar": BAR,
        "aim": AIM,
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=101)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    print(f"{result['measure']}: milliseconds (10th to 90th percentile), bar {BAR:g}, aim {AIM:g}")
    for name, (middle, low, high) in result["milliseconds"].items():
        print(f"  {name:6} {middle:6.2f} ({low:.2f} to {high:.2f})")
    print("  " + ", ".join(f"{n} {value}" for n, value in result["outcome_of_the_last"].items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
