"""The training loop, and what a run writes down."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from boards.board import Board
from boards.errors import UsageError
from cimctl import conversion, files
from cimctl.algorithms import ALGORITHMS, Algorithm
from cimctl.algorithms.base import make_optimizer
from cimctl.analog.layers import AnalogLayer
from cimctl.analog.lstm import stacked
from cimctl.datasets import Dataset
from cimctl.memory import keep_freed
from cimctl.models import build
from cimctl.training import checkpoint
from cimctl.training.config import RunConfig
from cimctl.training.inputs import Inputs, crop_flip
from cimctl.training.spent import chip_counts, costs_since, wear
from firmware_protocol.constants import Capability

_EVAL_BATCH = 500
#: test images that the accuracy after each epoch is measured on
_EPOCH_TEST_IMAGES = 1000
_LINK_COUNTS = ("frames", "bytes_tx", "bytes_rx", "retries")


class Interrupted(Exception):
    """The user asked to stop; the checkpoint is written."""


@dataclass
class Progress:
    """How far a run is, kept in checkpoints.

    Attributes:
        batch: batches done.
        train_seconds: spent in training batches.
        wall_seconds: spent in all.
        link: counts of earlier sessions of this run.
        chip_start: the chip's counters when the run began.
        loss, correct: sums over the current epoch.
        test_energy: picojoules of the chip that test images took.
    """

    batch: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    link: dict[str, int] = field(default_factory=dict)
    chip_start: dict[str, int] = field(default_factory=dict)
    loss: float = 0.0
    correct: int = 0
    test_energy: int = 0


class Trainer:
    """One run: a model on a board, or in plain FP32.

    Args:
        config: what to train.
        data: images and labels.
        board: an open board; None for an algorithm that needs none.
        folder: takes metrics, checkpoint and summary.
        notify: takes messages for the user.
        resume: state of a checkpoint to go on from.
        device: where torch does the digital part.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        board: Board | None,
        folder: Path,
        *,
        notify: Callable[[str], None] = lambda _: None,
        resume: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.data, self.board, self.folder = config, data, board, folder
        self._notify = notify
        self.progress = Progress()
        self.stop = False
        #: batch that the checkpoint on the disk stands at; None before there is one
        self.saved = None if resume is None else int(resume["progress"]["batch"])
        self._began = time.perf_counter()
        keep_freed()
        torch.manual_seed(config.seed)
        model = build(config.model)
        _try(model, data)
        self._inputs = Inputs.of(config.settings, data, device)
        kind = ALGORITHMS[config.algorithm]
        bound = config.settings.initial_bound or kind.INITIAL_BOUND
        if bound:
            conversion.draw_weights(model, bound)
        self._analog = board if kind.ANALOG else None
        if self._analog is not None:
            kind.check(self._analog, config.settings)
            model = kind.convert(model, self._analog, config.settings)
            if not conversion.analog_layers(model):
                raise UsageError(
                    f"Model '{config.model}' has no linear or convolutional layer for the chip",
                    left="Nothing was trained",
                )
            self._analog.power_up()
        self.model = model.to(device)
        # Refuses wrong settings before a cell is programmed.
        make_optimizer(model, config.settings)
        held = False
        if resume is None:
            self._initialise()
        else:
            held = self._load_model(resume)
        self.algorithm = kind(model, self._analog, config.settings, config.seed)
        if resume is not None:
            self.algorithm.load_state_dict(resume["algorithm"])
            self._trim_metrics()
        if self._analog is not None and not held:
            self.algorithm.prepare()
        if self._analog is not None and resume is None:
            self.progress.chip_start = chip_counts(self._analog)

    # ------------------------------------------------------------------ running

    def run(self, on_batch: Callable[[float, Algorithm], None] = lambda *_: None) -> dict[str, Any]:
        """Trains to the end, tests, and writes the summary.

        Args:
            on_batch: called with the loss and the algorithm after each batch.

        Raises:
            Interrupted: ``stop`` was set; the checkpoint holds the state after the last batch.
        """
        per_epoch = self.config.batches_per_epoch
        if self.progress.batch == 0:
            self.save()
        while self.progress.batch < self.config.batches:
            epoch, batch = divmod(self.progress.batch, per_epoch)
            order = self.order(epoch)
            for number in range(batch, per_epoch):
                loss = self.batch(order[number])
                on_batch(loss, self.algorithm)
                if self.stop and number + 1 < per_epoch:
                    break
            else:
                # A whole epoch is ended also when it is the last: a resume begins with the next.
                self._end_epoch(epoch)
            self.save()
            if self.stop:
                raise Interrupted
        summary = self._summary()
        files.write_json(self.folder / "summary.json", summary)
        return summary

    def order(self, epoch: int) -> np.ndarray[Any, Any]:
        """(batches, batch size) image numbers: drawn afresh each epoch, no image twice a pass."""
        generator = np.random.default_rng([self.config.seed, epoch])
        wanted = self.config.batches_per_epoch * self.config.batch_size
        images = len(self.data.train_images)
        passes = [generator.permutation(images) for _ in range(-(-wanted // images))]
        return np.concatenate(passes)[:wanted].reshape(-1, self.config.batch_size)

    def batch(self, chosen: np.ndarray[Any, Any]) -> float:
        """Trains on the chosen images; returns the loss."""
        start = time.perf_counter()
        images = self.data.train_images[chosen]
        if self.config.settings.augment == "crop-flip":
            images = crop_flip(images, self.config.seed, self.progress.batch)
        inputs = self._inputs(images)
        labels = torch.from_numpy(self.data.train_labels[chosen]).to(inputs.device)
        self.model.train()
        self.algorithm.optimizer.zero_grad()
        epoch = self.progress.batch // self.config.batches_per_epoch
        self.algorithm.schedule(self.progress.batch / self.config.batches, epoch)
        outputs = self.model(inputs)
        loss = nn.functional.cross_entropy(outputs, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.algorithm.step()
        value = float(loss.detach())
        if not math.isfinite(value) and math.isfinite(self.progress.loss):
            self._notify(
                f"The loss is {value} from batch {self.progress.batch + 1} on: the learning rate "
                "is probably too large"
            )
        self.progress.loss += value
        self.progress.correct += int((outputs.detach().argmax(1) == labels).sum())
        self.progress.batch += 1
        self.progress.train_seconds += time.perf_counter() - start
        return value

    def _end_epoch(self, epoch: int) -> None:
        per_epoch = self.config.batches_per_epoch
        self.algorithm.read_back()
        self.algorithm.end_epoch(self.progress.loss / per_epoch)
        tested = min(_EPOCH_TEST_IMAGES, len(self.data.test_images))
        line = {
            "epoch": epoch + 1,
            "loss": self.progress.loss / per_epoch,
            "train_accuracy": self.progress.correct / (per_epoch * self.config.batch_size),
            "test_accuracy": self._tested(tested),
            "test_images": tested,
            "writes_per_weight": self.algorithm.writes_per_weight,
            "pulses_per_weight": self.algorithm.pulses_per_weight,
            "train_seconds_so_far": self.progress.train_seconds,
        }
        self.progress.loss, self.progress.correct = 0.0, 0
        files.append_line(self.folder / "metrics.jsonl", json.dumps(line))

    def _trim_metrics(self) -> None:
        """Drops epochs that were written down and then lost with the checkpoint's successor."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            done = self.progress.batch // self.config.batches_per_epoch
            lines = path.read_text().splitlines(keepends=True)[:done]
            files.write_atomically(path, "".join(lines).encode())

    def accuracy(self, images: int | None = None) -> float:
        """Share of the first ``images`` test images, all by default, that are classified right."""
        return accuracy(self.model, self.data, images, self._inputs)

    def _tested(self, images: int | None = None) -> float:
        """``accuracy``, its energy kept apart from that of training."""
        before = self._energy()
        found = self.accuracy(images)
        self.progress.test_energy += self._energy() - before
        return found

    def _energy(self) -> int:
        return 0 if self._analog is None else chip_counts(self._analog)["energy"]

    # ------------------------------------------------------------------ state

    def save(self) -> None:
        """Writes the checkpoint."""
        self.progress.wall_seconds += time.perf_counter() - self._began
        self._began = time.perf_counter()
        board = None if self._analog is None else self._board_state(self._analog)
        if self.progress.batch % self.config.batches_per_epoch:
            # After the snapshot: a run that was never stopped does not read within an epoch.
            self.algorithm.read_back()
        state = {
            "config": self.config.plain(),
            "data": self.data.fingerprint,
            "model": self.model.state_dict(),
            "layers": [_layer_state(layer) for layer in conversion.analog_layers(self.model)],
            "algorithm": self.algorithm.state_dict(),
            "random": torch.get_rng_state(),
            "board": board,
            "progress": {**vars(self.progress), "link": self._link_counts()},
        }
        checkpoint.save(self.folder / checkpoint.NAME, state)
        self.saved = self.progress.batch

    @staticmethod
    def _board_state(board: Board) -> dict[str, Any]:
        status = board.status()
        offers = Capability.SNAPSHOT in board.capabilities
        return {
            "profile": board.profile.name,
            "model": board.hello.model,
            "board_id": board.hello.board_id,
            "boot_id": board.hello.boot_id,
            "operations": status.operations,
            "snapshot": board.snapshot() if offers else None,
        }

    def _initialise(self) -> None:
        if self._analog is None:
            return
        writes = self._analog.status().writes
        lowest, highest = self._analog.profile.device.initial_uS
        in_memory = ALGORITHMS[self.config.algorithm].IN_MEMORY
        if in_memory and self.config.initial == "read" and not writes and lowest == highest:
            raise UsageError(
                "This chip was never programmed and all its weights are 0: nothing can be learnt "
                "from there",
                left="Nothing was trained",
                next="Start from programmed weights: --init program",
            )
        if writes and self.config.initial == "read":
            self._notify(
                f"This chip has been programmed before ({writes} cell writes): training starts "
                "from what it holds; --init program starts afresh"
            )
        if self.config.initial == "program":
            conversion.program_weights(
                self.model, self._analog.profile.programming.cycles_characterising
            )
            for layer in conversion.analog_layers(self.model):
                layer.writes = 0
        else:
            conversion.read_weights(self.model, self.config.settings.initial_gain)

    def _load_model(self, state: dict[str, Any]) -> bool:
        """Takes a checkpoint's state; returns whether the chip's cells are still the run's."""
        if state["data"] != self.data.fingerprint:
            raise UsageError(
                f"The images of '{self.config.dataset}' are not those that the run began with",
                left="Nothing was trained",
                next="Give the same --dataset and --data-dir",
            )
        self.model.load_state_dict(state["model"])
        self.progress = Progress(**state["progress"])
        load_layers(self.model, state["layers"])
        torch.set_rng_state(state["random"])
        return self._analog is None or self._load_board(self._analog, state["board"])

    def _load_board(self, board: Board, saved: dict[str, Any]) -> bool:
        """Brings the chip back to the checkpoint, or the checkpoint to the chip.

        Returns:
            Whether its cells are still the run's; otherwise only the weights were programmed.
        """
        if not is_same_chip(board, saved):
            self._notify(
                "This is another chip than the run began on: it is programmed with the weights, "
                "and the result will differ"
            )
            for layer in conversion.analog_layers(self.model):
                layer.put()
            return False
        if saved["snapshot"] is not None and Capability.SNAPSHOT in board.capabilities:
            board.restore(saved["snapshot"])
        elif board.status().operations < saved["operations"]:
            self._notify(
                "This chip does not hold the run any more: it is programmed with the weights, and "
                "the result will differ"
            )
            for layer in conversion.analog_layers(self.model):
                layer.put()
            return False
        elif board.status().operations != saved["operations"]:
            self._notify("The chip was written to since the checkpoint: its cells are read again")
            for layer in conversion.analog_layers(self.model):
                layer.weight.data.copy_(layer.read_weights())
        return True

    # ------------------------------------------------------------------ summary

    def _link_counts(self) -> dict[str, int]:
        before = self.progress.link
        now = {} if self._analog is None else vars(self._analog.statistics)
        return {name: before.get(name, 0) + now.get(name, 0) for name in _LINK_COUNTS}

    def _summary(self) -> dict[str, Any]:
        test_accuracy = self._tested()
        spent = costs_since(self.progress.chip_start, self._analog)
        self.progress.wall_seconds += time.perf_counter() - self._began
        images = self.config.batches * self.config.batch_size
        return {
            "schema": "cimctl.train/1",
            "model": self.config.model,
            "board": None if self.board is None else self.board.profile.name,
            "dataset": self.config.dataset,
            "algorithm": self.config.algorithm,
            "seed": self.config.seed,
            "epochs": self.config.epochs,
            "batches_per_epoch": self.config.batches_per_epoch,
            "batch_size": self.config.batch_size,
            "settings": self.config.plain()["settings"],
            "test_accuracy": test_accuracy,
            "test_images": len(self.data.test_images),
            "train_images_per_second": images / max(self.progress.train_seconds, 1e-9),
            "wall_seconds": self.progress.wall_seconds,
            "writes_per_weight": self.algorithm.writes_per_weight,
            "pulses_per_weight": self.algorithm.pulses_per_weight,
            "tile_ops": spent["tile_operations"],
            "chip_seconds": spent["time"] / 1e9,
            "chip_joules": spent["energy"] / 1e12,
            "training_joules": (spent["energy"] - self.progress.test_energy) / 1e12,
            "costs": spent,
            "wear": wear(self._analog),
            "weights_sha256": weights_digest(self.model),
            "link": self._link_counts(),
        }


def _try(model: nn.Module, data: Dataset) -> None:
    """Runs a model on one image, digitally, before anything is programmed.

    Raises:
        UsageError: it does not take the images, or does not give a number for each class.
    """
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(Inputs()(data.train_images[:1]))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"The model does not take images of {data.train_images.shape[1:]}: {error}",
            left="Nothing was trained",
        ) from None
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != (1, data.classes):
        raise UsageError(
            f"The model gives {shape} for one image; (1, {data.classes}) was expected, a number "
            f"for each class of '{data.name}'",
            left="Nothing was trained",
        )


def accuracy(
    model: nn.Module, data: Dataset, images: int | None = None, inputs: Inputs | None = None
) -> float:
    """Share of the first ``images`` test images, all by default, that a model classifies right."""
    model.eval()
    inputs = inputs or Inputs()
    count = images or len(data.test_images)
    right = 0
    with torch.no_grad():
        for first in range(0, count, _EVAL_BATCH):
            last = min(first + _EVAL_BATCH, count)
            outputs = model(inputs(data.test_images[first:last]))
            labels = torch.from_numpy(data.test_labels[first:last])
            right += int((outputs.argmax(1).cpu() == labels).sum())
    return right / count


def is_same_chip(board: Board, saved: dict[str, Any]) -> bool:
    """Whether a board is the one of a checkpoint; older checkpoints do not say its model."""
    hello = board.hello
    return (hello.board_id, hello.model) == (saved["board_id"], saved.get("model", hello.model))


def load_layers(model: nn.Module, saved: list[dict[str, Any]]) -> None:
    """Brings back the converters and write counts of the analog layers."""
    for layer, state in zip(conversion.analog_layers(model), saved, strict=True):
        for name, value in state["ranges"].items():
            setattr(layer.ranges, name, value)
        layer.writes = state["writes"]
        if layer.chip is not None:
            layer.chip.load_state_dict(state["chip"])


def _layer_state(layer: AnalogLayer) -> dict[str, Any]:
    chip = None if layer.chip is None else layer.chip.state_dict()
    return {"ranges": vars(layer.ranges), "writes": layer.writes, "chip": chip}


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the digital weights, layer by layer, as little-endian float32."""
    digest = hashlib.sha256()
    for module in model.modules():
        if isinstance(module, nn.LSTMCell):
            module = stacked(module)
        if isinstance(module, AnalogLayer | nn.Conv2d | nn.Linear):
            digest.update(module.weight.detach().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
