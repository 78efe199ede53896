"""Errors of lines, wires, temperature: each does what it says, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from boards import catalogue
from boards.profile import Profile
from firmware_protocol.messages import Region
from sim_backend import mismatch, wires
from sim_backend.array import Arrays
from sim_backend.chip import Chip
from sim_backend.feed import Product, Slot

EMU = catalogue.load("emu")
WHOLE = Region(0, 0, 64, 0, 64)
#: 1 code for 2^20 units of a sum: products of these tests stay in the range
SLOT = Slot(100, 1023, 1 << 15, 35)
#: twice as fine, for converters of 12 bits
FINER = Slot(100, 1023, 1 << 15, 34)
VECTORS = np.random.default_rng(0).integers(0, 256, (50, 64))


def faulty(profile: Profile = EMU, **faults: float) -> Profile:
    quiet: dict[str, float] = {"read_noise_uS": 0.0, "adc_noise_lsb": 0.0}
    changed = msgspec.structs.replace(profile.imperfections, **(quiet | faults))
    return msgspec.structs.replace(profile, imperfections=changed)


QUIET = faulty()
#: converters whose rounding hides little
PRECISE = msgspec.structs.replace(QUIET, chip=msgspec.structs.replace(QUIET.chip, adc_bits=12))


def product(
    region: Region = WHOLE,
    *,
    transposed: bool = False,
    differential: bool = True,
    slot: Slot = SLOT,
) -> Product:
    return Product(slot, (region,), 1, transposed, differential, None)


def answers(profile: Profile, asked: Product, seed: int = 0) -> Any:
    chip = Chip(profile, seed)
    inputs = chip._inputs(asked, asked.regions[0])
    return chip.multiply(asked, VECTORS[:, :inputs])[0]


def seen(profile: Profile, *, transposed: bool = False, region: Region = WHOLE) -> Any:
    chip = Chip(profile)
    arrays = Arrays(profile, 0, chip.cells.conductances)
    return arrays.products_see(region, 0, transposed=transposed)


def cells_of(profile: Profile) -> Any:
    return Chip(profile).cells.conductances[0].reshape(64, 64).astype(np.float64)


# --- converters ----------------------------------------------------------------------------------


def test_converters_have_the_spreads_that_the_profile_names() -> None:
    profile = faulty(adc_gain_variation=0.05, adc_offset_lsb=3.0, adc_inl_lsb=1.5)
    found: list[Any] = []
    for seed in range(50):
        for tile in range(4):
            for way in (False, True):
                errors = mismatch.converters(profile, seed, tile, transposed=way)
                assert errors is not None
                found.append(np.array(errors))
    gain, offset, bow = np.concatenate(found, axis=1)
    count = gain.size
    for values, mean, spread in ((gain, 1, 0.05), (offset, 0, 3.0), (bow, 0, 1.5)):
        assert abs(values.mean() - mean) < 4 * spread / np.sqrt(count)
        assert abs(values.std() / spread - 1) < 4 / np.sqrt(2 * count)
    # Chips, tiles, directions, lines and kinds of error share nothing.
    together = np.corrcoef(np.concatenate(found).reshape(-1, 64))
    assert np.abs(together[~np.eye(len(together), dtype=bool)]).max() < 5.5 / np.sqrt(64)


def test_converters_belong_to_chip_tile_direction_and_line() -> None:
    profile = faulty(adc_offset_lsb=3.0)
    first = mismatch.converters(profile, 1, 2, transposed=False)
    again = mismatch.converters(profile, 1, 2, transposed=False)
    assert first is not None and again is not None
    assert np.array_equal(first.offset, again.offset)
    for seed, tile, way in ((0, 2, False), (1, 1, False), (1, 2, True)):
        other = mismatch.converters(profile, seed, tile, transposed=way)
        assert other is not None and not np.array_equal(first.offset, other.offset)


def test_an_even_chip_has_no_errors_to_convert_with() -> None:
    for way in (False, True):
        assert mismatch.converters(EMU, 0, 0, transposed=way) is None
        assert mismatch.drivers(EMU, 0, 0, transposed=way) is None


@pytest.mark.parametrize("transposed", [False, True])
def test_the_offset_of_a_line_is_what_it_answers_to_no_input(transposed: bool) -> None:
    profile = faulty(adc_offset_lsb=3.0)
    errors = mismatch.converters(profile, 0, 0, transposed=transposed)
    assert errors is not None
    nothing = np.zeros((1, 32), dtype=np.uint8)
    region = Region(0, 0, 64 if transposed else 32, 0, 64)
    answer, _ = Chip(profile).multiply(product(region, transposed=transposed), nothing)
    lines = errors.offset if transposed else errors.offset[::2]
    assert np.array_equal(answer[0], np.rint(lines))


def test_a_pair_has_the_converter_of_its_first_column() -> None:
    profile = faulty(adc_offset_lsb=3.0)
    nothing = np.zeros((1, 32), dtype=np.uint8)
    chip = Chip(profile)
    single, _ = chip.multiply(product(Region(0, 0, 32, 10, 20), differential=False), nothing)
    pairs, _ = chip.multiply(product(Region(0, 0, 32, 10, 20)), nothing)
    assert np.array_equal(pairs[0], single[0, ::2])
    assert np.unique(single).size > 5


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gain_of_a_line_scales_its_products(transposed: bool) -> None:
    asked = product(transposed=transposed, differential=False, slot=FINER)
    profile = faulty(PRECISE, adc_gain_variation=0.02)
    errors = mismatch.converters(profile, 0, 0, transposed=transposed)
    assert errors is not None
    even, uneven = answers(PRECISE, asked), answers(profile, asked)
    assert even.min() > 100 and even.max() < 1800
    assert np.abs(uneven - even * errors.gain[None, :]).max() <= 0.5 + 0.5 * errors.gain.max()


def test_errors_of_the_columns_converters_leave_transposed_products_independent() -> None:
    """Rows have converters of their own: which columns are driven is nothing to them."""
    profile = faulty(adc_offset_lsb=3.0, adc_gain_variation=0.05)
    nothing = np.zeros((1, 20), dtype=np.uint8)
    some = [
        Chip(profile).multiply(product(Region(0, 8, 30, at, 40), transposed=True), nothing)[0]
        for at in (0, 16)
    ]
    assert np.array_equal(*some)


def test_the_converters_gain_follows_temperature() -> None:
    warm = faulty(PRECISE, adc_gain_ppm_per_K=2000.0, temperature_C=75.0)
    asked = product(slot=FINER)
    expected = answers(PRECISE, asked) * 1.1
    assert np.abs(answers(warm, asked) - expected).max() <= 1.1
    cold = faulty(PRECISE, adc_gain_ppm_per_K=2000.0, temperature_C=25.0)
    assert np.array_equal(answers(cold, asked), answers(PRECISE, asked))


# --- what converters see -------------------------------------------------------------------------


def test_with_everything_off_the_cells_are_seen_as_they_are() -> None:
    region = Region(0, 3, 20, 8, 30)
    assert np.array_equal(seen(EMU, region=region), cells_of(EMU)[3:23, 8:38])


@pytest.mark.parametrize("transposed", [False, True])
def test_drivers_scale_the_lines_that_they_drive(transposed: bool) -> None:
    profile = faulty(dac_gain_variation=0.03)
    gains = mismatch.drivers(profile, 0, 0, transposed=transposed)
    assert gains is not None and abs(gains.std() / 0.03 - 1) < 4 / np.sqrt(2 * 64)
    expected = cells_of(profile) * (gains[None, :] if transposed else gains[:, None])
    assert np.array_equal(seen(profile, transposed=transposed), np.rint(expected))


@pytest.mark.parametrize("transposed", [False, True])
def test_wires_are_those_of_the_wire_model(transposed: bool) -> None:
    profile = faulty(row_wire_ohm=2.0, column_wire_ohm=1.0)
    unit = profile.microsiemens(1)
    expected = wires.effective(cells_of(profile) * unit, 2.0, 1.0) / unit
    found = seen(profile, transposed=transposed)
    assert np.array_equal(found, np.rint(expected))
    lost = 1 - found.sum() / cells_of(profile).sum()
    assert 0.02 < lost < 0.3


def test_a_product_loses_current_along_its_wires() -> None:
    """The far corner from drivers and amplifiers loses most; the sum is that of the wire model."""
    profile = faulty(PRECISE, row_wire_ohm=2.0, column_wire_ohm=2.0)
    matrix = wires.effective(cells_of(profile) * profile.microsiemens(1), 2.0, 2.0)
    matrix /= profile.microsiemens(1)
    found = answers(profile, product(differential=False, slot=FINER))
    assert np.abs(found - VECTORS @ matrix * 2.0**-19).max() < 0.6
    whole = answers(PRECISE, product(differential=False, slot=FINER))
    share = (found / whole).mean(axis=0)
    assert share[0] > share[63] and share.max() < 0.97


def test_conductances_follow_temperature() -> None:
    profile = faulty(conductance_ppm_per_K=-1000.0, temperature_C=125.0)
    assert np.array_equal(seen(profile), np.rint(cells_of(profile) * 0.9))
    read = Chip(profile).read(WHOLE, 1, last=True).reshape(64, 64)
    # To half a code of the converter.
    assert np.abs(read - cells_of(profile) * 0.9).max() <= 65535 / 255 / 2 + 0.5


def test_a_chip_that_melts_conducts_nothing_rather_than_backwards() -> None:
    profile = faulty(conductance_ppm_per_K=-10000.0, temperature_C=200.0)
    assert not seen(profile).any()


@pytest.mark.parametrize("tall", ["emu", "brram-256x64"])
@pytest.mark.parametrize("differential", [False, True])
def test_sums_of_the_largest_conductances_seen_are_exact(tall: str, differential: bool) -> None:
    base = faulty(catalogue.load(tall))
    profile = faulty(base, conductance_ppm_per_K=10000.0, temperature_C=200.0)
    chip = Chip(profile)
    rows = profile.chip.rows
    tile = chip.cells.conductances[0].reshape(rows, 64)
    tile[...] = 65535
    if differential:
        tile[:, ::2] = 0
    region = Region(0, 0, rows, 0, 64)
    weight = chip._weight(region, product(region, differential=differential)).numpy()
    largest = np.abs(weight.astype(np.int64)).sum(axis=1).max() * 255
    assert largest <= 1 << 24
    assert weight[:1].max() * 256 > 65535 or differential


def test_a_changed_cell_is_seen_through_wires_too() -> None:
    profile = faulty(row_wire_ohm=2.0, column_wire_ohm=2.0, sneak_ratio=0.01)
    chip = Chip(profile)
    asked = product(slot=Slot(100, 1023, 1 << 15, 33))
    before, read = chip.multiply(asked, VECTORS)[0], chip.read(WHOLE, 1, last=True)
    chip.load(0, np.arange(64 * 32), np.full(64 * 32, 60000, dtype=np.uint16))
    assert not np.array_equal(chip.multiply(asked, VECTORS)[0], before)
    assert (chip.read(WHOLE, 1, last=True)[: 64 * 32] > read[: 64 * 32]).all()


# --- reading -------------------------------------------------------------------------------------


def test_reading_adds_sneak_paths() -> None:
    profile = faulty(sneak_ratio=0.01)
    unit = profile.microsiemens(1)
    expected = cells_of(profile) + wires.sneak(cells_of(profile) * unit, 0.01) / unit
    read = Chip(profile).read(WHOLE, 1, last=True).reshape(64, 64)
    assert np.abs(read - expected).max() <= 65535 / 255 / 2 + 0.5
    assert (read - cells_of(profile)).mean() > 500


@pytest.mark.parametrize("kelvin", [0.0, 75.0])
def test_read_noise_grows_with_the_root_of_the_absolute_temperature(kelvin: float) -> None:
    profile = faulty(read_noise_uS=1.0, temperature_C=25.0 + kelvin)
    chip = Chip(profile)
    chip.cells.conductances[...] = 30000
    growth = 1 + kelvin / 298.15
    sigma = 65535 / profile.chip.conductance_full_scale_uS
    read = np.concatenate([chip.read(WHOLE, 1, last=True) for _ in range(4)]).astype(float)
    expected = sigma**2 * growth + (65535 / 255) ** 2 / 12
    assert abs(read.var() / expected - 1) < 4 * np.sqrt(2 / read.size)
    pair = Product(SLOT, (WHOLE,), 1, False, True, None)
    assert chip._read_variance(pair) == pytest.approx(2 * sigma**2 * growth)


# --- each alone ----------------------------------------------------------------------------------

ALONE: list[tuple[dict[str, float], set[str]]] = [
    ({"adc_gain_variation": 0.05}, {"forward", "transposed"}),
    ({"adc_offset_lsb": 3.0}, {"forward", "transposed"}),
    ({"adc_inl_lsb": 3.0}, {"forward", "transposed"}),
    ({"dac_gain_variation": 0.05}, {"forward", "transposed"}),
    ({"row_wire_ohm": 3.0}, {"forward", "transposed"}),
    ({"column_wire_ohm": 3.0}, {"forward", "transposed"}),
    ({"sneak_ratio": 0.05}, {"read"}),
    ({"conductance_ppm_per_K": 5000.0, "temperature_C": 50.0}, {"forward", "transposed", "read"}),
    ({"adc_gain_ppm_per_K": 5000.0, "temperature_C": 50.0}, {"forward", "transposed"}),
    ({"temperature_C": 50.0}, set()),
    ({"conductance_ppm_per_K": 5000.0, "adc_gain_ppm_per_K": 5000.0}, set()),
]


@pytest.mark.parametrize(("faults", "changed"), ALONE, ids=lambda v: ",".join(v))
def test_each_imperfection_alone_changes_what_it_should_and_nothing_else(
    faults: dict[str, float], changed: set[str]
) -> None:
    def all_of(profile: Profile) -> dict[str, Any]:
        chip = Chip(profile)
        slot = Slot(100, 1023, 1 << 15, 33)
        found = {
            "cells": chip.cells.conductances.copy(),
            "forward": chip.multiply(product(slot=slot), VECTORS)[0],
            "transposed": chip.multiply(product(transposed=True, slot=slot), VECTORS[:, :32])[0],
            "read": chip.read(WHOLE, 1, last=True),
        }
        index = chip.cell_index(Region(0, 0, 4, 0, 4))
        targets = np.full(16, 40000, dtype=np.uint16)
        found["programmed"] = chip.program(0, index, targets, tolerance=819, cycles=2)[1]
        found["after"] = chip.cells.conductances.copy()
        return found

    even, uneven = all_of(QUIET), all_of(faulty(**faults))
    assert {k for k in even if not np.array_equal(even[k], uneven[k])} == changed
