"""Training LeNet through the wire, over the same network and optimizer in plain FP32 PyTorch.

Both train in this process, one thread each, in turns; what is compared is processor time, which a
busy neighbour disturbs little.  ``--threads 2`` gives torch two threads and compares wall-clock
time, where the plain training's own spread allows it.

    python benchmarks/throughput.py [--turns 20] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.bench.turns import STEADY, Turns, take_turns
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

BATCHES_A_TURN, WARM_UP = 10, 200
WIRE, PLAIN = "mixed-precision", "fp32"
#: the bar: through the wire at most this many times plain FP32
BAR = 2.0


@contextmanager
def trainers(batches: int) -> Iterator[dict[str, Trainer]]:
    """Trainers of LeNet, both ways, for that many batches of 64 in all."""
    data = datasets.load("digits", None)
    with tempfile.TemporaryDirectory() as folder, connect(BoardOptions("emu")) as board:
        yield {
            name: Trainer(
                RunConfig("lenet", "emu", "digits", name, 1, batches, 64, 0, "read", Settings()),
                data,
                board,
                Path(folder),
            )
            for name in (WIRE, PLAIN)
        }


def batch_by_batch(trainer: Trainer) -> Callable[[], float]:
    """Trains on the next batch with each call."""
    batches = iter(trainer.order(0))
    return lambda: trainer.batch(next(batches))


def measure(turns: int, threads: int) -> Turns:
    """Seconds of a batch both ways, in turns of ten batches."""
    torch.set_num_threads(threads)
    with trainers(WARM_UP + turns * BATCHES_A_TURN) as both:
        works = {name: batch_by_batch(trainer) for name, trainer in both.items()}
        warm_up = WARM_UP // BATCHES_A_TURN
        return take_turns(works, turns, calls=BATCHES_A_TURN, warm_up=warm_up)


def table(found: Turns, turns: int, threads: int) -> dict[str, Any]:
    """The result; without a wall-clock ratio where the plain training's times spread too far."""
    return {
        "measure": "LeNet, batch 64, mixed precision through the wire over plain FP32",
        "threads": threads,
        "ratio": asdict(found.ratio(WIRE, PLAIN)),
        "wall_ratio": asdict(found.ratio(WIRE, PLAIN, wall=True)) if found.steady(PLAIN) else None,
        "seconds": {name: asdict(found.seconds(name)) for name in (WIRE, PLAIN)},
        "wall_seconds": {name: asdict(found.seconds(name, wall=True)) for name in (WIRE, PLAIN)},
        "turns": turns,
        "bar": BAR,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.turns, options.threads)
    for name in (WIRE, PLAIN):
        ms = 1000 * found.seconds(name).median
        wall = 1000 * found.seconds(name, wall=True).median
        print(f"{name:16} {ms:6.2f} ms of processor time a batch, {wall:.2f} ms on the clock")
    print(f"processor time   {found.ratio(WIRE, PLAIN)} times plain FP32, bar {BAR:g}")
    if found.steady(PLAIN):
        print(f"on the clock     {found.ratio(WIRE, PLAIN, wall=True)}, {options.threads} threads")
    else:
        print(f"on the clock     void: plain FP32 itself spreads by more than {STEADY:g}")
    if options.json:
        result = table(found, options.turns, options.threads)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
