"""Products: VMM against the exact sum, in LSB; to the bit where the board has no noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cimctl.conformance.bench import Bench, Gain, Units, skip_unless
from cimctl.conformance.cases import Group, expect, expect_equal
from cimctl.conformance.expected import (
    DIFFERENTIAL,
    GROUPS,
    SIGNED,
    TERNARY,
    TRANSPOSED,
    VMM_HEAD,
    Product,
    check,
    converted,
    ends,
    exact,
    fitting_gain,
    multiply,
    part,
    sums,
)
from firmware_protocol import messages as m
from firmware_protocol.constants import Capability
from firmware_protocol.geometry import answer_bits, output_size
from firmware_protocol.packing import packed_size

PRODUCTS = Group("products")
_FLAGS = {
    TRANSPOSED: Capability.TRANSPOSED,
    DIFFERENTIAL: Capability.DIFFERENTIAL,
    SIGNED: Capability.SIGNED_INPUTS,
    GROUPS: Capability.GROUPS,
    TERNARY: Capability.TERNARY,
}


def codes_of(
    count: int, inputs: int, bits: int, *, signed: bool = False, ternary: bool = False
) -> Units:
    """Input codes of all sizes, the first vector all at the top, the second at the bottom."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    low += signed and ternary
    codes = np.random.default_rng(bits).integers(low, high, (count, inputs), endpoint=True)
    codes[0] = high
    if count > 1:
        codes[1] = low
    return codes


def _inputs(bench: Bench, flags: int) -> int:
    if not flags & TRANSPOSED:
        return bench.region.rows
    return bench.region.columns // (2 if flags & DIFFERENTIAL else 1)


@dataclass(frozen=True)
class Way:
    """A way to multiply the whole region.

    Attributes:
        name: of the case.
        flags: of VMM; each needs its capability.
        expects: what is expected.
    """

    name: str
    flags: int
    expects: str


_WAYS = [
    Way("columns", 0, "Columns one by one give the exact product within the converter's noise"),
    Way("pairs", DIFFERENTIAL, "Pairs of columns give the product by their difference"),
    Way("signed", SIGNED, "Signed input codes give the signed product"),
    Way("signed-pairs", SIGNED | DIFFERENTIAL, "Signed input codes give the product by pairs"),
    Way("transposed", TRANSPOSED, "The transposed region takes inputs at its columns"),
    Way("transposed-pairs", TRANSPOSED | DIFFERENTIAL, "So it does for pairs of columns"),
    Way("all-ways", TRANSPOSED | DIFFERENTIAL | SIGNED, "So it does for pairs and signed codes"),
    Way("groups", GROUPS, "Columns of a group are added by the weights that HELLO names"),
    Way("signed-groups", GROUPS | SIGNED, "So they are for signed codes"),
    Way("ternary", SIGNED | TERNARY, "Ternary planes give the signed product"),
    Way("ternary-groups", GROUPS | SIGNED | TERNARY, "So they do with groups"),
]


def _whole(way: Way) -> Callable[[Bench], None]:
    def check_way(bench: Bench) -> None:
        bench.need(*(need for flag, need in _FLAGS.items() if way.flags & flag))
        signed, bits = bool(way.flags & SIGNED), bench.description.input_bits
        ternary = bool(way.flags & TERNARY)
        codes = codes_of(5, _inputs(bench, way.flags), bits, signed=signed, ternary=ternary)
        region = bench.grouped() if way.flags & GROUPS else bench.region
        check(bench, bench.known(), Product((region,), way.flags, input_bits=bits), codes)

    return check_way


for _way in _WAYS:
    PRODUCTS.add(_way.name, _way.expects, _whole(_way))


@PRODUCTS.case("Zero inputs give zero, but for the converter's noise")
def zero(bench: Bench) -> None:
    codes = np.zeros((3, bench.region.rows), dtype=np.int64)
    check(bench, bench.known(), Product((bench.region,)), codes, bench.gain(1e30))


@PRODUCTS.case("One input at its top, the others 0, gives the row of that input")
def one_hot(bench: Bench) -> None:
    bits = bench.description.input_bits
    codes = np.eye(bench.region.rows, dtype=np.int64) * ((1 << bits) - 1)
    check(bench, bench.known(), Product((bench.region,), input_bits=bits), codes)


@PRODUCTS.case("Input codes of every width that HELLO grants give the product")
def input_bits(bench: Bench) -> None:
    known = bench.known()
    for bits in range(1, bench.description.input_bits + 1):
        codes = codes_of(3, bench.region.rows, bits)
        check(bench, known, Product((bench.region,), input_bits=bits), codes)


