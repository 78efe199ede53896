"""Profiles: the built-in ones load, and a wrong one says file, key and what was expected."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from boards import catalogue
from boards.errors import ProfileError, UsageError
from boards.profile import Profile

BUILT_IN = sorted(catalogue.profile_files())


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(folder: Path, key: str, value: Any) -> Path:
    """A file that extends emu with one value at a dotted key."""
    values: Any = value
    for part in reversed(key.split(".")):
        values = {part: values}
    return written(folder, yaml.safe_dump({"extends": "emu", "name": "mine", **values}))


def complaint(path: Path) -> str:
    with pytest.raises(ProfileError) as error:
        catalogue.load(str(path))
    text = str(error.value)
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def test_the_boards_of_the_paper_and_the_emulator_are_built_in() -> None:
    assert {"emu", "brram-soc", "brram-256x64"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_profile_loads_under_its_own_name(name: str) -> None:
    profile = catalogue.load(name)
    assert profile.name == name
    assert profile.summary


def test_the_reference_board_has_the_printed_numbers() -> None:
    soc = catalogue.load("brram-soc")
    assert (soc.chip.tiles, soc.chip.rows, soc.chip.columns) == (4, 64, 64)
    assert (soc.chip.input_bits, soc.chip.adc_bits) == (8, 8)
    assert soc.programming.window_uS == (8.2, 32.9)
    assert soc.programming.ramp_mV == (1500, 3000)
    assert soc.step_ns == 720 and soc.costs.tile_operation_nJ == 2.66
    tall = catalogue.load("brram-256x64")
    assert (tall.chip.rows, tall.chip.columns, tall.costs.tile_operation_nJ) == (256, 64, 2.93)


def test_a_file_takes_what_it_does_not_say_from_the_profile_that_it_extends(tmp_path: Path) -> None:
    path = written(tmp_path, "extends: emu\nname: mine\nchip: {tiles: 2}\n")
    mine, emu = catalogue.load(str(path)), catalogue.load("emu")
    assert mine.chip == msgspec.structs.replace(emu.chip, tiles=2)
    assert mine == msgspec.structs.replace(emu, name="mine", chip=mine.chip)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_path_is_told_from_a_name_by_its_ending(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, "extends: emu\nname: mine\n", "mine" + suffix)
    assert catalogue.load(str(path)).chip.tiles == 4


@pytest.mark.parametrize(
    ("key", "meant"),
    [("chip.tilse", "tiles"), ("limits.amplitude_mv", "amplitude_mV"), ("devise", "device")],
)
def test_a_misspelt_key_is_named_with_the_key_that_was_meant(
    tmp_path: Path, key: str, meant: str
) -> None:
    said = complaint(changed(tmp_path, key, 3))
    assert f"unknown key '{key}'" in said
    assert f"Did you mean '{meant}'?" in said


def test_an_unknown_key_is_answered_with_those_that_are_allowed(tmp_path: Path) -> None:
    said = complaint(changed(tmp_path, "costs.qqq", 3))
    assert "Did you mean" not in said
    assert "cycle_ns, tile_operation_nJ, pulse_ns, pulse_pJ" in said


@pytest.mark.parametrize("key", ["link.window", "chip.tiles", "device.model", "costs.cycle_ns"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    values = msgspec.to_builtins(catalogue.load("emu"))
    section, name = key.split(".")
    del values[section][name]
    assert f"key '{key}' is missing" in complaint(written(tmp_path, yaml.safe_dump(values)))


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    values = msgspec.to_builtins(catalogue.load("emu"))
    del values["limits"]
    assert "key 'limits' is missing" in complaint(written(tmp_path, yaml.safe_dump(values)))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("chip.tiles", "many", "expected `int`"),
        ("chip.tiles", 2.5, "expected `int`"),
        ("chip.tiles", [1], "expected `int`"),
        ("chip", 4, "expected `object`"),
        ("link.kind", "carrier-pigeon", "invalid enum value"),
        ("limits.width_ns", 20, "expected `array`"),
        ("limits.width_ns", [20], "length 2"),
        ("device.high_uS", None, "expected `float`"),
        ("summary", {"a": 1}, "expected `str`"),
    ],
)
def test_a_value_of_a_wrong_type_names_key_and_expectation(
    tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    said = complaint(changed(tmp_path, key, value))
    assert f"key '{key}'" in said and expected in said


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("chip.rows", 3001, "<= 3000"),
        ("chip.rows", 0, ">= 1"),
        ("chip.columns", 63, "multiple of 2"),
        ("chip.adc_bits", 13, "<= 12"),
        ("chip.pair_conversions", 3, "invalid enum value 3"),
        ("link.max_payload", 255, ">= 256"),
        ("device.set_step", 1.01, "<= 1"),
        ("device.threshold_mV", 0, "> 0"),
        ("imperfections.read_noise_uS", -0.1, ">= 0"),
        ("programming.levels", 1, ">= 2"),
        ("limits.lifetime_pulses", 1 << 32, "4294967295"),
        ("name", "Not A Name", "regex"),
    ],
)
def test_a_value_out_of_range_names_key_and_range(
    tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    said = complaint(changed(tmp_path, key, value))
    assert f"key '{key}'" in said and expected in said


@pytest.mark.parametrize(
    ("key", "value", "named", "expected"),
    [
        ("chip.adc_span_uA", [10.0, 5.0], "chip.adc_span_uA", "low below high"),
        ("chip.adc_span_uA", None, "chip.adc_span_uA", "this or the other span"),
        ("chip.adc_span_cells", [1.0, 5.0], "chip.adc_span_cells", "this or the other span"),
        ("chip.rows", 257, "chip.rows", "at most 256"),
        ("chip.column_weights", [2, 1], "chip.column_weights", "with the capability GROUPS"),
        ("chip.input_coding", "bit-planes", "chip.capabilities", "no DIFFERENTIAL"),
        (
            "chip.capabilities",
            ["TERNARY", "SIGNED_INPUTS"],
            "chip.capabilities",
            "bit-planes alone",
        ),
        ("limits.amplitude_mV", [0, 0], "limits.amplitude_mV", "low below high"),
        ("limits.pulses_per_command", 0, "limits.pulses_per_command", "at least 1"),
        ("programming.ramp_step_mV", 0, "programming.ramp_step_mV", "at least 1"),
        ("limits.amplitude_mV", [3300, 500], "limits.amplitude_mV", "low below high"),
        ("limits.width_ns", [200, 100], "limits.width_ns", "low below high"),
        ("device.low_uS", 41.0, "device.high_uS", "above device.low_uS"),
        ("device.high_uS", 41.0, "device.high_uS", "at most chip.conductance_full_scale_uS"),
        ("device.initial_uS", [20.0, 8.2], "device.initial_uS", "within device.low_uS"),
        ("programming.window_uS", [8.2, 8.2], "programming.window_uS", "low below high"),
        ("programming.window_uS", [3.9, 20.0], "programming.window_uS", "within device.low_uS"),
        ("programming.ramp_mV", [1500, 3400], "programming.ramp_mV", "within limits.amplitude_mV"),
        ("programming.read_voltage_mV", 301, "programming.read_voltage_mV", "at most"),
        ("programming.cycles_training", 21, "programming.cycles_training", "limits.cycles"),
        ("limits.cycles", 4, "programming.cycles_characterising", "limits.cycles"),
    ],
)
def test_values_at_odds_name_the_key_and_what_was_expected(
    tmp_path: Path, key: str, value: Any, named: str, expected: str
) -> None:
    said = complaint(changed(tmp_path, key, value))
    assert f"key '{named}'" in said and expected in said


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
    ],
)
@pytest.mark.parametrize(
    "key",
    [
        "link.timeout_s",
        "chip.conductance_full_scale_uS",
        "device.threshold_mV",
        "imperfections.read_noise_uS",
    ],
)
def test_numbers_that_are_not_finite_are_out_of_range(
    tmp_path: Path, key: str, value: float
) -> None:
    assert f"key '{key}'" in complaint(changed(tmp_path, key, value))


def test_a_circle_of_extends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "extends: two.yaml\n", "one.yaml")
    written(tmp_path, "extends: one.yaml\n", "two.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match=r"(one|two)\.yaml: key 'extends' goes in a circle"):
        catalogue.load("one.yaml")


def test_extends_that_is_no_name_is_named(tmp_path: Path) -> None:
    said = complaint(written(tmp_path, "extends: [emu]\n"))
    assert "key 'extends'" in said and "expected the name of a profile" in said


def test_extends_of_an_unknown_profile_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no board 'emus'.*Did you mean 'emu'"):
        catalogue.load(str(written(tmp_path, "extends: emus\n")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chip: {tiles: 2", "no YAML"),
        ("a: b: c", "no YAML"),
        ("just words", "expected keys and values, found str"),
        ("- a\n- b\n", "expected keys and values, found list"),
        ("", "expected keys and values, found NoneType"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(written(tmp_path, text))


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "no YAML" in complaint(path)


def test_yaml_that_would_make_objects_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "!!python/object/apply:os.getcwd []\n")
    assert "no YAML" in complaint(path)


def test_a_missing_file_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(UsageError, match=re.escape(f"There is no profile file '{path}'")):
        catalogue.load(str(path))


def test_an_unknown_name_is_a_usage_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="There is no board 'emo'") as error:
        catalogue.load("emo")
    for name in BUILT_IN:
        assert name in error.value.next
    assert "Did you mean 'emu'?" in error.value.next


# --- profiles of other packages ------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package with a folder of profiles, named by an entry point."""
    folder = tmp_path / "otherlab" / "profiles"
    folder.mkdir(parents=True)
    for init in (folder.parent / "__init__.py", folder / "__init__.py"):
        init.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry(monkeypatch, "otherlab.profiles")
    yield folder
    for name in [n for n in sys.modules if n.split(".")[0] == "otherlab"]:
        del sys.modules[name]


