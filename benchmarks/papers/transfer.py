"""LeNet trained through the wire, on ten other chips, beside digital training (arXiv 2305.14547).

Trains LeNet on MNIST with the paper's schedule (13 x 400 batches of 64) by mixed precision on
``emu``, in FP32, and with quantised weights, and tests each on chips that it has not seen, at a
programming error of half the spacing of 16 levels, the paper's.  Its figure is no drop for LeNet.

    python benchmarks/papers/transfer.py --data-dir FOLDER [--chips 10] [--sigma 0.5] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
ALGORITHMS = ("mixed-precision", "fp32", "qat")
_CIMCTL = [sys.executable, "-c", "from cimctl.cli import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = ["--data-dir", str(options.data_dir), "--seed", str(options.seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in ALGORITHMS:
            subprocess.run(
                [*_CIMCTL, "train", "lenet", "--board", "emu", "--dataset", "mnist",
                 "--algorithm", algorithm, "--epochs", str(options.epochs),
                 "--out", algorithm, *data],
                check=True, cwd=folder, env=environment,
            )  # fmt: skip
        subprocess.run(
            [*_CIMCTL, "eval", *ALGORITHMS, "--board", "emu", "--chips", str(options.chips),
             "--program-sigma", str(options.sigma), "--out", str(RESULTS), *data],
            check=True, cwd=folder, env=environment,
        )  # fmt: skip


if __name__ == "__main__":
    main()