@PRODUCTS.case("Signed input codes of every width give the product")
def signed_input_bits(bench: Bench) -> None:
    bench.need(Capability.SIGNED_INPUTS)
    known = bench.known()
    for bits in range(2, bench.description.input_bits + 1):
        codes = codes_of(3, bench.region.rows, bits, signed=True)
        check(bench, known, Product((bench.region,), SIGNED, input_bits=bits), codes)


@PRODUCTS.case("Ternary planes of every width give the product; one plane is one conversion")
def ternary_input_bits(bench: Bench) -> None:
    bench.need(Capability.TERNARY)
    known = bench.known()
    for bits in range(2, bench.description.input_bits + 1):
        codes = codes_of(3, bench.region.rows, bits, signed=True, ternary=True)
        product = Product((bench.region,), SIGNED | TERNARY, input_bits=bits)
        before = bench.status().conversions
        check(bench, known, product, codes)
        more = bench.status().conversions - before
        expect_equal("conversions more:", more, 3 * (bits - 1) * bench.region.columns)


@PRODUCTS.case("A batch gives what its vectors give one by one")
def batch(bench: Bench) -> None:
    known, bits = bench.known(), bench.description.input_bits
    product = Product((bench.region,), input_bits=bits)
    codes = codes_of(4, bench.region.rows, bits)
    gain = fitting_gain(bench, product, sums(bench, known, product, codes))
    for some in (codes, *codes[:, None]):
        check(bench, known, product, some, gain)


@PRODUCTS.case("The gain is multiplier / 2^shift, for small and large multipliers")
def gains(bench: Bench) -> None:
    known, bits = bench.known(), bench.description.input_bits
    product = Product((bench.region,), input_bits=bits)
    codes = codes_of(3, bench.region.rows, bits)
    wide = fitting_gain(bench, product, sums(bench, known, product, codes))
    low, high = bench.gain_range
    for size in (16, 9, 4, 2):
        multiplier = wide.multiplier >> (wide.multiplier.bit_length() - size)
        gain = Gain(multiplier, wide.shift - wide.multiplier.bit_length() + size)
        if gain.shift >= 1 and low <= gain.value <= high:
            check(bench, known, product, codes, gain)


@PRODUCTS.case("Row blocks are converted each by itself, then added")
def row_blocks(bench: Bench) -> None:
    bench.need(Capability.ROW_BLOCK_SUMS)
    skip_unless(bench.region.rows > 1, "the tile has one row")
    known, bits, half = bench.known(), bench.description.input_bits, bench.region.rows // 2
    top, bottom = part(bench.region, rows=half), part(bench.region, half)
    for regions in ((top, bottom), (bottom, top, top)):
        inputs = sum(region.rows for region in regions)
        codes = codes_of(4, inputs, bits)
        check(bench, known, Product(regions, 0, len(regions), bits), codes)


