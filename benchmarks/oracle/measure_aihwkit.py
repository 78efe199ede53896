"""What aihwkit's devices and products do, measured for a comparison with the emulator's models.

Runs in the environment of ``install.sh``; the README beside it describes both file formats.

    DIR/bin/python measure_aihwkit.py --cases cases.json --output measured.npz
    DIR/bin/python measure_aihwkit.py --check
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import fields
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aihwkit.simulator.configs import SingleRPUConfig, devices
from aihwkit.simulator.parameters.enums import PulseType
from aihwkit.simulator.parameters.io import IOParameters
from aihwkit.simulator.parameters.training import UpdateParameters
from aihwkit.simulator.tiles import AnalogTile

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]

MODELS = {
    "constant-step": devices.ConstantStepDevice,
    "linear-step": devices.LinearStepDevice,
    "soft-bounds": devices.SoftBoundsDevice,
    "soft-bounds-reference": devices.SoftBoundsReferenceDevice,
    "exponential-step": devices.ExpStepDevice,
    "power-step": devices.PowStepDevice,
    "piecewise-step": devices.PiecewiseStepDevice,
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: far above any step over one pulse, so that a coincidence is certain; then it has no other effect
_LEARNING_RATE = 1000.0
#: pulses, or inputs, given to aihwkit in one call
_BATCH = 500


def pulsed_tile(model: str, parameters: Case, cells: int, seed: int) -> AnalogTile:
    """A tile of that many devices whose update is one pulse on each of them.

    The seed fixes the devices that are drawn; 0 draws others each time. Cycle noise has no seed.
    """
    update = UpdateParameters(
        pulse_type=PulseType.DETERMINISTIC_IMPLICIT,
        desired_bl=1,
        fixed_bl=True,
        update_bl_management=False,
        update_management=False,
    )
    device = MODELS[model](**{"construction_seed": seed, **parameters})
    rows = math.gcd(cells, 100)
    tile = AnalogTile(rows, cells // rows, SingleRPUConfig(device=device, update=update))
    tile.tile.set_learning_rate(_LEARNING_RATE)
    return tile


def pulse(tile: AnalogTile, count: int, post_update: bool = False) -> None:
    """Gives every device that many pulses one after another, up if positive, down if negative.

    With post_update, aihwkit's diffusion and decay follow each pulse.
    """
    batch = 1 if post_update else _BATCH
    left = abs(count)
    while left > 0:
        now = min(left, batch)
        x = torch.ones(now, tile.in_size)
        d = torch.full((now, tile.out_size), -math.copysign(1.0, count))
        tile.tile.update(x, d, False)
        if post_update:
            tile.post_update_step()
        left -= now


def weights_of(tile: AnalogTile) -> np.ndarray:
    """The apparent weights, row after row, without units."""
    weights: np.ndarray = tile.tile.get_weights().numpy()
    return weights.astype(np.float64).ravel()


def stretches(train: list[int], every: int) -> list[int]:
    """The runs of pulses cut after every so many, so that a record follows each piece."""
    pieces = []
    for run in train:
        sign = 1 if run > 0 else -1
        pieces += [sign * min(every, abs(run) - done) for done in range(0, abs(run), every)]
    return pieces


def measure_pulses(case: Case) -> Arrays:
    """Statistics over the devices of a pulse train; weights without units, steps in pulses."""
    tile = pulsed_tile(
        case["model"], case.get("parameters", {}), case.get("devices", 10_000), case["seed"]
    )
    rows, columns = tile.out_size, tile.in_size
    tile.tile.set_weights(torch.full((rows, columns), float(case.get("start", 0.0))))
    step, steps, records = 0, [0], [weights_of(tile)]
    for piece in stretches(case["train"], case.get("record_every", 1)):
        pulse(tile, piece, case.get("post_update", False))
        step += abs(piece)
        steps.append(step)
        records.append(weights_of(tile))
    seen = np.array(records)
    hidden = {
        f"hidden/{name}": values.numpy().ravel()
        for name, values in tile.get_hidden_parameters().items()
    }
    return {
        "step": np.array(steps),
        "mean": seen.mean(axis=1),
        "std": seen.std(axis=1),
        "quantiles": np.quantile(seen, QUANTILES, axis=1),
        "start": seen[0],
        "final": seen[-1],
        **hidden,
    }


def array_of(source: str | Case, rows: int | None, folder: Path, seed: int) -> np.ndarray:
    """An .npy file beside the cases, or numbers drawn uniformly between -limit and limit."""
    if isinstance(source, str):
        loaded: np.ndarray = np.load(folder / source).astype(np.float32)
        return loaded
    shape = (source["rows"] if rows is None else rows, source["columns"])
    drawn = np.random.default_rng(seed).uniform(-source["limit"], source["limit"], shape)
    return drawn.astype(np.float32)


def io_parameters(given: Case) -> IOParameters:
    """The forward pass; choices are given by aihwkit's own names, as ``"AbsMax"``."""
    defaults = IOParameters()
    kinds = {f.name: type(getattr(defaults, f.name)) for f in fields(IOParameters)}
    unknown = set(given) - set(kinds)
    if unknown:
        raise ValueError(f"no such forward parameters: {sorted(unknown)}")
    return IOParameters(
        **{
            name: kinds[name](value) if issubclass(kinds[name], Enum) else value
            for name, value in given.items()
        }
    )


