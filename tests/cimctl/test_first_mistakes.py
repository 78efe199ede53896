"""What a stranger does in the first hour: one clear message, and nothing harmed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cimctl.algorithms import settings
from cimctl.cli.root import run

TINY = ("--epochs", "1", "--batches-per-epoch", "2", "--batch-size", "4")
Trained = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> Trained:
    """Runs a tiny training; gives its folder and summary."""

    def train(*options: str) -> tuple[Path, dict[str, Any]]:
        out = elsewhere / "run"
        command = ["train", "lenet", "--board", "emu", *TINY, "--out", str(out), *options]
        assert run(command) == 0
        capsys.readouterr()
        return out, json.loads((out / "summary.json").read_text())

    return train


@pytest.mark.parametrize(
    ("layers", "culprit"),
    [
        ("nn.Flatten(), nn.Linear(784, 7)", "(1, 10) was expected"),
        ("nn.Flatten(), nn.Linear(50, 10)", "does not take images"),
        ("nn.Flatten(), nn.ReLU(), nn.AdaptiveAvgPool1d(10)", "no linear or convolutional layer"),
    ],
)
def test_a_model_of_ones_own_that_does_not_fit_the_data_is_told_so(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], layers: str, culprit: str
) -> None:
    text = f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n"
    (elsewhere / "mine.py").write_text(text)
    assert run(["train", "mine.py:make", "--board", "emu", *TINY, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert culprit in said and "Traceback" not in said
    assert not (elsewhere / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("train", "lenet", "--board", "emu", "--out", ""),
        ("train", "lenet", "--board", "emu", "--threads", "100000"),
        ("train", "lenet", "--board", "emu", "--batch-size", "99999999"),
        ("train", "lenet", "--board", "emu", "--seed", str(2**64)),
        ("pulse", "--board", "emu", "--tile", "0", "--input", "x", "--set-mv", str(2**40)),
        ("pulse", "--board", "emu", "--tile", "0", "--input", "x", "--width-ns", str(2**40)),
        ("read", "--board", "emu", "--tile", "0", "--row", str(2**70)),
    ],
)
def test_numbers_beyond_reason_are_usage_errors(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert run(options) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("0.001", 1e-3), ("1", 1.0)]
)
def test_a_learning_rate_is_read_however_it_is_spelled(text: str, value: float) -> None:
    assert settings.parse((f"lr={text}",)).lr == value


def test_values_with_an_e_in_them_stay_what_they_are() -> None:
    parsed = settings.parse(("accumulate=false", "weight_copy=read-back", "optimizer.eps=1e-6"))
    assert parsed.accumulate is False
    assert parsed.weight_copy == "read-back"
    assert parsed.optimizer_arguments == {"eps": 1e-6}


def test_resuming_a_finished_run_leaves_it_as_it_is(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = trained()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["train", "--resume", str(folder), "--set", "lr=0.5"]) == 2
    assert "with lr 0.004, not 0.5" in capsys.readouterr().err
    assert run(["train", "--resume", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert "complete" in said.err
    assert json.loads(said.out)["weights_sha256"] == summary["weights_sha256"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_resume_on_another_chip_says_so_and_programs_it(
    trained: Trained,
    serve_emulator: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cimctl.training.trainer import Interrupted, Trainer

    def stopped(self: Trainer, *_: Any) -> None:
        self.save()
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", stopped)
        out = Path("run")
        assert run(["train", "lenet", "--board", "emu", *TINY, "--out", str(out)]) == 130
    port, _ = serve_emulator("--board", "emu", "--seed", "9")
    capsys.readouterr()
    assert run(["train", "--resume", str(out), "--port", port]) == 0
    assert "another chip" in capsys.readouterr().err


def test_an_evaluation_of_an_unfinished_run_says_how_far_it_is(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained()
    from cimctl.training import checkpoint

    state = checkpoint.load(folder)
    state["progress"]["batch"] = 1
    checkpoint.save(folder / checkpoint.NAME, state)
    assert run(["eval", str(folder), "--board", "emu"]) == 0
    assert "batch 1 of 2" in capsys.readouterr().err


def test_a_full_output_is_a_storage_error(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "board", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 8
    assert "No space left" in done.stderr and "Traceback" not in done.stderr


def test_an_empty_table_holds_no_numbers(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "empty.csv").write_text("")
    command = ["vmm", "--board", "emu", "--tile", "0", "--input", "empty.csv"]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "holds no numbers" in said and "Warning" not in said


def test_an_input_file_that_is_not_there_is_named(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["vmm", "--board", "emu", "--tile", "0", "--input", "none.csv"]) == 2
    assert capsys.readouterr().err == "Error: There is no file 'none.csv'. Nothing was sent.\n"
