"""The chip: exact products, noise that belongs to its place, and what is counted."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boards import catalogue, costs
from boards.profile import Profile
from firmware_protocol.geometry import output_size
from firmware_protocol.messages import Region, Window
from sim_backend.chip import Chip
from sim_backend.feed import Feed, Product, Slot

EMU = catalogue.load("emu")
TALL = catalogue.load("brram-256x64")
#: gain 2^-20: no sum of these tests saturates by accident of scale, and codes are not all zero
SLOT = Slot(100, 1023, 1 << 15, 35)


def with_noise(profile: Profile, **imperfections: float) -> Profile:
    quiet: dict[str, float] = {"read_noise_uS": 0.0, "adc_noise_lsb": 0.0}
    changed = msgspec.structs.replace(profile.imperfections, **(quiet | imperfections))
    return msgspec.structs.replace(profile, imperfections=changed)


QUIET, QUIET_TALL = with_noise(EMU), with_noise(TALL)
#: whatever can be wrong with lines, wires and temperature
UNEVEN = with_noise(
    EMU, read_noise_uS=0.5, adc_noise_lsb=2.0, adc_gain_variation=0.05, adc_offset_lsb=3.0,
    adc_inl_lsb=1.5, dac_gain_variation=0.02, row_wire_ohm=2.0, column_wire_ohm=1.0,
    sneak_ratio=0.01, conductance_ppm_per_K=1500.0, adc_gain_ppm_per_K=-700.0, temperature_C=61.0,
)  # fmt: skip
BOTH = pytest.mark.parametrize("profile", [EMU, UNEVEN], ids=["even", "uneven"])


def chip_of(profile: Profile, seed: int = 0) -> Chip:
    """A chip whose cells take any 16-bit value."""
    chip = Chip(profile, seed)
    shape = chip.cells.conductances.shape
    chip.cells.conductances[...] = np.random.default_rng(seed).integers(0, 65536, shape)
    return chip


def adc(total: Any, slot: Slot, bits: int) -> Any:
    """Half to even and saturation, in Python's and numpy's own rounding of exact doubles."""
    code = np.rint(total.astype(np.float64) * slot.multiplier / 2.0**slot.shift)
    return np.clip(code, -(1 << bits - 1), (1 << bits - 1) - 1).astype(np.int64)


def lines_of(chip: Chip, product: Product, region: Region) -> Any:
    """(inputs, outputs) integer weights of one region, cut out of the tile."""
    c = chip.profile.chip
    tile = chip.cells.conductances[region.tile].reshape(c.rows, c.columns).astype(np.int64)
    rows = slice(region.row, region.row + region.rows)
    cells = tile[rows, region.column : region.column + region.columns]
    if product.differential:
        cells = cells[:, 0::2] - cells[:, 1::2]
    return cells.T if product.transposed else cells


def multiplied(chip: Chip, product: Product, vectors: Any) -> tuple[Any, int]:
    """What the chip should say without noise: (vectors, outputs), and what saturated."""
    bits = chip.profile.chip.adc_bits
    columns = len(product.regions) // product.row_blocks
    sums: dict[int, Any] = {}
    saturated, at = 0, {}
    for number, region in enumerate(product.regions):
        row, column = divmod(number, columns)
        source, target = (column, row) if product.transposed else (row, column)
        weights = lines_of(chip, product, region)
        at[source, target] = weights
    first = 0
    for source in sorted({s for s, _ in at}):
        size = next(len(w) for (s, _), w in at.items() if s == source)
        block = vectors[:, first : first + size].astype(np.int64)
        for target in sorted({t for _, t in at}):
            total = block @ at[source, target]
            code = adc(total, product.slot, bits)
            raw = np.rint(total * product.slot.multiplier / 2.0**product.slot.shift)
            saturated += int(np.count_nonzero(raw != code))
            sums[target] = sums.get(target, 0) + code
        first += size
    return np.concatenate([sums[t] for t in sorted(sums)], axis=1), saturated


def unrolled(images: Any, w: Window) -> Any:
    """(images, places, inputs): the window laid over each place, in plain loops."""
    count, channels = images.shape[:2]
    padded = np.zeros(
        (count, channels, w.height + w.pad_top + w.pad_bottom, w.width + w.pad_left + w.pad_right),
        dtype=np.int64,
    )
    padded[:, :, w.pad_top : w.pad_top + w.height, w.pad_left : w.pad_left + w.width] = images
    height, width = output_size(w)
    out = np.zeros((count, height * width, channels * w.kernel_height * w.kernel_width), np.int64)
    for y in range(height):
        for x in range(width):
            k = 0
            for channel in range(channels):
                for ky in range(w.kernel_height):
                    for kx in range(w.kernel_width):
                        out[:, y * width + x, k] = padded[
                            :, channel, y * w.stride_y + ky * w.dilation_y,
                            x * w.stride_x + kx * w.dilation_x,
                        ]  # fmt: skip
                        k += 1
    return out


def split(total: int, parts: int, draw: Any) -> list[int]:
    """Sizes of that many parts, each at least 1."""
    if parts == 1:
        return [total]
    places = st.integers(1, total - 1)
    cuts = sorted(draw(st.sets(places, min_size=parts - 1, max_size=parts - 1)))
    return [b - a for a, b in itertools.pairwise([0, *cuts, total])]


@st.composite
def products(draw: st.DrawFn, inputs: int | None = None) -> Product:
    """Regions of any size and place; the rows add up to ``inputs`` where it is given."""
    differential, transposed = draw(st.booleans()), draw(st.booleans()) and inputs is None
    row_blocks = draw(st.integers(1, 3))
    if inputs is None:
        heights = [draw(st.integers(1, 64)) for _ in range(row_blocks)]
    else:
        row_blocks = min(row_blocks, inputs)
        heights = split(inputs, row_blocks, draw)
    step = 2 if differential else 1
    widths = [step * draw(st.integers(1, 12)) for _ in range(draw(st.integers(1, 3)))]
    regions = tuple(
        Region(
            draw(st.integers(0, 3)),
            draw(st.integers(0, 64 - rows)),
            rows,
            step * draw(st.integers(0, (64 - columns) // step)),
            columns,
        )
        for rows in heights
        for columns in widths
    )
    slot = Slot(100, 1023, draw(st.integers(1, 65535)), draw(st.integers(28, 40)))
    return Product(slot, regions, row_blocks, transposed, differential, None)


def inputs_of(product: Product) -> int:
    columns = len(product.regions) // product.row_blocks
    if not product.transposed:
        return sum(r.rows for r in product.regions[::columns])
    return sum(r.columns for r in product.regions[:columns]) // (2 if product.differential else 1)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(product=products(), batch=st.integers(1, 5), signed=st.booleans(), seed=st.integers(0, 99))
def test_products_of_vectors_are_plain_integer_arithmetic(
    product: Product, batch: int, signed: bool, seed: int
) -> None:
    chip = chip_of(QUIET, seed)
    low, high = (-128, 128) if signed else (0, 256)
    vectors = np.random.default_rng(seed).integers(low, high, (batch, inputs_of(product)))
    answer, saturated = chip.multiply(product, vectors)
    expected, expected_saturated = multiplied(chip, product, vectors)
    assert np.array_equal(answer, expected)
    assert saturated == expected_saturated == chip.cells.count("saturations")


def test_sums_of_many_blocks_are_held_without_loss() -> None:
    """Transposed, the blocks of a sum are column blocks, of which a request may name thousands."""
    chip = chip_of(QUIET)
    chip.cells.conductances[...] = 65535
    product = Product(SLOT, (Region(0, 0, 4, 0, 64),) * 300, 1, True, False, None)
    answer, _ = chip.multiply(product, np.full((1, 300 * 64), 255))
    assert answer.tolist() == [[127 * 300] * 4]


@st.composite
def windows(draw: st.DrawFn) -> Window:
    window = Window(
        channels=draw(st.integers(1, 4)),
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 9)),
        kernel_height=draw(st.integers(1, 4)),
        kernel_width=draw(st.integers(1, 4)),
        stride_y=draw(st.integers(1, 3)),
        stride_x=draw(st.integers(1, 3)),
        dilation_y=draw(st.integers(1, 2)),
        dilation_x=draw(st.integers(1, 3)),
        pad_top=draw(st.integers(0, 3)),
        pad_bottom=draw(st.integers(0, 3)),
        pad_left=draw(st.integers(0, 3)),
        pad_right=draw(st.integers(0, 3)),
    )
    height, width = output_size(window)
    if height < 1 or width < 1:
        span_y = window.dilation_y * (window.kernel_height - 1) + 1
        span_x = window.dilation_x * (window.kernel_width - 1) + 1
        window = dataclasses.replace(window, height=span_y, width=span_x)
    return window


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), window=windows(), images=st.integers(1, 3), seed=st.integers(0, 99))
def test_products_of_images_are_a_direct_loop(
    data: st.DataObject, window: Window, images: int, seed: int
) -> None:
    """Row blocks here end anywhere, in the middle of a channel as well."""
    inputs = window.channels * window.kernel_height * window.kernel_width
    product = data.draw(products(inputs))
    chip = chip_of(QUIET, seed)
    shape = (images, window.channels, window.height, window.width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape)
    answer, saturated = chip.multiply(dataclasses.replace(product, window=window), pixels)
    vectors = unrolled(pixels, window)
    expected, expected_saturated = multiplied(chip, product, vectors.reshape(-1, inputs))
    expected = expected.reshape(images, -1, expected.shape[1]).transpose(0, 2, 1)
    assert answer.shape == (images, expected.shape[1], *output_size(window))
    assert np.array_equal(answer.reshape(expected.shape), expected)
    assert saturated == expected_saturated


@pytest.mark.parametrize("cut", [(9, 9), (7, 11)], ids=["at a channel", "inside a channel"])
def test_transposed_images_are_a_direct_loop(cut: tuple[int, int]) -> None:
    window = Window(2, 5, 6, 3, 3, 1, 2, 1, 1, 1, 0, 2, 1)
    columns = [Region(t, 3, 20, 10 * t, 2 * size) for t, size in enumerate(cut)]
    product = Product(SLOT, tuple(columns), 1, True, True, window)
    chip = chip_of(QUIET, 5)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 2, 5, 6))
    answer, _ = chip.multiply(product, pixels)
    vectors = unrolled(pixels, window)
    expected, _ = multiplied(chip, product, vectors.reshape(-1, 18))
    expected = expected.reshape(2, -1, 20).transpose(0, 2, 1)
    assert np.array_equal(answer.reshape(expected.shape), expected)


@pytest.mark.parametrize("differential", [False, True])
def test_the_largest_sums_are_exact(differential: bool) -> None:
    """256 rows of full codes and full conductances, one unit short in a single cell."""
    chip = Chip(QUIET_TALL)
    tile = chip.cells.conductances[0].reshape(256, 64)
    tile[...] = 65535
    if differential:
        tile[:, 1::2] = 0
    tile[0, 0] -= 1
    product = Product(SLOT, (Region(0, 0, 256, 0, 4),), 1, False, differential, None)
    weight = chip._weight(product.regions[0], product)
    sums = Feed(torch.full((1, 256), 255.0), None, 0, 256).sums(weight).reshape(2, -1)
    totals = [int(high) * 256 + int(low) for high, low in sums.T]
    full = 256 * 255 * 65535
    assert totals == [full - 255, *[full] * (len(totals) - 1)]


@pytest.mark.parametrize("uses", [1, 4])
@pytest.mark.parametrize(("channels", "kernel"), [(28, 3), (10, 5), (256, 1)])
def test_large_convolutions_are_exact_whatever_algorithm_multiplies(
    channels: int, kernel: int, uses: int
) -> None:
    """Fast convolution algorithms would round; every sum of the planes must be a whole number."""
    chip = chip_of(QUIET_TALL, 3)
    # Small enough to be unrolled where several regions multiply it.
    size = 7 + kernel
    window = Window(channels, size, size, kernel, kernel, 1, 1, 1, 1, 0, 0, 0, 0)
    rows = channels * kernel * kernel
    region = Region(0, 0, rows, 0, 64)
    weight = chip._weight(region, Product(SLOT, (region,), 1, False, False, window))
    pixels = np.random.default_rng(3).integers(200, 256, (2, channels, size, size))
    feed = Feed(torch.from_numpy(pixels.astype(np.float32)), window, 0, rows, uses)
    vectors = unrolled(pixels, window)
    expected = vectors @ weight.numpy().astype(np.int64).T
    assert np.array_equal(feed.sums(weight), expected.transpose(0, 2, 1))
    assert np.array_equal(feed.power(), (vectors**2).sum(axis=2))


def noisy_product(data: st.DataObject) -> Product:
    product = data.draw(products())
    return dataclasses.replace(product, slot=SLOT)


def gather(chip: Chip, product: Product, batches: list[Any]) -> Any:
    return np.concatenate([chip.multiply(product, part)[0] for part in batches])


@BOTH
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), cuts=st.sets(st.integers(1, 11), max_size=4), seed=st.integers(0, 99))
def test_a_split_batch_has_the_bits_of_the_whole_with_noise_on(
    profile: Profile, data: st.DataObject, cuts: set[int], seed: int
) -> None:
    product = noisy_product(data)
    vectors = np.random.default_rng(seed).integers(0, 256, (12, inputs_of(product)))
    one, other = chip_of(profile, seed), chip_of(profile, seed)
    whole = gather(one, product, [vectors])
    parts = gather(other, product, np.split(vectors, sorted(cuts)))
    assert np.array_equal(whole, parts)
    assert np.array_equal(one.cells.positions, other.cells.positions)
    assert np.array_equal(one.cells.counters, other.cells.counters)
    assert not np.array_equal(whole, gather(one, product, [vectors]))


@BOTH
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 99))
def test_images_in_strips_of_output_rows_have_the_bits_of_the_whole_with_noise_on(
    profile: Profile, data: st.DataObject, seed: int
) -> None:
    stride, kernel, dilation, bottom = (data.draw(st.integers(1, 3)) for _ in range(4))
    top, channels = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3))
    window = Window(channels, 13, 7, kernel, 3, stride, 1, dilation, 1, top, bottom, 1, 0)
    inputs = channels * kernel * 3
    product = dataclasses.replace(data.draw(products(inputs)), slot=SLOT)
    pixels = np.random.default_rng(seed).integers(0, 256, (1, channels, 13, 7))
    one, other = chip_of(profile, seed), chip_of(profile, seed)
    whole, _ = one.multiply(dataclasses.replace(product, window=window), pixels)
    height, _ = output_size(window)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, height - 1)), max_size=3)) | {height})
    strips, first = [], 0
    for end in (c for c in cuts if c <= height):
        # Input rows under output rows first..end-1, cut to the image; the rest is padding.
        above = first * stride - top
        below = (end - 1) * stride - top + dilation * (kernel - 1) + 1
        rows = slice(max(0, above), max(0, min(13, below)))
        piece = pixels[:, :, rows]
        strip = dataclasses.replace(
            window, height=piece.shape[2], pad_top=max(0, -above), pad_bottom=max(0, below - 13)
        )
        if not piece.shape[2]:
            return  # a strip of nothing but padding: the driver cuts none such
        strips.append(other.multiply(dataclasses.replace(product, window=strip), piece)[0])
        first = end
    assert np.array_equal(whole, np.concatenate(strips, axis=2))
    assert np.array_equal(one.cells.positions, other.cells.positions)


@BOTH
def test_images_in_batches_have_the_bits_of_the_whole_with_noise_on(profile: Profile) -> None:
    window = Window(1, 8, 8, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0)
    regions = (Region(0, 0, 4, 0, 8), Region(0, 4, 5, 0, 8))
    product = Product(SLOT, regions, 2, False, True, window)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 1, 8, 8))
    one, other = chip_of(profile, 2), chip_of(profile, 2)
    parts = gather(other, product, [pixels[:1], pixels[1:4], pixels[4:]])
    assert np.array_equal(gather(one, product, [pixels]), parts)


@BOTH
def test_images_have_the_noise_of_the_vectors_that_they_unroll_to(profile: Profile) -> None:
    window = Window(2, 6, 7, 3, 2, 2, 1, 1, 2, 1, 0, 0, 2)
    product = Product(SLOT, (Region(1, 5, 12, 4, 20),), 1, False, True, None)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 2, 6, 7))
    one, other = chip_of(profile, 2), chip_of(profile, 2)
    as_images, _ = one.multiply(dataclasses.replace(product, window=window), pixels)
    as_vectors, _ = other.multiply(product, unrolled(pixels, window).reshape(-1, 12))
    outputs = as_images.reshape(3, 10, -1).transpose(0, 2, 1).reshape(-1, 10)
    assert np.array_equal(outputs, as_vectors)


def test_tiles_and_seeds_have_noise_of_their_own() -> None:
    vectors = np.full((200, 64), 200)
    seen = []
    for seed, tile in ((0, 0), (0, 1), (1, 0)):
        chip = Chip(EMU, seed)
        chip.cells.conductances[...] = 20000
        product = Product(SLOT, (Region(tile, 0, 64, 0, 16),), 1, False, True, None)
        seen.append(chip.multiply(product, vectors)[0])
    assert not any(np.array_equal(a, b) for a, b in zip(seen, seen[1:] + seen[:1], strict=True))


# --- reading -------------------------------------------------------------------------------------


@BOTH
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    cuts=st.sets(st.integers(1, 9), max_size=4),
    samples=st.integers(1, 4),
    by_rows=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_read_in_parts_has_the_bits_of_the_read_in_one(
    profile: Profile, cuts: set[int], samples: int, by_rows: bool, seed: int
) -> None:
    one, other = Chip(profile, seed), Chip(profile, seed)
    whole = one.read(Region(2, 3, 10, 7, 10), samples, last=True).reshape(10, 10)
    edges = [0, *sorted(cuts), 10]
    parts = []
    for a, b in itertools.pairwise(edges):
        region = Region(2, 3 + a, b - a, 7, 10) if by_rows else Region(2, 3, 10, 7 + a, b - a)
        read = other.read(region, samples, last=b == 10)
        parts.append(read.reshape(region.rows, region.columns))
    assert np.array_equal(np.concatenate(parts, axis=0 if by_rows else 1), whole)
    assert np.array_equal(one.cells.positions, other.cells.positions)
    after = one.read(Region(2, 3, 10, 7, 10), samples, last=True).reshape(10, 10)
    assert not np.array_equal(after, whole)


def test_a_quiet_read_is_the_conductance_to_half_a_code() -> None:
    chip = Chip(QUIET, 1)
    found = chip.read(Region(0, 0, 64, 0, 64), 1, last=True).astype(float)
    assert np.abs(found - chip.cells.conductances[0]).max() <= 65535 / 255 / 2 + 0.5


def test_averaging_reads_narrows_the_noise_as_independent_samples_do() -> None:
    chip = Chip(EMU, 1)
    chip.cells.conductances[...] = 30000
    sigma = chip.device.reading_error
    for samples in (1, 16):
        found = chip.read(Region(0, 0, 64, 0, 64), samples, last=True).astype(float)
        # Each sample is rounded to a code of the converter, which adds a twelfth of its square.
        expected = (sigma**2 + (65535 / 255) ** 2 / 12) / samples
        assert abs(found.var() / expected - 1) < 4 * np.sqrt(2 / found.size)
        assert abs(found.mean() - 30000) < 4 * np.sqrt(expected / found.size) + 1


# --- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("differential", [False, True])
def test_the_noise_of_a_conversion_has_the_variance_of_a_draw_for_each_cell(
    differential: bool,
) -> None:
    """The emulator draws once a conversion; here every cell of every vector is drawn."""
    profile = with_noise(EMU, read_noise_uS=0.474)
    chip = Chip(profile, 4)
    chip.cells.conductances[...] = 1000
    count, rows = 8000, 24
    codes = np.random.default_rng(4).integers(0, 256, rows)
    sigma = 0.474 / profile.chip.conductance_full_scale_uS * 65535
    cells_per_output = 2 if differential else 1
    deviation = sigma * np.sqrt(cells_per_output * (codes.astype(float) ** 2).sum())
    # Some 14 codes of noise; a single column's mean is brought into range by signed codes.
    slot = Slot(100, 1023, round(14 / deviation * 2**32), 32)
    signs = np.where(np.arange(rows) % 2, 1, -1)
    columns = cells_per_output
    product = Product(slot, (Region(0, 8, rows, 6, columns),), 1, False, differential, None)
    answer, saturated = chip.multiply(product, np.tile(codes * signs, (count, 1)))
    assert saturated == 0
    rng = np.random.default_rng(5)
    drawn = np.rint(1000 + sigma * rng.standard_normal((count, rows, columns)))
    weights = drawn[:, :, 0] - drawn[:, :, 1] if differential else drawn[:, :, 0]
    by_cell = np.rint((weights @ (codes * signs)) * slot.multiplier / 2.0**slot.shift)
    # Two variances of n draws: their ratio's logarithm has the standard error sqrt(4 / n).
    ratio = answer.astype(float).var() / by_cell.var()
    assert abs(np.log(ratio)) < 4 * np.sqrt(4 / count)
    spread = answer.astype(float).var() * (2.0**slot.shift / slot.multiplier) ** 2
    assert abs(spread / deviation**2 - 1) < 4 * np.sqrt(2 / count) + 1 / 12 / 14**2


def test_the_converters_noise_is_stated_in_its_codes() -> None:
    chip = Chip(with_noise(EMU, adc_noise_lsb=2.0), 4)
    chip.cells.conductances[...] = 20000
    product = Product(SLOT, (Region(0, 0, 64, 0, 2),), 1, False, True, None)
    answer, _ = chip.multiply(product, np.full((8000, 64), 200))
    assert abs(answer.astype(float).var() / (4 + 1 / 12) - 1) < 4 * np.sqrt(2 / 8000)


def test_noise_without_input_is_the_converters_alone() -> None:
    chip = Chip(with_noise(EMU, read_noise_uS=5.0), 4)
    product = Product(SLOT, (Region(0, 0, 64, 0, 64),), 1, False, False, None)
    answer, _ = chip.multiply(product, np.zeros((50, 64), dtype=int))
    assert not answer.any()


# --- counters ------------------------------------------------------------------------------------


def infer_lenet(chip: Chip) -> None:
    """One image through the paper's mapping: a tile takes whole channels of a kernel.

    conv1: 25 rows x 4 pairs. conv2: two blocks of 50 rows x 12 pairs. FC: three blocks of 64 rows
    x 10 pairs. Six arrays where the paper has tiles enough; the blocks of one layer must lie on
    different tiles for its partial sums to come from one operation.
    """
    rng = np.random.default_rng(1)
    conv1 = Window(1, 28, 28, 5, 5, 1, 1, 1, 1, 0, 0, 0, 0)
    conv2 = Window(4, 12, 12, 5, 5, 1, 1, 1, 1, 0, 0, 0, 0)
    first = (Region(0, 0, 25, 0, 8),)
    second = (Region(1, 0, 50, 0, 24), Region(2, 0, 50, 0, 24))
    third = tuple(Region(t, 0, 64, 24, 20) for t in (1, 2, 3))
    chip.multiply(Product(SLOT, first, 1, False, True, conv1), rng.integers(0, 256, (1, 1, 28, 28)))
    chip.multiply(
        Product(SLOT, second, 2, False, True, conv2), rng.integers(0, 256, (1, 4, 12, 12))
    )
    chip.multiply(Product(SLOT, third, 3, False, True, None), rng.integers(0, 256, (1, 192)))


def test_one_image_of_lenet_counts_what_table_2_prints() -> None:
    chip = Chip(EMU)
    infer_lenet(chip)
    count = chip.cells.count
    assert count("steps") == 576 + 64 + 1 == 641
    assert count("tile_operations") == 576 + 2 * 64 + 3 == 707
    assert count("vectors") == 641
    assert count("conversions") == 576 * 4 + 2 * 64 * 12 + 3 * 10
    assert count("reads") == count("writes") == 0


def test_one_image_of_lenet_costs_what_table_2_prints() -> None:
    chip = Chip(EMU)
    infer_lenet(chip)
    assert round(costs.time_ns(EMU, chip.counts()) / 1e6, 2) == 0.46
    assert round(costs.energy_pJ(EMU, chip.counts()) / 1e9, 4) == 0.0019
    assert costs.time_ns(EMU, chip.counts()) == 641 * 720
    assert costs.energy_pJ(EMU, chip.counts()) == 707 * 2660


def test_blocks_on_one_tile_are_steps_in_sequence() -> None:
    chip = Chip(EMU)
    regions = (Region(0, 0, 32, 0, 4), Region(0, 32, 32, 0, 4), Region(1, 0, 32, 0, 4))
    chip.multiply(Product(SLOT, regions, 3, False, True, None), np.ones((10, 96), dtype=int))
    assert chip.cells.count("steps") == 20
    assert chip.cells.count("tile_operations") == 30


def test_row_blocks_side_by_side_in_the_columns_of_a_tile_are_operations_of_their_own() -> None:
    """They take different inputs over the same rows: one operation cannot serve both."""
    chip = Chip(EMU)
    regions = (Region(0, 0, 50, 0, 24), Region(0, 0, 50, 24, 24))
    chip.multiply(Product(SLOT, regions, 2, False, True, None), np.ones((64, 100), dtype=int))
    assert chip.cells.count("steps") == chip.cells.count("tile_operations") == 128


def test_columns_side_by_side_over_the_same_rows_are_one_operation() -> None:
    chip = Chip(EMU)
    regions = (Region(0, 0, 32, 0, 4), Region(0, 0, 32, 8, 6))
    chip.multiply(Product(SLOT, regions, 1, False, True, None), np.ones((10, 32), dtype=int))
    assert chip.cells.count("steps") == chip.cells.count("tile_operations") == 10


@settings(max_examples=30, deadline=None, derandomize=True)
@given(product=products(), batch=st.integers(1, 4))
def test_every_output_of_every_input_block_is_one_conversion(product: Product, batch: int) -> None:
    chip = Chip(EMU)
    answer, _ = chip.multiply(product, np.ones((batch, inputs_of(product)), dtype=int))
    columns = len(product.regions) // product.row_blocks
    blocks = columns if product.transposed else product.row_blocks
    assert chip.cells.count("conversions") == answer.size * blocks


def test_a_board_that_converts_pairs_twice_counts_twice() -> None:
    settings_ = msgspec.structs.replace(EMU.chip, pair_conversions=2)
    chip = Chip(msgspec.structs.replace(EMU, chip=settings_))
    for differential in (True, False):
        product = Product(SLOT, (Region(0, 0, 8, 0, 8),), 1, False, differential, None)
        chip.multiply(product, np.ones((5, 8), dtype=int))
    assert chip.cells.count("conversions") == 5 * 4 * 2 + 5 * 8
    assert chip.cells.count("steps") == 5 * 2 + 5


def test_programming_and_pulses_are_counted_and_cost_time_and_energy() -> None:
    chip = Chip(EMU)
    index = chip.cell_index(Region(0, 0, 8, 0, 8))
    outcome, _ = chip.program(
        0, index, np.full(64, 45000, dtype=np.uint16), tolerance=819, cycles=2
    )
    sets, resets = chip.pulse(
        0, index[:3], np.array([2, -3, 0], dtype=np.int16), set_amplitude=2000,
        reset_amplitude=2000, width=250,
    )  # fmt: skip
    assert (sets, resets) == (2, 3)
    count = chip.cells.count
    pulses = outcome.set_pulses + outcome.reset_pulses
    assert count("writes") == 64
    assert count("set_pulses") + count("reset_pulses") == pulses + 5
    assert count("pulse_width_ns") == 100 * pulses + 5 * 250
    assert count("verify_reads") == count("reads") == outcome.reads == pulses + 64
    time = outcome.reads * 720 / 8 + (pulses + 5) * 100 + count("pulse_width_ns")
    assert costs.time_ns(EMU, chip.counts()) == round(time)
    energy = outcome.reads * 2660 / 64 + (pulses + 5) * 12
    assert costs.energy_pJ(EMU, chip.counts()) == round(energy)


def test_a_product_sees_cells_that_were_written_since_the_last_one() -> None:
    chip = Chip(QUIET, 1)
    product = Product(SLOT, (Region(0, 0, 64, 0, 64),), 1, False, True, None)
    vectors = np.full((1, 64), 255)
    for change in ("pulse", "program"):
        before, _ = chip.multiply(product, vectors)
        assert np.array_equal(before, multiplied(chip, product, vectors)[0])
        index = chip.cell_index(Region(0, 0, 64, 0, 64))
        if change == "pulse":
            counts = np.tile(np.array([9, -9], dtype=np.int16), 2048)
            chip.pulse(0, index, counts, set_amplitude=3000, reset_amplitude=3000, width=100)
        else:
            targets = np.tile(np.array([15000, 50000], dtype=np.uint16), 2048)
            chip.program(0, index, targets, tolerance=819, cycles=2)
        after, _ = chip.multiply(product, vectors)
        assert np.array_equal(after, multiplied(chip, product, vectors)[0])
        assert not np.array_equal(after, before)


def test_a_fresh_chip_lies_in_its_initial_range_and_belongs_to_its_seed() -> None:
    low, high = (EMU.units(g) for g in EMU.device.initial_uS)
    one = Chip(EMU, 1).cells.conductances
    assert one.min() >= low and one.max() <= high
    spread = (high - low) / np.sqrt(12 * one.size)
    assert abs(one.mean() - (low + high) / 2) < 4 * spread
    assert np.array_equal(one, Chip(EMU, 1).cells.conductances)
    assert not np.array_equal(one, Chip(EMU, 2).cells.conductances)


def test_the_stuck_share_of_a_fresh_chip_is_the_profiles() -> None:
    chip = Chip(with_noise(EMU, stuck_fraction=0.1), 1)
    cells = chip.cells.stuck.size
    assert abs(chip.cells.stuck.mean() - 0.1) < 4 * np.sqrt(0.09 / cells)
    assert not Chip(EMU, 1).cells.stuck.any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    product = Product(SLOT, (Region(0, 0, 64, 0, 64),), 1, False, True, None)
    vectors = np.random.default_rng(1).integers(0, 256, (500, 64))
    threads = torch.get_num_threads()
    seen = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            seen.append(chip_of(EMU, 3).multiply(product, vectors)[0])
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*seen)
