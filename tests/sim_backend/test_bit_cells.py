"""Bits in cells, planes converted each by itself, groups of columns: integers in, integers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue
from boards.bits import bits_of, weights_of
from boards.board import Board
from boards.costs import Counts, energy_pJ
from boards.errors import DeviceError, UnsupportedError, UsageError
from boards.links import InProcessLink
from boards.multiply import Matrix, unrolled
from boards.profile import Profile
from firmware_protocol import messages as m
from firmware_protocol.constants import Detail, Opcode
from firmware_protocol.geometry import column_weights, packed_column_weights
from sim_backend import bit_cells
from sim_backend.chip import Chip
from sim_backend.converters import round_shift
from sim_backend.firmware import Firmware

CAP = catalogue.load("cap-imc-16nm")
GROUP = len(CAP.chip.column_weights)
#: one code for each cell that is in the sum
ONE = 1 / 65535


def changed(profile: Profile, section: str, **values: Any) -> Profile:
    part = msgspec.structs.replace(getattr(profile, section), **values)
    return msgspec.structs.replace(profile, **{section: part})


QUIET = changed(
    CAP, "imperfections",
    adc_noise_lsb=0.0, cell_mismatch=0.0, column_noise_uS=0.0, adc_inl_lsb=0.0,
)  # fmt: skip
#: 12 bits hold every popcount of 1152 rows, of both signs
FINE = changed(QUIET, "chip", adc_bits=12, adc_span_cells=(64.0, 4095.0), tiles=2)


def opened(profile: Profile, seed: int = 0, **options: Any) -> Board:
    board = Board(profile, InProcessLink(Firmware(Chip(profile, seed))), **options)
    board.power_up()
    return board


def groups(rows: int, outputs: int, *, tile: int = 0, row: int = 0, column: int = 0) -> Matrix:
    region = m.Region(tile, row, rows, column, GROUP * outputs)
    return Matrix((region,), differential=False, group=GROUP)


def planes_of(codes: Any, bits: int, *, signed: bool, ternary: bool) -> list[tuple[int, Any]]:
    """What is applied one after the other, written down once more from the specification."""
    codes = codes.astype(int)
    if ternary:
        top = bits - 1 if signed else bits
        return [(2**k, np.sign(codes) * (abs(codes) // 2**k % 2)) for k in range(top)]
    return [
        (-(2**k) if signed and k == bits - 1 else 2**k, codes % 2**bits // 2**k % 2)
        for k in range(bits)
    ]


# --- integer arithmetic ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_without_errors_a_range_that_covers_the_column_gives_the_integer_product(data: Any) -> None:
    rows = data.draw(st.one_of(st.integers(1, 40), st.integers(1, 1152)))
    outputs, batch = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    bits, signed = data.draw(st.integers(1, 8)), data.draw(st.booleans())
    ternary = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    extremes = data.draw(st.booleans())
    codes = rng.choice((low, high), (batch, rows)) if extremes else rng.integers(
        low, high + 1, (batch, rows)
    )  # fmt: skip
    if signed and ternary:
        codes = np.maximum(codes, low + 1)
    weights = rng.choice((-8, 7), (rows, outputs)) if extremes else rng.integers(
        -8, 8, (rows, outputs)
    )  # fmt: skip
    matrix = groups(
        rows, outputs, tile=1, row=data.draw(st.integers(0, 1152 - rows)),
        column=GROUP * data.draw(st.integers(0, 64 - outputs)),
    )  # fmt: skip
    with opened(FINE) as board:
        board.program_integers(matrix, weights)
        board.configure(1, ONE)
        done = board.multiply(matrix, codes, slot=1, bits=bits, signed=signed, ternary=ternary)
    assert done.saturated == 0
    assert (done.codes == codes @ weights).all()


def test_row_blocks_and_column_blocks_of_several_tiles_add_up_exactly() -> None:
    rng = np.random.default_rng(3)
    heights, widths = (700, 1152, 3), (8, 20)
    regions = tuple(
        m.Region((i + j) % 2, 0, rows, 128 * (i // 2) + 40 * j, columns)
        for i, rows in enumerate(heights)
        for j, columns in enumerate(widths)
    )
    matrix = Matrix(regions, row_blocks=3, differential=False, group=GROUP)
    weights = rng.integers(-8, 8, matrix.shape)
    codes = rng.integers(-128, 128, (4, sum(heights)))
    with opened(FINE) as board:
        board.program_integers(matrix, weights)
        board.configure(2, ONE)
        done = board.multiply(matrix, codes, slot=2, signed=True)
    assert (done.codes == codes @ weights).all()


def test_images_are_unrolled_into_planes() -> None:
    rng = np.random.default_rng(4)
    window = m.Window(3, 6, 7, 3, 2, 2, 1, 1, 2, 1, 0, 1, 1)
    images = rng.integers(0, 16, (3, 3, 6, 7))
    weights = rng.integers(-8, 8, (18, 5))
    matrix = groups(18, 5)
    with opened(FINE) as board:
        board.program_integers(matrix, weights)
        board.configure(1, ONE)
        done = board.multiply(matrix, images, slot=1, window=window, bits=4)
    expected = (
        (unrolled(images, window) @ weights)
        .reshape(3, *done.codes.shape[2:], 5)
        .transpose(0, 3, 1, 2)
    )
    assert (done.codes == expected).all()


def test_a_radix_4_gradient_is_one_plane_an_exponent() -> None:
    """Magnitudes 4^e, each exponent a plane of -1, 0, 1, shifted by 2e where it is added."""
    rng = np.random.default_rng(5)
    weights = rng.integers(-8, 8, (60, 6))
    exponents = rng.integers(0, 7, (8, 60))
    signs = rng.integers(-1, 2, (8, 60))
    matrix = groups(60, 6)
    total = np.zeros((8, 6), dtype=np.int64)
    with opened(FINE) as board:
        board.program_integers(matrix, weights)
        board.configure(1, ONE)
        before = board.status().conversions
        for e in range(7):
            plane = signs * (exponents == e)
            part = board.multiply(matrix, plane, slot=1, bits=2, signed=True, ternary=True)
            total += part.codes.astype(np.int64) << 2 * e
        assert board.status().conversions - before == 7 * 8 * 6 * GROUP
    assert (total == (signs * 4**exponents) @ weights).all()


# --- the converter: each plane of each column -----------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_each_plane_of_each_column_is_rounded_and_clipped_by_itself(data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    rows, outputs, bits = 200, 3, data.draw(st.integers(2, 8))
    signed = data.draw(st.booleans())
    ternary = signed and data.draw(st.booleans())
    low = -(2 ** (bits - 1)) + ternary if signed else 0
    codes = rng.integers(low, low + 2**bits - ternary, (6, rows))
    weights = rng.integers(-8, 8, (rows, outputs))
    span = data.draw(st.floats(64, 260))
    matrix = groups(rows, outputs)
    with opened(QUIET) as board:
        board.program_integers(matrix, weights)
        board.configure(1, QUIET.gain(span))
        multiplier, shift = slot_of(board, 1)
        done = board.multiply(matrix, codes, slot=1, bits=bits, signed=signed, ternary=ternary)
    cells = bits_of(weights, CAP.chip.column_weights).astype(np.int64)
    least, most = (-128, 127) if ternary else (0, 255)
    expected, saturated = np.zeros((6, outputs), dtype=np.int64), 0
    for weight, plane in planes_of(codes, bits, signed=signed, ternary=ternary):
        free = round_shift(65535 * (plane @ cells) * multiplier, shift)
        clipped = np.clip(free, least, most)
        saturated += int((free != clipped).sum())
        expected += weight * weights_of_codes(clipped)
    assert (done.codes == expected).all()
    assert done.saturated == saturated


def slot_of(board: Board, number: int) -> tuple[int, int]:
    slot = board._driver._link._device.chip.slots[number]  # type: ignore[attr-defined]
    return slot.multiplier, slot.shift


def weights_of_codes(codes: Any) -> Any:
    return codes.reshape(len(codes), -1, GROUP) @ np.array(CAP.chip.column_weights)


def test_a_narrow_range_saturates_and_says_how_often() -> None:
    with opened(QUIET) as board:
        board.program_integers(groups(300, 1), np.full((300, 1), -1))
        board.configure(1, QUIET.gain(64))
        done = board.multiply(groups(300, 1), np.ones((2, 300), dtype=int), slot=1, bits=1)
        assert done.saturated == board.status().saturations == 2 * GROUP
    assert (done.codes == -255).all()


# --- errors of the analog part --------------------------------------------------------------------


def single(rows: int, columns: int) -> Matrix:
    return Matrix((m.Region(0, 0, rows, 0, columns),), differential=False)


def test_capacitors_spread_as_the_profile_says_and_no_reading_shows_it() -> None:
    # One row at a time; a code is worth a quarter of a percent of a cell.
    profile = changed(QUIET, "imperfections", cell_mismatch=0.05)
    profile = changed(profile, "chip", adc_bits=12, adc_span_cells=(2.0, 64.0))
    with opened(profile, seed=7) as board:
        tile = board.tiles[0]
        tile.program_region(tile.whole(), np.full((1152, 256), 65535))
        assert (tile.read() == 65535).all()
        board.configure(1, profile.gain(2.0))
        seen = board.multiply(
            single(64, 256), np.eye(64, dtype=np.uint8), slot=1, bits=1
        ).codes / (4095 / 2.0)  # fmt: skip
    assert seen.mean() == pytest.approx(1.0, abs=4 * 0.05 / seen.size**0.5)
    assert seen.std() == pytest.approx(0.05, rel=4 / (2 * seen.size) ** 0.5)


def test_another_chip_has_other_capacitors_and_the_same_chip_the_same() -> None:
    profile = changed(QUIET, "imperfections", cell_mismatch=0.05)

    def product(seed: int) -> Any:
        with opened(profile, seed) as board:
            board.program_integers(groups(500, 2), np.full((500, 2), 7))
            board.configure(1, profile.gain(600))
            codes = np.random.default_rng(0).integers(0, 2, (20, 500))
            return board.multiply(groups(500, 2), codes, slot=1, bits=1).codes

    assert (product(1) == product(1)).all()
    assert (product(1) != product(2)).any()


def test_the_noise_of_a_column_does_not_depend_on_its_inputs_nor_its_planes_on_each_other() -> None:
    profile = changed(QUIET, "imperfections", column_noise_uS=2.0)
    with opened(profile) as board:
        board.program_integers(groups(100, 8), np.zeros((100, 8), dtype=int))
        board.configure(1, profile.gain(64))
        zeros = np.zeros((4000, 100), dtype=int)
        ways = [{"bits": 2}, {"bits": 3}]
        columns = [
            board.multiply(
                single(100, 32), zeros, slot=1, signed=True, ternary=True, **way
            ).codes for way in ways
        ]  # fmt: skip
    one = (2.0 * 255 / 64) ** 2 + 1 / 12
    # Two planes of independent noise, of weights 1 and 2.
    for found, variance in zip(columns, (one, 5 * one), strict=True):
        assert found.var() == pytest.approx(variance, rel=4 * (2 / found.size) ** 0.5)


@pytest.mark.parametrize("ternary", [False, True])
def test_noise_belongs_to_its_place_whatever_the_batch_and_the_frames(ternary: bool) -> None:
    rng = np.random.default_rng(6)
    weights = rng.integers(-8, 8, (90, 10))
    codes = rng.integers(-7, 8, (50, 90))
    answers = []
    for payload, cuts in ((None, [50]), (600, [50]), (None, [1, 20, 50]), (400, [33, 50])):
        with opened(CAP, seed=3, max_payload=payload) as board:
            board.program_integers(groups(90, 10), weights)
            board.configure(1, CAP.gain(100))
            parts = np.split(codes, cuts[:-1])
            answers.append(np.concatenate([
                board.multiply(
                    groups(90, 10), part, slot=1, bits=4, signed=True, ternary=ternary
                ).codes for part in parts
            ]))  # fmt: skip
    assert all((answer == answers[0]).all() for answer in answers[1:])
    assert (answers[0] != codes @ weights).any()


# --- bits -----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    weights=st.lists(
        st.integers(-128, 127).filter(lambda w: w != 0), min_size=1, max_size=8
    ),
    data=st.data(),
)  # fmt: skip
def test_bits_are_those_of_the_weight_whatever_the_columns_weigh(
    weights: list[int], data: Any
) -> None:
    patterns = data.draw(
        st.lists(st.lists(st.integers(0, 1), min_size=len(weights), max_size=len(weights)),
                 min_size=1, max_size=6)
    )  # fmt: skip
    wanted = np.array(patterns) @ np.array(weights)
    found = bits_of(wanted[:, None], weights)
    assert found.shape == (len(patterns), len(weights))
    assert set(np.unique(found)) <= {0, 1}
    assert (weights_of(found, weights)[:, 0] == wanted).all()
    assert column_weights(packed_column_weights(weights)) == tuple(weights)


def test_twos_complement_is_what_the_profile_s_columns_make() -> None:
    found = bits_of(np.array([[-8, -1, 0, 5, 7]]), CAP.chip.column_weights)
    assert found.reshape(5, 4).tolist() == [
        [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 1],
    ]  # fmt: skip


def test_a_weight_that_no_group_holds_is_refused_before_anything_is_written() -> None:
    with opened(QUIET) as board:
        before = board.status().writes
        with pytest.raises(UsageError, match="A weight of 8 is no sum"):
            board.program_integers(groups(2, 2), np.array([[0, 7], [8, 1]]))
        with pytest.raises(UsageError, match="do not fit"):
            board.program_integers(groups(2, 2), np.zeros((3, 2), dtype=int))
        assert board.status().writes == before


# --- cells ----------------------------------------------------------------------------------------


def test_a_write_is_exact_and_only_cells_that_change_wear() -> None:
    rng = np.random.default_rng(8)
    with opened(CAP) as board:
        tile = board.tiles[2]
        before, wanted = tile.read() > 0, rng.integers(0, 2, (1152, 256))
        done = tile.program_region(tile.whole(), 65535 * wanted)
        assert (tile.read() == 65535 * wanted).all()
        assert done.unconverged == 0
        assert done.set_pulses == (wanted > before).sum()
        assert done.reset_pulses == (wanted < before).sum()
        assert (tile.wear() == (wanted != before)).all()


def test_cells_beyond_the_reach_of_one_index_are_programmed_in_the_caller_s_order() -> None:
    rng = np.random.default_rng(9)
    place = rng.permutation(1152 * 256)[:3000]
    rows, columns = np.divmod(place, 256)
    targets = 65535 * rng.integers(0, 2, place.size)
    with opened(CAP) as board:
        tile = board.tiles[0]
        untouched = tile.read()
        done = tile.program(rows, columns, targets, cycles=1, tolerance=1, read_back=True)
        untouched[rows, columns] = targets
        assert (done.readings == targets).all()
        assert (tile.read() == untouched).all()


def test_a_chip_powers_up_with_bits_at_random() -> None:
    cells = Chip(CAP, 1).cells.conductances
    assert set(np.unique(cells)) == {0, 65535}
    assert np.mean(cells > 0) == pytest.approx(0.5, abs=4 * 0.5 / cells.size**0.5)


@pytest.mark.parametrize("command", [Opcode.PROGRAM, Opcode.LOAD])
def test_what_is_no_bit_is_refused_with_its_place(command: Opcode) -> None:
    region, values = m.Region(0, 0, 1, 0, 3), (0, 65535, 30000)
    request = (
        m.LoadRequest(region, values)
        if command == Opcode.LOAD
        else m.ProgramRequest(0, 1, 0, 0, region, (), values)
    )
    with opened(CAP) as board, pytest.raises(DeviceError) as error:
        board._driver.call(request, m.RESPONSES[command])
    assert error.value.detail == Detail.TARGET


# --- what is not offered --------------------------------------------------------------------------


def test_hello_lists_no_pulse_and_the_host_says_so_before_it_sends_one() -> None:
    with opened(CAP) as board:
        assert not any(board.offers(op) for op in (Opcode.PULSE, Opcode.OUTER, Opcode.WAIT))
        one = np.zeros(1, dtype=int)
        sent = board.statistics.frames
        with pytest.raises(UnsupportedError, match="no open-loop pulses"):
            board.tiles[0].pulse(one, one, one + 1, set_mV=1, reset_mV=1, width_ns=1)
        assert board.statistics.frames == sent


NOT_OFFERED: list[tuple[Callable[[Board], Any], str]] = [
    (lambda b: b.multiply(Matrix((m.Region(0, 0, 2, 0, 4),), group=4, differential=False),
                          np.zeros((1, 2), dtype=int), slot=1), "no groups of 4"),
    (lambda b: b.multiply(Matrix((m.Region(0, 0, 2, 0, 4),)), np.zeros((1, 2), dtype=int), slot=1,
                          ternary=True), "no ternary planes"),
    (lambda b: b.program_integers(Matrix((m.Region(0, 0, 2, 0, 4),)), np.zeros((2, 2), dtype=int)),
     "adds no such groups"),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "said"), NOT_OFFERED, ids=["groups", "ternary", "integers"])
def test_a_board_without_groups_or_planes_is_told_apart_on_the_host(
    ask: Callable[[Board], Any], said: str
) -> None:
    with opened(catalogue.load("emu")) as board, pytest.raises(UnsupportedError, match=said):
        ask(board)


# --- cost -----------------------------------------------------------------------------------------


def test_time_and_energy_count_planes_and_conversions() -> None:
    with opened(QUIET) as board:
        board.configure(1, QUIET.gain(100))
        before = board.status()
        board.multiply(groups(30, 5), np.zeros((7, 30), dtype=int), slot=1, bits=3)
        after = board.status()
    assert after.steps - before.steps == after.tile_operations - before.tile_operations == 7 * 3
    assert after.conversions - before.conversions == 7 * 3 * 20
    assert after.time - before.time == 7 * 3 * 10
    costs = CAP.costs
    conversion = costs.conversion_pJ + costs.column_charge_pJ + costs.shift_add_pJ
    counts = Counts(tile_operations=21, conversions=420)
    assert energy_pJ(CAP, counts) == round(21 * 1000 * costs.tile_operation_nJ + 420 * conversion)


@pytest.mark.parametrize("tolerance", [0, 16384])
def test_compiled_writes_are_their_oracle(tolerance: int) -> None:
    rng = np.random.default_rng(tolerance)
    cells = 500
    stuck = (rng.random(cells) < 0.1).astype(np.uint8)
    sides = []
    start = rng.choice([0, 16000, 65535], cells).astype(np.uint16)
    index = rng.permutation(cells)[:300]
    targets = rng.choice([0, 65535], index.size).astype(np.uint16)
    for write in (bit_cells._write, bit_cells.write_numpy):
        held, pulses = start.copy(), np.zeros(cells, dtype=np.uint32)
        readings = np.zeros(index.size, dtype=np.uint16)
        counts = write(held, pulses, stuck, index, targets, tolerance, readings)
        sides.append((counts, held.tolist(), pulses.tolist(), readings.tolist()))
    assert sides[0] == sides[1]
    sets, resets, unconverged = sides[0][0]
    assert sets and resets and unconverged
