"""LeNet on MNIST, 4-bit training with radix-4 gradients on capacitors (arXiv 2203.04821).

Runs ``cimctl train lenet --board cap-imc-16nm --dataset mnist --algorithm radix4`` for each row and
seed, FP32 beside it on the same images.  Rows that the chip makes no product of are the same
arithmetic without converters.  Two-level adaptability has two pairs of ranges, each fixed before
its first training: 255 and 510 cells, whose steps are 1 and 2 counts, and 64 and 512.

    python benchmarks/papers/radix4.py  (energies of a training step alone)
    python benchmarks/papers/radix4.py --data-dir FOLDER [--seeds 0 1] [--epochs 3] [--jobs 2]
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
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from boards import catalogue
from cimctl.mapping.network import layers_of
from cimctl.mapping.plane_training import DigitalMac, plane_training
from cimctl.models import build

RESULTS = Path(__file__).parents[1] / "results" / "radix4.json"
BATCH_SIZE = 64
_DIGITAL = "adaptability=none"
_TWO_LEVEL = ["adaptability=two-level", "two_level=[255, 510]"]
_NARROW = ["adaptability=two-level", "two_level=[64, 512]"]
#: algorithm and settings of each row
ROWS: dict[str, tuple[str, list[str]]] = {
    "FP32": ("fp32", []),
    "INT4, gradients FP32": ("radix4", [_DIGITAL, "gradients=fp32"]),
    "radix 4, no ADC": ("radix4", [_DIGITAL]),
    "radix 4, one-phase rounding, no ADC": ("radix4", [_DIGITAL, "gradient_phases=1"]),
    "radix 2, no ADC": ("radix4", [_DIGITAL, "gradients=radix-2"]),
    "full adaptability, all three": ("radix4", ["products=wa,wtd,dat"]),
    "two-level 255 and 510, W a and W^T d": ("radix4", [*_TWO_LEVEL, "products=wa,wtd"]),
    "two-level 255 and 510, all three": ("radix4", [*_TWO_LEVEL, "products=wa,wtd,dat"]),
    "two-level 64 and 512, W a and W^T d": ("radix4", [*_NARROW, "products=wa,wtd"]),
    "two-level 64 and 512, all three": ("radix4", [*_NARROW, "products=wa,wtd,dat"]),
}
_KEPT = ("test_accuracy", "chip_joules", "costs", "writes_per_weight", "wall_seconds",
         "weights_sha256", "settings")  # fmt: skip


def run(row: str, epochs: int, batches: int, data_dir: Path, seed: int) -> dict[str, Any]:
    """One training; its summary."""
    algorithm, settings = ROWS[row]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from cimctl.cli import main; main()",
            "train", "lenet", "--board", "cap-imc-16nm", "--algorithm", algorithm,
            "--dataset", "mnist", "--data-dir", str(data_dir),
            "--epochs", str(epochs), "--batches-per-epoch", str(batches),
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
    length = f"{results['epochs']} x {results['batches']} batches"
    lines = [f"| {length} | mean | seeds |", "|---|---|---|"]
    for row in ROWS:
        seeds = results["rows"].get(row, {})
        values = [100 * seeds[seed]["test_accuracy"] for seed in sorted(seeds, key=int)]
        if values:
            each = " / ".join(f"{value:.2f}" for value in values)
            lines.append(f"| {row} | {statistics.mean(values):.2f} | {each} |")
    return "\n".join(lines)


def full_arrays() -> nn.Module:
    """A network whose layers, but for the last, fill the rows of an array both ways."""
    sizes = (1152, 1152, 1152, 256)
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def energy_table() -> str:
    """Energies of a training step as a markdown table, by two digital references."""
    profile = catalogue.load("cap-imc-16nm")
    networks = (
        ("LeNet, batch 64", build("lenet"), (1, 28, 28), 64),
        ("1152-1152-1152-256, batch 1152", full_arrays(), (1, 1, 1152), 1152),
    )
    references = [DigitalMac(reuse=reuse) for reuse in (16.0, 1.0)]
    heads = " | ".join(f"{mac.energy_pJ:.3f} pJ a digital MAC" for mac in references)
    lines = [
        f"| network | on the chip | chip, uJ | digital MACs | {heads} | at most | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, model, shape, batch in networks:
        layers = layers_of(model, shape)
        steps = [plane_training(profile, layers, batch, mac) for mac in references]
        for cases in zip(*(step.cases for step in steps), strict=True):
            case, digital = cases[0], cases[0].digital_pJ / references[0].energy_pJ
            factors = " | ".join(f"{each.factor:.2f}" for each in cases)
            bound = "–" if case.bound is None else f"{case.bound:.2f}"
            paper = {3: "over 400", 2: "3"}.get(len(case.products), "–")
            lines.append(
                f"| {name} | {', '.join(case.products)} | {case.chip_pJ / 1e6:.3g} | "
                f"{digital:,.0f} | {factors} | {bound} | {paper} |"
            )
    return "\n".join(lines)


def _known(out: Path, length: dict[str, int]) -> dict[str, Any]:
    """The results so far of runs of the same length; only these are compared."""
    if out.exists():
        results: dict[str, Any] = json.loads(out.read_text())
        if {key: results[key] for key in length} == length:
            return results
    return {**length, "rows": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="Trains; without it the energies are shown.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.data_dir is None:
        print(energy_table())
        return
    out: Path = options.out
    results = _known(out, {"epochs": options.epochs, "batches": options.batches})
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {
            pool.submit(run, row, options.epochs, options.batches, options.data_dir, seed): (
                row, str(seed),
            )
            for seed in options.seeds
            for row in options.rows
        }  # fmt: skip
        for done in as_completed(waiting):
            row, seed = waiting[done]
            summary = done.result()
            results["rows"].setdefault(row, {})[seed] = summary
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(
                f"{row}, seed {seed}: {100 * summary['test_accuracy']:.2f} %, "
                f"{summary['wall_seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(table(results))


if __name__ == "__main__":
    main()
