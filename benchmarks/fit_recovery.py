"""Whether a fit finds the parameters that made its data, within its own stated uncertainty.

For each model, many chips are drawn with random parameters; the emulator's devices get trains of
pulses up and down, each followed by a noisy reading, and are fitted.  Counts how often the truth
lies within the stated 95 % interval; prints a table and writes JSON.

    python benchmarks/fit_recovery.py [--trials 200] [--models soft-bounds,...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import msgspec  # noqa: E402 - threads are set before numpy is there
import numpy as np  # noqa: E402

from boards import catalogue, device_settings  # noqa: E402
from boards.profile import Profile  # noqa: E402
from cimctl.lab.fit import Fitted, fit  # noqa: E402
from cimctl.lab.models import MODELS  # noqa: E402
from cimctl.lab.pulses import PulseData, Record  # noqa: E402
from sim_backend import cells as sim_cells  # noqa: E402
from sim_backend.steps import Steps  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "fit_recovery.json"
DEVICES = 12
#: trains up and down
_ROUNDS = 2
ZERO_uS, UNIT_uS = 20.0, 10.0


def truth(model: str, seed: int) -> dict[str, float]:
    """Random parameters, by the names of the fit."""
    draw = np.random.default_rng([seed, *model.encode()])
    step = float(np.exp(draw.uniform(np.log(0.02), np.log(0.08))))
    values = {
        "low_uS": ZERO_uS - UNIT_uS * draw.uniform(0.8, 1.1),
        "high_uS": ZERO_uS + UNIT_uS * draw.uniform(0.8, 1.1),
        "step": step,
        "asymmetry": draw.uniform(-0.3, 0.3),
        "read_noise_uS": UNIT_uS * step * draw.uniform(0.1, 1.0),
        "cycle_variation": draw.uniform(0.1, 0.5),
        "device_variation": draw.uniform(0.05, 0.2),
        "asymmetry_variation": draw.uniform(0.02, 0.1),
        "bound_variation_low": draw.uniform(0.05, 0.15),
        "bound_variation_high": draw.uniform(0.05, 0.15),
    }
    if model == "linear-step":
        values |= {f"slope_{side}": draw.uniform(0.2, 0.7) for side in ("up", "down")}
        values |= {f"slope_variation_{side}": draw.uniform(0.03, 0.1) for side in ("up", "down")}
    if model == "power-step":
        values |= {
            "exponent": draw.uniform(0.5, 1.2),
            "exponent_variation": draw.uniform(0.05, 0.15),
            "exponent_asymmetry": draw.uniform(-0.3, 0.3),
            "exponent_asymmetry_variation": draw.uniform(0.02, 0.1),
        }
    if model == "exponential-step":
        for side in ("up", "down"):
            exponent = draw.uniform(1.5, 4.0)
            values[f"exponent_{side}"] = exponent
            values[f"amplitude_{side}"] = draw.uniform(0.4, 0.85) * float(np.exp(-exponent))
    return values


@cache
def _baseline() -> Profile:
    return catalogue.load("rpu-baseline")


def profile_of(model: str, values: dict[str, float], devices: int) -> Profile:
    """A chip of such devices."""
    base = _baseline()
    low, high = values["low_uS"], values["high_uS"]
    device: dict[str, Any] = {
        "model": model,
        "low_uS": low,
        "high_uS": high,
        "initial_uS": [ZERO_uS, ZERO_uS],
        "bounds": [(low - ZERO_uS) / UNIT_uS, (high - ZERO_uS) / UNIT_uS],
        "bound_variation": [values["bound_variation_low"], values["bound_variation_high"]],
        "pulse": {"amplitude_mV": 1000, "width_ns": 1},
    }
    device |= {key: values[key] for key in ("step", "asymmetry", "asymmetry_variation")}
    if model == "linear-step":
        device["slope"] = [values["slope_up"], values["slope_down"]]
        device["slope_variation"] = [values["slope_variation_up"], values["slope_variation_down"]]
    if model == "power-step":
        device |= {key: value for key, value in values.items() if key.startswith("exponent")}
    if model == "exponential-step":
        for key in ("amplitude", "exponent"):
            device[key] = [values[f"{key}_up"], values[f"{key}_down"]]
    imperfections = msgspec.structs.replace(
        base.imperfections,
        device_variation=values["device_variation"],
        cycle_variation=values["cycle_variation"],
    )
    chip = msgspec.structs.replace(base.chip, tiles=1, rows=1, columns=devices)
    return msgspec.structs.replace(
        base, chip=chip, imperfections=imperfections, device=device_settings.decode(device)
    )


def pulse_data(
    profile: Profile, read_noise_uS: float, train: int, seed: int, rounds: int = _ROUNDS
) -> PulseData:
    """Trains up and down of the emulator's devices, with a noisy reading after each pulse."""
    draw = np.random.default_rng(seed)
    devices = profile.chip.columns
    chip = Steps(profile, seed)
    cells = sim_cells.fresh(profile, seed)
    index = np.arange(devices, dtype=np.uint16)
    directions = np.tile(np.repeat([1, -1], train), rounds).astype(np.int8)
    readings = np.empty((len(directions) + 1, devices))
    for k in range(len(readings)):
        if k:
            chip.pulse(
                cells, 0, index, np.full(devices, directions[k - 1], dtype=np.int16),
                set_amplitude=1000, reset_amplitude=1000, width=1,
            )  # fmt: skip
        state = cells.conductances[0].astype(np.float64) * profile.microsiemens(1)
        readings[k] = state + read_noise_uS * draw.standard_normal(devices)
    records = tuple(
        Record(str(i), directions, readings[1:, i], float(readings[0, i])) for i in range(devices)
    )
    return PulseData(records)


