"""Training LeNet-5 in memory through the wire, beside aihwkit: images a processor second.

LeNet-5 (6-16-120-84-10) on the embedded digits, 28 x 28, batch 64, on the ReRAM device with soft
bounds of the authors' presets, which both sides have: ours is the profile ``reram-softbounds``,
with two tiles more, for W and A of all layers.
Ours runs through frames in this process, aihwkit in a process of its own; they take turns, with one
thread each and the same images.  Two comparisons:

    equal     equal work: A gets 15.5 pulses where x and d have their running means, as the presets
              say, by trains of 31 slots, and a line of A is read after 1,474 vectors, which is
              once a batch for the lines of the first convolution, on both sides
    own       the presets as they are, which read a line after every vector, beside settings that
              ours is used with: 0.16 pulses, fewer in convolutions, a line for every fifth vector,
              read at the end of a batch

aihwkit does not count pulses here; those of its A are what its probabilities give in the mean.

    python benchmarks/in_memory_speed.py [--environment DIR] [--turns 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from oracle.turns import ENVIRONMENT, Oracle
from torch import nn

from cimctl import datasets
from cimctl.algorithms.in_memory import InMemory
from cimctl.algorithms.settings import Settings
from cimctl.bench.turns import Spread, Turns
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

ALGORITHMS = ("ttv2", "c-ttv2", "agad")
BATCH, BATCHES_A_TURN, WARM_UP = 64, 2, 6
#: times as many images a second as aihwkit, at equal work
BAR = 10.0
#: of each comparison: settings of ours, and after how many vectors aihwkit reads a line of A
COMPARISONS: dict[str, tuple[dict[str, Any], int]] = {
    "equal": ({"fast_rate": 0.5, "pulse_length": 31, "read_every": 1474}, 1474),
    "own": ({"fast_rate": 0.005}, 1),
}


def lenet5() -> nn.Module:
    """LeNet-5 on 28 x 28 images, 10 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def measure(
    algorithm: str, comparison: str, turns: int, oracle: Oracle, folder: Path
) -> dict[str, Any]:
    data = datasets.load("digits", None)
    settings, every = COMPARISONS[comparison]
    # The trainer's own schedule must not end within the measurement.
    total = WARM_UP + turns * BATCHES_A_TURN
    file = folder / "digits.npz"
    np.savez(file, images=data.train_images, labels=data.train_labels)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    pulses: dict[str, list[float]] = {"ours": [], "theirs": []}
    board_file = folder / "board.yaml"
    board_file.write_text(
        "name: six-tiles\nsummary: room for LeNet-5\nextends: reram-softbounds\nchip:\n  tiles: 6\n"
    )
    with connect(BoardOptions(str(board_file))) as board:
        config = RunConfig(
            f"{__file__}:lenet5", str(board_file), "digits", algorithm, 1, total, BATCH, 0,
            "program", Settings(lr=0.05, **settings),
        )  # fmt: skip
        trainer = Trainer(config, data, board, folder / f"{algorithm}-{comparison}")
        assert isinstance(trainer.algorithm, InMemory)
        order = trainer.order(0)
        for batch in order[:WARM_UP]:
            trainer.batch(batch)
        for turn in range(turns + 1):
            first = WARM_UP + max(0, turn - 1) * BATCHES_A_TURN
            chosen = order[first : first + BATCHES_A_TURN]
            before, start = trainer.algorithm.pulses, time.process_time()
            for batch in chosen:
                trainer.batch(batch)
            ours = time.process_time() - start
            theirs = oracle.answer(
                do="train", algorithm=algorithm, every=every, batch=BATCH, data=str(file),
                images=chosen.reshape(-1).tolist(),
            )  # fmt: skip
            if turn:
                seconds["ours"].append(ours)
                seconds["theirs"].append(theirs["seconds"])
                pulses["ours"].append((trainer.algorithm.pulses - before) / BATCHES_A_TURN)
                pulses["theirs"].append(theirs["pulses"] / BATCHES_A_TURN)
    images = BATCH * BATCHES_A_TURN
    found = {name: Spread.of([images / s for s in each]) for name, each in seconds.items()}
    ratio = Turns(seconds).ratio("theirs", "ours")
    return {
        "images_per_second": {name: asdict(spread) for name, spread in found.items()},
        "pulses_per_batch": {name: asdict(Spread.of(each)) for name, each in pulses.items()},
        "ratio": asdict(ratio),
        "said": f"{found['ours']} images a second, aihwkit {found['theirs']}: {ratio} x; pulses a "
        f"batch {Spread.of(pulses['ours'])}, aihwkit {Spread.of(pulses['theirs'])}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, Oracle(options.environment) as oracle:
        for comparison in COMPARISONS:
            result[comparison] = {}
            for name in ALGORITHMS:
                row = measure(name, comparison, options.turns, oracle, Path(folder))
                print(f"{comparison:6} {name:7} {row.pop('said')}", flush=True)
                result[comparison][name] = row
    print(f"bar at equal work: {BAR:g} x")
    if options.json:
        document = {"bar": BAR, "batch": BATCH, "comparisons": result}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
