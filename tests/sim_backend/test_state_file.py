"""Cells that live in a file: what a killed process wrote is there, and foreign files are safe."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from boards import catalogue
from boards.errors import StorageError, UsageError
from firmware_protocol.messages import Region
from sim_backend.chip import Chip
from sim_backend.feed import Product, Slot

EMU = catalogue.load("emu")
REPOSITORY = Path(__file__).resolve().parents[2]
SLOT = Slot(100, 1023, 1 << 15, 35)
WHOLE = Region(0, 0, 64, 0, 64)

#: Opens a board on a state file, pulses a cell again and again over the wire, and says each time
#: what has been answered. It never ends by itself.
PULSING = """
import itertools, sys
from pathlib import Path
from boards import catalogue
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_HASH, VERSION, Opcode
from firmware_protocol.frames import Decoder, encode
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

firmware = Firmware(Chip(catalogue.load("emu"), 5, Path(sys.argv[1])))
firmware.receive(encode(Opcode.HELLO, 1, 0, m.HelloRequest(VERSION, SPEC_HASH, 1).parts()))
requests = itertools.chain(
    [m.ConfigureRequest(0, 100, 1023, 1 << 15, 35)],
    itertools.repeat(m.PulseRequest(2000, 1800, 100, m.Region(0, 0, 64, 0, 64), [7], [1])),
)
for sequence, request in enumerate(requests, 1):
    opcode = next(o for o, kind in m.REQUESTS.items() if kind is type(request))
    (answer,) = Decoder().feed(firmware.receive(encode(opcode, 1, sequence, request.parts())))
    assert answer.status == 0
    if sequence > 1:
        print(sequence - 1, flush=True)
"""


def pulsed(chip: Chip, count: int = 3) -> None:
    counts = np.full(4096, count, dtype=np.int16)
    chip.pulse(
        0, chip.cell_index(WHOLE), counts, set_amplitude=2000, reset_amplitude=2000, width=100
    )


def test_a_killed_process_leaves_its_pulses_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chip.state"
    process = subprocess.Popen(
        [sys.executable, "-c", PULSING, str(path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        answered = [int(process.stdout.readline()) for _ in range(20)][-1]
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        process.stdout.close()
        assert process.wait(timeout=30) == -signal.SIGKILL
    # What came down the pipe before the kill was applied as well, a torn last line aside.
    answered = max([answered, *(int(line) for line in rest[:-1])])
    chip = Chip(EMU, 5, path)
    found = int(chip.cells.pulses[0][7])
    assert answered <= found <= answered + 1
    assert chip.cells.count("boots") == 2
    twin = Chip(EMU, 5)
    twin.pulse(
        0, np.array([7]), np.array([found], dtype=np.int16), set_amplitude=2000,
        reset_amplitude=1800, width=100,
    )  # fmt: skip
    assert np.array_equal(chip.cells.conductances, twin.cells.conductances)
    assert np.array_equal(chip.cells.pulses, twin.cells.pulses)


def test_a_new_file_holds_the_chip_that_its_seed_makes(tmp_path: Path) -> None:
    path = tmp_path / "chip.state"
    kept, fresh = Chip(EMU, 3, path), Chip(EMU, 3)
    for one, other in zip(kept.cells.arrays(), fresh.cells.arrays(), strict=True):
        assert np.array_equal(one, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chip.state"]


def test_a_chip_on_a_file_goes_on_with_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    path = tmp_path / "chip.state"
    product = Product(SLOT, (WHOLE,), 1, False, True, None)
    vectors = np.random.default_rng(0).integers(0, 256, (20, 64))
    whole = Chip(EMU, 3)
    pulsed(whole)
    expected = [whole.multiply(product, vectors)[0] for _ in range(2)]
    first = Chip(EMU, 3, path)
    pulsed(first)
    found = [first.multiply(product, vectors)[0]]
    del first
    found.append(Chip(EMU, 3, path).multiply(product, vectors)[0])
    assert np.array_equal(expected, found)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_to_the_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def cut_inside_the_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def foreign(path: Path) -> None:
    path.write_bytes(b"\x89PNG" + bytes(100_000))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage_behind_the_magic(path: Path) -> None:
    path.write_bytes(b"CIMCELL1" + bytes(range(1, 200)) * 1000)


def a_list_in_the_head(path: Path) -> None:
    path.write_bytes((b"CIMCELL1\x03\0\0\0[1]").ljust(200_000, b"\0"))


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        cut_to_the_head,
        cut_inside_the_head,
        foreign,
        emptied,
        garbage_behind_the_magic,
        a_list_in_the_head,
    ],
)
def test_what_is_no_whole_state_file_is_a_usage_error_and_stays_untouched(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "chip.state"
    Chip(EMU, 3, path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="state file") as error:
        Chip(EMU, 3, path)
    assert str(path) in str(error.value)
    assert "not touched" in error.value.left
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("profile", "seed", "said"),
    [
        ("emu", 4, "seed 3 instead of 4"),
        ("brram-256x64", 3, "profile emu instead of brram-256x64"),
    ],
)
def test_a_file_of_another_chip_is_a_usage_error_and_stays_untouched(
    tmp_path: Path, profile: str, seed: int, said: str
) -> None:
    path = tmp_path / "chip.state"
    pulsed(Chip(EMU, 3, path))
    before = path.read_bytes()
    with pytest.raises(UsageError) as error:
        Chip(catalogue.load(profile), seed, path)
    assert said in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before


def test_a_changed_geometry_under_the_same_name_is_another_chip(tmp_path: Path) -> None:
    path = tmp_path / "chip.state"
    Chip(EMU, 3, path)
    chip = msgspec.structs.replace(EMU.chip, rows=32)
    with pytest.raises(UsageError, match="rows 64 instead of 32"):
        Chip(msgspec.structs.replace(EMU, chip=chip), 3, path)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be used"):
        Chip(EMU, 3, tmp_path / "nowhere" / "chip.state")
    with pytest.raises(StorageError, match="cannot be used"):
        Chip(EMU, 3, tmp_path)
