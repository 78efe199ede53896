"""Products cut into frames: however a batch is cut, the answer is that of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from boards import catalogue
from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.links import InProcessLink
from boards.multiply import Matrix, Products
from boards.profile import Profile
from firmware_protocol.geometry import output_size, unrolled_size
from firmware_protocol.messages import Region, Window
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
SLOT = 1
FAST = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def profile(*, without: Sequence[str] = (), noise: bool = True) -> Profile:
    """``emu``, some capabilities taken away, its noise switched off."""
    kept = tuple(c for c in EMU.chip.capabilities if c not in without)
    chip = msgspec.structs.replace(EMU.chip, capabilities=kept)
    off = dict.fromkeys(("read_noise_uS", "adc_noise_lsb"), 0.0)
    imperfections = msgspec.structs.replace(EMU.imperfections, **({} if noise else off))
    return msgspec.structs.replace(EMU, chip=chip, imperfections=imperfections)


class Bench:
    """One chip that can be met again with its noise at the start."""

    def __init__(self, of: Profile) -> None:
        self.profile = of
        self.chip = Chip(of, 5)
        self.firmware = Firmware(self.chip)

    def board(self, max_payload: int | None = None, window: int = 8) -> Board:
        self.chip.cells.positions[:] = 0
        link = InProcessLink(self.firmware)
        board = Board(self.profile, link, max_payload=max_payload, window=window)
        board.configure(SLOT, self.profile.gain(60.0))
        return board

    def multiply(
        self, matrix: Matrix, codes: Any, max_payload: int | None = None, **options: Any
    ) -> Products:
        with self.board(max_payload) as board:
            return board.multiply(matrix, codes, slot=SLOT, **options)


NOISY = Bench(profile())
QUIET = Bench(profile(noise=False))
QUIET_WITHOUT = {
    name: Bench(profile(without=[name], noise=False))
    for name in ("IMAGES", "ROW_BLOCK_SUMS", "SIGNED_INPUTS")
}


def matrix_of(inputs: int, outputs: int) -> Matrix:
    """A matrix whose blocks of rows lie on different tiles."""
    blocks = -(-inputs // 64)
    sizes = [inputs * (i + 1) // blocks - inputs * i // blocks for i in range(blocks)]
    regions = (Region(i, 0, size, 4 * i, 2 * outputs) for i, size in enumerate(sizes))
    return Matrix(tuple(regions), row_blocks=blocks)


@dataclass(frozen=True)
class Case:
    """A batch of images and what multiplies it."""

    window: Window
    outputs: int
    codes: np.ndarray[Any, Any]
    max_payload: int

    @property
    def matrix(self) -> Matrix:
        return matrix_of(unrolled_size(self.window), self.outputs)


@st.composite
def cases(draw: st.DrawFn, largest_pad: int = 3) -> Case:
    """Any window that torch allows, on images of up to 16 x 16."""
    small = st.integers(1, 3)
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dilation = draw(small), draw(small)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    pads = [draw(st.integers(0, largest_pad)) for _ in range(4)]
    # Padding beyond the reach of the kernel is a case of its own, below.
    pads = [min(pad, reach[i // 2] - 1) for i, pad in enumerate(pads)]
    window = Window(
        draw(small), draw(st.integers(1, 16)), draw(st.integers(1, 16)), *kernel,
        draw(small), draw(small), *dilation, *pads,
    )  # fmt: skip
    assume(min(output_size(window)) > 0)
    seed = draw(st.integers(0, 1000))
    shape = (draw(small), window.channels, window.height, window.width)
    codes = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return Case(window, draw(st.integers(1, 6)), codes, draw(st.integers(256, 3000)))


class SlowLink(InProcessLink):
    """A device in this process whose line is said to be slow."""

    rate: float | None = 3e5


@FAST
@given(case=cases(), count=st.integers(1, 40))
def test_a_slow_line_carries_small_frames_with_the_same_bits(case: Case, count: int) -> None:
    codes = np.concatenate([case.codes] * count)
    whole = NOISY.multiply(case.matrix, codes, window=case.window)
    NOISY.chip.cells.positions[:] = 0
    with Board(NOISY.profile, SlowLink(NOISY.firmware)) as board:
        board.configure(SLOT, NOISY.profile.gain(60.0))
        cut = board.multiply(case.matrix, codes, slot=SLOT, window=case.window)
    assert np.array_equal(cut.codes, whole.codes)
    assert cut.saturated == whole.saturated
    # Whole images travel whole: nothing is sent twice because frames are smaller.
    assert cut.packed_tx == whole.packed_tx


def test_frames_on_a_slow_line_are_small_enough_to_overlap_and_large_enough_to_pay() -> None:
    codes = np.zeros((4096, 64), np.uint8)
    matrix = Matrix((Region(0, 0, 64, 0, 64),), differential=False)
    with Board(NOISY.profile, SlowLink(NOISY.firmware)) as board:
        board.configure(SLOT, NOISY.profile.gain(60.0))
        before = replace(board.statistics)
        products = board.multiply(matrix, codes, slot=SLOT)
        requests = (board.statistics.frames - before.frames) / 2
        sent = board.statistics.bytes_tx - before.bytes_tx
    # The other way of the line waits for one request, which is no more than 3 % of all of them.
    assert requests > 33
    assert sent < 1.03 * products.packed_tx


@FAST
@given(case=cases())
def test_images_cut_for_any_payload_give_the_bits_of_whole_images(case: Case) -> None:
    whole = NOISY.multiply(case.matrix, case.codes, window=case.window)
    cut = NOISY.multiply(case.matrix, case.codes, case.max_payload, window=case.window)
    assert cut.codes.shape == (len(case.codes), case.outputs, *output_size(case.window))
    assert np.array_equal(cut.codes, whole.codes)
    assert cut.saturated == whole.saturated


PADDED = Window(1, 20, 20, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3)


def test_padding_beyond_the_reach_of_the_kernel_can_be_cut_too() -> None:
    codes = np.arange(400, dtype=np.uint8).reshape(1, 1, 20, 20)
    whole = NOISY.multiply(matrix_of(1, 2), codes, window=PADDED)
    cut = NOISY.multiply(matrix_of(1, 2), codes, 256, window=PADDED)
    assert np.array_equal(cut.codes, whole.codes)


@FAST
@given(
    batch=st.integers(1, 40),
    inputs=st.integers(1, 180),
    outputs=st.integers(1, 20),
    max_payload=st.integers(256, 2000),
    transposed=st.booleans(),
    window=st.integers(1, 8),
)
@example(batch=40, inputs=180, outputs=20, max_payload=256, transposed=False, window=1)
def test_vectors_cut_for_any_payload_and_window_give_the_bits_of_one_frame(
    batch: int, inputs: int, outputs: int, max_payload: int, transposed: bool, window: int
) -> None:
    if transposed:
        matrix = Matrix((Region(0, 0, min(inputs, 64), 0, 2 * outputs),), transposed=True)
    else:
        matrix = matrix_of(inputs, outputs)
    rng = np.random.default_rng(batch)
    codes = rng.integers(0, 256, (batch, matrix.shape[0])).astype(np.uint8)
    whole = NOISY.multiply(matrix, codes)
    with NOISY.board(max_payload, window) as board:
        before = board.statistics.frames
        cut = board.multiply(matrix, codes, slot=SLOT)
        sent = board.statistics.frames - before
    assert np.array_equal(cut.codes, whole.codes)
    assert (cut.packed_tx, cut.packed_rx) >= (codes.size, 0)
    # Requests and answers count as a frame each, and none exceeds the payload.
    assert sent >= 2 * -(-codes.size // max_payload)


def test_the_same_batch_twice_meets_other_noise() -> None:
    codes = np.full((4, 64), 128, dtype=np.uint8)
    with NOISY.board() as board:
        one, two = (board.multiply(matrix_of(64, 16), codes, slot=SLOT) for _ in range(2))
    assert not np.array_equal(one.codes, two.codes)


def test_no_frame_exceeds_the_payload() -> None:
    sizes: list[int] = []

    class Watched(InProcessLink):
        def write(self, data: bytes) -> None:
            sizes.append(len(data))
            super().write(data)

    board = Board(NOISY.profile, Watched(NOISY.firmware), max_payload=300)
    board.configure(SLOT, NOISY.profile.gain(60.0))
    window = Window(3, 12, 12, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
    codes = np.zeros((2, 3, 12, 12), dtype=np.uint8)
    board.multiply(matrix_of(27, 4), codes, slot=SLOT, window=window)
    board.close()
    # A header and checksum of 20 bytes, the delimiter, and a byte of stuffing a 254.
    assert max(sizes) + 100 > 300
    assert max(sizes) <= 300 + 20 + 3


# --- boards that do less -------------------------------------------------------------------------


@FAST
@given(case=cases())
def test_a_board_that_unrolls_no_images_gives_the_same_bits(case: Case) -> None:
    whole = QUIET.multiply(case.matrix, case.codes, window=case.window)
    poor = QUIET_WITHOUT["IMAGES"].multiply(
        case.matrix, case.codes, case.max_payload, window=case.window
    )
    assert np.array_equal(poor.codes, whole.codes)


@FAST
@given(case=cases(), images=st.booleans())
def test_a_board_that_adds_no_row_blocks_gives_the_same_sums(case: Case, images: bool) -> None:
    if images:
        codes, options = case.codes, {"window": case.window}
    else:
        rng = np.random.default_rng(case.codes.size)
        shape = (5, unrolled_size(case.window))
        codes, options = rng.integers(0, 256, shape).astype(np.uint8), {}
    whole = QUIET.multiply(case.matrix, codes, **options)
    poor = QUIET_WITHOUT["ROW_BLOCK_SUMS"].multiply(case.matrix, codes, case.max_payload, **options)
    # Every block is converted by itself either way: the same roundings, the same sum.
    assert np.array_equal(poor.codes, whole.codes)
    assert poor.saturated == whole.saturated


@FAST
@given(inputs=st.integers(1, 180), seed=st.integers(0, 1000), transposed=st.booleans())
def test_a_board_without_signed_inputs_is_within_one_code_a_block(
    inputs: int, seed: int, transposed: bool
) -> None:
    matrix = matrix_of(inputs, 8)
    if transposed:
        matrix = Matrix((Region(0, 0, min(inputs, 64), 0, 16),), transposed=True)
    codes = np.random.default_rng(seed).integers(-128, 128, (3, matrix.shape[0])).astype(np.int8)
    exact = QUIET.multiply(matrix, codes, signed=True)
    poor = QUIET_WITHOUT["SIGNED_INPUTS"].multiply(matrix, codes, signed=True)
    assume(not exact.saturated and not poor.saturated)
    # round(a) - round(b) and round(a - b) differ by less than 3/2, so by 1 at most.
    difference = np.abs(exact.codes.astype(int) - poor.codes.astype(int))
    assert difference.max() <= matrix.blocks


def test_the_smallest_signed_code_keeps_its_value_without_signed_inputs() -> None:
    matrix = Matrix((Region(0, 0, 1, 0, 16),))
    minus = np.full((1, 1), -128, dtype=np.int8)
    plus = np.full((1, 1), 128, dtype=np.uint8)
    negative = QUIET_WITHOUT["SIGNED_INPUTS"].multiply(matrix, minus, signed=True)
    positive = QUIET.multiply(matrix, plus)
    assert positive.codes.any()
    assert np.array_equal(negative.codes, -positive.codes.astype(int))


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("TRANSPOSED", Matrix((Region(0, 0, 64, 0, 4),), transposed=True, differential=False)),
        ("DIFFERENTIAL", Matrix((Region(0, 0, 4, 0, 4),))),
    ],
)
def test_what_the_host_cannot_do_instead_is_unsupported(name: str, matrix: Matrix) -> None:
    with Bench(profile(without=[name])).board() as board:
        before = board.statistics.bytes_tx
        with pytest.raises(UnsupportedError):
            board.multiply(matrix, np.zeros((1, 4), dtype=np.uint8), slot=SLOT)
        assert board.statistics.bytes_tx == before


# --- what cannot be sent -------------------------------------------------------------------------


def test_a_vector_too_large_for_the_payload_is_a_usage_error_and_nothing_is_sent() -> None:
    with NOISY.board(256) as board:
        before = board.statistics.bytes_tx
        with pytest.raises(UsageError, match="256 bytes") as caught:
            board.multiply(matrix_of(256, 2), np.zeros((1, 256), dtype=np.uint8), slot=SLOT)
        assert "Nothing was sent" in caught.value.left
        assert board.statistics.bytes_tx == before
        board.ping()


IMAGE = Window(1, 8, 8, 3, 3, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((4, 10), None),
        ((9,), None),
        ((0, 9), None),
        ((2, 3, 3), None),
        ((1, 1, 8, 8), None),
        ((1, 1, 8, 7), IMAGE),
        ((1, 2, 8, 8), IMAGE),
        ((0, 1, 8, 8), IMAGE),
        ((8, 8), IMAGE),
        ((1, 1, 8, 8), Window(1, 8, 8, 3, 2, 1, 1, 1, 1)),
        ((1, 1, 2, 8), Window(1, 2, 8, 3, 3, 1, 1, 1, 1)),
    ],
)
@pytest.mark.parametrize("max_payload", [256, None])
def test_wrong_shapes_are_usage_errors_and_nothing_is_sent(
    shape: tuple[int, ...], window: Window | None, max_payload: int | None
) -> None:
    with NOISY.board(max_payload) as board:
        before = board.statistics.bytes_tx
        with pytest.raises(UsageError) as caught:
            board.multiply(
                matrix_of(9, 2), np.zeros(shape, dtype=np.uint8), slot=SLOT, window=window
            )
        assert str(shape) in caught.value.what
        assert board.statistics.bytes_tx == before
