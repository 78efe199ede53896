"""LeNet on MNIST by in-memory SGD, with each compensation switched off in turn (arXiv 1906.02698).

Runs ``cimctl train lenet --board rpu-large --dataset mnist --algorithm sgd --init program`` for
each row and seed, and FP32 by plain SGD on the same schedule and first weights.  The recipes are
fixed beforehand; the paper's tables are not at hand, so the table shows what each measure is worth
and is no reproduction.  Takes one to three minutes a run on one core.

    python benchmarks/papers/compensations.py --data-dir FOLDER [--seeds 0 1 2] [--jobs 2]
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

RESULTS = Path(__file__).parents[1] / "results" / "compensations.json"
SCHEDULES: dict[str, list[str]] = {
    "higher": ["--set", "lr=0.1", "--set", "lr_schedule=constant", "--epochs", "2"],
    "lower": ["--set", "lr=0.05", "--set", "lr_schedule=halved", "--epochs", "3"],
}
_COMMON = ["--batches-per-epoch", "400", "--batch-size", "64", "--set", "initial_bound=2.45"]
_SGD = ["--board", "rpu-large", "--algorithm", "sgd", "--init", "program"]
_ON = {
    "noise_management": "max", "bound_management": "iterative", "update_management": "true",
    "update_bit_length_management": "true", "weight_scaling": "tensor",
    "stochastic_rounding": "true",
}  # fmt: skip
_KEPT = ("test_accuracy", "pulses_per_weight", "wall_seconds", "train_images_per_second",
         "chip_seconds", "chip_joules", "weights_sha256", "settings")  # fmt: skip


def _sgd(**changed: str) -> list[str]:
    values = _ON | changed
    return [*_SGD, *(word for k, v in values.items() for word in ("--set", f"{k}={v}"))]


ROWS: dict[str, list[str]] = {
    "FP32": ["--board", "rpu-large", "--algorithm", "fp32", "--set", "optimizer=SGD",
             "--set", "weight_decay=0"],
    "everything on": _sgd(),
    "noise management off": _sgd(noise_management="off"),
    "bound management off": _sgd(bound_management="off"),
    "update management off": _sgd(update_management="false"),
    "update bit-length management off": _sgd(update_bit_length_management="false"),
    "weight scaling off": _sgd(weight_scaling="off"),
    "stochastic rounding off": _sgd(stochastic_rounding="false"),
}  # fmt: skip


def run(row: str, schedule: str, data_dir: Path, seed: int) -> dict[str, Any]:
    """One training; its summary."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from cimctl.cli import main; main()",
            "train", "lenet", "--dataset", "mnist", "--data-dir", str(data_dir),
            "--seed", str(seed), "--out", f"{folder}/run", "--json",
            *_COMMON, *SCHEDULES[schedule], *ROWS[row],
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
    lines = ["| row | " + " | ".join(SCHEDULES) + " |", "|---|" + "---|" * len(SCHEDULES)]
    for row in ROWS:
        cells = [_cell(results.get(schedule, {}).get(row, {})) for schedule in SCHEDULES]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(seeds: dict[str, Any]) -> str:
    values = [100 * seeds[seed]["test_accuracy"] for seed in sorted(seeds, key=int)]
    if not values:
        return "–"
    return f"{statistics.mean(values):.2f} ({' / '.join(f'{v:.2f}' for v in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    out: Path = options.out
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {
            pool.submit(run, row, schedule, options.data_dir, seed): (schedule, row, str(seed))
            for seed in options.seeds
            for schedule in options.schedules
            for row in options.rows
        }
        for done in as_completed(waiting):
            schedule, row, seed = waiting[done]
            summary = done.result()
            results.setdefault(schedule, {}).setdefault(row, {})[seed] = summary
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(
                f"{schedule}, {row}, seed {seed}: {100 * summary['test_accuracy']:.2f} %, "
                f"{summary['wall_seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(table(results))


if __name__ == "__main__":
    main()
