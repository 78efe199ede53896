"""Pulsed rank-one updates of 512 x 512 soft-bounds devices, beside aihwkit's.

Inputs x and errors d are N(0, 1); an update moves a weight by ``rate`` mean steps times x d, by
trains of at most 31 slots.  Ours lie on four tiles of 256 x 256 and are measured

    alone      the emulator's devices, without counting what the answer says of them
    wire       through ``Tile.outer``: packing, frames, checks, answers, in this process

pulse by pulse and in closed form; aihwkit in a process of its own, which takes its turns between
ours.  All have one thread; processor time, medians and 10th to 90th percentiles.

    python benchmarks/updates.py [--environment DIR] [--turns 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec
import numpy as np
from oracle.turns import ENVIRONMENT, Oracle

from boards import device_settings
from boards.board import Board
from boards.catalogue import load
from boards.links import InProcessLink
from boards.profile import Profile
from cimctl.analog.coincidence import Trains as Recipe
from cimctl.analog.coincidence import Words, words
from firmware_protocol.messages import Region
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.outer import Trains, totals

SIDE, TILE, BATCH = 512, 256, 64
#: mean steps for x d = 1: a weight gets 5.8, 0.63 and 0.06 pulses an update
RATES = (10.0, 1.0, 0.1)
#: times as many updates a second as aihwkit, at the highest rate
BARS = {"each": 15.0, "closed-form": 40.0}


def profile(pulses: str) -> Profile:
    """Soft bounds with the spreads that aihwkit's device has by default."""
    base = load("rpu-baseline")
    device = device_settings.decode({
        "model": "soft-bounds", "low_uS": 10, "high_uS": 30, "initial_uS": [20, 20],
        "bounds": [-0.6, 0.6], "bound_variation": [0.3, 0.3], "step": 0.001,
        "asymmetry_variation": 0.01, "pulse": {"amplitude_mV": 1000, "width_ns": 1},
        "pulses": pulses,
    })  # fmt: skip
    faults = msgspec.structs.replace(
        base.imperfections, device_variation=0.3, cycle_variation=0.3, stuck_fraction=0.0
    )
    limits = msgspec.structs.replace(base.limits, lifetime_pulses=0, lifetime_soft=0)
    return msgspec.structs.replace(base, device=device, imperfections=faults, limits=limits)


class Ours:
    """512 x 512 devices on four tiles of one chip."""

    def __init__(self, pulses: str) -> None:
        made = profile(pulses)
        self._chip = Chip(made, 0)
        self._board = Board(made, InProcessLink(Firmware(self._chip)))
        self._board.power_up()
        self._index = np.arange(TILE * TILE)
        self._counts: dict[float, list[Any]] = {}

    def alone(self, rate: float, batch: Words) -> float:
        trains = [
            Trains(
                np.ascontiguousarray(batch.inputs[:, rows].T),
                np.ascontiguousarray(batch.outputs[:, columns].T), batch.length,
            )
            for rows, columns in quarters()
        ]  # fmt: skip
        counts = self._counts.setdefault(rate, [totals(each) for each in trains])
        start = time.process_time()
        for tile, (each, applied) in enumerate(zip(trains, counts, strict=True)):
            self._chip.outer(
                tile, self._index, each, applied, set_amplitude=1000, reset_amplitude=1000, width=1
            )
        return time.process_time() - start

    def wire(self, rate: float, batch: Words) -> float:
        start = time.process_time()
        for tile, (rows, columns) in enumerate(quarters()):
            self._board.tiles[tile].outer(
                Region(tile, 0, TILE, 0, TILE), batch.inputs[:, rows], batch.outputs[:, columns],
                length=batch.length, pairs=False, set_mV=1000, reset_mV=1000, width_ns=1,
            )  # fmt: skip
        return time.process_time() - start


def quarters() -> list[tuple[slice, slice]]:
    halves = [slice(i, i + TILE) for i in range(0, SIDE, TILE)]
    return [(rows, columns) for rows in halves for columns in halves]


def measure(oracle: Oracle, turns: int) -> dict[str, Any]:
    """Updates a second of each, at each rate: (10th percentile, median, 90th percentile)."""
    generator = np.random.default_rng(0)
    x, d = (generator.standard_normal((BATCH, SIDE)).astype(np.float32) for _ in range(2))
    ours = {pulses: Ours(pulses) for pulses in BARS}
    runs: dict[str, Callable[[float, Words], float]] = {
        "aihwkit": lambda rate, _: oracle.seconds(do="updates", rate=rate, batch=BATCH, side=SIDE)
    }
    for pulses, each in ours.items():
        runs |= {f"{pulses}, alone": each.alone, f"{pulses}, wire": each.wire}
    result: dict[str, Any] = {}
    for rate in RATES:
        batch = words(x, d, rate, Recipe(), 1)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(turns + 1):
            for name, run in runs.items():
                taken = run(rate, batch)
                if turn:
                    seconds[name].append(taken)
        found = {
            name: [BATCH / float(q) for q in np.quantile(each, (0.9, 0.5, 0.1))]
            for name, each in seconds.items()
        }
        result[f"{rate:g}"] = {
            "slots": batch.length,
            "updates_per_second": found,
            "ratio": {n: f[1] / found["aihwkit"][1] for n, f in found.items() if n != "aihwkit"},
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with Oracle(options.environment) as oracle:
        result = measure(oracle, options.turns)
    for rate, row in result.items():
        print(f"rate {rate}, trains of {row['slots']} slots: updates of 512 x 512 a second")
        for name, (low, middle, high) in row["updates_per_second"].items():
            ratio = f"{row['ratio'][name]:6.1f} x" if name in row["ratio"] else ""
            print(f"  {name:20} {middle:8.0f}  ({low:.0f} to {high:.0f}) {ratio}")
    print(f"bars at rate 10: {', '.join(f'{n} {b:g} x' for n, b in BARS.items())}")
    if options.json:
        options.json.write_text(json.dumps({"bars": BARS, "rates": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