def entry(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        assert group == "cimctl.profiles"
        every = ("boards.profiles", *values)
        return [importlib.metadata.EntryPoint(v.split(".")[0], v, group) for v in every]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_another_package_adds_profiles_through_an_entry_point(package: Path) -> None:
    written(package, "extends: emu\nname: lab-chip\nchip: {tiles: 7}\n", "lab-chip.yaml")
    assert set(catalogue.profile_files()) == {*BUILT_IN, "lab-chip"}
    profile = catalogue.load("lab-chip")
    assert isinstance(profile, Profile)
    assert (profile.name, profile.chip.tiles) == ("lab-chip", 7)


def test_another_package_cannot_replace_a_built_in_profile(package: Path) -> None:
    written(package, "extends: brram-soc\nname: emu\nchip: {tiles: 7}\n", "emu.yaml")
    assert catalogue.load("emu").chip.tiles == 4


def test_a_circle_through_another_package_is_named(package: Path) -> None:
    written(package, "extends: ping\n", "pong.yaml")
    written(package, "extends: pong\n", "ping.yaml")
    with pytest.raises(ProfileError, match="goes in a circle"):
        catalogue.load("ping")


def test_a_profile_that_extends_itself_is_a_circle(package: Path) -> None:
    written(package, "extends: me\n", "me.yaml")
    with pytest.raises(ProfileError, match=r"me\.yaml: key 'extends' goes in a circle"):
        catalogue.load("me")


def test_a_wrong_profile_of_another_package_leaves_the_others_usable(package: Path) -> None:
    broken = written(package, "extends: emu\nchip: {tiles: none at all}\n", "broken.yaml")
    with pytest.raises(ProfileError, match=re.escape(str(broken))):
        catalogue.load("broken")
    assert catalogue.load("emu").name == "emu"


def test_an_entry_point_of_a_package_that_is_gone_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry(monkeypatch, "gone_package.profiles")
    with pytest.raises(UsageError, match=r"package 'gone_package\.profiles' cannot be found"):
        catalogue.profile_files()
