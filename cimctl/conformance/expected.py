"""What a product should be: exact sums, the converter's law, and how far noise may take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cimctl.conformance.bench import SIGMAS, Bench, Gain, Known, Units
from cimctl.conformance.cases import Expectation, expect, expect_equal
from firmware_protocol import messages as m
from firmware_protocol.geometry import answer_bits, output_size
from firmware_protocol.packing import pack_codes, packed_size, unpack_codes

Floats = npt.NDArray[np.float64]
TRANSPOSED, DIFFERENTIAL, SIGNED, GROUPS, TERNARY = 1, 2, 4, 8, 16
#: bytes of an answer to VMM before its codes
VMM_HEAD = 5
#: share of the converter's range that a product is brought to
_FILL = 0.7


@dataclass(frozen=True)
class Product:
    """A multiply request in the terms of the exact sum.

    Attributes:
        regions: as in VMM, within the region that the bench knows.
        flags, row_blocks, input_bits: as in VMM.
        window: how images become vectors; None for vectors.
    """

    regions: tuple[m.Region, ...]
    flags: int = 0
    row_blocks: int = 1
    input_bits: int = 1
    window: m.Window | None = None

    def grid(self) -> list[list[m.Region]]:
        """Regions by block of inputs, then by block of outputs."""
        columns = len(self.regions) // self.row_blocks
        rows = [list(self.regions[i * columns : (i + 1) * columns]) for i in range(self.row_blocks)]
        return [list(r) for r in zip(*rows, strict=True)] if self.flags & TRANSPOSED else rows


@dataclass(frozen=True)
class Sums:
    """Exact sums of each conversion, and how uncertain they are.

    Conversions of an output are those of each block of inputs and, within it, of each term: a plane
    of the inputs, where they are converted each by itself, and a column of a group.

    Attributes:
        exact: (blocks, terms, vectors, outputs).
        offset: like it, what errors that stay may add: of readings that the cells are known by, of
            the cells themselves.
        variance: like it, by noise.
        weights: (terms,) factor of each term's code.
    """

    exact: Units
    offset: Floats
    variance: Floats
    weights: Units


def sums(bench: Bench, known: Known, product: Product, vectors: Units) -> Sums:
    """Sums of vectors times the known conductances."""
    blocks, first = [], 0
    group = bench.column_weights if product.flags & GROUPS else (1,)
    for row in product.grid():
        lines = np.concatenate([_lines(known, product, r) for r in row], axis=1)
        part = vectors[:, first : first + len(lines)]
        first += len(lines)
        planes = applied(bench, product, part)
        terms = [
            (w * c, *_conversion(bench, known, product, plane, lines[:, at :: len(group)]))
            for w, plane in planes
            for at, c in enumerate(group)
        ]
        blocks.append(terms)
    weights, exact, offset, variance = (
        [[term[i] for term in terms] for terms in blocks] for i in range(4)
    )
    return Sums(np.array(exact), np.array(offset), np.array(variance), np.array(weights[0]))


def applied(bench: Bench, product: Product, codes: Units) -> list[tuple[int, Units]]:
    """(weight, inputs) of what the board applies one after the other: whole codes, or planes."""
    if not bench.description.plane_conversions:
        return [(1, codes)]
    bits, signed = product.input_bits, bool(product.flags & SIGNED)
    if product.flags & TERNARY:
        sizes, signs = np.abs(codes), np.sign(codes)
        return [(1 << k, signs * ((sizes >> k) & 1)) for k in range(max(1, bits - signed))]
    planes = [(1 << k, (codes >> k) & 1) for k in range(bits)]
    if signed:
        planes[-1] = (-planes[-1][0], planes[-1][1])
    return planes


def _conversion(
    bench: Bench, known: Known, product: Product, inputs: Units, lines: Units
) -> tuple[Units, Floats, Floats]:
    """Exact sums of (vectors, inputs) by (inputs, outputs), offset and variance."""
    cells = 2 if product.flags & DIFFERENTIAL else 1
    faults, chip = bench.profile.imperfections, bench.profile.chip
    unit = 65535 / chip.conductance_full_scale_uS
    exact, size = inputs @ lines, (inputs**2).sum(1)[:, None]
    offset = cells * known.offset * np.abs(inputs).sum(1)[:, None]
    mismatch = faults.cell_mismatch * np.sqrt(inputs**2 @ lines**2)
    noise = cells * ((faults.read_noise_uS * unit) ** 2 + known.sigma**2) * size
    variance = noise + (faults.column_noise_uS * unit) ** 2
    return exact, offset + SIGMAS * mismatch, np.broadcast_to(variance, exact.shape)


def _lines(known: Known, product: Product, region: m.Region) -> Units:
    rows = slice(region.row, region.row + region.rows)
    g = known.units[rows, region.column : region.column + region.columns]
    if product.flags & DIFFERENTIAL:
        g = g[:, 0::2] - g[:, 1::2]
    return g.T if product.flags & TRANSPOSED else g


def fitting_gain(bench: Bench, product: Product, found: Sums) -> Gain:
    """A gain that keeps the sums well inside the converter's range, where one is settable."""
    peak = max(1, int(np.abs(found.exact).max()))
    top = ends(bench, product)[1]
    return bench.gain(_FILL * top / peak)


def ends(bench: Bench, product: Product) -> tuple[int, int]:
    """Lowest and highest code of a conversion."""
    half = 1 << (bench.description.adc_bits - 1)
    if bench.description.plane_conversions and not product.flags & TERNARY:
        return 0, 2 * half - 1
    return -half, half - 1


