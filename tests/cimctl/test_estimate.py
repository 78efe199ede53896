"""Estimates: update times against the paper's."""

from __future__ import annotations

import json

import pytest

from cimctl.cli.root import run
from cimctl.estimate import ALGORITHMS, Update, UpdateTimes


@pytest.mark.parametrize(
    ("algorithm", "read_every", "pulse_length", "printed"),
    [
        ("ttv2", 2, 5, 56.3),
        ("c-ttv2", 2, 5, 56.3),
        ("agad", 2, 5, 62.1),
        ("sgd", 2, 5, 30.9),
        ("mixed-precision", 2, 5, 3024.5),
        ("agad", 10, 1, 17.1),
    ],
)
def test_update_times_are_the_papers(
    algorithm: str, read_every: int, pulse_length: int, printed: float
) -> None:
    found = ALGORITHMS[algorithm](Update(512, read_every, pulse_length), UpdateTimes())
    assert round(found, 1) == pytest.approx(printed)


def test_a_faster_digital_part_leaves_pulses_and_readings() -> None:
    found = ALGORITHMS["agad"](Update(512, 2, 5), UpdateTimes(flops=1e30))
    assert found == pytest.approx(5.5 * 5 + 40 / 2)


def test_the_command_says_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "--update", "agad", "--read-every", "2", "--pulse-length", "5"]
    assert run(command) == 0
    assert capsys.readouterr().out == ("62.1 ns for each vector: agad on an array of 512 x 512\n")
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "cimctl.estimate.update/1"
    assert found["update_ns"] == pytest.approx(62.13, abs=0.01)


@pytest.mark.parametrize(
    "arguments", [[], ["--update", "adam"], ["--update", "agad", "--size", "0"]]
)
def test_a_wrong_question_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["estimate", *arguments]) == 2
    assert "--" in capsys.readouterr().err
