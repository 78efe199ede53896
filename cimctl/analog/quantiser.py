"""The DAC: real inputs to codes, rounded to nearest or stochastically.

``quantise`` gives signed codes, with a scale for each vector; ``rounded`` has one step for all.
Both are compiled; ``quantise_numpy`` and ``rounded_numpy`` are their oracles, with the same bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from cimctl.analog.draws import hash_at, hash_numpy
from cimctl.analog.windows import Windows

Codes = npt.NDArray[np.int8]
AnyCodes = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]


def quantise(
    values: Floats | Windows, scale: Floats, top: int, *, key: int = 0, first: int = -1
) -> Codes:
    """Codes of a batch: ``clip(round(value / scale * top), -top, top)``.

    Args:
        values: (vectors, lines), or vectors where they lie.
        scale: (vectors,) value that the largest code stands for, above 0.
        top: largest code, at most 127.
        key: of the draws of stochastic rounding.
        first: position of the first vector's draws; -1 rounds to nearest, half to even.
    """
    lines = Windows.of(values)
    out = np.empty((len(lines), lines.lines), dtype=np.int8)
    _quantise(
        lines.flat, lines.bases, lines.offsets, lines.signs, scale, float(top), np.uint64(key),
        first, out,
    )  # fmt: skip
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _quantise(flat, bases, offsets, signs, scale, top, key, first, out):  # type: ignore[no-untyped-def]
    vectors, lines = out.shape
    for v in range(vectors):
        factor, base = top / np.float64(scale[v]), bases[v]
        if first < 0:
            for i in range(lines):
                value = np.float64(flat[np.uintp(base + offsets[i])] * signs[i])
                out[v, i] = np.int8(min(top, max(-top, np.rint(value * factor))))
            continue
        hashed = np.uint64(0)
        for i in range(lines):
            if i & 3 == 0:
                hashed = hash_at(key, np.uint64(first + v), np.uint64(i >> 2))
            lane = (hashed >> np.uint64(16 * (i & 3))) & np.uint64(0xFFFF)
            up = (np.float64(lane) + 0.5) * 2.0**-16
            value = np.float64(flat[np.uintp(base + offsets[i])] * signs[i])
            code = np.floor(value * factor + up)
            out[v, i] = np.int8(min(top, max(-top, code)))


def largest_magnitudes(values: Floats | Windows) -> Floats:
    """(vectors,) the largest magnitude of each vector; ``np.abs(values).max(axis=1)``, compiled."""
    return Windows.of(values).largest


def unscaled(codes: npt.NDArray[Any], factor: Floats) -> Floats:
    """(vectors, outputs) codes times (vectors,) factors; numpy is slow where vectors are short."""
    out = np.empty(codes.shape, dtype=np.float32)
    _unscale(codes, factor, out)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _unscale(codes, factor, out):  # type: ignore[no-untyped-def]
    for v in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            out[v, j] = np.float32(np.float64(codes[v, j]) * np.float64(factor[v]))


def spread(rows: Floats, places: npt.NDArray[np.int64], count: int) -> Floats:
    """(count, lines) with rows at their places, and zeros elsewhere."""
    out = np.zeros((count, rows.shape[1]), dtype=np.float32)
    _spread(rows, places, out)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _spread(rows, places, out):  # type: ignore[no-untyped-def]
    for v in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            out[np.uintp(places[v]), j] = rows[v, j]


def quantise_numpy(
    values: Floats, scale: Floats, top: int, *, key: int = 0, first: int = -1
) -> Codes:
    """The oracle of ``quantise``: same arguments, same bits."""
    exact = values.astype(np.float64) * (top / scale.astype(np.float64))[:, None]
    if first < 0:
        codes = np.rint(exact)
    else:
        line = np.arange(values.shape[1])
        vector = first + np.arange(len(values))
        hashed = hash_numpy(key, vector[:, None], line[None, :] >> 2)
        lanes = (hashed >> (16 * (line & 3)).astype(np.uint64)) & np.uint64(0xFFFF)
        codes = np.floor(exact + (lanes.astype(np.float64) + 0.5) * 2.0**-16)
    return np.clip(codes, -top, top).astype(np.int8)


def rounded(values: Floats, step: float, bits: int, *, signed: bool) -> AnyCodes:
    """Codes of a batch, ``clip(round(value / step))``, half to even, in single precision.

    Args:
        values: of any shape.
        step: value of one code.
        bits: of a code.
        signed: whether codes run from minus to plus the largest one, and not from 0.
    """
    top = (1 << (bits - signed)) - 1
    out: AnyCodes = np.empty(values.shape, dtype=np.int8 if signed else np.uint8)
    low, high = np.float32(-top if signed else 0), np.float32(top)
    _round(np.ascontiguousarray(values).reshape(-1), np.float32(1 / step), low, high, out)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _round(values, factor, low, high, out):  # type: ignore[no-untyped-def]
    codes = out.reshape(-1)
    for i in range(values.size):
        codes[i] = min(high, max(low, np.rint(values[i] * factor)))


def rounded_numpy(values: Floats, step: float, bits: int, *, signed: bool) -> AnyCodes:
    """The oracle of ``rounded``: same arguments, same bits."""
    top = (1 << (bits - signed)) - 1
    codes = np.clip(np.rint(values * np.float32(1 / step)), -top if signed else 0, top)
    narrow: AnyCodes = codes.astype(np.int8 if signed else np.uint8)
    return narrow