def measure_vmm(case: Case, folder: Path) -> Arrays:
    """Errors of repeated products: errors[repeat, input, output] = y - W x, without units."""
    seed = case["seed"]
    weights = array_of(case["weights"], None, folder, seed)
    given = case["inputs"]
    if isinstance(given, dict):
        given = {"columns": weights.shape[1], **given}
    count = given["count"] if isinstance(given, dict) else None
    inputs = array_of(given, count, folder, seed + 1)
    # Weights of this device have no bounds and no spread, so they are exactly those given.
    config = SingleRPUConfig(device=devices.IdealDevice(), forward=io_parameters(case["io"]))
    tile = AnalogTile(*weights.shape, config)
    tile.tile.set_weights(torch.from_numpy(weights))
    if not np.array_equal(tile.tile.get_weights().numpy(), weights):
        raise RuntimeError(f"{case['name']}: the tile holds other weights than it was given")
    x = torch.from_numpy(inputs)
    y = [tile.tile.forward(x, False, False, False, True).numpy() for _ in range(case["repeats"])]
    exact = inputs.astype(np.float64) @ weights.astype(np.float64).T
    errors = np.stack(y).astype(np.float64) - exact
    return {
        "weights": weights,
        "inputs": inputs,
        "exact": exact,
        "errors": errors.astype(np.float32),
        "mean": errors.mean(axis=0),
        "std": errors.std(axis=0),
        "quantiles": np.quantile(errors, QUANTILES, axis=0),
    }


def measure(case: Case, folder: Path) -> Arrays:
    """One case's arrays, by their names within the case."""
    if case["kind"] == "pulses":
        return measure_pulses(case)
    if case["kind"] == "vmm":
        return measure_vmm(case, folder)
    raise ValueError(f"{case['name']}: no such kind of case: {case['kind']}")


def check() -> None:
    """Fails unless an update is one pulse on every device, for every model.

    Each model is made a constant step of 0.001 without spread or noise; 25 pulses up and 10 down
    then leave 15 steps.
    """
    flat: Case = {
        "dw_min": 0.001,
        **dict.fromkeys(("dw_min_dtod", "dw_min_std", "up_down_dtod", "w_max_dtod"), 0.0),
        "w_min_dtod": 0.0,
    }
    wide: Case = {"w_max": 1e6, "w_min": -1e6}
    made_flat: dict[str, Case] = {
        "linear-step": {"gamma_up_dtod": 0.0, "gamma_down_dtod": 0.0},
        "soft-bounds": wide,
        "soft-bounds-reference": wide,
        "exponential-step": {"A_up": 0.0, "A_down": 0.0},
        "power-step": {"pow_gamma": 0.0, "pow_gamma_dtod": 0.0},
    }
    for model in MODELS:
        tile = pulsed_tile(model, flat | made_flat.get(model, {}), 600, 1)
        tile.tile.set_weights(torch.zeros(tile.out_size, tile.in_size))
        pulse(tile, 25)
        pulse(tile, -10)
        off = float(np.abs(weights_of(tile) - 0.015).max())
        print(f"{model}: 25 up, 10 down: off by at most {off:.1e}")
        if off > 1e-6:
            raise SystemExit(f"{model}: an update is not one pulse")


def main() -> None:
    """Measures every case of a file, or checks the pulses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, help="JSON file: a list of cases")
    parser.add_argument("--output", type=Path, help="where the .npz goes")
    parser.add_argument("--check", action="store_true", help="check that an update is one pulse")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.check:
        check()
    if given.cases is None or given.output is None:
        if not given.check:
            parser.error("give --cases and --output, or --check")
        return
    arrays: Arrays = {
        "versions": np.array(json.dumps({p: version(p) for p in ("aihwkit", "torch", "numpy")}))
    }
    for case in json.loads(given.cases.read_text()):
        start = time.perf_counter()
        found = measure(case, given.cases.parent)
        arrays[f"{case['name']}/case"] = np.array(json.dumps(case))
        arrays |= {f"{case['name']}/{key}": values for key, values in found.items()}
        print(f"{case['name']}: {time.perf_counter() - start:.1f} s", flush=True)
    np.savez_compressed(given.output, **arrays)


if __name__ == "__main__":
    main()
