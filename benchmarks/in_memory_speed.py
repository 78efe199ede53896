"""Training LeNet-5 in memory through the wire, beside aihwkit: images a processor second.

LeNet-5 (6-16-120-84-10) on the embedded digits, 28 x 28, batch 64, on the ReRAM device with soft
bounds of the authors' presets, which both sides have: ours is the profile ``reram-softbounds``,
with two tiles more, for W and A of all layers.
Ours runs through frames in this process, aihwkit in a process of its own; they take turns, with one
thread each and the same images.

    python benchmarks/in_memory_speed.py [--environment DIR] [--turns 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from oracle.turns import ENVIRONMENT, Oracle
from torch import nn

from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

ALGORITHMS = ("ttv2", "c-ttv2", "agad")
BATCH, BATCHES_A_TURN, WARM_UP = 64, 2, 6
#: times as many images a second as aihwkit
BAR = 10.0


def lenet5() -> nn.Module:
    """LeNet-5 on 28 x 28 images, 10 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def measure(algorithm: str, turns: int, oracle: Oracle, folder: Path) -> dict[str, Any]:
    data = datasets.load("digits", None)
    # The trainer's own schedule must not end within the measurement.
    total = WARM_UP + turns * BATCHES_A_TURN
    file = folder / "digits.npz"
    np.savez(file, images=data.train_images, labels=data.train_labels)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    board_file = folder / "board.yaml"
    board_file.write_text(
        "name: six-tiles\nsummary: room for LeNet-5\nextends: reram-softbounds\nchip:\n  tiles: 6\n"
    )
    with connect(BoardOptions(str(board_file))) as board:
        config = RunConfig(
            f"{__file__}:lenet5", str(board_file), "digits", algorithm, 1, total, BATCH, 0,
            "program", Settings(lr=0.02, fast_rate=0.005),
        )  # fmt: skip
        trainer = Trainer(config, data, board, folder / algorithm)
        order = trainer.order(0)
        for batch in order[:WARM_UP]:
            trainer.batch(batch)
        for turn in range(turns + 1):
            first = WARM_UP + max(0, turn - 1) * BATCHES_A_TURN
            chosen = order[first : first + BATCHES_A_TURN]
            start = time.process_time()
            for batch in chosen:
                trainer.batch(batch)
            ours = time.process_time() - start
            theirs = oracle.seconds(
                do="train", algorithm=algorithm, batch=BATCH, data=str(file),
                images=chosen.reshape(-1).tolist(),
            )  # fmt: skip
            if turn:
                seconds["ours"].append(ours)
                seconds["theirs"].append(theirs)
    images = BATCH * BATCHES_A_TURN
    found = {
        name: [images / float(q) for q in np.quantile(each, (0.9, 0.5, 0.1))]
        for name, each in seconds.items()
    }
    return {"images_per_second": found, "ratio": found["ours"][1] / found["theirs"][1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder, Oracle(options.environment) as oracle:
        for name in ALGORITHMS:
            result[name] = measure(name, options.turns, oracle, Path(folder))
            ours, theirs = (result[name]["images_per_second"][k] for k in ("ours", "theirs"))
            print(
                f"{name:7} {ours[1]:6.0f} images a second ({ours[0]:.0f} to {ours[2]:.0f}), "
                f"aihwkit {theirs[1]:.0f} ({theirs[0]:.0f} to {theirs[2]:.0f}): "
                f"{result[name]['ratio']:.1f} x, bar {BAR:g} x",
                flush=True,
            )
    if options.json:
        document = {"bar": BAR, "batch": BATCH, "algorithms": result}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
