"""LeNet (16-32-512-128-10) on MNIST, trained in devices of 20 states (arXiv 2303.04721).

Runs ``cimctl train lenet-large --board softbounds-20 --dataset mnist --algorithm ...`` for each
algorithm and seed, those with a reference array once with R at the symmetry points of A and once
0.3 off them, beside FP32 and mixed precision on the same images.  The paper's accuracies are not
at hand: the table compares the algorithms in one run.  The defaults of the Tiki-Taka family were
chosen on seed 0 with 300 batches, for AGAD, and are the same for its relatives.

    python benchmarks/papers/lenet_in_memory.py --data-dir FOLDER [--seeds 0 1] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "lenet_in_memory.json"
BATCH_SIZE = 64
#: mean reference offset is 0; this is the spread, in weights
OFFSETS = ("0", "0.3")
#: algorithm and settings of each row, the algorithm's own defaults where there are none, and
#: whether it has a reference array to be off
ROWS: dict[str, tuple[str, list[str], bool]] = {
    "FP32, AdamW": ("fp32", [], False),
    "FP32, SGD": (
        "fp32", ["lr=0.1", "optimizer=SGD", "weight_decay=0", "initial_bound=2.45"], False
    ),
    "mixed precision": (
        "mixed-precision",
        ["weight_rule=split", "noise_management=max", "bound_management=iterative",
         "input_normalisation=true"],
        False,
    ),
    "in-memory SGD": ("sgd", ["input_normalisation=true"], False),
    "TTv1": ("ttv1", [], True),
    "TTv2": ("ttv2", [], True),
    "c-TTv2": ("c-ttv2", [], True),
    "AGAD": ("agad", [], True),
}  # fmt: skip
_KEPT = ("test_accuracy", "pulses_per_weight", "writes_per_weight", "wall_seconds",
         "weights_sha256", "settings")  # fmt: skip


def run(row: str, offset: str, batches: int, data_dir: Path, seed: int) -> dict[str, Any]:
    """One training; its summary."""
    algorithm, chosen, has_reference = ROWS[row]
    settings = [*chosen, *([f"reference_spread={offset}"] if has_reference else [])]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from cimctl.cli import main; main()",
            "train", "lenet-large", "--board", "softbounds-20", "--algorithm", algorithm,
            "--init", "program", "--dataset", "mnist", "--data-dir", str(data_dir),
            "--epochs", "1", "--batches-per-epoch", str(batches),
            "--batch-size", str(BATCH_SIZE), "--seed", str(seed), "--out", f"{folder}/run",
            "--json", *(word for pair in settings for word in ("--set", pair)),
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True,
            env=environment,
        )  # fmt: skip
    summary: dict[str, Any] = json.loads(done.stdout)
    return {key: summary[key] for key in _KEPT}


def table(results: dict[str, Any]) -> str:
    """The results as a markdown table, test accuracies in percent."""
    lines = ["| algorithm | " + " | ".join(f"offset {o}" for o in OFFSETS) + " |", "|---|---|---|"]
    for row, (_, _, has_reference) in ROWS.items():
        offsets = OFFSETS if has_reference else OFFSETS[:1]
        cells = [_cell(results["rows"].get(row, {}).get(offset, {})) for offset in offsets]
        lines.append(f"| {row} | {' | '.join([*cells, 'no reference'][:2])} |")
    return "\n".join(lines)


def _cell(seeds: dict[str, Any]) -> str:
    values = [100 * seeds[seed]["test_accuracy"] for seed in sorted(seeds, key=int)]
    if not values:
        return "–"
    return f"{statistics.mean(values):.2f} ({' / '.join(f'{v:.2f}' for v in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    out: Path = options.out
    results: dict[str, Any] = {"rows": {}}
    if out.exists():
        results = json.loads(out.read_text())
    results["images"] = options.batches * BATCH_SIZE
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {
            pool.submit(run, row, offset, options.batches, options.data_dir, seed): (
                row, offset, str(seed),
            )
            for seed in options.seeds
            for row in options.rows
            for offset in (OFFSETS if ROWS[row][2] else OFFSETS[:1])
        }  # fmt: skip
        for done in as_completed(waiting):
            row, offset, seed = waiting[done]
            summary = done.result()
            results["rows"].setdefault(row, {}).setdefault(offset, {})[seed] = summary
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(
                f"{row}, offset {offset}, seed {seed}: {100 * summary['test_accuracy']:.2f} %, "
                f"{summary['wall_seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(table(results))


if __name__ == "__main__":
    main()
