"""What no two lines of a chip share: gain, offset, bow of their converters, gain of their drivers;
and what no two cells share.

A converter belongs to a line: to a column (of a differential pair, to its first one), and for
transposed products to a row.  An input driver belongs to a row, and for transposed products to a
column.  That each direction has converters and drivers of its own is ours.  Every error is a
function of chip seed, tile and line.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from boards.profile import Imperfections, Profile
from firmware_protocol import constants as c
from sim_backend import noise

Floats = npt.NDArray[np.float64]
#: parameters hold at this temperature, degrees Celsius
REFERENCE_C = 25.0
#: the same in kelvin
REFERENCE_K = 298.15
#: noise position of each deviate of a converter
_GAIN, _OFFSET, _BOW = range(3)


class LineErrors(NamedTuple):
    """Errors of converters, one entry a line.

    Attributes:
        gain: factor of the converter's gain.
        offset: added to the code before it is rounded, in codes.
        bow: largest deviation from the straight line (``converters.bowed``), in codes.
    """

    gain: Floats
    offset: Floats
    bow: Floats

    def lines(self, first: int, count: int, step: int) -> LineErrors:
        """Those of ``count`` lines from ``first`` on, every ``step``-th."""
        chosen = slice(first, first + (count - 1) * step + 1, step)
        return LineErrors(self.gain[chosen], self.offset[chosen], self.bow[chosen])


def warmer_by(faults: Imperfections) -> float:
    """Kelvin above the temperature at which parameters hold."""
    return faults.temperature_C - REFERENCE_C


def drifted(ppm_per_K: float, kelvin: float) -> float:
    """Factor of a parameter with that coefficient; never negative."""
    return max(0.0, 1.0 + ppm_per_K * 1e-6 * kelvin)


def converters(profile: Profile, seed: int, tile: int, *, transposed: bool) -> LineErrors | None:
    """Errors of a tile's converters: (columns,) each, or (rows,) transposed.

    None where all converters are as they should be.
    """
    faults, chip = profile.imperfections, profile.chip
    warm = drifted(faults.adc_gain_ppm_per_K, warmer_by(faults))
    spreads = (faults.adc_gain_variation, faults.adc_offset_lsb, faults.adc_inl_lsb)
    if not any(spreads) and warm == 1.0:
        return None
    stream = c.STREAM_ADC_ROWS if transposed else c.STREAM_ADC
    key = noise.key(seed, tile, stream)
    count = chip.rows if transposed else chip.columns
    return LineErrors(
        (1.0 + faults.adc_gain_variation * _deviates(key, _GAIN, count)) * warm,
        faults.adc_offset_lsb * _deviates(key, _OFFSET, count),
        faults.adc_inl_lsb * _deviates(key, _BOW, count),
    )


def drivers(profile: Profile, seed: int, tile: int, *, transposed: bool) -> Floats | None:
    """Gain of a tile's input drivers: (rows,), or (columns,) transposed; None where all are 1."""
    spread = profile.imperfections.dac_gain_variation
    if not spread:
        return None
    stream = c.STREAM_DAC_COLUMNS if transposed else c.STREAM_DAC
    count = profile.chip.columns if transposed else profile.chip.rows
    gains: Floats = 1.0 + spread * _deviates(noise.key(seed, tile, stream), _GAIN, count)
    return gains


def cells(profile: Profile, seed: int, tile: int) -> Floats:
    """What products see of each cell of a tile, as a factor: (rows, columns)."""
    chip = profile.chip
    key = noise.key(seed, tile, c.STREAM_MISMATCH)
    spread = profile.imperfections.cell_mismatch
    factors = 1.0 + spread * _deviates(key, _GAIN, chip.rows * chip.columns)
    return factors.reshape(chip.rows, chip.columns)


def _deviates(key: np.uint64, position: int, count: int) -> Floats:
    place = np.full(1, position, dtype=np.uint64)
    return noise.normal(key, place, np.arange(count, dtype=np.uint64))
