"""Training in mixed precision through the wire, beside aihwkit's and plain FP32 PyTorch.

The LeNet of arXiv 2305.14547 (4-12-10) and LeNet-5 (6-16-120-84-10), batch 64, on the embedded
digits, 28 x 28.  Ours runs through frames in this process with all its writes, and so does plain
FP32; aihwkit's ``MixedPrecisionCompound`` on its authors' ReRAM device with soft bounds runs in a
process of its own.  They take turns, with one thread each and the same images.

    python benchmarks/mixed_precision_speed.py [--environment DIR] [--turns 10] [--json FILE]
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
from in_memory_speed import lenet5
from oracle.turns import ENVIRONMENT, Oracle

from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.bench.turns import Spread, Turns
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

__all__ = ["lenet5"]
BATCH, BATCHES_A_TURN, WARM_UP = 64, 2, 200
OURS, PLAIN, THEIRS = "mixed-precision", "fp32", "aihwkit"
#: name of each network here, by the oracle's
NETWORKS = {"lenet": "lenet", "lenet-5": f"{__file__}:lenet5"}
#: times as many images a second as aihwkit, on the paper's LeNet
BAR = 10.0


def measure(network: str, turns: int, oracle: Oracle, folder: Path) -> Turns:
    """Seconds of a batch of each, turn by turn; the first turn does not count."""
    data = datasets.load("digits", None)
    total = WARM_UP + (turns + 1) * BATCHES_A_TURN
    file, board_file = folder / "digits.npz", folder / "board.yaml"
    np.savez(file, images=data.train_images, labels=data.train_labels)
    board_file.write_text(
        "name: forty-tiles\nsummary: room for LeNet-5\nextends: emu\nchip: {tiles: 40}\n"
    )
    found = Turns({OURS: [], PLAIN: [], THEIRS: []}, {})
    with connect(BoardOptions("emu" if network == "lenet" else str(board_file))) as board:
        trainers = {
            name: Trainer(
                RunConfig(
                    NETWORKS[network], board.profile.name, "digits", name, 1, total, BATCH, 0,
                    "read", Settings(),
                ),
                data, board, folder,
            )
            for name in (OURS, PLAIN)
        }  # fmt: skip
        order = trainers[OURS].order(0)
        for batch in order[:WARM_UP]:
            for trainer in trainers.values():
                trainer.batch(batch)
        for first in range(WARM_UP, total, BATCHES_A_TURN):
            chosen = order[first : first + BATCHES_A_TURN]
            seconds = {}
            for name, trainer in trainers.items():
                start = time.process_time()
                for batch in chosen:
                    trainer.batch(batch)
                seconds[name] = time.process_time() - start
            seconds[THEIRS] = oracle.seconds(
                do="train", algorithm="mixed-precision", network=network, batch=BATCH,
                data=str(file), images=chosen.reshape(-1).tolist(),
            )  # fmt: skip
            if first > WARM_UP:
                for name, each in seconds.items():
                    found.processor[name].append(each / BATCHES_A_TURN)
    return found


def table(found: Turns) -> dict[str, Any]:
    """Images a second of each, and how many times as many ours has as the others."""
    rates = {name: Spread.of([BATCH / s for s in each]) for name, each in found.processor.items()}
    return {
        "images_per_second": {name: asdict(rate) for name, rate in rates.items()},
        "over_aihwkit": asdict(found.ratio(THEIRS, OURS)),
        "fp32_over_aihwkit": asdict(found.ratio(THEIRS, PLAIN)),
        "over_fp32": asdict(found.ratio(PLAIN, OURS)),
        "turns": len(found.processor[OURS]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder, Oracle(options.environment) as oracle:
        for network in NETWORKS:
            found = measure(network, options.turns, oracle, Path(folder))
            result[network] = table(found)
            for name, rate in result[network]["images_per_second"].items():
                print(f"{network:8} {name:16} {Spread(**rate)} images a second")
            print(f"{network:8} {found.ratio(THEIRS, OURS)} times aihwkit's, bar {BAR:g} on lenet")
    if options.json:
        document = {"measure": "mixed precision, batch 64", "bar": BAR, "networks": result}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
