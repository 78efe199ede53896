"""A trained network on other chips of a kind: what its accuracy loses from chip to chip."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import nn

from boards.board import Board
from boards.profile import Profile
from cimctl import conversion
from cimctl.algorithms import ALGORITHMS, MixedPrecision
from cimctl.algorithms.settings import Settings
from cimctl.connect import BoardOptions, connect
from cimctl.datasets import Dataset
from cimctl.models import build
from cimctl.training.config import RunConfig
from cimctl.training.evaluation import evaluate
from cimctl.training.inputs import Inputs
from cimctl.training.trainer import accuracy

#: training batches, and images of each, that set the converters of a network trained digitally
_RANGE_BATCHES, _RANGE_IMAGES = 20, 64
#: levels whose spacing is the unit of the programming error, as in Table 1 of arXiv 2305.14547
_LEVELS = 16


@dataclass(frozen=True, slots=True)
class Transferred:
    """One run on many chips; accuracies are 0 to 1.

    Attributes:
        run: its name.
        algorithm: that trained it.
        home: accuracy where it was trained: on its own chip, or digital.
        chips: accuracy on each other chip.
    """

    run: str
    algorithm: str
    home: float
    chips: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean loss from home to another chip."""
        return self.home - statistics.mean(self.chips)


def programmed_with(profile: Profile, sigma: float) -> Profile:
    """A profile whose programming error is ``sigma`` times the spacing of 16 levels."""
    low, high = profile.programming.window_uS
    error = sigma * (high - low) / (_LEVELS - 1)
    changed = msgspec.structs.replace(profile.imperfections, programming_error_uS=error)
    return msgspec.structs.replace(profile, imperfections=changed)


def transfer(
    run: str,
    state: dict[str, Any],
    home: float,
    data: Dataset,
    options: BoardOptions,
    profile: Profile,
    chips: Sequence[int],
    tell: Callable[[float], None],
) -> Transferred:
    """Programs a trained network on emulated chips, one after the other, and tests it.

    Args:
        run: what it is called.
        state: the checkpoint.
        home: its accuracy where it was trained.
        data: the run's data set.
        options: which board.
        profile: its profile, perhaps changed.
        chips: seeds of the chips.
        tell: is given each accuracy.

    Raises:
        UsageError: the network does not fit the board.
    """
    config = RunConfig.from_plain(state["config"])
    analog = ALGORITHMS[config.algorithm].ANALOG
    found = []
    for seed in chips:
        with connect(replace(options, seed=seed), profile) as board:
            test = evaluate if analog else _programmed
            found.append(test(state, data, board)[0])
        tell(found[-1])
    return Transferred(run, config.algorithm, home, tuple(found))


def _programmed(state: dict[str, Any], data: Dataset, board: Board) -> tuple[float, str]:
    """A network that was trained digitally, put on a chip with the converters set on it."""
    config = RunConfig.from_plain(state["config"])
    MixedPrecision.check(board, Settings())
    model = build(config.model)
    model.load_state_dict(state["model"])
    model = conversion.convert(model, board, config.settings)
    board.power_up()
    conversion.program_weights(model, board.profile.programming.cycles_characterising)
    inputs = Inputs.of(config.settings, data)
    _set_ranges(model, data, inputs)
    return accuracy(model, data, inputs=inputs), "programmed"


def _set_ranges(model: nn.Module, data: Dataset, inputs: Inputs) -> None:
    """Lets the converters follow training images; nothing else of the network changes."""
    model.eval()
    for layer in conversion.analog_layers(model):
        layer.train()
    with torch.no_grad():
        for number in range(_RANGE_BATCHES):
            first = number * _RANGE_IMAGES % len(data.train_images)
            model(inputs(data.train_images[first : first + _RANGE_IMAGES]))
