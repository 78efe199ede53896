"""The conductances of a tile as its converters see them: warm, behind wires and input drivers,
each cell a little off.

A product is linear in its inputs, so wires and drivers turn the array into another matrix.  It is
rounded to integers, as the cells are, so that sums stay exact.  Read noise is that of the cells
themselves: neither wires nor drivers change it here (ours).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boards.profile import Profile
from firmware_protocol.messages import Region
from sim_backend import mismatch, wires

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.int32]
#: sums of products of high bytes stay exact in single precision up to here
_EXACT = 1 << 24
#: steps in which bit cells are seen: a set one has 4369, and thousands of them are summed exactly
_BIT_STEP = 15


_ALL = (slice(None), slice(None))


class Arrays:
    """What converters see of the tiles of one chip, worked out once for each state of a tile.

    Args:
        profile: geometry and imperfections.
        seed: which chip of its kind.
        conductances: (tiles, rows * columns) 16-bit conductances of the cells, as they change.
    """

    def __init__(self, profile: Profile, seed: int, conductances: npt.NDArray[np.uint16]) -> None:
        chip, faults = profile.chip, profile.imperfections
        self._profile = profile
        self._seed = seed
        self._cells = conductances.reshape(chip.tiles, chip.rows, chip.columns)
        self._warm = mismatch.drifted(faults.conductance_ppm_per_K, mismatch.warmer_by(faults))
        self._wired = faults.row_wire_ohm > 0 or faults.column_wire_ohm > 0
        changed = self._warm != 1.0 or self._wired or faults.dac_gain_variation > 0
        changed = changed or faults.cell_mismatch > 0
        self._plain_products = not changed
        self._plain_readings = self._warm == 1.0 and not faults.sneak_ratio
        #: conductances that products see are multiples of this; 0: any integers
        self.step = _step(profile)
        self._mismatch: dict[int, Floats] = {}
        self._products: dict[tuple[int, bool], tuple[int, Units]] = {}
        self._readings: dict[int, tuple[int, Floats]] = {}

    def products_see(self, region: Region, version: int, *, transposed: bool) -> Units:
        """(rows, columns) conductances that a product multiplies by.

        Args:
            region: which cells.
            version: another number after each change of the tile's cells.
            transposed: whether the columns are driven and the rows converted.
        """
        place = _place(region)
        if self._plain_products:
            cells: Units = self._cells[region.tile][place].astype(np.int32)
            return cells
        if not self._wired:
            return self._effective(region.tile, transposed, place)
        key = region.tile, transposed
        known = self._products.get(key)
        if known is None or known[0] != version:
            known = self._products[key] = version, self._effective(*key, _ALL)
        return known[1][place]

    def readings_see(self, region: Region, version: int) -> Floats:
        """(rows, columns) conductances that single cells are read with, sneak paths included.

        READ has a converter of its own (ours), without the errors of those of the columns, and
        sees no drop along wires: one cell at a time draws little current.
        """
        place = _place(region)
        if self._plain_readings:
            cells: Floats = self._cells[region.tile][place].astype(np.float64)
            return cells
        known = self._readings.get(region.tile)
        if known is None or known[0] != version:
            known = self._readings[region.tile] = version, self._leaking(region.tile)
        return known[1][place]

    def _leaking(self, tile: int) -> Floats:
        cells: Floats = self._cells[tile].astype(np.float64)
        ratio = self._profile.imperfections.sneak_ratio
        if ratio:
            cells = cells + wires.sneak(cells, ratio)
        return cells * self._warm

    def _effective(self, tile: int, transposed: bool, place: tuple[slice, slice]) -> Units:
        """Of some cells; of all of a tile where wires have currents of other cells in them."""
        faults = self._profile.imperfections
        seen = self._cells[tile][place] * self._warm
        if faults.cell_mismatch:
            seen = seen * self._mismatched(tile)[place]
        if self._wired:
            unit = self._profile.microsiemens(1)
            drop = wires.effective(seen * unit, faults.row_wire_ohm, faults.column_wire_ohm)
            seen = drop / unit
        gains = mismatch.drivers(self._profile, self._seed, tile, transposed=transposed)
        if gains is not None:
            seen = seen * (gains[None, place[1]] if transposed else gains[place[0], None])
        step = self.step or 1
        whole = np.clip(np.rint(seen / step), 0, self._largest(transposed) // step)
        units: Units = whole.astype(np.int32) * step
        return units

    def _mismatched(self, tile: int) -> Floats:
        """(rows, columns) factors of the cells, theirs for good."""
        if tile not in self._mismatch:
            self._mismatch[tile] = mismatch.cells(self._profile, self._seed, tile)
        return self._mismatch[tile]

    def _largest(self, transposed: bool) -> int:
        """The largest conductance whose sums over all inputs are exact; above full scale."""
        chip = self._profile.chip
        inputs = chip.columns if transposed else chip.rows
        digit = 1 if self._profile.plane_conversions else (1 << chip.input_bits) - 1
        return (self.step or 256) * (_EXACT // (inputs * digit))


def _step(profile: Profile) -> int:
    """The step of a chip of bits whose planes are summed one by one, a sum in one number."""
    device = profile.device
    ends = profile.units(device.low_uS), profile.units(device.high_uS)
    bits = profile.plane_conversions and device.LEVELS == 2
    return _BIT_STEP if bits and not any(end % _BIT_STEP for end in ends) else 0


def _place(region: Region) -> tuple[slice, slice]:
    return (
        slice(region.row, region.row + region.rows),
        slice(region.column, region.column + region.columns),
    )
