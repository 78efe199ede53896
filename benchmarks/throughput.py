"""Training LeNet through the wire, over the same network and optimizer in plain FP32 PyTorch.

Both train in this process, one thread each, in turns; what is compared is processor time, which a
busy neighbour disturbs little.  Prints the median ratio with its spread and writes JSON.

    python benchmarks/throughput.py [--turns 20] [--json benchmarks/results/throughput.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer

_BATCHES_A_TURN = 10
_WARM_UP = 200
#: the bar: through the wire at most this many times plain FP32
BAR = 3.0


def measure(turns: int) -> dict[str, object]:
    """Median ratio over interleaved turns of ten batches of 64."""
    torch.set_num_threads(1)
    data = datasets.load("digits", None)
    total = _WARM_UP + turns * _BATCHES_A_TURN
    with tempfile.TemporaryDirectory() as folder, connect(BoardOptions("emu")) as board:
        trainers = {}
        for algorithm in ("mixed-precision", "fp32"):
            config = RunConfig(
                "lenet", "emu", "digits", algorithm, 1, total, 64, 0, "read", Settings()
            )
            trainers[algorithm] = Trainer(config, data, board, Path(folder))
        orders = {name: trainer.order(0) for name, trainer in trainers.items()}
        for name, trainer in trainers.items():
            for number in range(_WARM_UP):
                trainer.batch(orders[name][number])
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for turn in range(turns):
            first = _WARM_UP + turn * _BATCHES_A_TURN
            for name, trainer in trainers.items():
                start = time.process_time()
                for number in range(first, first + _BATCHES_A_TURN):
                    trainer.batch(orders[name][number])
                seconds[name].append((time.process_time() - start) / _BATCHES_A_TURN)
    ratios = sorted(w / f for w, f in zip(seconds["mixed-precision"], seconds["fp32"], strict=True))
    return {
        "measure": "LeNet, batch 64, mixed precision through the wire over plain FP32",
        "ratio": statistics.median(ratios),
        "ratio_p10": ratios[len(ratios) // 10],
        "ratio_p90": ratios[-1 - len(ratios) // 10],
        "wire_ms": 1000 * statistics.median(seconds["mixed-precision"]),
        "fp32_ms": 1000 * statistics.median(seconds["fp32"]),
        "turns": turns,
        "bar": BAR,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    print(
        f"through the wire {result['wire_ms']:.2f} ms a batch, FP32 {result['fp32_ms']:.2f} ms: "
        f"ratio {result['ratio']:.2f} (10th to 90th percentile {result['ratio_p10']:.2f} to "
        f"{result['ratio_p90']:.2f}), bar {BAR}"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
