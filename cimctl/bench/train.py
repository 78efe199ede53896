"""How fast LeNet trains through a board, over the same network and optimizer in plain FP32."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from boards.board import Board
from boards.profile import Profile
from cimctl import datasets
from cimctl.algorithms import ALGORITHMS
from cimctl.algorithms.settings import parse
from cimctl.bench.turns import Effort, Spread, take_turns
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.spent import chip_counts, costs_since
from cimctl.training.trainer import Trainer
from firmware_protocol.constants import Capability

_MODEL, _DATA, _BATCH, _WARM_UP = "lenet", "digits", 64, 1
_PLAIN = "fp32"


@dataclass(frozen=True)
class TrainSpeed:
    """Steps of one batch of 64.

    Attributes:
        algorithm: through the board.
        images: a second of the clock.
        over_fp32: times as long as in plain FP32 on this computer, by the clock.
        over_fp32_processor: the same in this process's processor time; a board elsewhere is not
            in it.
        writes, pulses: of cells, for each step.
        link_bytes: for each image, both ways.
    """

    algorithm: str
    images: Spread
    over_fp32: Spread
    over_fp32_processor: Spread
    writes: float
    pulses: float
    link_bytes: float


def usual_algorithm(board: Board) -> str:
    """Mixed precision where there are differential pairs, integer weights where there are none."""
    return "mixed-precision" if Capability.DIFFERENTIAL in board.capabilities else "radix4"


def pulses_of_a_step(profile: Profile, algorithm: str, seed: int) -> float:
    """Pulses of a step and its share of the beginning, by the emulated chip of a profile."""
    link = msgspec.structs.replace(profile.link, kind="in-process")
    emulated = msgspec.structs.replace(profile, link=link)
    with connect(BoardOptions(profile.name, seed=seed), emulated) as board:
        return measure(board, algorithm, seed, Effort(1)).pulses


def measure(board: Board, algorithm: str, seed: int, effort: Effort) -> TrainSpeed:
    """Trains both, one batch each in turns.

    Raises:
        UnsupportedError: the board lacks what the algorithm needs.
        UsageError: the network does not fit.
    """
    torch.set_num_threads(1)
    before = chip_counts(board)
    moved = board.statistics.bytes_tx + board.statistics.bytes_rx
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            name: _steps(board, name, seed, effort.turns, Path(folder))
            for name in (algorithm, _PLAIN)
        }
        turns = take_turns(steps, effort.turns, warm_up=_WARM_UP, effort=effort)
    done = len(turns.wall[algorithm]) + _WARM_UP
    spent = costs_since(before, board)
    moved = board.statistics.bytes_tx + board.statistics.bytes_rx - moved
    return TrainSpeed(
        algorithm,
        images=turns.rate(algorithm, _BATCH),
        over_fp32=turns.ratio(algorithm, _PLAIN, wall=True),
        over_fp32_processor=turns.ratio(algorithm, _PLAIN),
        writes=spent["writes"] / done,
        pulses=(spent["set_pulses"] + spent["reset_pulses"]) / done,
        link_bytes=moved / done / _BATCH,
    )


def _steps(
    board: Board, algorithm: str, seed: int, turns: int, folder: Path
) -> Callable[[], object]:
    kind = ALGORITHMS[algorithm]
    config = RunConfig(
        model=_MODEL, board=board.profile.name, dataset=_DATA, algorithm=algorithm, epochs=1,
        batches_per_epoch=turns + _WARM_UP, batch_size=_BATCH, seed=seed,
        initial="program" if kind.IN_MEMORY else "read", settings=parse((), kind.DEFAULTS),
    )  # fmt: skip
    trainer = Trainer(config, datasets.load(_DATA, None), board, folder)
    batches = itertools.cycle(trainer.order(0))
    return lambda: trainer.batch(next(batches))
