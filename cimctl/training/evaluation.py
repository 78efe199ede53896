"""Testing a trained run on a board."""

from __future__ import annotations

from typing import Any

from boards.board import Board
from cimctl import conversion
from cimctl.algorithms import ALGORITHMS
from cimctl.datasets import Dataset
from cimctl.models import build
from cimctl.training.config import RunConfig
from cimctl.training.inputs import Inputs
from cimctl.training.trainer import accuracy, is_same_chip, load_layers
from firmware_protocol.constants import Capability


def evaluate(state: dict[str, Any], data: Dataset, board: Board | None) -> tuple[float, str]:
    """Tests the run of a checkpoint.

    Args:
        state: the checkpoint.
        data: the run's data set.
        board: an open board; None for a run in plain FP32.

    Returns:
        Test accuracy, 0 to 1, and how the chip came by its weights: ``restored``, ``as found``,
        ``programmed``, or ``none``.
    """
    config = RunConfig.from_plain(state["config"])
    model = build(config.model)
    if board is not None:
        kind = ALGORITHMS[config.algorithm]
        kind.check(board, config.settings)
        # Weights that are there already lie where training put them, beside its further arrays.
        alone = not is_same_chip(board, state["board"])
        model = kind.convert(model, board, config.settings, alone=alone)
    model.load_state_dict(state["model"])
    chip = "none"
    if board is not None:
        load_layers(model, state["layers"])
        board.power_up()
        chip = _weights_to(board, model, state["board"])
    return accuracy(model, data, inputs=Inputs.of(config.settings, data)), chip


def _weights_to(board: Board, model: Any, saved: dict[str, Any]) -> str:
    same = is_same_chip(board, saved)
    if same and saved["snapshot"] is not None and Capability.SNAPSHOT in board.capabilities:
        board.restore(saved["snapshot"])
        return "restored"
    if same and board.status().operations == saved["operations"]:
        return "as found"
    for layer in conversion.analog_layers(model):
        layer.put(board.profile.programming.cycles_characterising)
    return "programmed"
