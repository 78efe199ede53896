"""The chip: what its tiles do when told, without a word about bytes.

Sums are exact: a conductance difference is split into a high and a low byte, so that every product
and partial sum is an integer below 2^24 and single precision loses nothing, in whatever order and
batch it is summed.  Many vectors go in bytes where these sum exactly (``sim_backend.vectors``).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from boards import costs
from boards.profile import Profile
from firmware_protocol import constants as c
from firmware_protocol.geometry import answer_bits, conversion_ends, output_size
from firmware_protocol.messages import Region
from sim_backend import aging, cells, mismatch, models, noise, vectors
from sim_backend.array import Arrays, Units
from sim_backend.converters import Adding, Codes, Converter, Positions, convert_planes
from sim_backend.device import ProgramOutcome
from sim_backend.feed import Feed, Product, Slot
from sim_backend.kept import Kept
from sim_backend.mismatch import LineErrors
from sim_backend.outer import Trains
from sim_backend.planes import applied
from sim_backend.vector_converters import convert_vectors
from sim_backend.window_products import convert_windows

Tensor = torch.Tensor
#: region, whether transposed, whether differential
_Place = tuple[Region, bool, bool]
#: bytes of prepared weights that are kept, for each device and for a chip of any size
_WEIGHTS_EACH, _WEIGHTS_LEAST = 8, 1 << 26
#: vectors at a time, so that their sums stay in the cache
_VECTORS = 1024
#: products whose costs are remembered
_PRODUCTS = 4096


class Chip:
    """An emulated compute-in-memory chip.

    Args:
        profile: what chip it is.
        seed: which one of its kind; one seed gives one result, bit for bit.
        state: file that its cells live in; None keeps them in memory.
    """

    def __init__(self, profile: Profile, seed: int = 0, state: Path | None = None) -> None:
        self.profile = profile
        self.seed = seed
        self.cells = (
            cells.fresh(profile, seed) if state is None else cells.opened(state, profile, seed)
        )
        self.slots: dict[int, Slot] = {}
        self.device = models.build(profile, seed)
        self._convert_keys = [self._key(t, c.STREAM_CONVERT) for t in range(profile.chip.tiles)]
        self._read_keys = [self._key(t, c.STREAM_READ) for t in range(profile.chip.tiles)]
        self._answer_bits = profile.answer_bits
        self._versions = [0] * profile.chip.tiles
        self._arrays = Arrays(profile, seed, self.cells.conductances)
        self._errors = [
            tuple(mismatch.converters(profile, seed, t, transposed=way) for way in (False, True))
            for t in range(profile.chip.tiles)
        ]
        room = max(_WEIGHTS_LEAST, _WEIGHTS_EACH * self.cells.conductances.size)
        self._weights: Kept[_Place, Tensor] = Kept(room)
        self._bytes: Kept[_Place, vectors.Lines] = Kept(room // 2)
        self._spent = lru_cache(_PRODUCTS)(self._spend)
        self.reboot()

    def reboot(self) -> None:
        """Power comes back: the supplies are off, cells and counters are as they were."""
        self.cells.add("boots", 1)
        self.boot_id = int.from_bytes(os.urandom(4), "little")
        self.slots.clear()

    # ------------------------------------------------------------------ counters

    def counts(self) -> costs.Counts:
        """What the chip's life took so far, for the cost model."""
        n = self.cells.count
        return costs.Counts(
            steps=n("steps"),
            tile_operations=n("tile_operations"),
            verify_reads=n("verify_reads"),
            pulses=n("set_pulses") + n("reset_pulses"),
            pulse_width_ns=n("pulse_width_ns"),
            conversions=n("conversions"),
        )

    # ------------------------------------------------------------------ cells

    def read(self, region: Region, samples: int, *, last: bool) -> npt.NDArray[np.uint16]:
        """Reads each cell of a region, averaged over ``samples`` conversions.

        The converter spans the conductance full scale with its bits; a reading carries the cell's
        read noise and the converter's, and what leaks in along sneak paths.  It is a reference
        converter of its own (ours), without the errors of those of the columns; so are the
        verifying reads of programming, which see the cell alone, at 25 degrees.
        """
        index = self.cell_index(region)
        g = self._arrays.readings_see(region, self._versions[region.tile]).reshape(-1)
        sigma = self._reading_error()
        top = 2**self.profile.chip.adc_bits - 1
        total = np.zeros(index.size, dtype=np.int64)
        start = (int(self.cells.positions[region.tile]) << 8) % (1 << 64)
        for sample in range(samples):
            place = np.full(1, (start + sample) % (1 << 64), dtype=np.uint64)
            z = noise.normal(self._read_keys[region.tile], place, index.astype(np.uint64))
            reading = np.rint((g + z * sigma) * top / 65535)
            total += np.clip(reading, 0, top).astype(np.int64)
        self._count_read(region, samples)
        if last:
            self.cells.positions[region.tile] += np.uint64(1)
        whole, rest = np.divmod(total * 65535, top * samples)
        up = (2 * rest > top * samples) | ((2 * rest == top * samples) & (whole % 2 == 1))
        mean: npt.NDArray[np.uint16] = (whole + up).astype(np.uint16)
        return mean

    def _reading_error(self) -> float:
        """Standard deviation of a reading; the cells' share of it grows with temperature."""
        error, more = self.device.reading_error, self._noise_growth() - 1.0
        # An ideal device reads without error, however warm.
        if not error or not more:
            return error
        return float(np.sqrt(max(0.0, error**2 + self._read_noise() ** 2 * more)))

    def _noise_growth(self) -> float:
        """Factor of the variance of read noise: thermal, so that of the absolute temperature."""
        return 1.0 + mismatch.warmer_by(self.profile.imperfections) / mismatch.REFERENCE_K

    def _read_noise(self) -> float:
        """Standard deviation of one cell's current at 25 degrees, in conductance units."""
        sigma = self.profile.imperfections.read_noise_uS * 65535
        return sigma / self.profile.chip.conductance_full_scale_uS

    def program(
        self,
        tile: int,
        index: npt.NDArray[np.int64],
        targets: npt.NDArray[np.uint16],
        *,
        tolerance: int,
        cycles: int,
    ) -> tuple[ProgramOutcome, npt.NDArray[np.uint16]]:
        """Write-verifies cells; returns what it took and a reading of each cell afterwards."""
        readings = np.empty(index.size, dtype=np.uint16)
        outcome = self.device.program(
            self.cells,
            tile,
            index,
            targets,
            tolerance=tolerance,
            cycles=cycles,
            readings=readings,
        )
        self._changed(tile, index)
        add = self.cells.add
        add("writes", index.size)
        add("reads", outcome.reads)
        add("verify_reads", outcome.reads)
        self._count_pulses(outcome.set_pulses, outcome.reset_pulses, self.device.pulse_width)
        return outcome, readings

    def pulse(
        self,
        tile: int,
        index: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int16],
        *,
        set_amplitude: int,
        reset_amplitude: int,
        width: int,
    ) -> tuple[int, int]:
        """Applies open-loop pulses; returns how many SET and RESET pulses that were."""
        self.device.pulse(
            self.cells,
            tile,
            index,
            counts,
            set_amplitude=set_amplitude,
            reset_amplitude=reset_amplitude,
            width=width,
        )
        self._changed(tile, index)
        sets = int(counts[counts > 0].sum(dtype=np.int64))
        resets = -int(counts[counts < 0].sum(dtype=np.int64))
        self._count_pulses(sets, resets, width)
        return sets, resets

    def outer(
        self,
        tile: int,
        index: npt.NDArray[np.int64],
        trains: Trains,
        applied: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]],
        *,
        set_amplitude: int,
        reset_amplitude: int,
        width: int,
    ) -> tuple[int, int]:
        """Updates by coincidence the cells where trains cross, row by row.

        Args:
            index: those cells, or as many of them as shall change.
            applied: SET and RESET pulses that each of all of them gets (``outer.totals``).
        """
        self.device.outer(
            self.cells,
            tile,
            index,
            trains,
            set_amplitude=set_amplitude,
            reset_amplitude=reset_amplitude,
            width=width,
        )
        self._changed(tile, index)
        sets, resets = (int(each[: index.size].sum(dtype=np.int64)) for each in applied)
        self._count_pulses(sets, resets, width)
        return sets, resets

    def cell_index(
        self, region: Region, within: npt.NDArray[np.uint16] | None = None
    ) -> npt.NDArray[np.int64]:
        """Flat indices of a region's cells, row by row, or of those named within it."""
        columns = self.profile.chip.columns
        if within is None or not within.size:
            rows = np.arange(region.row, region.row + region.rows, dtype=np.int64)[:, None]
            line = np.arange(region.column, region.column + region.columns, dtype=np.int64)
            return (rows * columns + line).reshape(-1)
        row, column = np.divmod(within.astype(np.int64), region.columns)
        index: npt.NDArray[np.int64] = (region.row + row) * columns + region.column + column
        return index

    def load(self, tile: int, index: npt.NDArray[np.int64], values: npt.NDArray[np.uint16]) -> None:
        """Sets conductances as they are, without a pulse."""
        self.cells.conductances[tile][index] = values
        if self.cells.hidden.size:
            self.cells.hidden[tile][index] = 0.0
        self._changed(tile, index)

    def wait(self, duration_ns: int) -> None:
        """Lets time pass: conductances drift, relax and diffuse (``sim_backend.aging``)."""
        before = self.time_ns()
        self.cells.add("waited_ns", duration_ns)
        if not self.profile.device.aging.moves:
            return
        for tile in range(self.profile.chip.tiles):
            aging.pass_time(self.cells, self.profile, self.seed, tile, before, self.time_ns())
            self._touched(tile)

    def time_ns(self) -> int:
        """Chip time: spent in commands, and waited."""
        return costs.time_ns(self.profile, self.counts()) + self.cells.count("waited_ns")

    def restore(self, body: bytes, session: int, sequence: int) -> None:
        """Takes a snapshot's state back (``cells.restore``)."""
        cells.restore(self.cells, body, session, sequence)
        for tile in range(self.profile.chip.tiles):
            self._touched(tile)

    # ------------------------------------------------------------------ products

    def multiply(self, product: Product, codes: npt.NDArray[np.integer[Any]]) -> tuple[Codes, int]:
        """Multiplies a batch by the conductances.

        Args:
            product: which regions, which way.
            codes: (batch, inputs) integers, or (batch, channels, height, width) with a window.

        Returns:
            Codes of (batch, outputs) or (batch, outputs, out height, out width), int16 or wider;
            and how many conversions saturated.
        """
        outputs, blocks = product.outputs, len(product.grid)
        batch, places = self._places(product, len(codes))
        wide = answer_bits(self._answer_bits, blocks) > 16
        kind = np.int32 if wide else np.int16
        if product.of_vectors:
            out = np.zeros((places, outputs), dtype=kind)
            saturated = self._apply_to_vectors(product, codes, out)
            self._count_product(product, places, saturated)
            return out, saturated
        out = np.zeros((batch, outputs, places), dtype=kind)
        saturated = 0
        for plane, (weight, part) in enumerate(applied(codes, product.coding)):
            saturated += self._apply(product, torch.from_numpy(part), plane, weight, out)
        self._count_product(product, batch * places, saturated)
        if product.window is None:
            return out[0].T, saturated
        return out.reshape(batch, outputs, *output_size(product.window)), saturated

    def _apply(self, product: Product, inputs: Tensor, plane: int, weight: int, out: Codes) -> int:
        """Converts what the inputs of one operation give, and adds it up.

        Args:
            product: which regions, which way.
            inputs: whole codes or one plane of them.
            plane, weight: which plane, and what its codes are multiplied by.
            out: (batch, outputs, places), added to.

        Returns:
            How many conversions saturated.
        """
        converter, order = self._converter(product), iter(product.order)
        saturated, first_input = 0, 0
        for row in product.grid:
            size = self._inputs(product, row[0])
            feed = Feed(inputs, product.window, first_input, size, len(row))
            noisy = converter.read_variance > 0
            power = feed.power() if noisy else np.zeros(out[:, 0].shape, dtype=np.float32)
            images, at = feed.few_channels, 0
            for region in row:
                end = at + self._outputs(product, region)
                how = (
                    power,
                    converter,
                    self._positions(product, region, plane, next(order)),
                    out[:, at:end],
                    self._line_errors(product, region),
                    _adding(product, weight, end - at),
                )
                if images is not None and product.window is not None:
                    units = self._units(region, product).astype(np.float64, order="C")
                    saturated += convert_windows(images, units, product.window, *how)
                else:
                    sums = feed.sums(self._weight(region, product))
                    saturated += convert_planes(sums, *how, self._arrays.step)
                at = end
            first_input += size
        return saturated

    def _apply_to_vectors(
        self, product: Product, codes: npt.NDArray[np.integer[Any]], out: Codes
    ) -> int:
        """The same for vectors of whole codes, a cache full of sums at a time.

        Args:
            product: which regions, which way.
            codes: (batch, inputs) integers.
            out: (batch, outputs), added to.
        """
        converter, order = self._converter(product), iter(product.order)
        starts = range(0, len(codes), _VECTORS)
        saturated, first_input = 0, 0
        for row in product.grid:
            size, at = self._inputs(product, row[0]), 0
            block = vectors.narrowed(codes[:, first_input : first_input + size])
            parts = [(first, block[first : first + _VECTORS]) for first in starts]
            known = [vectors.moments(part) for _, part in parts]
            for region in row:
                lines = self._lines_of(region, product, block)
                positions = self._positions(product, region, 0, next(order))
                errors = self._line_errors(product, region)
                for (first, part), moments in zip(parts, known, strict=True):
                    saturated += convert_vectors(
                        lines.sums(part), lines.parts, moments, converter,
                        positions.moved(first), out[first : first + _VECTORS], at, errors,
                    )  # fmt: skip
                at += self._outputs(product, region)
            first_input += size
        return saturated

    @staticmethod
    def _inputs(product: Product, region: Region) -> int:
        return product.lines(region)[0]

    @staticmethod
    def _outputs(product: Product, region: Region) -> int:
        return product.lines(region)[1]

    def _units(self, region: Region, product: Product) -> Units:
        """(conversions, inputs) conductances, or differences of them."""
        version = self._versions[region.tile]
        g = self._arrays.products_see(region, version, transposed=product.transposed)
        if product.differential:
            g = g[:, 0::2] - g[:, 1::2]
        return g if product.transposed else g.T

    def _weight(self, region: Region, product: Product) -> Tensor:
        """(2 * conversions, inputs) float32: high bytes of the conductances, then low bytes.

        Where conductances come in steps, (conversions, inputs): how many.
        """

        def prepare() -> Tensor:
            lines, step = self._units(region, product), self._arrays.step
            parts = [lines // step] if step else [lines >> 8, lines & 255]
            return torch.from_numpy(np.concatenate(parts).astype(np.float32))

        place = (region, product.transposed, product.differential)
        return self._weights.of(place, self._versions[region.tile], prepare)

    def _lines_of(self, region: Region, product: Product, codes: vectors.Codes) -> vectors.Lines:
        """The same for those vectors."""
        place = (region, product.transposed, product.differential)
        version = self._versions[region.tile]
        prepared = self._bytes.holds(place, version)
        if not vectors.pays_in_bytes(codes, region.rows * region.columns, prepared=prepared):
            return vectors.FloatLines(self._weight(region, product))
        return self._bytes.of(place, version, lambda: vectors.lines(self._units(region, product)))

    def _read_variance(self, product: Product) -> float:
        """Variance of a sum for each unit of squared input code (one cell, or two of a pair)."""
        cells_each = 2 if product.differential else 1
        return float(self._read_noise() ** 2 * cells_each * self._noise_growth())

    def _line_errors(self, product: Product, region: Region) -> LineErrors | None:
        errors = self._errors[region.tile][product.transposed]
        if errors is None:
            return None
        count = self._outputs(product, region) * max(1, len(product.group))
        if product.transposed:
            return errors.lines(region.row, count, 1)
        return errors.lines(region.column, count, 2 if product.differential else 1)

    def _converter(self, product: Product) -> Converter:
        slot, faults = product.slot, self.profile.imperfections
        lsb = 2.0**slot.shift / slot.multiplier
        column = faults.column_noise_uS * 65535 / self.profile.chip.conductance_full_scale_uS
        unsigned = product.coding is not None and product.coding.unsigned
        low, high = conversion_ends(self.profile.chip.adc_bits, unsigned=unsigned)
        return Converter(
            multiplier=slot.multiplier,
            shift=slot.shift,
            low=low,
            high=high,
            read_variance=self._read_variance(product),
            adc_variance=(faults.adc_noise_lsb * lsb) ** 2 + column**2 * self._noise_growth(),
        )

    def _positions(
        self,
        product: Product,
        region: Region,
        plane: int,
        own: tuple[int, int],
    ) -> Positions:
        place, stride = own
        chip = self.profile.chip
        if product.transposed:
            line = region.row
        else:
            line = region.column // 2 if product.differential else region.column
        line += plane * max(chip.rows, chip.columns)
        first = (int(self.cells.positions[region.tile]) + place) % (1 << 64)
        return Positions(self._convert_keys[region.tile], first, stride, line)

    @staticmethod
    def _places(product: Product, batch: int) -> tuple[int, int]:
        """Batch and places of the sums; vectors are places of a batch of one."""
        if product.window is None:
            return 1, batch
        height, width = output_size(product.window)
        return batch, height * width

    # ------------------------------------------------------------------ bookkeeping

    def _key(self, tile: int, stream: int) -> np.uint64:
        return noise.key(self.seed, tile, stream)

    def _changed(self, tile: int, index: npt.NDArray[np.int64]) -> None:
        """After the cells of a tile were written."""
        if self.cells.written.size:
            self.cells.written[tile][index] = self.time_ns()
        if self.cells.hidden.size and not self.profile.device.FINE:
            self.cells.hidden[tile][index] = 0.0
        self._touched(tile)

    def _touched(self, tile: int) -> None:
        self._versions[tile] += 1

    def _count_product(self, product: Product, vectors: int, saturated: int) -> None:
        for region in product.regions:
            self.cells.positions[region.tile] += np.uint64(vectors)
        spent, add = self._spent(product, vectors), self.cells.add
        add("vectors", vectors)
        add("steps", spent.steps)
        add("tile_operations", spent.tile_operations)
        add("conversions", spent.conversions)
        add("saturations", saturated)

    def _spend(self, product: Product, vectors: int) -> costs.Counts:
        return costs.product(
            self.profile,
            product.grid,
            vectors,
            transposed=product.transposed,
            differential=product.differential,
            planes=product.steps,
        )

    def _count_read(self, region: Region, samples: int) -> None:
        self.cells.add("steps", region.rows * samples)
        self.cells.add("tile_operations", region.rows * samples)
        self.cells.add("reads", region.rows * region.columns * samples)

    def _count_pulses(self, sets: int, resets: int, width: int) -> None:
        self.cells.add("set_pulses", sets)
        self.cells.add("reset_pulses", resets)
        self.cells.add("pulse_width_ns", (sets + resets) * width)


def _adding(product: Product, weight: int, outputs: int) -> Adding | None:
    """How the codes of one operation are added up to that many outputs."""
    if product.coding is None and not product.group:
        return None
    each = np.array(product.group or (1,), dtype=np.int32) * np.int32(weight)
    return Adding(len(each), np.tile(each, outputs))
