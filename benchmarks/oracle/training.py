"""The same in-memory training by cimctl, through the wire, and by aihwkit: where it ends.

A 64-32-10 network (ReLU, digital biases) on the embedded digits at 8 x 8, on devices with soft
bounds and 20 states, symmetry points subtracted; perfect products there, 8-bit inputs and 12-bit
outputs without noise here.  Same data, first weights, device parameters, rates, batch and epochs.
In our words, theirs in brackets: lr [lr of AnalogSGD], n_s [transfer_every], gamma_0
[auto_granularity], eta_0 [fast_lr with auto_scale], l_max [desired_bl], rho [in_chop_prob].

    python benchmarks/oracle/training.py [--environment DIR] [--seeds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from turns import ENVIRONMENT

from cimctl.algorithms.settings import Settings
from cimctl.connect import BoardOptions, connect
from cimctl.datasets import digits
from cimctl.datasets.dataset import Dataset
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer, accuracy

HERE = Path(__file__).parent
ALGORITHMS = ("sgd", "ttv2", "c-ttv2", "agad")
BATCH, EPOCHS, READ_EVERY = 5, 3, 5
COMMON = {"pulse_length": 5, "fast_rate": 0.1, "transfer_damping": 200.0, "chop_probability": 0.1}
RATE = {"sgd": 0.05, "ttv2": 0.1, "c-ttv2": 0.1, "agad": 0.1}
BOARD = """
name: oracle-softbounds
summary: soft bounds with 20 states, symmetry points subtracted, no noise of converters
extends: softbounds-20
chip: {input_bits: 8, adc_bits: 12}
device:
  model: soft-bounds-reference
  subtract_symmetry_point: true
  low_uS: 10
  high_uS: 30
  initial_uS: [20, 20]
  bounds: [-1.0, 1.0]
  bound_variation: [0.3, 0.3]
  step: 0.1
  step_distribution: log-normal
  asymmetry_variation: 0.1
  cycle_noise: additive
  pulse: {amplitude_mV: 1000, width_ns: 1}
imperfections: {adc_noise_lsb: 0.0, read_noise_uS: 0.0}
"""
#: the same device in aihwkit's words
DEVICE = {
    "dw_min": 0.1, "dw_min_dtod": 0.3, "dw_min_dtod_log_normal": True, "dw_min_std": 0.3,
    "up_down": 0.0, "up_down_dtod": 0.1, "w_max": 1.0, "w_min": -1.0, "w_max_dtod": 0.3,
    "w_min_dtod": 0.3, "mult_noise": False, "reference_std": 0.0, "slope_up_dtod": 0.0,
    "slope_down_dtod": 0.0, "subtract_symmetry_point": True,
}  # fmt: skip


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def small_digits() -> Dataset:
    """The embedded digits as they are stored, 8 x 8, 0 to 255."""
    file = resources.files("cimctl.datasets").joinpath("digits.npz")
    with file.open("rb") as stream, np.load(stream) as stored:
        images = (stored["images"].astype(np.int64) * 255 // 16).astype(np.uint8)[:, None]
        labels = stored["labels"].astype(np.int64)
    train, test = digits.split(labels)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], 10)


def train(algorithm: str, seed: int, data: Dataset, folder: Path) -> float:
    """Our accuracy; leaves the first weights in the folder."""
    settings = Settings(
        lr=RATE[algorithm], lr_schedule="constant", read_every=READ_EVERY, symmetry_pulses=0,
        weight_scaling="off", initial_bound=1.0, **COMMON,
    )  # fmt: skip
    batches = -(-len(data.train_images) // BATCH)
    config = RunConfig(
        f"{__file__}:network", str(folder / "board.yaml"), "digits", algorithm, EPOCHS, batches,
        BATCH, seed, "program", settings,
    )  # fmt: skip
    torch.manual_seed(seed)
    with connect(BoardOptions(config.board, seed=seed)) as board:
        trainer = Trainer(config, data, board, folder / f"{algorithm}-{seed}")
        first = {}
        for number, layer in enumerate(trainer.algorithm.layers):
            first[f"weight{number}"] = layer.weight.detach().numpy().copy()
            first[f"bias{number}"] = layer.bias.detach().numpy().copy()
        np.savez(folder / f"weights-{algorithm}-{seed}.npz", **first)
        for epoch in range(EPOCHS):
            for chosen in trainer.order(epoch):
                trainer.batch(chosen)
        return accuracy(trainer.model, data)


def theirs(environment: Path, folder: Path, seeds: int) -> list[float]:
    common = {**COMMON, "device": DEVICE, "read_every": READ_EVERY, "batch": BATCH,
              "epochs": EPOCHS, "data": str(folder / "data.npz")}  # fmt: skip
    tasks = [
        {**common, "algorithm": name, "seed": seed, "lr": RATE[name],
         "weights": str(folder / f"weights-{name}-{seed}.npz")}
        for name in ALGORITHMS for seed in range(seeds)
    ]  # fmt: skip
    (folder / "tasks.json").write_text(json.dumps(tasks))
    subprocess.run(
        [environment / "bin" / "python", HERE / "train_aihwkit.py", folder / "tasks.json",
         folder / "found.json"],
        check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    found: list[float] = json.loads((folder / "found.json").read_text())
    return found


def compare(environment: Path, seeds: int) -> dict[str, Any]:
    data = small_digits()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "board.yaml").write_text(BOARD)
        np.savez(
            folder / "data.npz", train_images=data.train_images, train_labels=data.train_labels,
            test_images=data.test_images, test_labels=data.test_labels,
        )  # fmt: skip
        ours = [train(a, seed, data, folder) for a in ALGORITHMS for seed in range(seeds)]
        other = theirs(environment, folder, seeds)
    result = {}
    for i, algorithm in enumerate(ALGORITHMS):
        part = slice(i * seeds, (i + 1) * seeds)
        mean, spread = float(np.mean(other[part])), float(np.std(other[part], ddof=1))
        own = float(np.mean(ours[part]))
        inside = min(other[part]) <= own <= max(other[part]) or abs(own - mean) <= 2 * spread
        result[algorithm] = {"ours": ours[part], "aihwkit": other[part], "within_spread": inside}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = compare(options.environment, options.seeds)
    for name, row in result.items():
        both = [np.array(row[k]) * 100 for k in ("ours", "aihwkit")]
        text = [f"{e.mean():.1f} % ({e.min():.1f} to {e.max():.1f})" for e in both]
        print(f"{name:7} ours {text[0]}, aihwkit {text[1]}, within: {row['within_spread']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
