"""The emulator's device models and products beside aihwkit's: the tables of docs/fidelity.md.

Same parameters, same number of pulses, populations of 10,000 devices, on several tiles each; the
products go through the wire.  Installs aihwkit first where it is missing (``install.sh``).

    python benchmarks/oracle/compare.py [--environment DIR] [--only NAME ...]

Writes benchmarks/results/fidelity.json and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from boards import device_settings
from boards.board import Board
from boards.catalogue import load
from boards.links import InProcessLink
from boards.multiply import Matrix
from boards.profile import Profile
from cimctl.analog.chip_matrix import ChipMatrix, ChipUnits
from cimctl.analog.compensation import Compensations
from firmware_protocol.messages import Region
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "fidelity.json"
#: rows and columns of a tile: 10,000 devices
SIDE = 100
TILES = 4
#: spreads of the baseline device in aihwkit's words and in ours
THEIR_SPREAD = {"dw_min": 0.001, "dw_min_dtod": 0.3, "dw_min_std": 0.3, "up_down": 0.0,
                "up_down_dtod": 0.01, "w_max": 0.6, "w_min": -0.6, "w_max_dtod": 0.3,
                "w_min_dtod": 0.3}  # fmt: skip
OUR_SPREAD = {"step": 0.001, "bounds": [-0.6, 0.6], "bound_variation": [0.3, 0.3],
              "asymmetry_variation": 0.01}  # fmt: skip


@dataclass(frozen=True)
class Response:
    """A device model, in both sides' words."""

    model: str
    theirs: dict[str, Any]
    ours: dict[str, Any]
    device_variation: float = 0.3
    cycle_variation: float = 0.3
    train: tuple[int, ...] = (500, -1000, 500)


RESPONSES: dict[str, Response] = {
    "constant step": Response("constant-step", {}, {}),
    "linear step, multiplicative noise": Response(
        "linear-step", {"gamma_up": 0.4, "gamma_down": 0.7, "mult_noise": True},
        {"slope": [0.4, 0.7], "slope_variation": [0.05, 0.05]}),
    "linear step, additive noise": Response(
        "linear-step", {"gamma_up": 0.4, "gamma_down": 0.7, "mult_noise": False, "dw_min_std": 2.0},
        {"slope": [0.4, 0.7], "slope_variation": [0.05, 0.05], "cycle_noise": "additive"},
        cycle_variation=2.0),
    "soft bounds, multiplicative noise": Response(
        "soft-bounds", {"mult_noise": True}, {}),
    "soft bounds, additive noise": Response(
        "soft-bounds", {"mult_noise": False, "dw_min_std": 2.0, "write_noise_std": 20.0},
        {"cycle_noise": "additive", "write_noise": 20.0}, cycle_variation=2.0),
    "soft bounds with reference, 20 states": Response(
        "soft-bounds-reference",
        {"dw_min": 0.1, "dw_min_dtod_log_normal": True, "up_down_dtod": 0.1, "w_max": 1.0,
         "w_min": -1.0, "mult_noise": False, "reference_std": 0.05, "slope_up_dtod": 0.0,
         "slope_down_dtod": 0.0, "subtract_symmetry_point": True},
        {"step": 0.1, "step_distribution": "log-normal", "asymmetry_variation": 0.1,
         "bounds": [-1, 1], "cycle_noise": "additive", "reference_variation": 0.05,
         "subtract_symmetry_point": True},
        train=(20, -40, 20)),
    "exponential step": Response(
        "exponential-step", {},
        {"amplitude": [0.00081, 0.36833], "exponent": [12.44625, 12.78785], "scale": 0.244,
         "shift": 0.2425}),
    "power step": Response(
        "power-step", {"pow_gamma": 1.5, "pow_gamma_dtod": 0.1, "pow_up_down": 0.2,
                       "pow_up_down_dtod": 0.05},
        {"exponent": 1.5, "exponent_variation": 0.1, "exponent_asymmetry": 0.2,
         "exponent_asymmetry_variation": 0.05},
        train=(1500, -3000, 1500)),
    "piecewise step": Response(
        "piecewise-step", {"piecewise_up": [1.5, 1.0, 0.5], "piecewise_down": [0.5, 1.0, 1.5]},
        {"up": [1.5, 1.0, 0.5], "down": [0.5, 1.0, 1.5]}),
}  # fmt: skip

