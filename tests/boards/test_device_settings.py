"""Parameters of devices: a wrong one is refused with its key, its value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from boards import catalogue, device_settings
from boards.errors import ProfileError

BASES = {
    "soft-bounds": "softbounds-20", "constant-step": "rpu-baseline", "linear-step": "ecram",
    "soft-bounds-reference": "reram-softbounds", "phase-change": "pcm", "bulk-rram": "emu",
    "ideal-steps": "native",
}  # fmt: skip


def complaint(folder: Path, base: str, changes: dict[str, Any]) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "extends": base, **changes}))
    with pytest.raises(ProfileError) as caught:
        catalogue.load(str(path))
    return f"{caught.value.what} | {caught.value.next or ''}"


@pytest.mark.parametrize(("model", "base"), BASES.items())
def test_every_profile_says_which_device_it_has(model: str, base: str) -> None:
    assert catalogue.load(base).device.model == model


@pytest.mark.parametrize(
    ("base", "key", "value", "allowed"),
    [
        ("rpu-baseline", "step", -0.001, "> 0"),
        ("rpu-baseline", "step", 0, "> 0"),
        ("rpu-baseline", "step", 2.0, "smaller than the distance of device.bounds"),
        ("rpu-baseline", "bounds", [0.6, -0.6], "low below high"),
        ("rpu-baseline", "bounds", [-0.6, float("nan")], "expected"),
        ("rpu-baseline", "bound_variation", [-0.3, 0.3], ">= 0"),
        ("rpu-baseline", "asymmetry", 1.5, "<= 1"),
        ("rpu-baseline", "asymmetry_variation", -0.01, ">= 0"),
        ("rpu-baseline", "step_distribution", "uniform", "normal, log-normal"),
        ("rpu-baseline", "low_uS", 30.0, "above device.low_uS"),
        ("softbounds-20", "bounds", [0.1, 1.0], "the lower below 0 and the upper above"),
        ("softbounds-20", "cycle_noise", "loud", "multiplicative, additive"),
        ("softbounds-20", "write_noise", -1, ">= 0"),
        ("ecram", "slope", [-0.1, 0.2], ">= 0"),
        ("ecram", "slope", [0.1], "length 2"),
        ("emu", "set_step", 1.5, "<= 1"),
    ],
)
def test_a_wrong_parameter_names_key_value_and_what_is_allowed(
    tmp_path: Path, base: str, key: str, value: Any, allowed: str
) -> None:
    said = complaint(tmp_path, base, {"device": {key: value}})
    shown = repr(value[0] if "[0]" in said else value[1] if "[1]" in said else value)
    assert f"device.{key}" in said or "device.high_uS" in said, said
    assert shown in said or "device.high_uS" in said, said
    assert allowed in said


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("imperfections", "device_variation", -0.3, ">= 0"),
        ("imperfections", "cycle_variation", -0.1, ">= 0"),
        ("imperfections", "adc_gain_variation", 0.5, "<= 0.2"),
        ("imperfections", "sneak_ratio", 1.1, "<= 1"),
        ("imperfections", "row_wire_ohm", -1, ">= 0"),
        ("imperfections", "column_wire_ohm", 1e12, "<= 1000"),
        ("chip", "input_coding", "morse", "bit-serial, pulse-width"),
    ],
)
def test_a_wrong_imperfection_does_likewise(
    tmp_path: Path, section: str, key: str, value: Any, allowed: str
) -> None:
    said = complaint(tmp_path, "rpu-baseline", {section: {key: value}})
    assert f"'{section}.{key}' is {value!r}" in said
    assert allowed in said


def test_aging_and_pulse_are_checked_in_their_own_words(tmp_path: Path) -> None:
    said = complaint(tmp_path, "pcm", {"device": {"aging": {"drift_exponent": -0.1}}})
    assert "'device.aging.drift_exponent' is -0.1" in said and ">= 0" in said
    said = complaint(tmp_path, "pcm", {"device": {"aging": {"drift": 0.1}}})
    assert "unknown key 'device.aging.drift'" in said and "drift_exponent" in said
    said = complaint(tmp_path, "pcm", {"device": {"pulse": {"threshold_mV": 1000}}})
    assert "below device.pulse.amplitude_mV" in said


def test_an_unknown_model_lists_those_there_are(tmp_path: Path) -> None:
    said = complaint(tmp_path, "emu", {"device": {"model": "soft-bound"}})
    assert "'soft-bound': there is no such model" in said
    assert "Did you mean 'soft-bounds'?" in said and "exponential-step" in said


def test_a_parameter_of_another_model_is_unknown(tmp_path: Path) -> None:
    said = complaint(tmp_path, "rpu-baseline", {"device": {"slope": [0.1, 0.1]}})
    assert "unknown key 'device.slope'" in said and "bound_variation" in said


def test_another_model_takes_the_range_of_its_base_and_nothing_else(tmp_path: Path) -> None:
    said = complaint(tmp_path, "rpu-baseline", {"device": {"model": "soft-bounds"}})
    assert "is missing" in said
    path = tmp_path / "mine.yaml"
    device = {"model": "soft-bounds", "bounds": [-1, 1], "step": 0.01,
              "pulse": {"amplitude_mV": 900, "width_ns": 5}}  # fmt: skip
    path.write_text(yaml.safe_dump({"name": "mine", "extends": "pcm", "device": device}))
    mine = catalogue.load(str(path)).device
    assert (mine.low_uS, mine.high_uS) == (0.5, 25.0)
    assert mine.aging == device_settings.Aging()


@pytest.mark.parametrize("base", BASES.values())
def test_a_profile_written_out_reads_back_the_same(tmp_path: Path, base: str) -> None:
    made = catalogue.load(base)
    path = tmp_path / "same.yaml"
    path.write_text(yaml.safe_dump(msgspec.to_builtins(made)))
    assert catalogue.load(str(path)) == made


def test_the_example_of_the_documentation_is_a_sound_profile(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "mine.yaml"
    path.write_text(example)
    assert catalogue.load(str(path)).device.model == "soft-bounds"


@pytest.mark.parametrize(
    ("change", "key", "allowed"),
    [
        ({"step": 1e-30}, "device.step", "distance of device.bounds / 1e+06"),
        ({"pulse": {"amplitude_mV": 9000}}, "device.pulse.amplitude_mV", "limits.amplitude_mV"),
        ({"pulse": {"width_ns": 1e6}}, "device.pulse.width_ns", "limits.width_ns"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(
    tmp_path: Path, change: dict[str, Any], key: str, allowed: str
) -> None:
    said = complaint(tmp_path, "rpu-baseline", {"device": change})
    assert f"key '{key}'" in said and allowed in said
