"""Records the kept captures anew; every run writes the same bytes.

The hash of the specification is in every frame, so that a change of the specification makes all
captures unreadable.  Then run this, look at what ``cimctl proto dump`` says of the new ones, and
commit them:

    python tests/captures/record.py
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import msgspec
import numpy as np

from boards import board as board_module
from boards import capture, catalogue
from boards import driver as driver_module
from boards.board import Board
from boards.driver import Driver
from boards.errors import DeviceError, SafetyRefusal
from boards.links import InProcessLink
from boards.multiply import Matrix
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import SPEC_DIGEST
from sim_backend.chip import Chip
from sim_backend.faults import Faults, FaultyBoard, FaultyDevice
from sim_backend.firmware import Firmware

FOLDER = Path(__file__).parent
_BOOT_ID = 0x600D
_LINE = Faults(
    drop=0.06, flip=0.06, duplicate=0.06, truncate=0.03, late=0.06, reorder=0.06, seed=12
)
#: a device in this process answers at once or never
_SILENCE_SECONDS = 0.002


@dataclass(frozen=True)
class Scenario:
    """One kept capture.

    Attributes:
        board: profile.
        seed: of the chip.
        session: what is done on the open board.
        faults: of the line.
    """

    board: str
    seed: int
    session: Callable[[Board], None]
    faults: Faults | None = None


def cells_and_products(board: Board) -> None:
    """Everything that a training step is made of, on few cells."""
    chance = np.random.default_rng(1)
    board.power_up()
    board.ping(b"\0U here")
    for number in (0, 3):
        tile = board.tiles[number]
        low, high = board.description.target_low, board.description.target_high
        rows, columns = np.divmod(chance.permutation(64 * 64)[:12], 64)
        targets = chance.integers(low, high + 1, 12)
        tile.program(rows, columns, targets, cycles=2, tolerance=800, read_back=True)
        counts = chance.integers(-9, 10, 12)
        tile.pulse(rows, columns, counts, set_mV=2000, reset_mV=1800, width_ns=100)
        tile.load(chance.integers(low, high + 1, (3, 4)), 5, 7)
        tile.read(m.Region(number, 2, 8, 4, 8))
        tile.read(m.Region(number, 60, 4, 60, 4), samples=5)
        tile.wear(m.Region(number, 0, 8, 0, 8))
    gain = (board.gain_range[0] * board.gain_range[1]) ** 0.5
    board.configure(3, gain)
    board.configure(4, 4 * gain)
    vectors = chance.integers(0, 256, (5, 16))
    blocks = (m.Region(0, 0, 8, 0, 12), m.Region(3, 8, 8, 4, 12))
    board.multiply(Matrix(blocks, row_blocks=2), vectors, slot=3)
    one_tile = (m.Region(3, 0, 16, 0, 8),)
    board.multiply(Matrix(one_tile, differential=False), vectors, slot=4)
    board.multiply(Matrix(one_tile, transposed=True), vectors[:, :4], slot=4)
    board.multiply(Matrix(one_tile), vectors - 128, slot=4, signed=True)
    window = m.Window(2, 5, 5, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0)
    images = chance.integers(0, 256, (2, 2, 5, 5))
    board.multiply(Matrix((m.Region(0, 0, 18, 0, 12),)), images, slot=3, window=window)
    board.status()


def retries(board: Board) -> None:
    """Many small requests in flight, over a line that loses and damages them."""
    board.power_up()
    driver = board._driver
    asked: list[Message] = []
    for i in range(60):
        region = m.Region(i % 4, i % 60, 1, 0, 4)
        asked.append(m.ReadRequest(0, 1, 0, region))
        if i % 3 == 0:
            asked.append(m.PulseRequest(2000, 1800, 100, region, (), (i % 5, -2, 1, 0)))
        if i % 7 == 0:
            asked.append(m.WearRequest(region))
    pending = [driver.submit(message) for message in asked]
    for one in pending:
        driver.result(one, m.RESPONSES[one.message.OPCODE])
    board.status()


def refusals(board: Board) -> None:
    """One request for each reason to refuse that this board can have."""
    region, whole = m.Region(0, 0, 2, 0, 2), board.tiles[0].whole()
    # Before anything is configured: the supplies are off.
    _refused(board, m.ReadRequest(0, 1, 0, region))
    _refused(board, m.PulseRequest(2000, 1800, 100, region, (), (1, 1, 1, 1)))
    _refused(board, m.ConfigureRequest(200, 100, 1023, 1 << 15, 35))
    _refused(board, m.ConfigureRequest(0, 301, 1023, 1 << 15, 35))
    _refused(board, m.ConfigureRequest(0, 100, 1023, 0, 35))
    board.power_up()
    _refused(board, m.ReadRequest(0, 1, 0, m.Region(9, 0, 1, 0, 1)))
    _refused(board, m.ReadRequest(0, 1, 0, m.Region(0, 63, 2, 0, 1)))
    _refused(board, m.ReadRequest(0, 0, 0, region))
    _refused(board, m.ReadRequest(77, 1, 0, region))
    _refused(board, m.ProgramRequest(0, 1, 100, 0, whole, (5, 5), (20000, 20000)))
    _refused(board, m.ProgramRequest(0, 1, 100, 0, region, (4,), (20000,)))
    _refused(board, m.ProgramRequest(0, 1, 100, 0, region, (0, 1), (20000, 10)))
    _refused(board, m.ProgramRequest(0, 1, 100, 0, region, (0, 1), (20000,)))
    _refused(board, m.ProgramRequest(0, 99, 100, 0, region, (0,), (20000,)))
    _refused(board, m.PulseRequest(3301, 1800, 100, region, (0,), (1,)))
    _refused(board, m.PulseRequest(2000, 499, 100, region, (0,), (-1,)))
    _refused(board, m.PulseRequest(2000, 1800, 10001, region, (0,), (1,)))
    _refused(board, m.PulseRequest(2000, 1800, 100, region, (0, 3), (1, 1001)))
    _refused(board, m.LoadRequest(region, (20000, 20000, 20000, 1)))
    _refused(board, m.WearRequest(m.Region(0, 0, 0, 0, 1)))
    vmm = (0, 9, 1, 1, m.Window(), (m.Region(0, 0, 3, 0, 2),), b"abc")
    _refused(board, m.VmmRequest(0, *vmm))
    _refused(board, m.SnapshotRequest(0, 100))
    board.tiles[0].read(region)
    board.status()


def _refused(board: Board, request: Message) -> None:
    with contextlib.suppress(DeviceError, SafetyRefusal):
        board._driver.call(request, m.RESPONSES[request.OPCODE])
        raise AssertionError(f"{request} was not refused")


SCENARIOS = {
    "ideal": Scenario("native", 3, cells_and_products),
    "noisy": Scenario("emu", 4, cells_and_products),
    "retries": Scenario("native", 5, retries, _LINE),
    "refusals": Scenario("native", 6, refusals),
}


class _Chip(Chip):
    """A chip that always starts with one boot number."""

    def reboot(self) -> None:
        super().reboot()
        self.boot_id = _BOOT_ID


def record(name: str, folder: Path = FOLDER) -> Path:
    """Writes one capture."""
    scenario = SCENARIOS[name]
    path = folder / f"{name}.cap"
    profile = catalogue.load(scenario.board)
    link = msgspec.structs.replace(profile.link, timeout_s=_SILENCE_SECONDS)
    firmware = Firmware(_Chip(profile, scenario.seed))
    device = FaultyDevice(FaultyBoard(firmware, scenario.faults or Faults()))
    clock = itertools.count(0, 1000)
    with (
        # Whatever differs from one run to the next: session, times, when a lease is renewed.
        mock.patch.object(driver_module.secrets, "randbits", random.Random(name).getrandbits),
        mock.patch.object(capture, "time", SimpleNamespace(monotonic_ns=lambda: next(clock))),
        mock.patch.object(Driver, "keep_lease"),
        mock.patch.object(driver_module, "_HELLO_SECONDS", _SILENCE_SECONDS),
        # A busy computer must not make the link be given up.
        mock.patch.object(board_module, "Driver", functools.partial(Driver, retries=5000)),
    ):
        header = {"board": scenario.board, "seed": scenario.seed, "spec": SPEC_DIGEST}
        writer = capture.CaptureWriter(path, header)
        hasty = msgspec.structs.replace(profile, link=link)
        with Board(hasty, InProcessLink(device), recorder=writer) as board:
            scenario.session(board)
    return path


def main() -> None:
    for name in SCENARIOS:
        path = record(name)
        sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
