"""Training LeNet in mixed precision through the wire, beside aihwkit's: images a processor second.

The LeNet of arXiv 2305.14547 (4-12-10) on the embedded digits, 28 x 28, batch 64.  Ours runs
through frames in this process with all its writes; aihwkit's ``MixedPrecisionCompound`` on its
authors' ReRAM device with soft bounds runs in a process of its own.  They take turns, with one
thread each and the same images.

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
from oracle.turns import ENVIRONMENT, Oracle

from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.bench.turns import Spread, Turns
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

BATCH, BATCHES_A_TURN, WARM_UP = 64, 2, 200
#: times as many images a second as aihwkit
BAR = 10.0


def measure(turns: int, oracle: Oracle, folder: Path) -> Turns:
    """Seconds of a batch on both sides, turn by turn; the first turn does not count."""
    data = datasets.load("digits", None)
    total = WARM_UP + (turns + 1) * BATCHES_A_TURN
    file = folder / "digits.npz"
    np.savez(file, images=data.train_images, labels=data.train_labels)
    found = Turns({"ours": [], "theirs": []}, {})
    with connect(BoardOptions("emu")) as board:
        config = RunConfig(
            "lenet", "emu", "digits", "mixed-precision", 1, total, BATCH, 0, "read", Settings()
        )
        trainer = Trainer(config, data, board, folder)
        order = trainer.order(0)
        for batch in order[:WARM_UP]:
            trainer.batch(batch)
        for first in range(WARM_UP, total, BATCHES_A_TURN):
            chosen = order[first : first + BATCHES_A_TURN]
            start = time.process_time()
            for batch in chosen:
                trainer.batch(batch)
            ours = time.process_time() - start
            theirs = oracle.seconds(
                do="train", algorithm="mixed-precision", network="lenet", batch=BATCH,
                data=str(file), images=chosen.reshape(-1).tolist(),
            )  # fmt: skip
            if first > WARM_UP:
                found.processor["ours"].append(ours / BATCHES_A_TURN)
                found.processor["theirs"].append(theirs / BATCHES_A_TURN)
    return found


def table(found: Turns) -> dict[str, Any]:
    """Images a second of both sides, and how many times as many ours has."""
    rates = {
        name: Spread.of([BATCH / s for s in seconds]) for name, seconds in found.processor.items()
    }
    return {
        "measure": "LeNet, batch 64, mixed precision through the wire beside aihwkit's",
        "images_per_second": {name: asdict(rate) for name, rate in rates.items()},
        "ratio": asdict(found.ratio("theirs", "ours")),
        "turns": len(found.processor["ours"]),
        "bar": BAR,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Oracle(options.environment) as oracle:
        found = measure(options.turns, oracle, Path(folder))
    result = table(found)
    for name in ("ours", "theirs"):
        rate = Spread(**result["images_per_second"][name])
        print(f"{name:6} {rate.median:7.0f} images a second ({rate.low:.0f} to {rate.high:.0f})")
    print(f"{found.ratio('theirs', 'ours')} times as many, bar {BAR:g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