def converted(bench: Bench, product: Product, wanted: Sums, gain: Gain) -> tuple[Units, int]:
    """Codes of converters without noise, added up, and how many saturated."""
    scaled = wanted.exact * gain.multiplier
    whole = scaled >> gain.shift
    rest: Units = scaled & ((1 << gain.shift) - 1)
    half = 1 << (gain.shift - 1)
    codes = whole + ((rest > half) | ((rest == half) & (whole % 2 == 1)))
    clipped = np.clip(codes, *ends(bench, product))
    return _added(clipped, wanted), int(np.count_nonzero(codes != clipped))


def _added(codes: npt.NDArray[Any], wanted: Sums) -> npt.NDArray[Any]:
    """(vectors, outputs): codes of conversions added up by their weights."""
    summed: npt.NDArray[Any] = (codes * wanted.weights[:, None, None]).sum((0, 1))
    return summed


def check(
    bench: Bench,
    known: Known,
    product: Product,
    codes: Units,
    gain: Gain | None = None,
    *,
    configure: bool = True,
) -> m.VmmResponse:
    """Multiplies, and compares with the exact product: to the bit where there is no noise.

    Args:
        bench: the board.
        known: its cells.
        product: which regions, which way.
        codes: (vectors, inputs), or (images, channels, height, width) with a window.
        gain: of slot 0; None takes one that fits.
        configure: whether slot 0 has yet to be given it.
    """
    vectors = codes if product.window is None else unrolled(codes, product.window)
    wanted = sums(bench, known, product, vectors)
    gain = gain or fitting_gain(bench, product, wanted)
    if configure:
        bench.configure(gain=gain)
    answer, found = multiply(bench, product, codes, wanted.exact.shape[3])
    if exact(bench, known):
        _compare_exactly(found, converted(bench, product, wanted, gain)[0])
    else:
        _compare(found, *_limits(bench, product, wanted, gain))
    return answer


def multiply(
    bench: Bench, product: Product, codes: Units, outputs: int
) -> tuple[m.VmmResponse, Units]:
    """One VMM; codes of (vectors, outputs), places of an image as vectors."""
    request = m.VmmRequest(
        slot=0, flags=product.flags, input_bits=product.input_bits,
        row_blocks=product.row_blocks, count=len(codes), image=product.window or m.Window(),
        regions=product.regions, codes=bytes(pack_codes(codes, product.input_bits)),
    )  # fmt: skip
    answer = bench.wire.answer(request, m.VmmResponse)
    bits = answer_bits(bench.description.answer_bits, len(product.grid()))
    expect_equal("bits", answer.bits, bits)
    places = 1 if product.window is None else int(np.prod(output_size(product.window)))
    count = len(codes) * outputs * places
    expect_equal("bytes of codes", len(answer.codes), packed_size(count, bits))
    flat = unpack_codes(answer.codes, count, bits, signed=True).astype(np.int64)
    return answer, flat.reshape(len(codes), outputs, places).transpose(0, 2, 1).reshape(-1, outputs)


def _limits(bench: Bench, product: Product, wanted: Sums, gain: Gain) -> tuple[Floats, Floats]:
    """Codes before rounding, and how far an answer may be from them."""
    clipped = np.clip(wanted.exact * gain.value, *ends(bench, product))
    faults, weights = bench.profile.imperfections, np.abs(wanted.weights)[:, None, None]
    variance = wanted.variance * gain.value**2 + faults.adc_noise_lsb**2
    sigma = np.sqrt((variance * weights**2).sum((0, 1)))
    stay = 0.5 + wanted.offset * gain.value + SIGMAS * faults.adc_inl_lsb
    return _added(clipped, wanted), (stay * weights).sum((0, 1)) + SIGMAS * sigma


def _compare_exactly(found: Units, codes: Units) -> None:
    same = found == codes
    if not same.all():
        vector, output = np.argwhere(~same)[0]
        raise Expectation(
            f"code {codes[vector, output]} at vector {vector}, output {output}, to the bit",
            str(found[vector, output]),
        )


def _compare(found: Units, expected: Floats, limit: Floats) -> None:
    apart = np.abs(found - expected) - limit
    vector, output = np.unravel_index(int(apart.argmax()), apart.shape)
    expect(
        bool(apart[vector, output] <= 0),
        f"{expected[vector, output]:.1f} LSB within {limit[vector, output]:.1f} LSB at vector "
        f"{vector}, output {output}",
        f"{found[vector, output]} LSB",
    )


def exact(bench: Bench, known: Known) -> bool:
    """Whether a product is known to the bit: no noise, and cells known for certain."""
    faults = bench.profile.imperfections
    cells = faults.read_noise_uS or faults.cell_mismatch or known.offset or known.sigma
    return not (cells or faults.adc_noise_lsb or faults.column_noise_uS or faults.adc_inl_lsb)


def unrolled(images: Units, window: m.Window) -> Units:
    """(images * places, channels * kernel) vectors: channel, kernel row, kernel column."""
    w = window
    pads = ((0, 0), (0, 0), (w.pad_top, w.pad_bottom), (w.pad_left, w.pad_right))
    padded = np.pad(images, pads)
    height, width = output_size(w)
    ys = np.arange(w.kernel_height) * w.dilation_y
    xs = np.arange(w.kernel_width) * w.dilation_x
    vectors = [
        image[:, (y * w.stride_y + ys)[:, None], x * w.stride_x + xs].reshape(-1)
        for image in padded
        for y in range(height)
        for x in range(width)
    ]
    return np.array(vectors)


def part(region: m.Region, row: int = 0, rows: int = 0, column: int = 0, columns: int = 0) -> (
    m.Region
):  # fmt: skip
    """A part of a region, by its place within it; 0 rows or columns take the rest."""
    return replace(
        region, row=region.row + row, rows=rows or region.rows - row,
        column=region.column + column, columns=columns or region.columns - column,
    )  # fmt: skip
