"""Training runs: the same bits over every link, after every interruption, and what they send."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boards import capture, catalogue
from boards.board import Board
from boards.capture import CaptureWriter
from boards.links import InProcessLink
from cimctl import conversion, datasets
from cimctl.algorithms.settings import Settings
from cimctl.cli.root import run
from cimctl.connect import BoardOptions, connect
from cimctl.trace import play
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Interrupted, Trainer
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
SEED = 6
DIGITS = datasets.load("digits")
#: few test images: the runs below are about bits, not about accuracy
FEW = replace(DIGITS, test_images=DIGITS.test_images[:10], test_labels=DIGITS.test_labels[:10])
BATCHES, SIZE = 6, 8


def config(**changed: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": "lenet", "board": "emu", "dataset": "digits", "algorithm": "mixed-precision",
        "epochs": 1, "batches_per_epoch": BATCHES, "batch_size": SIZE, "seed": SEED,
        "initial": "read", "settings": Settings(),
    }  # fmt: skip
    return RunConfig(**(values | changed))


def trained(folder: Path, board: Board | None, **changed: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config(**changed), FEW, board, folder).run()


def in_process(seed: int = SEED, **options: Any) -> Board:
    return Board(EMU, InProcessLink(Firmware(Chip(EMU, seed))), **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the command does: sums in floating point may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of the run that every other one is compared with."""
    with in_process() as board:
        return trained(tmp_path_factory.mktemp("reference"), board)


# --- the same bits everywhere --------------------------------------------------------------------


def test_the_reference_run_wrote_weights(reference: dict[str, Any]) -> None:
    assert reference["writes_per_weight"] > 0
    assert len(reference["weights_sha256"]) == 64


@pytest.mark.parametrize(("window", "max_payload"), [(1, 256), (8, 256), (1, 1 << 20)])
def test_window_and_payload_do_not_change_the_bits(
    reference: dict[str, Any], tmp_path: Path, window: int, max_payload: int
) -> None:
    with in_process(window=window, max_payload=max_payload) as board:
        summary = trained(tmp_path, board)
    for key in ("weights_sha256", "test_accuracy", "writes_per_weight", "tile_ops", "chip_joules"):
        assert summary[key] == reference[key]


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "pty"])
def test_a_served_board_gives_the_bits_of_the_one_in_process(
    reference: dict[str, Any], tmp_path: Path, serve_emulator: Any, listen: str
) -> None:
    port, _ = serve_emulator("--board", "emu", "--listen", listen, "--seed", str(SEED))
    with connect(BoardOptions("emu", port=port)) as board:
        summary = trained(tmp_path, board)
    for key in ("weights_sha256", "test_accuracy", "writes_per_weight"):
        assert summary[key] == reference[key]


@pytest.mark.parametrize("changed", ["training", "chip"])
def test_another_seed_gives_other_bits(
    reference: dict[str, Any], tmp_path: Path, changed: str
) -> None:
    with in_process(SEED + (changed == "chip")) as board:
        summary = trained(tmp_path, board, seed=SEED + (changed == "training"))
    assert summary["weights_sha256"] != reference["weights_sha256"]


