"""cimctl characterize: fits find what made the data, and bad data are refused by name."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binom

from boards import catalogue
from boards.device_settings import SoftBounds, decode
from cimctl.cli.root import run
from cimctl.lab.fit import Fitted, fit
from cimctl.lab.models import MODELS, sides
from cimctl.lab.population import population
from cimctl.lab.pulses import PulseData
from sim_backend.steps import mean_step

_BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fit_recovery.py"
#: chance with which a sound fit fails a test
_CHANCE = 1e-4
_TRIALS = 20


@cache
def recovery() -> Any:
    """The benchmark's generator of data with known parameters."""
    spec = importlib.util.spec_from_file_location("fit_recovery", _BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inside(fitted: Fitted, truth: dict[str, float]) -> list[bool]:
    said = [(fitted.parameters[name], value) for name, value in truth.items()]
    return [
        (e.low is None or e.low <= value) and (e.high is None or value <= e.high)
        for e, value in said
    ]


def table(data: PulseData, tail: str = "") -> str:
    lines = ["device,pulse,direction,conductance_uS"]
    for r in data.records:
        lines.append(f"{r.label},0,start,{r.start}")
        for k, (way, g) in enumerate(zip(r.directions, r.readings, strict=True), start=1):
            lines.append(f"{r.label},{k},{'up' if way > 0 else 'down'},{g}")
    return "\n".join([*lines, tail])


@cache
def some_data(model: str = "soft-bounds", seed: int = 3, devices: int = 4) -> PulseData:
    of = recovery()
    truth = of.truth(model, seed)
    data: PulseData = of.pulse_data(
        of.profile_of(model, truth, devices), truth["read_noise_uS"], 60, seed, 1
    )
    return data


@pytest.fixture
def pulses(tmp_path: Path) -> Path:
    path = tmp_path / "pulses.csv"
    path.write_text(table(some_data()), encoding="utf-8")
    return path


@pytest.mark.parametrize("model", MODELS)
def test_fit_finds_what_made_the_data(model: str) -> None:
    truth, fitted, _ = recovery().trial(model, 17)
    found = inside(fitted, truth)
    assert sum(found) >= binom.ppf(_CHANCE, len(found), 0.95)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = []
    for seed in range(300, 300 + _TRIALS):
        truth, fitted, _ = recovery().trial("soft-bounds", seed)
        held.append(inside(fitted, truth))
    # Each parameter by itself: parameters of one fit are not independent, trials are.
    counts = np.sum(held, axis=0)
    assert (counts >= binom.ppf(_CHANCE / len(counts), _TRIALS, 0.95)).all(), counts


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("upwards", [True, False])
def test_models_are_those_of_the_emulator(model: str, upwards: bool) -> None:
    of = recovery()
    truth = of.truth(model, 5)
    device = of.profile_of(model, truth, 2).device
    own = [np.log(truth["step"] * (1 + min(truth["asymmetry"], 0)))]
    own += [np.log(truth["step"] * (1 - max(truth["asymmetry"], 0))), *device.bounds]
    shared = [0.0, 0.0]
    if model == "linear-step":
        own += [truth["slope_up"] / device.bounds[1], -truth["slope_down"] / device.bounds[0]]
    if model == "power-step":
        apart = truth["exponent_asymmetry"]
        own += [np.log(truth["exponent"] * (1 + min(apart, 0)))]
        own += [np.log(truth["exponent"] * (1 - max(apart, 0)))]
    if model == "exponential-step":
        gammas = [truth[f"exponent_{side}"] for side in ("up", "down")]
        amplitudes = [truth[f"amplitude_{side}"] for side in ("up", "down")]
        shared += list(np.log(amplitudes) + gammas) + list(np.log(gammas))
    weights = np.linspace(-0.6, 0.6, 13)
    side = sides(MODELS[model], np.array(own), np.array(shared))[0 if upwards else 1]
    sign = 1 if upwards else -1
    steps = sign * side[0] * MODELS[model].factor(sign * weights, *side[1:])
    assert steps == pytest.approx(mean_step(device, weights, upwards), rel=1e-9)


def test_bounds_that_were_not_met_stay_open() -> None:
    of = recovery()
    truth = of.truth("constant-step", 4) | {"step": 0.02}
    data = of.pulse_data(of.profile_of("constant-step", truth, 4), 0.05, 15, 4)
    fitted = fit(data, MODELS["constant-step"])
    assert fitted.parameters["high_uS"].high is None
    assert fitted.parameters["low_uS"].low is None
    assert any("bound" in note for note in fitted.notes)


def test_a_population_that_is_all_alike_has_no_spread() -> None:
    found = population(np.ones((6, 1)), np.full((6, 1, 1), 0.1))
    assert found.spread[0, 0] == 0 and found.mean[0] == pytest.approx(1)


def test_pulses_without_a_reading_are_counted(tmp_path: Path) -> None:
    whole = some_data()
    lines = table(whole).splitlines()
    kept = [line for line in lines if not line[0].isdigit() or int(line.split(",")[1]) % 2 == 0]
    path = tmp_path / "half.csv"
    path.write_text("\n".join(kept), encoding="utf-8")
    from cimctl.lab.pulses import read_pulses

    half = read_pulses(path)
    assert half.pulses == whole.pulses
    assert np.isnan(half.records[0].readings).mean() == 0.5
    assert np.isfinite(fit(half, MODELS["soft-bounds"]).log_likelihood)


def test_command_writes_a_profile_that_loads_and_a_plot(
    pulses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fitted"
    arguments = ["characterize", "fit", "--data", str(pulses), "--model", "soft-bounds"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "cimctl.characterize/1"
    assert said["devices"] == 4 and said["pulses"] == 480
    step = said["parameters"]["step"]
    assert step["low"] < step["estimate"] < step["high"]
    profile = catalogue.load(said["files"]["profile"])
    assert isinstance(profile.device, SoftBounds)
    assert profile.device.step == pytest.approx(step["estimate"], rel=1e-4)
    assert Path(said["files"]["plot"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_gives_a_sound_device(model: str, tmp_path: Path) -> None:
    from cimctl.lab import fragment

    data = some_data(model)
    fragment.write(tmp_path / "device.yaml", fit(data, MODELS[model]), data, "rpu-baseline")
    values = yaml.safe_load((tmp_path / "device.yaml").read_text())
    assert decode(values["device"]).model == model


def test_measured_pulses_can_be_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "measured.csv"
    measured = ["characterize", "measure", "--board", "softbounds-20", "--tile", "0", "--rows", "2"]
    assert run([*measured, "--up", "30", "--down", "30", "--output", str(path)]) == 0
    fitted = ["characterize", "fit", "--data", str(path), "--model", "soft-bounds"]
    assert run([*fitted, "--cycle-noise", "additive", "--out", str(tmp_path)]) == 0
    assert "cycle_variation" in capsys.readouterr().out


def _without_column(text: str) -> str:
    return text.replace("conductance_uS", "siemens", 1)


def _one_way(text: str) -> str:
    return text.replace("down", "up")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without_column, ["conductance_uS", "missing", "device, pulse"]),
        (lambda t: t + "0,500,up,many", ["line 486", "conductance_uS", "'many'", "-10 to 1e+06"]),
        (lambda t: t + "0,500,up,nan", ["line 486", "conductance_uS", "'nan'"]),
        (lambda t: t + "0,500,up,2e9", ["conductance_uS", "'2e9'", "1e+06"]),
        (lambda t: t + "0,500,left,20", ["line 486", "direction", "'left'", "up, +1, 1, down"]),
        (lambda t: t + "0,500,start,20", ["line 486", "direction", "'start'", "up or down"]),
        (lambda t: t + "0,7,up,20", ["line 486", "pulse", "'7'", "line 9"]),
        (lambda t: t + "0,-1,up,20", ["line 486", "pulse", "'-1'", "whole number from 0"]),
        (lambda t: t + "0,500,up", ["line 486", "3 values", "4"]),
        (lambda t: t + "new,1,up,20", ["device 'new'", "0 pulses", "At least 10"]),
        (_one_way, ["'down'", "0 pulses", "At least 10"]),
        (lambda t: t.splitlines()[0], ["no pulses"]),
        (lambda t: "", ["it is empty", "device, pulse"]),
        (lambda t: t.replace(",", ";"), ["separated by semicolons"]),
    ],
)
def test_bad_data_are_refused_by_place(
    pulses: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    expected: list[str],
) -> None:
    pulses.write_text(change(pulses.read_text(encoding="utf-8")), encoding="utf-8")
    assert run(["characterize", "fit", "--data", str(pulses), "--model", "soft-bounds"]) == 2
    said = capsys.readouterr().err
    assert str(pulses) in said
    assert [part for part in expected if part not in said] == []


def test_an_unknown_model_is_told_the_known_ones(
    pulses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["characterize", "fit", "--data", str(pulses), "--model", "hard-bounds"]) == 2
    said = capsys.readouterr().err
    assert "hard-bounds" in said and all(name in said for name in MODELS)


def test_devices_that_do_not_move_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "still.csv"
    rows = [f"a,{k},{'up' if k < 20 else 'down'},20" for k in range(40)]
    path.write_text("\n".join(["device,pulse,direction,conductance_uS", *rows]))
    out = str(tmp_path / "out")
    arguments = ["characterize", "fit", "--data", str(path), "--out", out]
    assert run([*arguments, "--model", "soft-bounds"]) == 2
    assert "no device moves" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_a_missing_extra_is_named(
    pulses: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a)
    )
    assert run(["characterize", "fit", "--data", str(pulses), "--model", "soft-bounds"]) == 2
    said = capsys.readouterr().err
    assert package in said and "pip install 'cimctl[lab]'" in said
