"""What a finished run says of updates, for an estimate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boards.errors import UsageError
from cimctl.mapping.cost import Updates

#: algorithms whose updates are estimated, and whether their weights live on the chip only
ALGORITHMS = {"mixed-precision": False, "sgd": True}
#: 10.8 writes a weight in 13 epochs of 400 batches of 64 (arXiv 2305.14547, LeNet)
PAPER = Updates(
    batch=64,
    steps=5200,
    per_weight=10.8,
    # Of a pair, in the mean of ``cimctl train lenet --board emu --epochs 4`` [ours].
    pulses_per_write=18.4,
    reads_per_write=20.4,
)
#: of a weight and batch, in ``cimctl train lenet --board rpu-baseline --algorithm sgd
#: --init program --set lr=0.05 --epochs 1 --batches-per-epoch 100`` [ours]
PULSES_A_STEP = 16.6


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        model, board, algorithm: what it was.
        updates: how it moved its weights.
        worst_cell_pulses: of the most used cell in its life, as the board counts; None: unknown.
    """

    model: str
    board: str
    algorithm: str
    updates: Updates
    worst_cell_pulses: int | None


def read(folder: Path) -> Run:
    """Reads the summary of a run.

    Raises:
        UsageError: there is none, or its algorithm is none whose updates are estimated.
    """
    path = folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return _run(folder, summary)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{path}' is no summary of a finished run: {error}",
            left="Nothing was estimated",
            next="Name the folder of a run that 'cimctl train' finished",
        ) from None


def _run(folder: Path, summary: dict[str, Any]) -> Run:
    algorithm = summary["algorithm"]
    if algorithm not in ALGORITHMS:
        raise UsageError(
            f"The run in '{folder}' is of {algorithm}",
            left="Nothing was estimated",
            next=f"Estimated are: {', '.join(ALGORITHMS)}",
        )
    costs, pairs = summary["costs"], max(1, summary["costs"]["writes"] / 2)
    in_memory = ALGORITHMS[algorithm]
    updates = Updates(
        batch=summary["batch_size"],
        steps=summary["epochs"] * summary["batches_per_epoch"],
        per_weight=summary["pulses_per_weight" if in_memory else "writes_per_weight"],
        pulses_per_write=(costs["set_pulses"] + costs["reset_pulses"]) / pairs,
        reads_per_write=costs["reads"] / pairs,
    )
    wear = summary["wear"] or {"worst_cell_pulses": None}
    return Run(summary["model"], summary["board"], algorithm, updates, wear["worst_cell_pulses"])