#: products: what both sides are told, and how our board is set
PRODUCTS: dict[str, dict[str, Any]] = {
    "RPU baseline": {"out_noise": 0.06, "out_bound": 12.0, "inp_res": 1 / 126, "out_res": 1 / 510},
    "5-bit inputs, 6-bit outputs": {
        "out_noise": 0.06, "out_bound": 12.0, "inp_res": 1 / 30, "out_res": 1 / 62},
    "a bound that clips": {
        "out_noise": 0.06, "out_bound": 2.0, "inp_res": 1 / 126, "out_res": 1 / 510},
    "noise management, inputs below 0.1": {
        "out_noise": 0.06, "out_bound": 12.0, "inp_res": 1 / 126, "out_res": 1 / 510,
        "noise_management": "AbsMax"},
    "noise and bound management, a bound that clips": {
        "out_noise": 0.06, "out_bound": 2.0, "inp_res": 1 / 126, "out_res": 1 / 510,
        "noise_management": "AbsMax", "bound_management": "Iterative"},
}  # fmt: skip
INPUTS, OUTPUTS, VECTORS, REPEATS = 64, 32, 40, 100
#: each tile of aihwkit has a noise table of 32,768 numbers of its own, whose 1 % quantile is off by
#: 2 % of sigma; so many of them bring that to 0.5 %
TABLES = 16


# ---------------------------------------------------------------------- devices


def their_case(name: str, r: Response, tile: int) -> dict[str, Any]:
    return {"name": f"{name}/{tile}", "kind": "pulses", "model": r.model,
            "parameters": THEIR_SPREAD | r.theirs, "devices": SIDE * SIDE, "start": 0.0,
            "train": list(r.train), "record_every": 1, "seed": 1 + tile}  # fmt: skip


def our_profile(r: Response) -> Profile:
    """Tiles of 10,000 such devices; the full scale is wide enough for every device's bounds."""
    base = load("rpu-baseline")
    values = {"model": r.model, "low_uS": 30.0, "high_uS": 70.0, "initial_uS": [50.0, 50.0],
              "pulse": {"amplitude_mV": 1000, "width_ns": 1}, **OUR_SPREAD, **r.ours}  # fmt: skip
    faults = msgspec.structs.replace(
        base.imperfections, device_variation=r.device_variation, cycle_variation=r.cycle_variation,
        adc_noise_lsb=0.0,
    )  # fmt: skip
    chip = msgspec.structs.replace(
        base.chip, tiles=TILES, rows=SIDE, columns=SIDE, conductance_full_scale_uS=100.0
    )
    return msgspec.structs.replace(
        base, chip=chip, device=device_settings.decode(values), imperfections=faults
    )


