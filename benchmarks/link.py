"""How much of a serial line's rate is used, and how many bytes go over it for a byte of codes.

The line is a pseudo-terminal of 3 Mbaud whose answers come 16 ms late (``paced_line.py``), the
board ``brram-soc`` in a process of its own.  Large batches and sparse updates take turns:

    256 to 32, 1 MiB    vectors over four tiles, requests eight times as long as answers
    64 to 64, 1 MiB     vectors of one tile, every column by itself: requests as long as answers
    update              PULSE of 1,000 cells

Achieved is the busier way's bytes over what the line carries in that time: of packed codes and cell
values alone, which the bar holds, and of all bytes.  Beside it stand one request in flight, and
steps of training.  Bytes a byte of codes are counted in process, with payloads of 1 MiB.

    python benchmarks/link.py [--turns 5] [--json benchmarks/results/link.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from paced_line import paced

from boards.board import Board
from boards.multiply import Matrix
from cimctl import datasets
from cimctl.algorithms.settings import Settings
from cimctl.bench.turns import Spread
from cimctl.connect import BoardOptions, connect
from cimctl.training.config import RunConfig
from cimctl.training.trainer import Trainer
from firmware_protocol.messages import Region

BAUD, LATENCY = 3_000_000, 0.016
#: bytes a second each way
RATE = BAUD / 10
#: share of the line rate, at least; bytes on the wire for each byte of codes, at most
BAR, BYTES_BAR = 0.95, 1.02
_CELLS, _SLOT, _BATCH = 1000, 1, 1 << 20
_STEPS = 5
_WIDE = Matrix(tuple(Region(i, 0, 64, 0, 64) for i in range(4)), row_blocks=4)
_SQUARE = Matrix((Region(0, 0, 64, 0, 64),), differential=False)


@dataclass(frozen=True)
class Used:
    """Share of the line rate of the busier way: codes and values alone, and all bytes."""

    codes: float
    wire: float


def used(board: Board, work: Callable[[], object]) -> Used:
    """What a work makes of the line."""
    before = {**vars(board.traffic), **vars(board.statistics)}
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    after = {**vars(board.traffic), **vars(board.statistics)}
    moved = {name: after[name] - before[name] for name in after}
    busiest = max("tx", "rx", key=lambda way: moved[f"bytes_{way}"])
    return Used(*(moved[f"{kind}_{busiest}"] / seconds / RATE for kind in ("packed", "bytes")))


def measure_line(port: str, turns: int, window: int | None) -> dict[str, list[Used]]:
    """Each work by itself, and a batch and an update one after the other."""
    generator = np.random.default_rng(0)
    wide, square = (
        generator.integers(0, 256, (_BATCH // m.shape[0], m.shape[0])).astype(np.uint8)
        for m in (_WIDE, _SQUARE)
    )
    with connect(BoardOptions("brram-soc", port, window=window)) as board:
        board.power_up()
        board.configure(_SLOT, board.profile.gain(60.0))

        def update() -> None:
            cells = generator.choice(64 * 64, _CELLS, replace=False)
            board.tiles[0].pulse(
                cells // 64, cells % 64, generator.choice([-1, 1], _CELLS).astype(np.int16),
                set_mV=1800, reset_mV=1800, width_ns=100,
            )  # fmt: skip

        def batch(matrix: Matrix, codes: np.ndarray[Any, Any]) -> None:
            board.multiply(matrix, codes, slot=_SLOT)

        def both(matrix: Matrix, codes: np.ndarray[Any, Any]) -> None:
            batch(matrix, codes)
            update()

        works: dict[str, Callable[[], object]] = {
            "256 to 32 and update in turn": lambda: both(_WIDE, wide),
            "64 to 64 and update in turn": lambda: both(_SQUARE, square),
            "256 to 32, 64 KiB": lambda: batch(_WIDE, wide[:256]),
            "64 to 64, 64 KiB": lambda: batch(_SQUARE, square[:1024]),
            "256 to 32, one vector": lambda: batch(_WIDE, wide[:1]),
            "update": update,
        }
        # The first of each compiles the board's kernels.
        update()
        batch(_WIDE, wide[:64])
        batch(_SQUARE, square[:64])
        found: dict[str, list[Used]] = {name: [] for name in works}
        for _ in range(turns):
            for name, work in works.items():
                found[name].append(used(board, work))
        retries = board.statistics.retries
    if retries:
        print(f"note: {retries} requests were sent again")
    return found


def measure_training(port: str) -> dict[str, float]:
    """Steps of LeNet, batch 64: seconds of one, and the share of the line rate that it makes."""
    torch.set_num_threads(1)
    config = RunConfig("lenet", "brram-soc", "digits", "mixed-precision", 1, 100, 64, 0, "read",
                       Settings())  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, connect(BoardOptions("brram-soc", port)) as board:
        trainer = Trainer(config, datasets.load("digits", None), board, Path(folder))
        order = trainer.order(0)
        trainer.batch(order[0])
        start = time.perf_counter()
        share = used(board, lambda: [trainer.batch(order[1 + i]) for i in range(_STEPS)])
        seconds = (time.perf_counter() - start) / _STEPS
    return {"seconds": seconds, "codes": share.codes, "wire": share.wire}


def measure_bytes() -> dict[str, float]:
    """Bytes on the wire for each byte of packed codes, both ways, where payloads are 1 MiB."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (1 << 14, 64)).astype(np.uint8)
    # What a ReLU leaves: half of the codes are zero.
    rectified = np.where(generator.random(codes.shape) < 0.5, 0, codes).astype(np.uint8)
    found = {}
    with connect(BoardOptions("emu")) as board:
        board.power_up()
        board.configure(_SLOT, board.profile.gain(60.0))
        for name, batch in (("uniform codes", codes), ("rectified codes", rectified)):
            before = board.statistics.bytes_tx + board.statistics.bytes_rx
            products = board.multiply(_SQUARE, batch, slot=_SLOT)
            moved = board.statistics.bytes_tx + board.statistics.bytes_rx - before
            found[name] = moved / (products.packed_tx + products.packed_rx)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"baud": BAUD, "latency_s": LATENCY, "bars": [BAR, BYTES_BAR]}
    with paced("brram-soc", BAUD, LATENCY) as port:
        print(f"share of {RATE / 1000:.0f} kB/s: {'codes and values':>36}{'all bytes':>28}")
        for name, window in (("window of the profile", None), ("one request in flight", 1)):
            print(name)
            result[name] = {}
            for work, found in measure_line(port, options.turns, window).items():
                codes, wire = (
                    Spread.of(values)
                    for values in zip(*((u.codes, u.wire) for u in found), strict=True)
                )
                print(f"  {work:30}{codes!s:>28}{wire!s:>28}")
                result[name][work] = {
                    "codes": [codes.low, codes.median, codes.high],
                    "all_bytes": [wire.low, wire.median, wire.high],
                }
        result["training_step"] = measure_training(port)
    step = result["training_step"]
    print(
        f"a step of LeNet, batch 64: {step['seconds']:.2f} s, {step['wire']:.2f} of the line rate"
    )
    result["bytes_per_packed_byte"] = measure_bytes()
    for name, ratio in result["bytes_per_packed_byte"].items():
        print(f"bytes on the wire a byte of {name}, payload 1 MiB: {ratio:.4f} (bar {BYTES_BAR})")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
