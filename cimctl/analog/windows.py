"""Vectors as they lie in images: a convolution's inputs, without a copy for each place.

Line i of vector v is ``flat[bases[v] + offsets[i]]``, with a sign of its own; plain vectors are of
this form, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """
    Attributes:
        flat: the numbers, in one piece.
        bases: (vectors,) where each vector begins.
        offsets: (lines,) where each line lies, from there.
        signs: (lines,) what each line is multiplied by, 1 or -1.
        run, step: so many vectors follow each other at that distance.
        places: vectors of an image.
    """

    flat: Floats
    bases: Places
    offsets: Places
    signs: Floats
    run: int = 1
    step: int = 1
    places: int = 1

    @classmethod
    def of(cls, vectors: Floats | Windows) -> Windows:
        """(vectors, lines) numbers."""
        if isinstance(vectors, Windows):
            return vectors
        count, lines = vectors.shape
        flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
        ones = np.ones(lines, dtype=np.float32)
        return cls(flat, lines * np.arange(count), np.arange(lines), ones)

    @classmethod
    def of_images(cls, images: Floats, kernel: Pair, stride: Pair, dilation: Pair) -> Windows:
        """(batch, channels, height, width) images, padded already; vectors place by place."""
        batch, channels, height, width = images.shape
        counts = [
            (size - apart * (taps - 1) - 1) // pace + 1
            for size, taps, pace, apart in zip(
                (height, width), kernel, stride, dilation, strict=True
            )
        ]
        flat = np.ascontiguousarray(images, dtype=np.float32).reshape(-1)
        area = height * width
        bases = _sums(
            channels * area * np.arange(batch),
            width * stride[0] * np.arange(counts[0]),
            stride[1] * np.arange(counts[1]),
        )
        offsets = _sums(
            area * np.arange(channels),
            width * dilation[0] * np.arange(kernel[0]),
            dilation[1] * np.arange(kernel[1]),
        )
        ones = np.ones(len(offsets), dtype=np.float32)
        return cls(flat, bases, offsets, ones, counts[1], stride[1], counts[0] * counts[1])

    def __len__(self) -> int:
        return len(self.bases)

    @property
    def lines(self) -> int:
        """Lines of a vector."""
        return len(self.offsets)

    def times(self, signs: Floats) -> Windows:
        """The same with other signs."""
        return replace(self, signs=signs)

    def only(self, vectors: npt.NDArray[np.integer[Any]]) -> Windows:
        """Some of the vectors."""
        return replace(self, bases=self.bases[vectors], run=1, places=1)

    def part(self, lines: slice) -> Windows:
        """All vectors, of some of the lines."""
        return replace(self, offsets=self.offsets[lines], signs=self.signs[lines])

    @cached_property
    def largest(self) -> Floats:
        """(vectors,) the largest magnitude of each vector."""
        out = np.zeros(len(self), dtype=np.float32)
        if self.run > 1:
            _largest_of_runs(self.flat, self.bases, self.offsets, self.run, self.step, out)
        else:
            _largest(self.flat, self.bases, self.offsets, out)
        return out

    def folded(self, vectors: Floats) -> Floats:
        """(numbers,) sums of what (vectors, lines) put where each line lies, line by line."""
        out = np.zeros(len(self.flat), dtype=np.float32)
        _fold(vectors, self.bases, self.offsets, self.places, out)
        return out

    def vectors(self) -> Floats:
        """(vectors, lines), copied out."""
        found: Floats = self.flat[self.bases[:, None] + self.offsets] * self.signs
        return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _fold(vectors, bases, offsets, places, out):  # type: ignore[no-untyped-def]
    for first in range(0, bases.size, places):
        for i in range(offsets.size):
            for v in range(first, first + places):
                out[np.uintp(bases[v] + offsets[i])] += vectors[v, i]


def _sums(*parts: Places) -> Places:
    """(product of the lengths,) sums of one of each, those of the last part side by side."""
    total: npt.NDArray[Any] = np.zeros(1, dtype=np.int64)
    for part in parts:
        total = (total[:, None] + part).reshape(-1)
    return total


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _largest(flat, bases, offsets, out):  # type: ignore[no-untyped-def]
    for v in range(bases.size):
        most = np.float32(0.0)
        for i in range(offsets.size):
            most = max(most, abs(flat[bases[v] + offsets[i]]))
        out[v] = most


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _largest_of_runs(flat, bases, offsets, run, step, out):  # type: ignore[no-untyped-def]
    """The same, line by line for the vectors of a run, which are vector instructions."""
    for first in range(0, bases.size, run):
        for i in range(offsets.size):
            start = np.uintp(bases[first] + offsets[i])
            for j in range(run):
                now = abs(flat[start + np.uintp(j * step)])
                before = out[np.uintp(first + j)]
                out[np.uintp(first + j)] = now if now > before else before
