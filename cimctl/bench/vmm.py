"""How fast a board multiplies: vectors and conversions a second, beside torch on this computer.

An emulated chip and torch have one thread each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from boards.board import Board
from cimctl.bench import products
from cimctl.bench.products import Shape
from cimctl.bench.turns import Effort, Spread, take_turns

_BATCHES = (64, 4096)
#: a batch that would take longer is not measured, unless it is the smallest
_LONGEST_S = 5.0


@dataclass(frozen=True)
class VmmSpeed:
    """Products of one shape and batch; seconds of the clock.

    Attributes:
        shape, batch: what was multiplied.
        vectors, conversions: a second.
        over_matmul: times as long as ``torch.matmul`` in float32 of the same shape.
        link_share: share of the time that as many frames take that only go there and back, each
            way with the bytes of the busier one; on a slow line it may pass 1.
    """

    shape: Shape
    batch: int
    vectors: Spread
    conversions: Spread
    over_matmul: Spread
    link_share: Spread


def measure(board: Board, effort: Effort) -> list[VmmSpeed]:
    """Measures each shape with a small and a large batch, as far as the time allows."""
    torch.set_num_threads(1)
    products.configure(board)
    cases = [(shape, batch) for shape in products.shapes(board) for batch in _BATCHES]
    found = []
    for shape, batch in cases:
        if batch > _BATCHES[0] and _expected(board, shape, batch) > _LONGEST_S:
            continue
        found.append(_measure_one(board, shape, batch, effort.share(1 / len(cases))))
    return found


def _expected(board: Board, shape: Shape, batch: int) -> float:
    """Seconds of a batch, from those of a small one."""
    few = products.codes(board, shape.matrix, _BATCHES[0])
    start = time.perf_counter()
    board.multiply(shape.matrix, few, slot=products.SLOT)
    return (time.perf_counter() - start) * batch / len(few)


def _measure_one(board: Board, shape: Shape, batch: int, effort: Effort) -> VmmSpeed:
    codes = products.codes(board, shape.matrix, batch)
    inputs, weights = torch.rand(batch, shape.matrix.shape[0]), torch.rand(shape.matrix.shape)

    def multiply() -> tuple[int, int]:
        frames = board.statistics.frames
        done = board.multiply(shape.matrix, codes, slot=products.SLOT)
        return (board.statistics.frames - frames) // 2, max(done.packed_tx, done.packed_rx)

    frames, size = multiply()
    data = bytes(min(size // frames, board.room))
    turns = take_turns(
        {
            "board": multiply,
            "matmul": lambda: torch.matmul(inputs, weights),
            "link": lambda: board.ping(data, frames),
        },
        effort.turns,
        effort=effort,
    )
    return VmmSpeed(
        shape=shape,
        batch=batch,
        vectors=turns.rate("board", batch),
        conversions=turns.rate("board", batch * shape.conversions),
        over_matmul=turns.ratio("board", "matmul", wall=True),
        link_share=turns.ratio("link", "board", wall=True),
    )
