"""Integer weights and planes from the command line, on a chip of bits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from boards import catalogue
from boards.board import Board
from boards.links import InProcessLink
from cimctl.cli.root import run
from cimctl.mapping.choose import mapped
from cimctl.mapping.demand import Demand
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.server import TcpServer

CAP = ("--board", "cap-imc-16nm", "--tile", "0")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cimctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def served() -> Iterator[str]:
    """A chip without analog errors, that keeps what is programmed."""
    profile = catalogue.load("cap-imc-16nm")
    none = {"adc_noise_lsb": 0.0, "cell_mismatch": 0.0, "column_noise_uS": 0.0, "adc_inl_lsb": 0.0}
    faults = msgspec.structs.replace(profile.imperfections, **none)
    chip = Chip(msgspec.structs.replace(profile, imperfections=faults))
    server = TcpServer("127.0.0.1", 0, Firmware(chip))
    threading.Thread(target=server.serve, daemon=True).start()
    yield server.address
    server.close()


def numbers(text: str) -> Any:
    return np.loadtxt(text.splitlines(), delimiter=",", ndmin=2)


def test_integers_go_in_come_out_and_multiply(cimctl: Call, served: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights, codes = rng.integers(-8, 8, (20, 3)), rng.integers(-7, 8, (4, 20))
    for name, values in (("w.csv", weights), ("x.csv", codes)):
        np.savetxt(tmp_path / name, values, fmt="%d", delimiter=",")
    there = (*CAP, "--port", served, "--row", 5, "--column", 8)
    code, out, _ = cimctl("program", *there, "--input", "w.csv", "--integers")
    assert code == 0 and (numbers(out) == weights).all()
    size = ("--rows", 20, "--columns", 12)
    assert (numbers(cimctl("read", *there, *size, "--integers")[1]) == weights).all()
    assert set(numbers(cimctl("read", *there, *size)[1]).reshape(-1)) == {0.0, 1.0}
    product = ("vmm", *there, *size, "--input", "x.csv", "--bits", 4, "--span", 255)
    for way in ((), ("--ternary",)):
        # Signed planes count half of the range upwards: 20 cells are inside it.
        assert (numbers(cimctl(*product, *way)[1]) == codes @ weights).all()
    said = json.loads(cimctl(*product, "--json")[1])
    assert said["lsb_cells"] == 1.0 and said["saturated"] == 0


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (("program", *CAP, "--input", "half.csv"), ("half.csv", "2 levels", "--integers")),
        (("program", *CAP, "--input", "nine.csv", "--integers"), ("weight of 9", "-8 and 7")),
        (("program", *CAP, "--input", "one.csv", "--integers", "--column", 2), ("groups of 4",)),
        (("program", "--board", "emu", "--tile", 0, "--input", "one.csv", "--integers"),
         ("no groups", "'emu'")),
        (("read", *CAP, "--rows", 2, "--columns", 6, "--integers"), ("groups of 4",)),
        (("pulse", *CAP, "--input", "one.csv"), ("PULSE",)),
        (("vmm", *CAP, "--rows", 1, "--columns", 4, "--input", "one.csv", "--span", 5),
         ("64 to 2304 cells",)),
        (("vmm", *CAP, "--rows", 1, "--columns", 4, "--input", "one.csv", "--bits", 9),
         ("8 bits, not 9",)),
        (("vmm", *CAP, "--rows", 1, "--columns", 4, "--input", "nine.csv", "--bits", 4,
          "--ternary"), ("nine.csv", "-7 to 7")),
        (("vmm", *CAP, "--rows", 1, "--columns", 6, "--input", "one.csv"), ("groups of 4",)),
        (("vmm", "--board", "emu", "--tile", 0, "--rows", 1, "--columns", 4, "--input", "one.csv",
          "--ternary"), ("ternary",)),
        (("train", "lenet", "--board", "cap-imc-16nm", "--epochs", 1), ("DIFFERENTIAL",)),
        (("train", "lenet", "--board", "cap-imc-16nm", "--algorithm", "agad"), ("PULSE",)),
    ],
)  # fmt: skip
def test_what_the_chip_cannot_is_refused_in_its_own_words(
    cimctl: Call, tmp_path: Path, arguments: tuple[object, ...], culprits: tuple[str, ...]
) -> None:
    for name, text in (("half.csv", "0.5,1\n"), ("nine.csv", "9\n"), ("one.csv", "1\n")):
        (tmp_path / name).write_text(text)
    code, out, err = cimctl(*arguments)
    assert (code, out) == (2, "")
    assert all(culprit in err for culprit in culprits), err
    assert "Traceback" not in err


def test_board_info_names_the_weights_of_a_group(cimctl: Call) -> None:
    said = json.loads(cimctl("board", "info", "--board", "cap-imc-16nm", "--json")[1])
    described = said["description"]
    assert described["column_weights"] == [-8, 4, 2, 1]
    assert (described["levels"], described["plane_conversions"]) == (2, 1)
    assert "PULSE" not in described["opcodes"]
    plain = json.loads(cimctl("board", "info", "--board", "emu", "--json")[1])["description"]
    assert plain["column_weights"] == [] and plain["answer_bits"] == plain["adc_bits"]


def test_layers_of_integers_are_placed_in_whole_groups_and_multiply_side_by_side() -> None:
    rng = np.random.default_rng(3)
    profile = catalogue.load("cap-imc-16nm")
    chip = msgspec.structs.replace(profile.chip, adc_bits=12, adc_span_cells=(64.0, 4095.0))
    none = {"adc_noise_lsb": 0.0, "cell_mismatch": 0.0, "column_noise_uS": 0.0, "adc_inl_lsb": 0.0}
    faults = msgspec.structs.replace(profile.imperfections, **none)
    profile = msgspec.structs.replace(profile, chip=chip, imperfections=faults)
    demands = [
        Demand("pairs", 20, 3, 1), Demand("tall", 2000, 70, 1, 4), Demand("small", 90, 30, 9, 4),
    ]  # fmt: skip
    with Board(profile, InProcessLink(Firmware(Chip(profile)))) as board:
        board.power_up()
        pairs, *layers = mapped(demands, board.description, "packed").matrices
        assert pairs.differential and not pairs.group
        weights = [rng.integers(-8, 8, layer.shape) for layer in layers]
        for layer, values in zip(layers, weights, strict=True):
            board.program_integers(layer, values)
        board.configure(1, 1 / 65535)
        for layer, values in zip(layers, weights, strict=True):
            codes = rng.integers(-8, 8, (6, layer.shape[0]))
            found = board.multiply(layer, codes, slot=1, bits=4, signed=True)
            assert (found.codes == codes @ values).all()
    used = [(r.tile, c) for p in (pairs, *layers) for r in p.regions
            for c in range(r.column, r.column + r.columns)]  # fmt: skip
    assert len(used) == len(set(used))
