"""An emulated board on a pseudo-terminal that is as slow as a serial line.

Each way, bytes take the time that the line rate gives them, and answers arrive a latency later, as
an FTDI adapter holds them back.  The line keeps its own time: a thread that wakes up late is not
charged to it, as long as the line had something to carry.  A process of its own, so that the chip
takes no time from the host.

    python benchmarks/paced_line.py --board brram-soc [--baud 3000000] [--latency-ms 16]
"""

from __future__ import annotations

import argparse
import os
import pty
import queue
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

#: bytes that reach the other side at once, about what a full USB buffer holds
_CHUNK = 512
#: bytes that driver and adapter take before a writer has to wait
_BUFFER = 16384


class Direction:
    """One way of the line: a queue of pieces, each with the time at which its last bit arrives.

    Args:
        rate: bytes a second.
        latency: seconds from there on until a piece is there.
    """

    def __init__(self, rate: float, latency: float) -> None:
        self._rate, self._latency = rate, latency
        self._free = 0.0
        self._room = threading.Semaphore(_BUFFER // _CHUNK)
        self._pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def put(self, data: bytes) -> None:
        """Takes bytes; waits while the buffer before the line is full."""
        for at in range(0, len(data), _CHUNK):
            piece = data[at : at + _CHUNK]
            self._room.acquire()
            self._free = max(self._free, time.monotonic()) + len(piece) / self._rate
            self._pieces.put((self._free, piece))

    def get(self) -> bytes:
        """The next piece, when it is there."""
        sent, piece = self._pieces.get()
        time.sleep(max(0.0, sent - time.monotonic()))
        self._room.release()
        time.sleep(max(0.0, sent + self._latency - time.monotonic()))
        return piece


def serve(board: str, rate: float, latency: float) -> None:
    """Puts the board there, prints the address, and goes on until it is ended."""
    import torch

    from boards import catalogue
    from sim_backend.chip import Chip
    from sim_backend.firmware import Firmware

    torch.set_num_threads(1)
    firmware = Firmware(Chip(catalogue.load(board), 0))
    master, slave = pty.openpty()
    tty.setraw(slave)
    there, back = Direction(rate, 0.0), Direction(rate, latency)
    print(os.ttyname(slave), flush=True)

    def take() -> None:
        while True:
            there.put(os.read(master, _CHUNK))

    def work() -> None:
        while True:
            answers = firmware.receive(there.get())
            if answers:
                back.put(answers)

    def give() -> None:
        while True:
            piece = back.get()
            while piece:
                piece = piece[os.write(master, piece) :]

    for each in (take, work, give):
        threading.Thread(target=each, daemon=True).start()
    sys.stdin.read()


@contextmanager
def paced(board: str, baud: int, latency: float) -> Iterator[str]:
    """The address of such a board, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--board", board, "--baud", str(baud),
         "--latency-ms", str(1000 * latency)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--board", default="brram-soc")
    parser.add_argument("--baud", type=int, default=3_000_000)
    parser.add_argument("--latency-ms", type=float, default=16.0)
    options = parser.parse_args()
    # A byte on a serial line is ten bits.
    serve(options.board, options.baud / 10, options.latency_ms / 1000)


if __name__ == "__main__":
    main()