def test_a_captured_training_replays_to_the_same_answers(
    reference: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "session.cap"
    with in_process(recorder=CaptureWriter(path, {})) as board:
        summary = trained(tmp_path / "run", board)
    assert summary["weights_sha256"] == reference["weights_sha256"]
    played = play(path, InProcessLink(Firmware(Chip(EMU, SEED))))
    assert played.different == 0
    assert played.same == played.requests > 3 * BATCHES
    other = play(path, InProcessLink(Firmware(Chip(EMU, SEED + 1))))
    assert other.different > 0


def test_starting_from_programmed_weights_is_as_repeatable(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        with in_process() as board:
            digests.add(trained(tmp_path / name, board, initial="program")["weights_sha256"])
    assert len(digests) == 1


# --- interruptions -------------------------------------------------------------------------------

#: LeNet, and a module that stops before a training batch when the environment says so: it makes
#: the file READY and waits for the file GO.
MODEL = """
import os, pathlib, time
from torch import nn
from cimctl.models import lenet

class Pause(nn.Module):
    def __init__(self):
        super().__init__()
        self.batches = 0

    def forward(self, x):
        if self.training:
            self.batches += 1
            if str(self.batches) == os.environ.get("PAUSE_BEFORE_BATCH"):
                folder = pathlib.Path(os.environ["PAUSE_FOLDER"])
                (folder / "READY").touch()
                while not (folder / "GO").exists():
                    time.sleep(0.01)
        return x

def make():
    return nn.Sequential(Pause(), *lenet())
"""
EPOCHS = 2


@dataclass
class Bench:
    """A run of two epochs through the command line, whole or interrupted."""

    folder: Path
    command: list[str]

    @property
    def arguments(self) -> list[str]:
        return [
            "train", f"{self.folder / 'model.py'}:make", "--board", "emu",
            "--epochs", str(EPOCHS), "--batches-per-epoch", str(BATCHES),
            "--batch-size", str(SIZE), "--seed", str(SEED), "--json",
        ]  # fmt: skip

    def paused(self, out: Path, before_batch: int) -> subprocess.Popen[str]:
        """A run of the real command that has stopped before a batch."""
        out.mkdir()
        pause = {"PAUSE_BEFORE_BATCH": str(before_batch), "PAUSE_FOLDER": str(out)}
        process = subprocess.Popen(
            [*self.command, *self.arguments, "--out", str(out / "run")],
            env={**os.environ, **pause},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C counts, also where the tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while not (out / "READY").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    def resumed(self, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        capsys.readouterr()
        assert run(["train", "--resume", str(run_folder), "--json"]) == 0
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Bench:
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.py").write_text(MODEL)
    return Bench(folder, command)


@pytest.fixture(scope="module")
def whole(bench: Bench) -> dict[str, Any]:
    """The summary of the run that nobody interrupted."""
    out = bench.folder / "whole"
    assert run([*bench.arguments, "--out", str(out)]) == 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


COMPARED = ("weights_sha256", "test_accuracy", "writes_per_weight", "tile_ops", "chip_joules")


def test_killed_within_an_epoch_and_resumed_it_ends_with_the_same_weights(
    bench: Bench, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "killed"
    # The second epoch is three batches old, of which the checkpoint knows nothing.
    process = bench.paused(out, before_batch=BATCHES + 4)
    assert len((out / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(out / "run")["progress"]["batch"] == BATCHES
    summary = bench.resumed(out / "run", capsys)
    assert {key: summary[key] for key in COMPARED} == {key: whole[key] for key in COMPARED}


def test_the_first_interrupt_ends_with_130_and_a_checkpoint_that_goes_on_to_the_same_weights(
    bench: Bench, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stopped"
    process = bench.paused(out, before_batch=BATCHES + 3)
    process.send_signal(signal.SIGINT)
    (out / "GO").touch()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads(stdout)["exit_code"] == 130
    assert "Traceback" not in stderr
    assert f"cimctl train --resume {out / 'run'}" in stderr
    assert checkpoint.load(out / "run")["progress"]["batch"] == BATCHES + 3
    summary = bench.resumed(out / "run", capsys)
    assert {key: summary[key] for key in COMPARED} == {key: whole[key] for key in COMPARED}


def test_a_second_interrupt_stops_at_once_and_leaves_the_checkpoint_whole(
    bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    process = bench.paused(out, before_batch=2)
    before = (out / "run" / "checkpoint.pt").read_bytes()
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    # Only when the first has been heard does a second count as one.
    while "once more stops at once" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert (out / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("batch", [1, BATCHES - 1, BATCHES, BATCHES + 2])
def test_a_run_stopped_after_any_batch_goes_on_to_the_same_weights(
    tmp_path: Path, batch: int
) -> None:
    with in_process() as board:
        unbroken = trained(tmp_path / "whole", board, epochs=EPOCHS)
    with in_process() as board:
        folder = tmp_path / "broken"
        folder.mkdir()
        trainer = Trainer(config(epochs=EPOCHS), FEW, board, folder)

        def stop_after_batch(*_: float) -> None:
            trainer.stop = trainer.progress.batch == batch

        with pytest.raises(Interrupted):
            trainer.run(stop_after_batch)
    state = checkpoint.load(folder)
    assert state["progress"]["batch"] == batch
    with in_process() as board:
        resumed = Trainer(config(epochs=EPOCHS), FEW, board, folder, resume=state).run()
    assert {key: resumed[key] for key in COMPARED} == {key: unbroken[key] for key in COMPARED}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "7"], "seed"),
        (["--epochs", "9"], "epochs"),
        (["--batch-size", "9"], "batch_size"),
        (["--init", "program"], "initial"),
        (["--set", "lr=0.1"], "settings"),
        (["--algorithm", "fp32"], "algorithm"),
        (["lenet"], "model"),
    ],
)
def test_a_resume_that_contradicts_the_run_is_refused(
    bench: Bench,
    whole: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    named: str,
) -> None:
    folder = bench.folder / "whole"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["train", *options, "--resume", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_resume_with_options_that_agree_is_taken(
    bench: Bench, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(bench.folder / "whole")
    options = ["--seed", str(SEED), "--epochs", str(EPOCHS), "--json"]
    assert run(["train", "--resume", folder, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["weights_sha256"] == whole["weights_sha256"]


# --- results -------------------------------------------------------------------------------------

PROMISED = {
    "model", "board", "dataset", "algorithm", "seed", "epochs", "test_accuracy", "test_images",
    "train_images_per_second", "wall_seconds", "writes_per_weight", "tile_ops", "chip_seconds",
    "chip_joules", "training_joules", "link", "costs", "wear",
}  # fmt: skip


def test_the_summary_holds_what_is_promised(whole: dict[str, Any]) -> None:
    assert set(whole) >= PROMISED
    assert set(whole["link"]) >= {"frames", "bytes_tx", "bytes_rx", "retries"}
    assert 0 <= whole["test_accuracy"] <= 1
    assert whole["test_images"] == 300
    assert whole["schema"] == "cimctl.train/1"
    costs, wear = whole["costs"], whole["wear"]
    assert costs["tile_operations"] == whole["tile_ops"]
    assert costs["writes"] == 2 * round(whole["writes_per_weight"] * 3220)
    assert costs["time"] / 1e9 == whole["chip_seconds"]
    assert 0 < whole["training_joules"] < whole["chip_joules"]
    assert 0 < wear["worst_cell_pulses"] <= costs["set_pulses"] + costs["reset_pulses"]
    assert wear["lifetime_pulses"] == EMU.limits.lifetime_pulses


def test_evaluating_a_run_on_its_chip_gives_its_accuracy_exactly(
    bench: Bench, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(bench.folder / "whole")
    assert run(["eval", folder, "--board", "emu", "--seed", str(SEED), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["chip"] == "restored"
    assert said["test_accuracy"] == whole["test_accuracy"]
    assert said["test_images"] == 300


def test_weights_are_tested_where_training_put_them_beside_fast_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone the weights would fit by the paper's rule, and so lie elsewhere."""
    folder = str(tmp_path / "run")
    command = ["train", "lenet", "--board", "rpu-baseline", "--algorithm", "ttv2", "--epochs", "1"]
    command += ["--batches-per-epoch", "1", "--batch-size", "2", "--init", "program"]
    assert run([*command, "--set", "symmetry_pulses=2", "--out", folder, "--json"]) == 0
    trained_to = json.loads(capsys.readouterr().out)["test_accuracy"]
    seen = []
    original = conversion.mapped

    def noting(*arguments: Any, **options: Any) -> Any:
        seen.append(original(*arguments, **options).rule)
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "mapped", noting)
        assert run(["eval", folder, "--board", "rpu-baseline", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["chip"], seen) == ("restored", ["packed"])
    assert said["test_accuracy"] == trained_to


def test_a_run_from_before_there_was_a_choice_of_mapping_stays_packed() -> None:
    values = config().plain()
    assert RunConfig.from_plain(values).settings.mapping == "auto"
    del values["settings"]["mapping"]
    assert RunConfig.from_plain(values).settings.mapping == "packed"


def test_evaluating_a_run_on_another_chip_programs_it(
    bench: Bench, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bench.folder / "whole"
    before = (folder / "checkpoint.pt").read_bytes()
    assert run(["eval", str(folder), "--board", "emu", "--seed", "99", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["chip"] == "programmed"
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_without_accumulation_nothing_is_written(tmp_path: Path) -> None:
    with in_process() as board:
        summary = trained(tmp_path, board, settings=Settings(accumulate=False))
    assert summary["writes_per_weight"] == 0


def test_plain_digital_training_sends_nothing(tmp_path: Path) -> None:
    summary = trained(tmp_path, None, algorithm="fp32")
    assert set(summary["link"].values()) == {0}
    assert summary["board"] is None


# --- bytes on the wire ---------------------------------------------------------------------------

IMAGES_A_BATCH = 64
#: pixels, then the inputs of the second convolution and of the linear layer, 8 bits each
PACKED_TX = 784 + 576 + 192
#: one block of rows: 8 bits; two blocks: 9; three blocks: 10
PACKED_RX = 4 * 24 * 24 + 12 * 8 * 8 * 9 / 8 + 10 * 10 / 8


@dataclass
class Traffic:
    """What 20 training batches of 64 sent, in all and in products alone."""

    images: int
    bytes_tx: int
    bytes_rx: int
    multiply_tx: int
    multiply_rx: int


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    folder = tmp_path_factory.mktemp("traffic")
    path = folder / "session.cap"
    batches = 20
    with in_process(recorder=CaptureWriter(path, {}), max_payload=1 << 20) as board:
        wanted = config(batches_per_epoch=batches, batch_size=IMAGES_A_BATCH)
        trainer = Trainer(wanted, FEW, board, folder)
        tx, rx = board.statistics.bytes_tx, board.statistics.bytes_rx
        for chosen in trainer.order(0):
            trainer.batch(chosen)
        tx, rx = board.statistics.bytes_tx - tx, board.statistics.bytes_rx - rx
    sizes = {False: 0, True: 0}
    for record in capture.read(path):
        frame = record.frame
        assert isinstance(frame, frames.Frame)
        if frame.opcode == Opcode.VMM:
            sizes[frame.is_response] += wire_bytes(frame)
    return Traffic(batches * IMAGES_A_BATCH, tx, rx, sizes[False], sizes[True])


def wire_bytes(frame: frames.Frame) -> int:
    """Length of a frame on the line, its delimiter included."""
    encoded = frames.encode(
        frame.opcode, frame.session, frame.sequence, (frame.payload,),
        flags=frame.flags, status=frame.status,
    )  # fmt: skip
    return len(encoded)


def test_the_forward_pass_sends_the_packed_codes_within_one_percent(traffic: Traffic) -> None:
    assert traffic.multiply_tx == pytest.approx(PACKED_TX * traffic.images, rel=0.01)
    assert traffic.multiply_rx == pytest.approx(PACKED_RX * traffic.images, rel=0.01)
    # Codes cannot take less than their own bits.
    assert traffic.multiply_tx > PACKED_TX * traffic.images
    assert traffic.multiply_rx > PACKED_RX * traffic.images


def test_lenet_takes_at_most_five_kilobytes_an_image_in_training(traffic: Traffic) -> None:
    total = traffic.bytes_tx + traffic.bytes_rx
    assert total / traffic.images <= 5000
    # Programming is part of it, and was not forgotten.
    assert traffic.bytes_tx > traffic.multiply_tx


def test_the_boards_own_account_of_packed_bytes_agrees_with_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The wear of all cells, read once at the end, is much beside so short a run.
    monkeypatch.setattr("cimctl.training.trainer.wear", lambda _: None)
    with in_process(max_payload=1 << 20) as board:
        trained(tmp_path, board, batches_per_epoch=8, batch_size=IMAGES_A_BATCH)
        assert board.statistics.bytes_tx == pytest.approx(board.traffic.packed_tx, rel=0.01)
        assert board.statistics.bytes_rx == pytest.approx(board.traffic.packed_rx, rel=0.01)


def test_a_request_names_its_window_and_blocks_once_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "session.cap"
    with in_process(recorder=CaptureWriter(path, {})) as board:
        trainer = Trainer(config(batch_size=IMAGES_A_BATCH), FEW, board, tmp_path)
        trainer.batch(trainer.order(0)[0])
    requests = [
        m.VmmRequest.decode(r.frame.payload)
        for r in capture.read(path)
        if isinstance(r.frame, frames.Frame)
        and r.frame.opcode == Opcode.VMM
        and not r.frame.is_response
    ]
    assert [r.count for r in requests] == [IMAGES_A_BATCH] * 3
    assert [r.row_blocks for r in requests] == [1, 2, 3]


def test_no_thread_and_no_session_is_left_after_training(tmp_path: Path) -> None:
    before = threading.active_count()
    chip = Chip(EMU, SEED)
    with Board(EMU, InProcessLink(Firmware(chip))) as board:
        trained(tmp_path, board)
        assert chip.slots
    assert not chip.slots
    assert threading.active_count() == before