def our_response(r: Response, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(pulses + 1, tiles) mean and standard deviation of the weights that the converters see."""
    profile = our_profile(r)
    chip = Chip(profile, seed)
    low, high = profile.device.bounds  # type: ignore[attr-defined]
    unit = 65535 / 100 * 40 / (high - low)
    cells = np.arange(SIDE * SIDE)
    means, spreads = [np.zeros(TILES)], [np.zeros(TILES)]
    for run in r.train:
        counts = np.full(cells.size, np.sign(run), dtype=np.int16)
        for _ in range(abs(run)):
            for tile in range(TILES):
                chip.pulse(tile, cells, counts, set_amplitude=1000, reset_amplitude=1000, width=1)
            w = (chip.cells.conductances - 65535 / 2) / unit
            means.append(w.mean(1))
            spreads.append(w.std(1))
    return np.array(means), np.array(spreads)


def compare_response(r: Response, theirs: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Largest deviation of the mean curve (share of the range) and of the spread (ratio)."""
    means, spreads = our_response(r)
    their_mean = np.mean([t["mean"] for t in theirs], axis=0)
    their_spread = np.mean([t["std"] for t in theirs], axis=0)
    low, high = (OUR_SPREAD | r.ours)["bounds"]
    between = np.abs(means.mean(1) - their_mean) / (high - low)
    ratio = spreads.mean(1)[1:] / their_spread[1:] - 1
    tiles = np.ptp([t["mean"] for t in theirs], axis=0) / (high - low)
    return {
        "mean_deviation": float(between.max()),
        "spread_deviation": float(np.abs(ratio).max()),
        "spread_deviation_at_end": float(abs(ratio[-1])),
        "their_tiles_apart": float(tiles.max()),
        "final_mean_ours": float(means[-1].mean()),
        "final_mean_theirs": float(their_mean[-1]),
        "final_spread_ours": float(spreads[-1].mean()),
        "final_spread_theirs": float(their_spread[-1]),
    }


# ---------------------------------------------------------------------- products


def their_product(name: str, io: dict[str, Any], table: int) -> dict[str, Any]:
    plain = {"noise_management": "None", "bound_management": "None", "inp_bound": 1.0}
    limit = 0.1 if "below 0.1" in name else 1.0
    return {"name": f"{name}/{table}", "kind": "vmm", "io": plain | io, "repeats": REPEATS,
            "seed": 3, "weights": {"rows": OUTPUTS, "columns": INPUTS, "limit": 0.6},
            "inputs": {"count": VECTORS, "limit": limit}}  # fmt: skip


def our_errors(io: dict[str, Any], weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """(repeats, vectors, outputs) errors of our products, in units of weight times input.

    ``1/(2^b - 2)`` is aihwkit's resolution of b bits.
    """
    base = load("rpu-baseline")
    input_bits = round(np.log2(1 / io["inp_res"] + 2))
    output_bits = round(np.log2(1 / io["out_res"] + 2))
    top = 2 ** (input_bits - 1) - 1
    step = 2 * io["out_bound"] * io["out_res"]
    volts = base.programming.read_voltage_mV / 1000
    unit_current = (20 / 1.2) * volts * top / 2**input_bits
    span = step * (2**output_bits - 1) * unit_current
    chip = msgspec.structs.replace(
        base.chip, input_bits=input_bits, adc_bits=output_bits, adc_span_uA=(span, span)
    )
    faults = msgspec.structs.replace(base.imperfections, adc_noise_lsb=io["out_noise"] / step)
    profile = msgspec.structs.replace(base, chip=chip, imperfections=faults)
    with Board(profile, InProcessLink(Firmware(Chip(profile, 0)))) as board:
        board.power_up()
        middle = profile.units(20.0)
        cells = np.full((INPUTS, 2 * OUTPUTS), middle, dtype=np.uint16)
        cells[:, ::2] = np.rint(middle + weights.T * 65535 / 40 * 20 / 1.2)
        board.tiles[0].load(cells)
        matrix = Matrix((Region(0, 0, INPUTS, 0, 2 * OUTPUTS),))
        rules = Compensations(
            noise="max" if "noise_management" in io else "off",
            bound="iterative" if "bound_management" in io else "off",
        )
        units = ChipUnits(weight=1.2 / 20 * 40 / 65535, largest=0.6)
        chip_matrix = ChipMatrix(board, matrix, (1, 2), units, rules)
        vectors = np.tile(inputs, (TABLES * REPEATS, 1)).astype(np.float32)
        products = chip_matrix.forward(vectors).reshape(-1, VECTORS, OUTPUTS)
    errors: np.ndarray = products - inputs @ weights.T
    return errors


def compare_products(io: dict[str, Any], tables: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Differences of the errors' statistics, as shares of their standard deviation."""
    ours = our_errors(io, tables[0]["weights"], tables[0]["inputs"])
    theirs = np.concatenate([t["errors"] for t in tables])
    sigma = theirs.std()
    places = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    quantiles = np.quantile(ours, places) - np.quantile(theirs, places)
    return {
        "mean_deviation": float(abs(ours.mean() - theirs.mean()) / sigma),
        "std_deviation": float(abs(ours.std() / sigma - 1)),
        "quantile_deviation": float(np.abs(quantiles).max() / sigma),
        "std_ours": float(ours.std()),
        "std_theirs": float(sigma),
    }


# ---------------------------------------------------------------------- both


def measured(environment: Path, cases: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """What aihwkit does with the cases."""
    subprocess.run([HERE / "install.sh", environment], check=True)
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "cases.json"), Path(folder, "measured.npz")
        given.write_text(json.dumps(cases))
        command = [environment / "bin" / "python", HERE / "measure_aihwkit.py",
                   "--cases", given, "--output", found]  # fmt: skip
        subprocess.run(command, check=True)
        results: dict[str, dict[str, np.ndarray]] = {}
        with np.load(found) as arrays:
            for key in arrays.files:
                case, _, name = key.rpartition("/")
                results.setdefault(case, {})[name] = arrays[key]
    return results


def tables(results: dict[str, Any]) -> str:
    """Both tables, as docs/fidelity.md has them."""
    lines = [
        "| device model | mean curve, % of the range | spread, % | theirs, tile to tile, % |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {100 * f['mean_deviation']:.2f} | {100 * f['spread_deviation']:.1f} "
        f"| {100 * f['their_tiles_apart']:.2f} |"
        for name, f in results["responses"].items()
    ]
    lines += ["", "| product | mean, % of sigma | sigma, % | quantiles, % of sigma | sigma |",
              "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {100 * f['mean_deviation']:.2f} | {100 * f['std_deviation']:.2f} "
        f"| {100 * f['quantile_deviation']:.2f} | {f['std_ours']:.4f} |"
        for name, f in results["products"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--environment", type=Path, default=cache / "cimctl" / "oracle")
    parser.add_argument("--only", nargs="+", choices=[*RESPONSES, *PRODUCTS])
    options = parser.parse_args()
    chosen = options.only or [*RESPONSES, *PRODUCTS]
    responses = {name: r for name, r in RESPONSES.items() if name in chosen}
    products = {name: io for name, io in PRODUCTS.items() if name in chosen}
    cases = [their_case(n, r, t) for n, r in responses.items() for t in range(TILES)]
    cases += [their_product(n, io, t) for n, io in products.items() for t in range(TABLES)]
    theirs = measured(options.environment, cases)
    results: dict[str, Any] = {"devices": SIDE * SIDE, "tiles": TILES}
    results["responses"] = {
        name: compare_response(r, [theirs[f"{name}/{t}"] for t in range(TILES)])
        for name, r in responses.items()
    }
    results["products"] = {
        name: compare_products(io, [theirs[f"{name}/{t}"] for t in range(TABLES)])
        for name, io in products.items()
    }
    if not options.only:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main()