def trial(model: str, seed: int, devices: int = DEVICES) -> tuple[dict[str, float], Fitted, float]:
    """Truth, fit, and the seconds that it took."""
    values = truth(model, seed)
    # Long enough for slow devices to come to their bounds.
    train = int(3.2 / values["step"])
    data = pulse_data(profile_of(model, values, devices), values["read_noise_uS"], train, seed)
    start = time.perf_counter()
    fitted = fit(data, MODELS[model], zero_uS=ZERO_uS, unit_uS=UNIT_uS)
    return values, fitted, time.perf_counter() - start


def _judged(work: tuple[str, int]) -> dict[str, Any]:
    values, fitted, seconds = trial(*work)
    found = {}
    for name, value in values.items():
        said = fitted.parameters[name]
        low = -np.inf if said.low is None else said.low
        high = np.inf if said.high is None else said.high
        found[name] = (bool(low <= value <= high), said.estimate - value, high - low, value)
    return {"found": found, "seconds": seconds, "notes": len(fitted.notes)}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of intervals that hold the truth, and how wide they are, of one model."""
    parameters = {}
    for name in results[0]["found"]:
        rows = np.array([r["found"][name] for r in results], dtype=np.float64)
        told = np.isfinite(rows[:, 2]) & (rows[:, 2] > 0)
        parameters[name] = {
            "told": int(told.sum()),
            "covered": round(float(rows[:, 0].mean()), 4),
            "median_error": float(np.median(np.abs(rows[:, 1]))),
            "median_width": float(np.median(rows[told, 2])),
            "bias_in_widths": round(float(np.median(rows[told, 1] / rows[told, 2])), 3),
        }
    every = np.mean([p["covered"] for p in parameters.values()])
    return {
        "trials": len(results),
        "covered": round(float(every), 4),
        "with_notes": sum(r["notes"] > 0 for r in results),
        "seconds_a_fit": round(float(np.mean([r["seconds"] for r in results])), 2),
        "parameters": parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    # Compiles and loads before the work is shared out.
    pulse_data(profile_of("soft-bounds", truth("soft-bounds", 0), 2), 0.1, 5, 0)
    # Results of models that are not run again stay.
    kept = json.loads(chosen.json.read_text())["models"] if chosen.json.exists() else {}
    said: dict[str, Any] = {"devices": DEVICES, "rounds": _ROUNDS, "models": kept}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for model in chosen.models.split(","):
            work = [(model, chosen.first + i) for i in range(chosen.trials)]
            said["models"][model] = of_model = summary(list(pool.map(_judged, work)))
            print(f"{model}: {of_model['seconds_a_fit']} s a fit, {of_model['with_notes']} notes")
            for name, row in of_model["parameters"].items():
                print(
                    f"  {name:30} {100 * row['covered']:6.1f} %  width {row['median_width']:.4g}"
                    f"  bias {row['bias_in_widths']:+.3f} widths",
                    flush=True,
                )
            chosen.json.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