@PRODUCTS.case("Column blocks stand side by side in the answer, with row blocks too")
def column_blocks(bench: Bench) -> None:
    r, bits = bench.region, bench.description.input_bits
    skip_unless(r.columns >= 4, "the tile has too few columns")
    known = bench.known()
    left, right = part(r, columns=r.columns // 2), part(r, column=r.columns // 2)
    codes = codes_of(3, r.rows, bits)
    check(bench, known, Product((right, left), input_bits=bits), codes)
    if bench.offers(Capability.ROW_BLOCK_SUMS) and r.rows > 1:
        half = r.rows // 2
        grid = tuple(part(c, *rows) for rows in ((0, half), (half, 0)) for c in (left, right))
        check(bench, known, Product(grid, 0, 2, bits), codes)


@PRODUCTS.case("Transposed, the column blocks form the sum")
def transposed_blocks(bench: Bench) -> None:
    bench.need(Capability.TRANSPOSED, Capability.ROW_BLOCK_SUMS)
    r, bits = bench.region, bench.description.input_bits
    skip_unless(r.columns >= 4, "the tile has too few columns")
    left, right = part(r, columns=r.columns // 2), part(r, column=r.columns // 2)
    codes = codes_of(3, r.columns, bits)
    check(bench, bench.known(), Product((left, right), TRANSPOSED, 1, bits), codes)


@PRODUCTS.case("Blocks of several tiles form one sum")
def tiles(bench: Bench) -> None:
    bench.need(Capability.ROW_BLOCK_SUMS)
    skip_unless(bench.description.tiles > 1, "there is one tile")
    here = bench.region
    there = replace(here, tile=bench.description.tiles - 1)
    bits = bench.description.input_bits
    # The other tile's inputs are 0, so that its cells need not be known.
    codes = np.concatenate(
        [codes_of(2, here.rows, bits), np.zeros((2, here.rows), dtype=np.int64)], axis=1
    )
    check(bench, bench.known(), Product((here, there), 0, 2, bits), codes)


def _windows(bench: Bench) -> list[m.Window]:
    """Windows that make as many inputs as the region has rows."""
    rows = bench.region.rows
    if rows < 4:
        return [m.Window(1, 2, rows + 3, 1, rows, 1, 2, 1, 1, 1, 0, 1, 1)]
    return [  # plain, padding, stride, dilation, channels, two of them, all at once
        m.Window(1, 4, 5, 2, 2, 1, 1, 1, 1),
        m.Window(1, 3, 3, 2, 2, 1, 1, 1, 1, 1, 2, 0, 3),
        m.Window(1, 5, 6, 2, 2, 2, 3, 1, 1),
        m.Window(1, 5, 6, 2, 2, 1, 1, 2, 3),
        m.Window(4, 3, 2, 1, 1, 1, 1, 1, 1),
        m.Window(2, 3, 4, 2, 1, 2, 1, 1, 1, 1, 1, 1, 0),
        m.Window(1, 6, 5, 2, 2, 2, 1, 2, 2, 1, 0, 2, 1),
    ]


@PRODUCTS.case("Images that the board unrolls give what vectors unrolled by the host give")
def images(bench: Bench) -> None:
    bench.need(Capability.IMAGES)
    for window in _windows(bench):
        _check_images(bench, window, (bench.region,))


def _check_images(bench: Bench, w: m.Window, regions: tuple[m.Region, ...]) -> None:
    """Two images by regions that are one row block each."""
    bits = bench.description.input_bits
    height, width = output_size(w)
    outputs = 2 * height * width * regions[0].columns
    wide = answer_bits(bench.description.answer_bits, len(regions))
    fits = packed_size(outputs, wide) + VMM_HEAD <= bench.description.max_payload
    skip_unless(fits, "two images are more than the largest payload")
    count = 2 * w.channels * w.height * w.width
    codes = codes_of(1 + count, 1, bits)[1:].reshape(2, w.channels, w.height, w.width)
    product = Product(regions, 0, len(regions), bits, w)
    check(bench, bench.known(), product, codes)


@PRODUCTS.case("Images over row blocks: a block boundary within a channel changes nothing")
def images_in_row_blocks(bench: Bench) -> None:
    bench.need(Capability.IMAGES, Capability.ROW_BLOCK_SUMS)
    skip_unless(bench.region.rows == 4, "the tile has fewer than four rows")
    r = bench.region
    window = m.Window(1, 4, 4, 2, 2, 1, 2, 1, 1, 1, 0, 0, 1)
    for first in (1, 2):
        _check_images(bench, window, (part(r, rows=first), part(r, first)))


@PRODUCTS.case("Results past the range clip at both ends, and are counted as saturated")
def saturation(bench: Bench) -> None:
    known, bits = bench.known(), bench.description.input_bits
    differential = bench.offers(Capability.DIFFERENTIAL)
    flags = DIFFERENTIAL if differential else SIGNED
    if not differential:
        bench.need(Capability.SIGNED_INPUTS)
    product = Product((bench.region,), flags, input_bits=bits)
    codes = codes_of(4, bench.region.rows, bits, signed=not differential)
    wanted, gain = sums(bench, known, product, codes), bench.gain(1e30)
    low, high = ends(bench, product)
    past = wanted.exact[0, 0] * gain.value
    reached = bool((past > 2 * high).any() and (past < 2 * low).any())
    reached &= not bench.description.plane_conversions
    skip_unless(reached, "these cells do not take a product past both ends of the range")
    before = bench.status().saturations
    answer = check(bench, known, product, codes, gain)
    _, found = multiply(bench, product, codes, past.shape[1])
    expect(found.max() == high and found.min() == low, f"codes {low} to {high}",
           f"{found.min()} to {found.max()}")  # fmt: skip
    if exact(bench, known):
        _, count = converted(bench, product, wanted, gain)
        expect(answer.saturated == count, f"{count} saturated", answer.saturated)
    sure = int(np.count_nonzero((past > 2 * high) | (past < 2 * low)))
    expect(answer.saturated >= sure, f"at least {sure} saturated", answer.saturated)
    more = bench.status().saturations - before
    expect(more >= 2 * sure, f"at least {2 * sure} counted in STATUS", more)


@PRODUCTS.case("Slots keep their own gains: filling one leaves the other")
def two_slots(bench: Bench) -> None:
    skip_unless(bench.description.slots > 1, "there is one slot")
    known, bits = bench.known(), bench.description.input_bits
    product = Product((bench.region,), input_bits=bits)
    codes = codes_of(3, bench.region.rows, bits)
    gain = fitting_gain(bench, product, sums(bench, known, product, codes))
    bench.configure(gain=gain)
    bench.configure(slot=1, gain=bench.gain(gain.value / 3))
    check(bench, known, product, codes, gain, configure=False)
