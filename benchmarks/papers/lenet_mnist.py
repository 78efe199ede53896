"""LeNet on MNIST with the paper's schedule (arXiv 2305.14547): the table of docs/results.md.

Runs ``cimctl train lenet --board emu --dataset mnist`` for each row and seed, with the defaults of
the command, and beside it FP32 on the same schedule, the paper's constant learning rate, and
accumulation switched off.  Takes about two minutes a run on two cores.

    python benchmarks/papers/lenet_mnist.py --data-dir FOLDER [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "lenet_mnist.json"
ROWS: dict[str, list[str]] = {
    "mixed precision through the wire": [],
    "FP32": ["--algorithm", "fp32"],
    "mixed precision, constant learning rate": ["--set", "lr_schedule=constant"],
    "FP32, constant learning rate": ["--algorithm", "fp32", "--set", "lr_schedule=constant"],
    "mixed precision, accumulation off": ["--set", "accumulate=false"],
}
_KEPT = ("test_accuracy", "writes_per_weight", "wall_seconds", "train_images_per_second",
         "chip_seconds", "chip_joules", "weights_sha256", "link", "settings")  # fmt: skip


def run(options: list[str], data_dir: Path, seed: int) -> dict[str, Any]:
    """One training; its summary."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from cimctl.cli import main; main()",
            "train", "lenet", "--board", "emu", "--dataset", "mnist", "--data-dir", str(data_dir),
            "--seed", str(seed), "--out", f"{folder}/run", "--json", *options,
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.rows:
        for seed in options.seeds:
            summary = run(ROWS[name], options.data_dir, seed)
            results.setdefault(name, {})[str(seed)] = {key: summary[key] for key in _KEPT}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        rows = results[name].values()
        accuracies = [100 * row["test_accuracy"] for row in rows]
        writes = [row["writes_per_weight"] for row in rows]
        print(
            f"| {name} | {' / '.join(f'{a:.2f}' for a in accuracies)} "
            f"| {statistics.mean(accuracies):.2f} | {' / '.join(f'{w:.2f}' for w in writes)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
