"""How fast a link is: round trips, bytes each way, frames a second, and what the window brings."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from boards.board import Board
from cimctl.bench import products
from cimctl.bench.turns import Effort, Spread, take_turns
from firmware_protocol.constants import MIN_PAYLOAD

_FRAMES = 64
_SMALL = 1024
#: a large payload may take this long on a slow line, and all of a turn that long
_PAYLOAD_SECONDS, _TURN_SECONDS = 0.05, 1.0
#: large payloads of a turn, in windows
_PAYLOADS = 4
#: bytes of vectors that the frames' own bytes are compared with
_VECTOR_BYTES = 1 << 16


@dataclass(frozen=True)
class LinkSpeed:
    """What was measured; seconds of the clock.

    Attributes:
        round_trip: seconds of the smallest request and its answer.
        frames: requests a second, the window full.
        frames_gain: times as many as with one in flight.
        payload: bytes of a large payload.
        throughput: payload bytes a second each way, both ways at once.
        throughput_gain: times as many as with one in flight.
        overhead: bytes on the wire for each byte of packed codes, in products.
        window: requests in flight.
    """

    round_trip: Spread
    frames: Spread
    frames_gain: Spread
    payload: int
    throughput: Spread
    throughput_gain: Spread
    overhead: float
    window: int


def measure(board: Board, effort: Effort) -> LinkSpeed:
    """Measures by PING, which a board echoes whatever it holds, and by one batch of products."""
    overhead = _overhead(board)
    payload, count = _large(board)
    data = np.random.default_rng(0).bytes(payload)
    frames = _frames(board)
    found = take_turns(
        {
            "one": lambda: board.ping(b"", frames, 1),
            "window": lambda: board.ping(b"", frames),
            "large, one": lambda: board.ping(data, count, 1),
            "large, window": lambda: board.ping(data, count),
        },
        effort.turns,
        effort=effort,
    )
    return LinkSpeed(
        round_trip=Spread.of([seconds / frames for seconds in found.wall["one"]]),
        frames=found.rate("window", frames),
        frames_gain=found.ratio("one", "window", wall=True),
        payload=payload,
        throughput=found.rate("large, window", payload * count),
        throughput_gain=found.ratio("large, one", "large, window", wall=True),
        overhead=overhead,
        window=board.window,
    )


def _frames(board: Board) -> int:
    """Small requests of a turn: a window at least, which take no longer than a turn may."""
    start = time.perf_counter()
    board.ping()
    once = time.perf_counter() - start
    return max(board.window, min(_FRAMES, int(_TURN_SECONDS / 4 / once)))


def _large(board: Board) -> tuple[int, int]:
    """Bytes of a large payload, and how many of a turn: less on a line where they take time."""
    size = min(_SMALL, board.room)
    start = time.perf_counter()
    board.ping(bytes(size), board.window)
    rate = size * board.window / (time.perf_counter() - start)
    wanted = max(MIN_PAYLOAD, int(rate * _PAYLOAD_SECONDS))
    # A power of two, so that two measurements have the same.
    payload = min(board.room, 1 << wanted.bit_length() - 1)
    count = min(_PAYLOADS * board.window, int(rate * _TURN_SECONDS / payload))
    return payload, max(2, count)


def _overhead(board: Board) -> float:
    products.configure(board)
    matrix = products.shape(board, 1).matrix
    batch = products.codes(board, matrix, -(-_VECTOR_BYTES // matrix.shape[0]))
    before = board.statistics.bytes_tx + board.statistics.bytes_rx
    done = board.multiply(matrix, batch, slot=products.SLOT)
    moved = board.statistics.bytes_tx + board.statistics.bytes_rx - before
    return moved / (done.packed_tx + done.packed_rx)
