"""VGG-8 and ResNet-18 on CIFAR-10 through the wire, FP32 beside them (arXiv 2305.14547, Table 1).

Both rows start from the same weights, see the same images in the same batches, and have the same
optimizer and schedule: the paper's, lr 0.003, halved after five flat epochs, batches of 64.  The
paper trains for 100 epochs of 50,000 images; it prints 86.51 % for VGG-8 and 93.18 % for ResNet-18.
Prints a line an epoch, and writes ``benchmarks/results/cifar10_MODEL.json`` after each row.

    python benchmarks/papers/cifar10.py --model vgg8 --data-dir FOLDER [--images 50000]
        [--epochs 100] [--seed 0] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
BATCH = 64
ROWS = {"mixed precision through the wire": "mixed-precision", "FP32": "fp32"}
SETTINGS = ["lr=0.003", "lr_schedule=plateau", "levels=16", "augment=crop-flip"]
_KEPT = ("test_accuracy", "writes_per_weight", "wall_seconds", "train_images_per_second",
         "chip_seconds", "chip_joules", "weights_sha256", "link", "settings")  # fmt: skip
_KEPT_EPOCH = ("loss", "train_accuracy", "test_accuracy", "test_images", "writes_per_weight")


def run(options: argparse.Namespace, algorithm: str) -> dict[str, Any]:
    """One training: its summary, and what it wrote down after each epoch."""
    settings = [part for each in (*SETTINGS, *options.set) for part in ("--set", each)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from cimctl.cli import main; main()", "train", options.model,
            "--board", options.board, "--dataset", "cifar10", "--data-dir", str(options.data_dir),
            "--algorithm", algorithm, "--init", "program", "--epochs", str(options.epochs),
            "--batches-per-epoch", str(options.images // BATCH), "--batch-size", str(BATCH),
            "--seed", str(options.seed), "--threads", str(options.threads),
            "--out", f"{folder}/run", "--json", *settings,
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    summary = json.loads(done.stdout)
    epochs = [{key: json.loads(line)[key] for key in _KEPT_EPOCH} for line in lines]
    return {**{key: summary[key] for key in _KEPT}, "epochs": epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["vgg8", "resnet18"], required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--board", default="brram-256x64-large")
    parser.add_argument("--images", type=int, default=50000, help="training images an epoch")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    path = RESULTS / f"cifar10_{options.model}.json"
    results: dict[str, Any] = {"images": options.images, "seed": options.seed, "rows": {}}
    for name in options.rows:
        row = results["rows"][name] = run(options, ROWS[name])
        for number, epoch in enumerate(row["epochs"], 1):
            print(f"{name}, epoch {number}: loss {epoch['loss']:.3f}, test "
                  f"{100 * epoch['test_accuracy']:.2f} %", flush=True)  # fmt: skip
        print(f"| {name} | {100 * row['test_accuracy']:.2f} | {row['writes_per_weight']:.2f} |")
        path.write_text(json.dumps(results, indent=1) + "\n")
    if len(options.rows) == len(ROWS):
        wire, digital = (results["rows"][name]["test_accuracy"] for name in ROWS)
        results["gap"] = digital - wire
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"gap to FP32: {100 * results['gap']:.2f} points")


if __name__ == "__main__":
    main()
