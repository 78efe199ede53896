"""A fitted device as a board profile: what was estimated, laid over another profile."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from boards import catalogue
from boards.errors import UsageError
from boards.profile import Profile
from cimctl.files import write_atomically
from cimctl.lab.fit import Fitted
from cimctl.lab.pulses import PulseData

#: what a spread of bounds needs above them, in standard deviations
_ROOM = 4.0
_PULSE = (1000.0, 1.0)


def values_of(fitted: Fitted, data: PulseData, base: str) -> dict[str, Any]:
    """The profile's values, on top of those of the profile ``base``.

    Raises:
        UsageError: there is no such profile, or it does not load.
    """
    profile = catalogue.load(base)
    device = _device(fitted, data)
    low, high = device["low_uS"], device["high_uS"]
    step = device["step"] * fitted.unit_uS
    top = high + _ROOM * device["bound_variation"][1] * (high - fitted.zero_uS)
    scale = max(profile.chip.conductance_full_scale_uS, float(math.ceil(top)))
    spread = fitted.parameters.get("device_variation")
    # A reading of the emulator has the converter's noise, too: the measured noise holds both.
    step_of_adc = scale / (2**profile.chip.adc_bits - 1)
    converter = profile.imperfections.adc_noise_lsb * step_of_adc
    reading = fitted.parameters["read_noise_uS"].estimate
    return {
        "name": "fitted-" + re.sub(r"[^a-z0-9]+", "-", fitted.model.name),
        "summary": f"{fitted.model.name} fitted to {fitted.devices} devices",
        "extends": base,
        "chip": {"conductance_full_scale_uS": scale},
        "device": device,
        "programming": {
            "window_uS": [low, high],
            "tolerance_uS": _round(max(step, 2 * scale / 65535)),
            "levels": int(min(max(round((high - low) / step), 2), 65536)),
        },
        "imperfections": {
            "read_noise_uS": _round(math.sqrt(max(reading**2 - converter**2, 0.0))),
            "device_variation": _round(spread.estimate if spread else 0.0),
            "cycle_variation": _round(fitted.parameters["cycle_variation"].estimate),
        },
    }


def write(path: Path, fitted: Fitted, data: PulseData, base: str) -> Profile:
    """Writes the profile, and loads what was written.

    Raises:
        UsageError: there is no profile ``base``.
        UsageError: the bounds that were fitted are no device's.
        ProfileError: the estimates are at odds with it.
        StorageError: no space or no permission.
    """
    values = values_of(fitted, data, base)
    _check(values)
    lines = [
        f"# {fitted.model.name}, fitted to {fitted.pulses} pulses of {fitted.devices} devices by",
        "# cimctl characterize fit. 95 % intervals; a weight of 1 stands for "
        f"{fitted.unit_uS:.6g} uS, 0 for {fitted.zero_uS:.6g} uS.",
    ]
    for name, said in fitted.parameters.items():
        ends = ["open" if end is None else f"{end:.4g}" for end in (said.low, said.high)]
        lines.append(f"#   {name}: {said.estimate:.4g} ({ends[0]} to {ends[1]})")
    lines.append("# read_noise_uS below is without the noise of the profile's converter.")
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
    write_atomically(path, ("\n".join(lines) + "\n" + text).encode())
    return catalogue.load(str(path))


def _check(values: dict[str, Any]) -> None:
    low, high = values["programming"]["window_uS"]
    if not 0 <= low < high or not math.isfinite(high):
        raise UsageError(
            f"The fitted bounds are {low:.6g} and {high:.6g} uS: no device has these, so no "
            "profile was written",
            left="The estimates are as printed",
            next="Look whether the data are responses to pulses, in uS; try another --model",
        )


def _device(fitted: Fitted, data: PulseData) -> dict[str, Any]:
    found = {name: _round(said.estimate) for name, said in fitted.parameters.items()}
    low, high = max(found["low_uS"], 0.0), found["high_uS"]
    device: dict[str, Any] = {
        "model": fitted.model.name,
        "low_uS": low,
        "high_uS": high,
        "initial_uS": [_round(fitted.zero_uS)] * 2,
        "bounds": [_round((end - fitted.zero_uS) / fitted.unit_uS) for end in (low, high)],
        "bound_variation": _pair(found, "bound_variation", "low", "high"),
        "step": found["step"],
        "step_distribution": "normal",
        "asymmetry": min(max(found["asymmetry"], -1.0), 1.0),
        "asymmetry_variation": found.get("asymmetry_variation", 0.0),
        "cycle_noise": "additive" if fitted.additive else "multiplicative",
        "write_noise": 0.0,
        "pulse": {
            "amplitude_mV": data.amplitude_mV or _PULSE[0],
            "width_ns": data.width_ns or _PULSE[1],
        },
    }
    if fitted.model.name == "linear-step":
        slope = _pair(found, "slope", "up", "down")
        device["slope"] = [max(side, 0.0) for side in slope]
        device["slope_variation"] = _pair(found, "slope_variation", "up", "down")
    if fitted.model.name == "exponential-step":
        device["amplitude"] = _pair(found, "amplitude", "up", "down")
        device["exponent"] = _pair(found, "exponent", "up", "down")
    if fitted.model.name == "power-step":
        device |= {name: value for name, value in found.items() if name.startswith("exponent")}
    return device


def _pair(found: dict[str, float], name: str, *sides: str) -> list[float]:
    return [found.get(f"{name}_{side}", 0.0) for side in sides]


def _round(value: float) -> float:
    return float(f"{value:.6g}")
