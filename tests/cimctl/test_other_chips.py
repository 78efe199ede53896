"""A trained run on other chips, beside runs that were trained digitally."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boards import catalogue
from cimctl.algorithms.quantised import QuantisationAware, rounded
from cimctl.algorithms.settings import Settings
from cimctl.cli.root import run
from cimctl.training.transfer import programmed_with

SHORT = ["--board", "emu", "--epochs", "2", "--batches-per-epoch", "30", "--json"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for algorithm in ("mixed-precision", "fp32", "qat"):
        made[algorithm] = str(folder / algorithm)
        assert (
            run(["train", "lenet", "--algorithm", algorithm, *SHORT, "--out", made[algorithm]]) == 0
        )
    return made


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["eval", *arguments, "--board", "emu", "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_every_run_is_tested_on_so_many_chips_none_of_them_its_own(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = evaluated(capsys, *runs.values(), "--chips", "2", "--out", str(tmp_path / "out"))
    assert [r["algorithm"] for r in said["runs"]] == list(runs)
    for result in said["runs"]:
        assert len(result["chips"]) == 2
        # 300 images; chance is 0.1.
        assert min(result["chips"]) > 0.5
        mean = sum(result["chips"]) / 2
        assert result["loss"] == pytest.approx(result["home"] - mean)
        kept = json.loads((Path(result["run"]) / "summary.json").read_text())
        assert result["home"] == kept["test_accuracy"]
    assert json.loads((tmp_path / "out" / "transfer.json").read_text()) == {
        key: value for key, value in said.items() if key != "schema"
    }
    alone = evaluated(capsys, runs["mixed-precision"], "--seed", "2")
    assert said["runs"][0]["chips"][1] == alone["test_accuracy"]


def test_a_larger_programming_error_costs_accuracy(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = (
        evaluated(capsys, runs["fp32"], "--chips", "2", "--program-sigma", sigma)["runs"][0][
            "chips"
        ]
        for sigma in ("0", "6")
    )
    assert max(many) < min(few) - 0.1


def test_sigma_is_in_spacings_of_sixteen_levels() -> None:
    profile = catalogue.load("brram-256x64")
    # Table 1 of arXiv 2305.14547: 0.5 s is 0.2 uA at 0.2 V.
    error = programmed_with(profile, 0.5).imperfections.programming_error_uS
    assert error == pytest.approx(profile.imperfections.programming_error_uS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "emu", "--program-sigma", "1"], "go with --chips"),
        (["--board", "brram-soc", "--chips", "2"], "no emulated chip"),
        (["--board", "emu", "--chips", "2", "--port", "/dev/none"], "leave out --port"),
    ],
)
def test_what_makes_no_sense_ends_with_exit_code_2(
    runs: dict[str, str], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", runs["fp32"], *arguments]) == 2
    assert said in capsys.readouterr().err


def test_quantisation_aware_weights_are_levels_and_learn_below_a_level() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3))
    settings = Settings(levels=4, optimizer="SGD", lr=0.01, weight_decay=0)
    algorithm = QuantisationAware(model, None, settings, 0)
    weight, start = model[0].weight, algorithm.exact[0].clone()
    for _ in range(5):
        unit = float(weight.detach().abs().max()) / 3
        steps = weight.detach() / unit
        assert torch.allclose(steps, steps.round(), atol=1e-5)
        model.zero_grad()
        model(torch.ones(1, 6)).sum().backward()
        algorithm.step()
    # A gradient of 1 each time, whatever the rounding.
    assert torch.allclose(algorithm.exact[0], start - 0.05, atol=1e-6)
    again = QuantisationAware(nn.Sequential(nn.Linear(6, 3)), None, settings, 0)
    again.load_state_dict(algorithm.state_dict())
    assert torch.equal(again.exact[0], algorithm.exact[0])


def test_weights_that_are_all_zero_stay() -> None:
    assert not rounded(torch.zeros(3), 7).any()


@pytest.mark.parametrize("chips", [[], ["--chips", "1"]], ids=["one", "many"])
def test_a_board_that_cannot_hold_the_run_is_refused_before_anything_is_sent(
    runs: dict[str, str], chips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", runs["mixed-precision"], "--board", "cap-imc-16nm", *chips]) == 2
    assert "DIFFERENTIAL" in capsys.readouterr().err


def test_a_chip_of_another_model_is_programmed_whatever_its_seed(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["eval", runs["mixed-precision"], "--board", "brram-256x64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chip"] == "programmed"
