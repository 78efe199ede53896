"""Exact products of vectors with one region, in bytes where the processor sums those exactly.

The product of bytes is that of quantised networks, with 32-bit sums: exact on processors that have
instructions for it (VNNI, AMX), saturated here and there on older ones.  A self-test tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
import torch

Codes = npt.NDArray[np.integer[Any]]
Sums = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Units = npt.NDArray[np.int32]
#: bytes pay from this many inputs on; below 17, torch's product of signed bytes is a thousand times
#: slower than single precision (measured)
_INPUTS = 32
#: and from this many vectors on where lines are prepared; else the products must pay for that
_FEW, _PRODUCTS = 16, 1 << 24
#: what two and three balanced bytes span, and how far below zero
_SPANS = {2: (1 << 16, (1 << 15) + 128), 3: (1 << 24, (1 << 23) + (1 << 15) + 128)}
_TRIED = 32, 256


@dataclass(frozen=True, slots=True)
class Parts:
    """How sums of digits make a sum of conductances.

    Attributes:
        digits: two or three, of a byte each, the highest first.
        offset: what every conductance is more than its digits say.
    """

    digits: int
    offset: int = 0


class Lines(Protocol):
    """Lines of a region, ready to be multiplied by."""

    parts: Parts
    nbytes: int

    def sums(self, codes: Codes) -> Sums:
        """(vectors, digits * conversions) exact integers, of (vectors, inputs) codes."""


def pays_in_bytes(codes: Codes, cells: int, *, prepared: bool) -> bool:
    """Whether (vectors, inputs) codes are multiplied faster in bytes.

    Args:
        codes: of the vectors.
        cells: that they are multiplied by.
        prepared: whether lines are prepared already.
    """
    vectors, inputs = codes.shape
    many = vectors >= _FEW if prepared else vectors * cells >= _PRODUCTS
    return many and inputs >= _INPUTS and codes.dtype.itemsize == 1 and bytes_are_exact()


def lines(units: Units) -> Lines:
    """Prepares (conversions, inputs) conductances, or differences of them, for many vectors."""
    found = _digits(units)
    if found is not None:
        return ByteLines(*found)
    halves = np.concatenate([units >> 8, units & 255]).astype(np.float32)
    return FloatLines(torch.from_numpy(halves))


def narrowed(codes: npt.NDArray[np.integer[Any]]) -> Codes:
    """Codes in one piece, a byte each where they fit one."""
    kind: type[np.integer[Any]] = codes.dtype.type
    if codes.dtype.itemsize > 1:
        low, high = int(codes.min()), int(codes.max())
        fits = (
            k for k in (np.uint8, np.int8) if np.iinfo(k).min <= low and high <= np.iinfo(k).max
        )
        kind = next(fits, np.int16)
    # What came in a frame lies read-only, which torch would warn of.
    return np.require(codes, dtype=kind, requirements=("C", "W"))


class FloatLines:
    """In single precision.

    Args:
        weight: (2 * conversions, inputs), high bytes of conductances, then low ones.
    """

    parts = Parts(2)

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight.T
        self.nbytes = weight.nbytes

    def sums(self, codes: Codes) -> Sums:
        found: Sums = (torch.from_numpy(codes).to(torch.float32) @ self._weight).numpy()
        return found


class ByteLines:
    """In bytes, two digits or three; sums of 256 products of them fit single precision.

    Args:
        digits: (digits * conversions, inputs) signed bytes.
        parts: what they count.
    """

    def __init__(self, digits: npt.NDArray[np.int8], parts: Parts) -> None:
        self.parts = parts
        self.nbytes = digits.nbytes
        # It takes the bytes as they lie, whatever their strides say.
        weight = torch.from_numpy(np.ascontiguousarray(digits))
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self._ones = torch.ones(len(digits))
        self._zeros = torch.zeros(len(digits), dtype=torch.int32)

    def sums(self, codes: Codes) -> Sums:
        found: Any = torch.ops.onednn.qlinear_pointwise.default(
            torch.from_numpy(codes), 1.0, 0, self._weight, self._ones, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        sums: Sums = found.numpy()
        return sums


def _digits(units: Units) -> tuple[npt.NDArray[np.int8], Parts] | None:
    """Balanced bytes of integers, highest first, as few as can be; None where three do not do."""
    low, high = int(units.min()), int(units.max())
    for count, (span, below) in _SPANS.items():
        if high - low >= span:
            continue
        # As they are, if possible; else moved to where the lowest one just fits.
        offset = 0 if -below <= low and high < span - below else low + below
        digits: list[npt.NDArray[np.int8]] = []
        rest = units - offset
        for _ in range(count):
            digit = rest.astype(np.int8)
            digits.insert(0, digit)
            rest = (rest - digit) >> 8
        return np.concatenate(digits), Parts(count, offset)
    return None


@cache
def bytes_are_exact() -> bool:
    """Whether the product of bytes is here, and exact where sums are largest."""
    conversions, inputs = _TRIED
    digits = np.full((conversions, inputs), -128, dtype=np.int8)
    digits[1::2] = 127
    digits[2::4, ::2] = 127
    for codes in (np.full(_TRIED, 255, dtype=np.uint8), np.full(_TRIED, -128, dtype=np.int8)):
        codes[1::2, 1::3] = 127
        try:
            found = ByteLines(digits, Parts(2)).sums(codes)
        except (RuntimeError, AttributeError, TypeError):
            return False
        if not np.array_equal(found, codes.astype(np.int64) @ digits.T.astype(np.int64)):
            return False
    return True


def moments(codes: Codes) -> tuple[Doubles, Doubles]:
    """(vectors,) sum, and sum of squares, of (vectors, inputs) codes."""
    found = np.empty(len(codes)), np.empty(len(codes))
    _moments(codes, *found)
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _moments(codes, sums, squares):  # type: ignore[no-untyped-def]
    for v in range(codes.shape[0]):
        total, square = np.int32(0), np.int32(0)
        for r in range(codes.shape[1]):
            code = np.int32(codes[v, r])
            total += code
            square += code * code
        sums[v] = total
        squares[v] = square
