"""OUTER: updates by coincidence, against the same pulses sent one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from boards.board import Board
from boards.catalogue import load
from boards.errors import DeviceError, SafetyRefusal, UnsupportedError, UsageError
from boards.links import InProcessLink
from boards.profile import Profile
from firmware_protocol import messages as m
from firmware_protocol.packing import pack_codes
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware
from sim_backend.outer import Trains, totals, totals_numpy

BOARDS = ["rpu-baseline", "softbounds-20", "reram-softbounds", "pcm", "native"]


def random_words(
    generator: np.random.Generator, updates: int, lines: int, length: int, share: float = 0.3
) -> np.ndarray[Any, Any]:
    """(updates, lines) words with pulses in that share of the slots."""
    slots = generator.random((updates, lines, length)) < share
    sign = generator.integers(0, 2, (updates, lines))
    word = (slots << np.arange(length)).sum(2) | sign << length
    return word.astype(np.uint32)


class Bench(Board):
    """A board whose chip the test can look into."""

    def __init__(self, profile: Profile, **options: Any) -> None:
        self.chip = Chip(profile, 1)
        super().__init__(profile, InProcessLink(Firmware(self.chip)), **options)
        self.power_up()


def outer(board: Board, region: m.Region, rows: Any, columns: Any, length: int, pairs: bool) -> Any:
    return board.tiles[region.tile].outer(
        region, rows, columns, length=length, pairs=pairs, set_mV=1000, reset_mV=1000,
        width_ns=board.profile.programming.width_ns,
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 7, 8, 20, 31])
def test_coincidences_are_counted_as_the_oracle_does(length: int) -> None:
    generator = np.random.default_rng(length)
    words = [random_words(generator, 40, lines, length).T.copy() for lines in (9, 13)]
    trains = Trains(words[0], words[1], length)
    for ours, theirs in zip(totals(trains), totals_numpy(trains), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", BOARDS)
def test_an_update_is_its_pulses_sent_one_by_one(name: str, pairs: bool) -> None:
    profile = load(name)
    if profile.device.model == "ideal-steps":
        limits = msgspec.structs.replace(
            profile.limits, amplitude_mV=(100, 3300), width_ns=(1, 999)
        )
        profile = msgspec.structs.replace(profile, limits=limits)
    generator = np.random.default_rng(3)
    region = m.Region(0, 2, 5, 4, 8)
    columns = 4 if pairs else 8
    rows, lines = (random_words(generator, 30, n, 9) for n in (5, columns))
    with Bench(profile) as whole, Bench(profile) as single:
        sets, resets = outer(whole, region, rows, lines, 9, pairs)
        sent = [0, 0]
        for row, column in zip(rows, lines, strict=True):
            trains = Trains(row[:, None], column[:, None], 9)
            up, down = (t.reshape(5, columns).astype(int) for t in totals_numpy(trains))
            places = np.argwhere(up + down)
            done = single.tiles[0].pulse(
                2 + places[:, 0], 4 + places[:, 1] * (2 if pairs else 1),
                (up - down)[places[:, 0], places[:, 1]],
                set_mV=1000, reset_mV=1000, width_ns=profile.programming.width_ns,
            )  # fmt: skip
            sent = [sent[0] + done[0], sent[1] + done[1]]
        assert (sets, resets) == tuple(sent) and sets and resets
        ours, theirs = whole.chip.cells, single.chip.cells
        assert np.array_equal(ours.pulses, theirs.pulses)
        if profile.device.model != "soft-bounds-reference":
            # Write noise is drawn once a command, so what converters see differs there.
            assert np.array_equal(ours.conductances, theirs.conductances)
        state = [c.conductances[0] + c.hidden[0] if c.hidden.size else 0 for c in (ours, theirs)]
        assert np.allclose(*state, rtol=0, atol=1e-7)


def test_frames_of_any_size_give_the_same() -> None:
    profile = load("softbounds-20")
    generator = np.random.default_rng(4)
    rows, columns = (random_words(generator, 200, n, 31) for n in (20, 20))
    found = []
    for payload in (None, 4096, 512):
        with Bench(profile, max_payload=payload) as board:
            outer(board, m.Region(1, 0, 20, 0, 40), rows, columns, 31, True)
            found.append(board.chip.cells.conductances[1].copy())
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_board_without_it_refuses_and_changes_nothing() -> None:
    ones = np.ones((1, 1), dtype=np.uint32)
    with Bench(load("emu")) as board, pytest.raises(UnsupportedError, match="OUTER"):
        outer(board, m.Region(0, 0, 1, 0, 1), ones, ones, 1, False)


def test_an_update_larger_than_a_payload_says_so() -> None:
    words = np.zeros((1, 256), dtype=np.uint32)
    with (
        Bench(load("rpu-baseline"), max_payload=256) as board,
        pytest.raises(UsageError, match="does not fit"),
    ):
        outer(board, m.Region(0, 0, 256, 0, 256), words, words, 31, False)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"set_amplitude": 4000}, SafetyRefusal),
        ({"reset_amplitude": 1}, SafetyRefusal),
        ({"width": 1_000_000}, SafetyRefusal),
        ({"length": 0}, DeviceError),
        ({"length": 32}, DeviceError),
        ({"count": 0}, DeviceError),
        ({"words": b"\x03"}, DeviceError),
        ({"region": m.Region(0, 0, 1, 1, 2), "flags": 2}, DeviceError),
        ({"region": m.Region(9, 0, 1, 0, 2)}, DeviceError),
    ],
)
def test_a_wrong_update_is_refused_whole(change: dict[str, Any], error: type[Exception]) -> None:
    # One row, two columns, one slot: a SET of the first cell, a RESET of the second.
    good = m.OuterRequest(1000, 1000, 1, m.Region(0, 0, 1, 0, 2), 0, 1, 1, b"")
    good = replace(good, words=words_of([[1]], [[1, 3]], 1))
    with Bench(load("rpu-baseline")) as board:
        before = board.chip.cells.conductances.copy()
        with pytest.raises(error):
            board.exchange_outer(replace(good, **change))
        assert np.array_equal(board.chip.cells.conductances, before)
        answer = board.exchange_outer(good)
        assert (answer.set_pulses, answer.reset_pulses) == (1, 1)


def test_the_count_of_pulses_of_one_cell_is_limited() -> None:
    profile = load("rpu-baseline")
    limits = msgspec.structs.replace(profile.limits, pulses_per_command=40)
    profile = msgspec.structs.replace(profile, limits=limits)
    every = np.full((2, 1), (1 << 31) - 1, dtype=np.uint32)
    with Bench(profile) as board:
        request = m.OuterRequest(
            1000, 1000, 1, m.Region(0, 0, 1, 0, 1), 0, 31, 2, words_of(every, every, 31)
        )
        with pytest.raises(SafetyRefusal):
            board.exchange_outer(request)
        # The driver cuts the batch so that no cell can pass the limit.
        assert outer(board, m.Region(0, 0, 1, 0, 1), every, every, 31, False) == (62, 0)


def words_of(rows: Any, columns: Any, length: int) -> bytes:
    return b"".join(
        bytes(pack_codes(np.asarray(w, np.uint32), length + 1)) for w in (rows, columns)
    )
