"""The ADC: noise, gain, errors of its own, rounding and saturation of exact integer sums.

``convert_planes`` is compiled; ``convert_planes_numpy`` is its oracle, with the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from sim_backend.mismatch import LineErrors
from sim_backend.noise import GAMMA, MIX_1, UNIT, mixed, normal, quantile_table

Sums = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Codes = npt.NDArray[np.int16] | npt.NDArray[np.int32]
#: brings the largest value of u - u^3 between 0 and 1 to 1
_BOW = 1.5 * 3.0**0.5
_NONE = np.empty(0)
#: an index that the compiler knows not to count from the end of an array
_at = np.uintp


class Converter(NamedTuple):
    """Settings of one conversion.

    Attributes:
        multiplier, shift: gain, ``multiplier / 2^shift`` codes per unit of the sum; the multiplier
            has 16 bits.
        low, high: lowest and highest code.
        read_variance: variance of the sum for each unit of ``sum(code^2)`` (read noise of cells).
        adc_variance: variance of the sum that stands for the ADC's own noise.
    """

    multiplier: int
    shift: int
    low: int
    high: int
    read_variance: float
    adc_variance: float


class Adding(NamedTuple):
    """How codes are added up digitally.

    Attributes:
        group: conversions beside each other that form one output.
        weights: (conversions,) factor of each conversion's code.
    """

    group: int
    weights: npt.NDArray[np.int32]


class Positions(NamedTuple):
    """Where the noise of a batch lies: vector v, conversion at ``first + v * stride``."""

    key: np.uint64
    first: int
    stride: int
    column: int

    def moved(self, vectors: int) -> Positions:
        """Where the noise lies from that vector on."""
        return self._replace(first=(self.first + vectors * self.stride) % (1 << 64))


def convert_planes(
    sums: Sums,
    power: Sums,
    settings: Converter,
    positions: Positions,
    out: Codes,
    errors: LineErrors | None = None,
    adding: Adding | None = None,
    step: int = 0,
) -> int:
    """Converts sums and adds the codes to ``out``.

    With errors of conversion j, its code is that of ``y + offset + bow * k(y / top)``, where y is
    the sum in codes, times the converter's own gain; ``bowed`` has k, top is half the range, from
    whose middle y counts there.

    Args:
        sums: (batch, 2 * conversions, places), exact integers; the first half of the conversions
            counts 256, the second half 1.  With a step: (batch, conversions, places).
        power: (batch, places), sum of the squared input codes of each vector (zeros will do where
            the read variance is zero).
        settings: gain, range and noise.
        positions: vector ``v = b * places + p`` is noise position ``first + v * stride``;
            conversion j has lane index ``column + j``.
        out: (batch, outputs, places), added to.
        errors: (conversions,) each, of the converters; None where they have none.
        adding: what becomes of the codes; None: each is an output.
        step: what each sum counts; 0: they come in halves.

    Returns:
        How many conversions saturated.
    """
    conversions = sums.shape[1] if step else sums.shape[1] // 2
    shared = arguments(conversions, settings, positions, errors, adding, step)
    return int(convert_compiled(sums, power, out, np.uint64(positions.first), *shared))


def arguments(
    conversions: int,
    settings: Converter,
    positions: Positions,
    errors: LineErrors | None,
    adding: Adding | None,
    step: int,
) -> tuple[Any, ...]:
    """What ``convert_compiled`` takes beside arrays and the first position."""
    gain = settings.multiplier * 2.0**-settings.shift
    gains, offsets, bows = errors or (_NONE, _NONE, _NONE)
    group, weights = adding or (1, np.ones(conversions, dtype=np.int32))
    return (
        quantile_table(),
        np.uint64(positions.key),
        np.uint64(positions.stride),
        positions.column,
        gain,
        float(settings.low),
        float(settings.high),
        settings.read_variance,
        settings.adc_variance,
        gains * gain,
        offsets,
        bows,
        group,
        weights,
        # Of a sum and of what stands so many lines behind it, which is none with a step.
        (float(step), 0.0, 0) if step else (256.0, 1.0, conversions),
    )


def bowed(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The shape of a converter's bow (ours): a cubic through 0 at -1, 0 and 1, at most 1 between.

    Args:
        share: codes, as a share of half the range; those beyond it have no bow.
    """
    inside = np.clip(share, -1.0, 1.0)
    shape: npt.NDArray[np.float64] = _BOW * (inside - inside * inside * inside)
    return shape


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def convert_compiled(  # type: ignore[no-untyped-def]  # numba infers
    sums, power, out, first, table, key, stride, column, gain, low, high, read, adc, gains,
    offsets, bows, group, weights, counting,
):  # fmt: skip
    batch, conversions, places = sums.shape[0], weights.size, sums.shape[2]
    first_counts, second_counts, behind = counting
    middle, half = (low + high + 1.0) / 2.0, (high - low + 1.0) / 2.0
    noisy = read > 0.0 or adc > 0.0
    straight = gains.size == 0
    saturated = 0
    sigma = np.zeros(places, dtype=np.float64)
    hashed = np.zeros(places, dtype=np.uint64)
    # The 16 bits of the four conversions of each place.
    lanes = hashed.view(np.uint16)
    deviate = np.zeros(places, dtype=np.int32)
    for b in range(batch):
        if noisy:
            for p in range(places):
                variance = read * np.float64(power[b, p]) + adc
                sigma[p] = np.sqrt(variance) * UNIT
        j = 0
        while j < conversions:
            # Up to four conversions share one hash: the rest of a quad of lane indices.
            lane = (column + j) & 3
            count = min(4 - lane, conversions - j)
            if noisy:
                place = key + (first + np.uint64(b * places) * stride) * GAMMA + GAMMA
                place += np.uint64((column + j) >> 2) * MIX_1
                for p in range(places):
                    hashed[p] = mixed(place)
                    place += stride * GAMMA
            for k in range(count):
                target, weight = out[b, (j + k) // group], np.float64(weights[j + k])
                one, two = sums[b, j + k], sums[b, behind + j + k]
                # A loop of its own for the gather, so that the arithmetic below vectorises; that is
                # exact in double precision: sums stay under 2^33, gains have 16 bits.
                if noisy:
                    for p in range(places):
                        deviate[p] = table[lanes[_at(4 * p + lane + k)]]
                if straight:
                    for p in range(places):
                        total = (
                            np.float64(one[p]) * first_counts + np.float64(two[p]) * second_counts
                        )
                        total += np.rint(deviate[p] * sigma[p])
                        code = np.rint(total * gain)
                        clipped = min(high, max(low, code))
                        saturated += int(code != clipped)
                        target[p] += np.int32(weight * clipped)
                else:
                    own, offset, bow = gains[j + k], offsets[j + k], bows[j + k]
                    for p in range(places):
                        total = (
                            np.float64(one[p]) * first_counts + np.float64(two[p]) * second_counts
                        )
                        total += np.rint(deviate[p] * sigma[p])
                        level = total * own
                        share = min(1.0, max(-1.0, (level - middle) / half))
                        shape = _BOW * (share - share * share * share)
                        code = np.rint(level + (offset + bow * shape))
                        clipped = min(high, max(low, code))
                        saturated += int(code != clipped)
                        target[p] += np.int32(weight * clipped)
            j += count
    return saturated


def convert_planes_numpy(
    sums: Sums,
    power: Sums,
    settings: Converter,
    positions: Positions,
    out: Codes,
    errors: LineErrors | None = None,
    adding: Adding | None = None,
    step: int = 0,
) -> int:
    """The oracle of ``convert_planes``: same arguments, same bits."""
    whole = sums.astype(np.int64)
    batch, lines, places = whole.shape
    conversions = lines if step else lines // 2
    total = whole * step if step else whole[:, :conversions] * 256 + whole[:, conversions:]
    if settings.read_variance > 0 or settings.adc_variance > 0:
        variance = np.full((batch, places), settings.adc_variance)
        if settings.read_variance > 0:
            variance = settings.read_variance * power.astype(np.float64) + settings.adc_variance
        vector = np.arange(batch * places, dtype=np.uint64).reshape(batch, 1, places)
        place = np.uint64(positions.first) + vector * np.uint64(positions.stride)
        lane = np.arange(positions.column, positions.column + conversions, dtype=np.uint64)
        deviate = normal(positions.key, place, lane[None, :, None]) / UNIT
        total += np.rint(deviate * (np.sqrt(variance) * UNIT)[:, None, :]).astype(np.int64)
    if errors is None:
        codes = round_shift(total * settings.multiplier, settings.shift)
    else:
        gain, offset, bow = (e[None, :, None] for e in errors)
        level = total.astype(np.float64) * (gain * (settings.multiplier * 2.0**-settings.shift))
        middle, half = (
            (settings.low + settings.high + 1) / 2,
            (settings.high - settings.low + 1) / 2,
        )
        shape = bowed((level - middle) / half)
        codes = np.rint(level + (offset + bow * shape)).astype(np.int64)
    clipped = np.clip(codes, settings.low, settings.high)
    group, weights = adding or (1, np.ones(conversions, dtype=np.int32))
    weighted = clipped * weights.astype(np.int64)[None, :, None]
    out += weighted.reshape(batch, -1, group, places).sum(2).astype(out.dtype)
    return int(np.count_nonzero(codes != clipped))


def round_shift(values: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    """``values / 2^shift`` rounded half to even, in integers (``shift`` at least 1)."""
    codes = values >> shift
    rest: npt.NDArray[np.int64] = values & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    up = (rest > half) | ((rest == half) & ((codes & 1) == 1))
    rounded: npt.NDArray[np.int64] = codes + up.astype(np.int64)
    return rounded
