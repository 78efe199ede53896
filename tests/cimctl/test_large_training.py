"""What trainings of large networks need: varied images, a plateau's rate, bounded buffers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue, multiply
from boards.board import Board
from boards.links import InProcessLink
from boards.multiply import Matrix
from cimctl.algorithms.settings import Settings, parse
from cimctl.cli.root import run
from cimctl.datasets import Dataset
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.inputs import Inputs, crop_flip
from cimctl.training.trainer import Interrupted, Trainer
from firmware_protocol.messages import Region, Window
from sim_backend import chip as chips
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

MODEL = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding="same", groups=3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )
"""


def coloured(train: int = 64, test: int = 20, seed: int = 0) -> Dataset:
    """Images of 3 classes that noise hides a little: the channel that is brightest."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, train + test)
    images = draw.integers(0, 120, (train + test, 3, 10, 10))
    images[np.arange(train + test), labels] += 90
    pixels = images.astype(np.uint8)
    return Dataset("own", pixels[:train], labels[:train], pixels[train:], labels[train:], 3)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return f"{path}:make"


def config(model: str, *pairs: str, **changed: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": model, "board": "emu", "dataset": "own", "algorithm": "mixed-precision",
        "epochs": 3, "batches_per_epoch": 4, "batch_size": 8, "seed": 3, "initial": "program",
        "settings": parse(pairs),
    }  # fmt: skip
    return RunConfig(**(values | changed))


def opened(name: str) -> Board:
    profile = catalogue.load(name)
    return Board(profile, InProcessLink(Firmware(Chip(profile, 4))))


def trained(wanted: RunConfig, folder: Path, stop_after: int = 0) -> dict[str, Any]:
    """A whole run, or one that is stopped after so many batches and goes on with a new chip."""
    folder.mkdir()
    data = coloured()
    with opened(wanted.board) as board:
        trainer = Trainer(wanted, data, board, folder)
        if not stop_after:
            return trainer.run()

        def stop(*_: object) -> None:
            trainer.stop = trainer.progress.batch == stop_after

        with pytest.raises(Interrupted):
            trainer.run(stop)
    with opened(wanted.board) as board:
        return Trainer(wanted, data, board, folder, resume=checkpoint.load(folder)).run()


ALL = ("augment=crop-flip", "pixels=standard", "lr_schedule=plateau", "lr=0.02")


@pytest.mark.parametrize(
    ("algorithm", "board", "digital"),
    [("mixed-precision", "emu", "7"), ("sgd", "rpu-large", "0"), ("agad", "softbounds-20", "")],
)
def test_grouped_varied_and_digital_resumes_bit_for_bit(
    tmp_path: Path, model: str, algorithm: str, board: str, digital: str
) -> None:
    pairs = (*ALL, f"digital={digital}", "symmetry_pulses=4")
    wanted = config(model, *pairs, algorithm=algorithm, board=board)
    whole = trained(wanted, tmp_path / "whole")
    for after in (3, 8):
        parts = trained(wanted, tmp_path / f"parts{after}", after)
        for key in ("weights_sha256", "test_accuracy", "tile_ops", "pulses_per_weight"):
            assert parts[key] == whole[key]
    assert whole["pulses_per_weight"] + whole["writes_per_weight"] > 0


def test_settings_of_images_change_what_is_learnt(tmp_path: Path, model: str) -> None:
    digests = {
        trained(config(model, *pairs, algorithm="fp32"), tmp_path / str(n))["weights_sha256"]
        for n, pairs in enumerate([(), ALL[:1], ALL[1:2]])
    }
    assert len(digests) == 3


# --- images --------------------------------------------------------------------------------------


@given(batch=st.integers(0, 1000), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_each_image_is_a_crop_of_its_own_and_mirrored_or_not(batch: int, seed: int) -> None:
    draw = np.random.default_rng(batch)
    images = draw.integers(1, 256, (5, 3, 7, 6), dtype=np.uint8)
    kept = images.copy()
    found = crop_flip(images, seed, batch)
    assert np.array_equal(images, kept)
    assert np.array_equal(found, crop_flip(images, seed, batch))
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    for image, source in zip(found, padded, strict=True):
        crops = (source[:, y : y + 7, x : x + 6] for y in range(9) for x in range(9))
        assert any(np.array_equal(image, c) or np.array_equal(image, c[..., ::-1]) for c in crops)


def test_crops_and_mirrors_are_drawn_evenly() -> None:
    dots = np.zeros((4000, 1, 9, 9), dtype=np.uint8)
    dots[:, 0, 4, 1] = 1
    found = crop_flip(dots, 1, 2)[:, 0]
    assert np.all(found.sum((1, 2)) <= 1)
    rows = found.sum((0, 2))
    assert rows.min() > 0 and rows.std() / rows.mean() < 0.15
    # At column 1, some crops lose the dot on the left; mirrored ones have it on the right.
    columns = found.sum((0, 1)).astype(float)
    np.testing.assert_allclose(columns, columns[::-1], rtol=0.35, atol=40)


def test_another_batch_or_seed_is_cut_otherwise() -> None:
    images = coloured().train_images
    cuts = [crop_flip(images, seed, batch).tobytes() for seed, batch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(cuts)) == 3


def test_standard_pixels_have_mean_0_and_spread_1_in_each_channel() -> None:
    data = coloured()
    found = Inputs.of(Settings(pixels="standard"), data)(data.train_images)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    plain = Inputs.of(Settings(), data)(data.train_images)
    assert float(plain.min()) == 0.0 and float(plain.max()) <= 1.0


# --- learning rate -------------------------------------------------------------------------------


def test_five_flat_epochs_halve_the_rate(tmp_path: Path, model: str) -> None:
    wanted = config(model, "lr_schedule=plateau", "lr=0.01", algorithm="fp32")
    algorithm = Trainer(wanted, coloured(), None, tmp_path).algorithm
    group = algorithm.optimizer.param_groups[0]
    rates = []
    for loss in (2.0, 1.0, *[1.0] * 4, 0.99, *[0.995] * 5, 1.2, 0.9, *[0.9] * 4):
        algorithm.end_epoch(loss)
        algorithm.schedule(0.99)
        rates.append(group["lr"])
    assert rates == [0.01] * 11 + [0.005] * 7


# --- bounded buffers -----------------------------------------------------------------------------


@given(at_once=st.integers(1, 30_000), max_payload=st.integers(600, 4000), batch=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_images_unrolled_a_few_at_a_time_send_the_same_frames(
    at_once: int, max_payload: int, batch: int
) -> None:
    emu = catalogue.load("emu")
    kept = tuple(c for c in emu.chip.capabilities if c != "IMAGES")
    profile = msgspec.structs.replace(
        emu, chip=msgspec.structs.replace(emu.chip, capabilities=kept)
    )
    window = Window(2, 9, 8, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1)
    matrix = Matrix((Region(0, 0, 18, 0, 8),))
    codes = np.random.default_rng(batch).integers(0, 256, (batch, 2, 9, 8)).astype(np.uint8)
    found = []
    for limit in (1 << 40, at_once):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multiply, "_UNROLLED", limit)
            link = InProcessLink(Firmware(Chip(profile, 5)))
            with Board(profile, link, max_payload=max_payload) as board:
                board.configure(1, profile.gain(60.0))
                before = replace(board.statistics)
                products = board.multiply(matrix, codes, slot=1, window=window)
                sent = board.statistics.bytes_tx - before.bytes_tx
                found.append((products.codes.tobytes(), products.saturated, sent))
    assert found[0] == found[1]


def test_prepared_weights_take_so_many_bytes_a_device_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chips, "_WEIGHTS_LEAST", 0)
    profile = catalogue.load("emu")
    codes = np.random.default_rng(0).integers(0, 256, (3, 16)).astype(np.uint8)
    places = [Region(0, 16 * row, 16, 8 * column, 8) for row in range(4) for column in range(8)]
    answers = []
    for room in (1, 4):
        monkeypatch.setattr(chips, "_WEIGHTS_EACH", room)
        chip = Chip(profile, 1)
        with Board(profile, InProcessLink(Firmware(chip))) as board:
            board.configure(1, profile.gain(60.0))
            answers.append(
                [board.multiply(Matrix((place,)), codes, slot=1).codes for place in places * 2]
            )
        held = sum(weight.nbytes for _, weight in chip._weights.things.values())
        assert held == chip._weights.nbytes
        assert 0 < held <= room * chip.cells.conductances.size
    np.testing.assert_array_equal(*answers)


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["train", "lenet", "--board", "emu", "--device", "cuda", "--out", str(out)]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err
    assert not out.exists()
