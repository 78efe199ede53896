"""The ADC of ``converters``, for vectors whose sums lie vector by vector: the same bits.

The lines of a vector lie side by side, so one pass over them draws noise, converts and adds.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from sim_backend.converters import (
    _BOW,
    _NONE,
    Codes,
    Converter,
    Positions,
    Sums,
    convert_planes_numpy,
)
from sim_backend.mismatch import LineErrors
from sim_backend.noise import GAMMA, MIX_1, UNIT, mixed, quantile_table
from sim_backend.vectors import Parts

Doubles = npt.NDArray[np.float64]


def convert_vectors(
    sums: Sums,
    parts: Parts,
    moments: tuple[Doubles, Doubles],
    settings: Converter,
    positions: Positions,
    out: Codes,
    at: int = 0,
    errors: LineErrors | None = None,
) -> int:
    """Converts the sums of vectors and adds the codes to ``out``.

    Args:
        sums: (vectors, digits * conversions), exact integers.
        parts: what the digits count.
        moments: (vectors,) sum of the input codes, and sum of their squares.
        settings: gain, range and noise.
        positions: vector v is noise position ``first + v * stride``; conversion j has lane index
            ``column + j``.
        out: (vectors, outputs) in one piece, added to.
        at: which output the first conversion is.
        errors: (conversions,) each, of the converters; None where they have none.

    Returns:
        How many conversions saturated.
    """
    gain = settings.multiplier * 2.0**-settings.shift
    own, offsets, bows = errors or (_NONE, _NONE, _NONE)
    noisy = settings.read_variance > 0 or settings.adc_variance > 0
    return int(
        _convert(
            sums, parts.digits, float(parts.offset), *moments, noisy,
            settings.read_variance, settings.adc_variance, quantile_table(),
            np.uint64(positions.key), np.uint64(positions.first), np.uint64(positions.stride),
            positions.column, gain, float(settings.low), float(settings.high),
            own * gain, offsets, bows, out, at,
        )
    )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _convert(  # type: ignore[no-untyped-def]  # numba infers
    sums, digits, offset, totals, squares, noisy, read, adc, table, key, first, stride, column,
    gain, low, high, gains, offsets, bows, out, at,
):  # fmt: skip
    vectors, conversions = sums.shape[0], sums.shape[1] // digits
    middle, half = (low + high + 1.0) / 2.0, (high - low + 1.0) / 2.0
    straight = gains.size == 0
    skipped = column & 3
    hashed = np.zeros((skipped + conversions + 3) // 4, dtype=np.uint64)
    # Four conversions share a hash; the 16 bits of each are its bytes in their order.
    lanes = hashed.view(np.uint16)[skipped : skipped + conversions]
    deviates = np.zeros(conversions, dtype=np.float64)
    whole = np.zeros(conversions, dtype=np.float64)
    flat, answers = sums.reshape(-1), out.reshape(-1)
    saturated = 0
    for v in range(vectors):
        sigma = 0.0
        if noisy:
            sigma = np.sqrt(read * squares[v] + adc) * UNIT
            place = key + (first + np.uint64(v) * stride) * GAMMA + GAMMA
            place += np.uint64(column >> 2) * MIX_1
            for q in range(hashed.size):
                hashed[q] = mixed(place)
                place += MIX_1
            for j in range(conversions):
                deviates[j] = table[lanes[j]]
        base = offset * totals[v]
        # Loops of one kind of work each, so that all but the table's look-ups vectorise; exact in
        # double precision: sums stay under 2^33, gains have 16 bits.
        # No slices of vectors: each would cost as much as some conversions.
        digit = np.uintp(v * sums.shape[1])
        second, third = digit + np.uintp(conversions), digit + np.uintp(2 * conversions)
        if digits == 3:
            for j in range(conversions):
                whole[j] = (
                    np.float64(flat[digit + np.uintp(j)]) * 65536.0
                    + np.float64(flat[second + np.uintp(j)]) * 256.0
                    + np.float64(flat[third + np.uintp(j)])
                    + base
                )
        else:
            for j in range(conversions):
                high_digit = np.float64(flat[digit + np.uintp(j)]) * 256.0
                whole[j] = high_digit + np.float64(flat[second + np.uintp(j)]) + base
        target = np.uintp(v * out.shape[1] + at)
        if straight:
            for j in range(conversions):
                code = np.rint((whole[j] + np.rint(deviates[j] * sigma)) * gain)
                clipped = min(high, max(low, code))
                saturated += int(code != clipped)
                answers[target + np.uintp(j)] += np.int32(clipped)
        else:
            for j in range(conversions):
                level = (whole[j] + np.rint(deviates[j] * sigma)) * gains[j]
                share = min(1.0, max(-1.0, (level - middle) / half))
                shape = _BOW * (share - share * share * share)
                code = np.rint(level + (offsets[j] + bows[j] * shape))
                clipped = min(high, max(low, code))
                saturated += int(code != clipped)
                answers[target + np.uintp(j)] += np.int32(clipped)
    return saturated


def convert_vectors_numpy(
    sums: Sums,
    parts: Parts,
    moments: tuple[Doubles, Doubles],
    settings: Converter,
    positions: Positions,
    out: Codes,
    at: int = 0,
    errors: LineErrors | None = None,
) -> int:
    """The oracle of ``convert_vectors``: same arguments, same bits."""
    digits = np.split(sums.astype(np.int64), parts.digits, axis=1)
    total = moments[0].astype(np.int64)[:, None] * parts.offset
    total = total + sum(digit << 8 * k for k, digit in enumerate(reversed(digits)))
    found = np.zeros((1, *total.T.shape), dtype=np.int32)
    saturated = convert_planes_numpy(
        total.T[None].astype(np.float64), moments[1][None], settings, positions, found, errors,
        step=1,
    )  # fmt: skip
    target = out[:, at : at + found.shape[1]]
    target += found[0].T.astype(out.dtype)
    return saturated
