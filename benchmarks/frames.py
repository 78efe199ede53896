"""What the frames of one LeNet training step cost, both sides, over the plain FP32 step.

The requests and answers of some steps in mixed precision are recorded on their way through the
in-process link.  Then exactly what both sides do for the bytes is done again and timed: packing of
codes, messages, CRC, stuffing, and all of it backwards.

    python benchmarks/frames.py [--turns 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from throughput import PLAIN, WARM_UP, WIRE, batch_by_batch, trainers

from boards.links import InProcessLink
from cimctl.bench.turns import Spread, take_turns
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Flag
from firmware_protocol.packing import Codes, fitting_count, pack_codes, unpack_codes

STEPS, CALLS = 20, 5
SIGNED = 4
#: the bar: frames of a step over the FP32 step
BAR = 0.3


@dataclass(frozen=True, slots=True)
class Half:
    """One direction of an exchange.

    Attributes:
        message: what was sent.
        codes: what was packed in it; None where nothing is packed.
        bits, signed: of a code.
        flags: of the frame.
        frame: as it was on the wire.
    """

    message: Message
    codes: Codes | None
    bits: int
    signed: bool
    flags: int
    frame: bytes

    @classmethod
    def of(cls, data: bytes) -> Half:
        """Takes a recorded frame apart."""
        (found,) = frames.Decoder().feed(data)
        assert isinstance(found, frames.Frame)
        kinds = m.RESPONSES if found.is_response else m.REQUESTS
        message = kinds[found.opcode].decode(bytes(found.payload))
        bits, signed = 0, True
        if isinstance(message, m.VmmRequest):
            bits, signed = message.input_bits, bool(message.flags & SIGNED)
        elif isinstance(message, m.VmmResponse):
            bits = message.bits
        codes = None
        if isinstance(message, m.VmmRequest | m.VmmResponse):
            count = fitting_count(len(message.codes), bits)
            codes = unpack_codes(message.codes, count, bits, signed=signed).copy()
        return cls(message, codes, bits, signed, found.flags, data)

    def send(self) -> bytes:
        """Packs and encodes it."""
        message: Any = self.message
        if self.codes is not None:
            message = replace(message, codes=pack_codes(self.codes, self.bits))
        return frames.encode(message.OPCODE, 1, 1, message.parts(), flags=self.flags)

    def receive(self, decoder: frames.Decoder) -> None:
        """Decodes and unpacks it."""
        for found in decoder.feed(self.frame):
            assert isinstance(found, frames.Frame)
            message: Any = type(self.message).decode(found.payload)
            if self.codes is not None:
                unpack_codes(message.codes, self.codes.size, self.bits, signed=self.signed)


class Recorder:
    """Takes the frames of both directions from a link in this process."""

    def __init__(self, link: InProcessLink) -> None:
        self.frames: list[bytes] = []
        write = link.write
        link.write = lambda data: (self.frames.append(data), write(data))[1]  # type: ignore[assignment, method-assign]
        sink = link._sink
        link.deliver_to(lambda data: (self.frames.append(data), sink(data))[1])


def once(steps: list[list[Half]]) -> Callable[[], None]:
    """Makes the exchanges of the next step with each call."""
    order, decoders = cycle(steps), (frames.Decoder(), frames.Decoder())

    def work() -> None:
        for half in next(order):
            half.send()
            half.receive(decoders[bool(half.flags & Flag.RESPONSE)])

    return work


def measure(turns: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    with trainers(2 * WARM_UP + (turns + 1) * CALLS + STEPS) as both:
        works = {name: batch_by_batch(trainer) for name, trainer in both.items()}
        for work in works.values():
            for _ in range(WARM_UP):
                work()
        board = both[WIRE].board
        assert board is not None
        recorder = Recorder(board._driver._link)  # type: ignore[arg-type]
        steps = []
        for _ in range(STEPS):
            works[WIRE]()
            steps.append([Half.of(data) for data in recorder.frames])
            recorder.frames.clear()
        found = take_turns({"frames": once(steps), PLAIN: works[PLAIN]}, turns, calls=CALLS)
    return {
        "measure": "frames of a LeNet training step, both sides, over the FP32 step",
        "ratio": asdict(found.ratio("frames", PLAIN)),
        "seconds": {name: asdict(found.seconds(name)) for name in ("frames", PLAIN)},
        "frames_a_step": sum(len(step) for step in steps) / len(steps),
        "bytes_a_step": sum(len(half.frame) for step in steps for half in step) / len(steps),
        "turns": turns,
        "bar": BAR,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    own, plain = (1000 * result["seconds"][name]["median"] for name in ("frames", PLAIN))
    print(
        f"{result['frames_a_step']:.1f} frames, {result['bytes_a_step']:.0f} bytes a step: "
        f"{own:.2f} ms; FP32 step {plain:.2f} ms"
    )
    print(f"ratio {Spread(**result['ratio'])}, bar {BAR:g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
