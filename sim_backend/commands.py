"""What each command does: everything is checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from boards import costs
from boards.description import capabilities, describe
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import (
    MAX_REGIONS,
    MAX_TRAIN,
    UNROLLED_LIMIT,
    Capability,
    Detail,
    Status,
)
from firmware_protocol.geometry import answer_bits, levels_of, output_size, unrolled_size
from firmware_protocol.packing import pack_codes, packed_size, unpack_codes
from sim_backend import noise
from sim_backend.cells import SnapshotError, opened_snapshot, snapshot, snapshot_room
from sim_backend.chip import Chip
from sim_backend.feed import Product, Slot
from sim_backend.outer import Trains, totals
from sim_backend.planes import Coding

TRANSPOSED, DIFFERENTIAL, SIGNED, GROUPS, TERNARY = 1, 2, 4, 8, 16
_VMM_ANSWER_HEAD = 5
_NO_WINDOW = m.Window()
#: different products that are remembered
_ASKED = 4096
#: emulated time that a chip can wait in its life, ns (292 years)
_LONGEST_NS = (1 << 63) - 1
_STATUS_COUNTERS = (
    "vectors", "steps", "tile_operations", "conversions", "saturations", "reads", "writes",
    "set_pulses", "reset_pulses",
)  # fmt: skip


class Refused(Exception):
    """A request is refused; nothing was changed."""

    def __init__(
        self, status: Status, detail: Detail = Detail.NONE, index: int = 0, limit: int = 0
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.index = index
        self.limit = limit


class PowerCut(Exception):
    """The power failed within a mutating command, as a test had asked for."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a multiply request asks for, checked.

    Attributes:
        product: which regions, which way.
        shape: of the input codes.
        answers: codes of the answer.
        bits: of each.
    """

    product: Product
    shape: tuple[int, ...]
    answers: int
    bits: int


class Commands:
    """Executes decoded requests on a chip, from one power-up to the next."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip
        self._profile = chip.profile
        self._capabilities = capabilities(chip.profile)
        #: what the board says of itself
        self.description = describe(chip.profile)
        d = self.description
        #: of each conductance whether a target may be that
        self._allowed = np.zeros(1 << 16, dtype=np.bool_)
        levels = levels_of(d.target_low, d.target_high, d.levels)
        self._allowed[levels or slice(d.target_low, d.target_high + 1)] = True
        self._snapshot = b""
        self._restoring = bytearray()
        self.board_id = int(noise.splitmix(np.array(chip.seed % (1 << 64), dtype=np.uint64)))
        self.corrupt_frames = 0
        self.duplicates = 0
        self.lapses = 0
        self.lease_ms = chip.profile.limits.lease_ms
        self.cut_after: int | None = None
        self._lapsed = False
        self._place = (0, 0)
        # A training asks for the same products all the time.
        self._asked = lru_cache(_ASKED)(self._ask)
        self._handlers: dict[type[Message], Callable[[Any], Message]] = {
            m.PingRequest: lambda r: m.PingResponse(r.echo),
            m.StatusRequest: self._status,
            m.ConfigureRequest: self._configure,
            m.SafeRequest: self._safe,
            m.LeaseRequest: self._set_lease,
            m.JournalRequest: self._journal,
            m.RebootRequest: lambda _: m.RebootResponse(),
            m.ReadRequest: self._read,
            m.ProgramRequest: self._program,
            m.PulseRequest: self._pulse,
            m.OuterRequest: self._outer,
            m.WearRequest: self._wear,
            m.VmmRequest: self._multiply,
            m.SnapshotRequest: self._take_snapshot,
            m.RestoreRequest: self._restore,
            m.LoadRequest: self._load,
            m.WaitRequest: self._wait,
        }

    def execute(self, request: Message, session: int = 0, sequence: int = 0) -> Message:
        """Does what a request asks.

        Raises:
            Refused: nothing was changed.
            PowerCut: it was cut short, as ``cut_after`` asks.
        """
        self._place = (session, sequence)
        return self._handlers[type(request)](request)

    @contextmanager
    def _intent(self, cells: int) -> Iterator[slice]:
        """Around the change of that many cells: the journal before, the operation counter after.

        Gives the part of the cells to change, which is all of them unless a power cut is due.
        """
        state = self._chip.cells
        state.begin(*self._place, cells)
        if self.cut_after is not None:
            certain = min(self.cut_after, cells - 1)
            # Every other cut falls after the cell that is in doubt, so that both can be met.
            yield slice(0, certain + self.cut_after % 2)
            state.put("journal_progress", certain)
            state.put("journal_in_doubt", 1)
            raise PowerCut
        yield slice(None)
        state.commit()

    # ------------------------------------------------------------------ state

    def _status(self, _: m.StatusRequest) -> m.StatusResponse:
        counts = self._chip.counts()
        cells = self._chip.cells
        return m.StatusResponse(
            powered=int(bool(self._chip.slots)),
            boot_id=self._chip.boot_id,
            operations=cells.count("operations"),
            time=costs.time_ns(self._profile, counts),
            energy=costs.energy_pJ(self._profile, counts),
            corrupt_frames=self.corrupt_frames,
            duplicates=self.duplicates,
            lapses=self.lapses,
            waited=cells.count("waited_ns"),
            temperature=round(100 * self._profile.imperfections.temperature_C),
            **{name: cells.count(name) for name in _STATUS_COUNTERS},
        )

    def _configure(self, r: m.ConfigureRequest) -> m.ConfigureResponse:
        description = self.description
        if r.slot >= description.slots:
            raise Refused(Status.BAD_REQUEST, Detail.SLOT, r.slot, description.slots)
        if r.read_voltage > description.read_voltage_limit:
            raise Refused(
                Status.SAFETY, Detail.READ_VOLTAGE, r.slot, description.read_voltage_limit
            )
        if not (1 <= r.shift <= 48 and 1 <= r.multiplier < 1 << 16):
            raise Refused(Status.BAD_REQUEST, Detail.GAIN, r.slot)
        gain = r.multiplier * 2.0 ** (40 - r.shift)
        if not description.gain_low <= gain <= description.gain_high:
            raise Refused(Status.BAD_REQUEST, Detail.GAIN, r.slot)
        self._lapsed = False
        self._chip.slots[r.slot] = Slot(r.read_voltage, r.word_line, r.multiplier, r.shift)
        return m.ConfigureResponse()

    def _safe(self, _: m.SafeRequest) -> m.SafeResponse:
        self._lapsed = False
        self._chip.slots.clear()
        return m.SafeResponse(powered=0)

    def lease_ends(self) -> None:
        """The host has been silent for too long: takes the supplies to ground."""
        if self._chip.slots:
            self._chip.slots.clear()
            self._lapsed = True
            self.lapses += 1

    def _set_lease(self, r: m.LeaseRequest) -> m.LeaseResponse:
        limit = self._profile.limits.lease_ms
        if not 1 <= r.duration <= limit:
            raise Refused(Status.SAFETY, Detail.LEASE, 0, limit)
        self.lease_ms = r.duration
        return m.LeaseResponse(powered=int(bool(self._chip.slots)))

    def _journal(self, r: m.JournalRequest) -> m.JournalResponse:
        count = self._chip.cells.count
        progress, in_doubt = count("journal_progress"), count("journal_in_doubt")
        if count("journal_number") <= count("operations"):
            progress, in_doubt = count("journal_cells"), 0
        return m.JournalResponse(
            nonce=r.nonce,
            boot_id=self._chip.boot_id,
            operations=count("operations"),
            number=count("journal_number"),
            session=count("journal_session"),
            sequence=count("journal_sequence"),
            progress=progress,
            in_doubt=in_doubt,
        )

    def _slot(self, number: int) -> Slot:
        if number >= self._profile.chip.slots:
            raise Refused(Status.BAD_REQUEST, Detail.SLOT, number, self._profile.chip.slots)
        slot = self._chip.slots.get(number)
        if slot is None:
            raise self._unpowered(number)
        return slot

    def _unpowered(self, slot: int) -> Refused:
        detail = Detail.LEASE if self._lapsed else Detail.SLOT_EMPTY
        return Refused(Status.SAFETY, detail, slot)

    def _need(self, capability: Capability, detail: Detail) -> None:
        if capability not in self._capabilities:
            raise Refused(Status.UNSUPPORTED, detail)

    def _check_region(self, region: m.Region, number: int = 0) -> None:
        chip = self._profile.chip
        if region.tile >= chip.tiles:
            raise Refused(Status.BAD_REQUEST, Detail.TILE, number, chip.tiles)
        inside = (
            region.rows > 0
            and region.columns > 0
            and region.row + region.rows <= chip.rows
            and region.column + region.columns <= chip.columns
        )
        if not inside:
            raise Refused(Status.BAD_REQUEST, Detail.REGION, number)

    # ------------------------------------------------------------------ cells

    def _read(self, r: m.ReadRequest) -> m.ReadResponse:
        self._slot(r.slot)
        self._check_region(r.region)
        if not r.samples:
            raise Refused(Status.BAD_REQUEST, Detail.COUNT)
        if 2 * r.region.rows * r.region.columns > self._profile.link.max_payload:
            raise Refused(Status.BAD_REQUEST, Detail.ANSWER_SIZE)
        return m.ReadResponse(self._chip.read(r.region, r.samples, last=not r.more))

    def _program(self, r: m.ProgramRequest) -> m.ProgramResponse:
        self._slot(r.slot)
        targets = np.asarray(r.targets, dtype=np.uint16)
        cells = self._cells(r.region, r.indices, targets.size)
        description = self.description
        if not 1 <= r.cycles <= description.cycles_limit:
            raise Refused(Status.BAD_REQUEST, Detail.CYCLES, 0, description.cycles_limit)
        self._check_targets(targets)
        worst = self._chip.device.worst_case_pulses(r.cycles)
        self._check_lifetime(r.region.tile, cells, np.full(cells.size, worst))
        with self._intent(cells.size) as part:
            outcome, readings = self._chip.program(
                r.region.tile, cells[part], targets[part], tolerance=r.tolerance, cycles=r.cycles
            )
        return m.ProgramResponse(
            outcome.set_pulses,
            outcome.reset_pulses,
            outcome.unconverged,
            self._worn(r.region.tile, cells),
            readings if r.read_back else readings[:0],
        )

    def _pulse(self, r: m.PulseRequest) -> m.PulseResponse:
        if not self._profile.device.PULSED:
            raise Refused(Status.UNSUPPORTED, Detail.PULSE)
        if not self._chip.slots:
            raise self._unpowered(0)
        counts = np.asarray(r.counts, dtype=np.int16)
        cells = self._cells(r.region, r.indices, counts.size)
        wanted = np.abs(counts.astype(np.int64))
        limit = self._profile.limits.pulses_per_command
        if (wanted > limit).any():
            raise Refused(Status.SAFETY, Detail.COUNT, int((wanted > limit).argmax()), limit)
        if (counts > 0).any():
            self._check_amplitude(r.set_amplitude, 0)
        if (counts < 0).any():
            self._check_amplitude(r.reset_amplitude, 1)
        self._check_width(r.width)
        self._check_lifetime(r.region.tile, cells, wanted)
        with self._intent(cells.size) as part:
            sets, resets = self._chip.pulse(
                r.region.tile,
                cells[part],
                counts[part],
                set_amplitude=r.set_amplitude,
                reset_amplitude=r.reset_amplitude,
                width=r.width,
            )
        return m.PulseResponse(sets, resets, self._worn(r.region.tile, cells))

    def _outer(self, r: m.OuterRequest) -> m.OuterResponse:
        trains, cells = self._trains(r)
        applied = totals(trains)
        wanted = applied[0].astype(np.int64) + applied[1]
        limit = self._profile.limits.pulses_per_command
        if (wanted > limit).any():
            raise Refused(Status.SAFETY, Detail.COUNT, int((wanted > limit).argmax()), limit)
        for which, amplitude in enumerate((r.set_amplitude, r.reset_amplitude)):
            if applied[which].any():
                self._check_amplitude(amplitude, which)
        self._check_width(r.width)
        self._check_lifetime(r.region.tile, cells, wanted)
        with self._intent(cells.size) as part:
            sets, resets = self._chip.outer(
                r.region.tile,
                cells[part],
                trains,
                applied,
                set_amplitude=r.set_amplitude,
                reset_amplitude=r.reset_amplitude,
                width=r.width,
            )
        return m.OuterResponse(sets, resets, self._worn(r.region.tile, cells))

    def _trains(self, r: m.OuterRequest) -> tuple[Trains, npt.NDArray[np.int64]]:
        """The trains of an update, and the cells where they cross."""
        self._need(Capability.OUTER, Detail.OUTER)
        if not self._chip.slots:
            raise self._unpowered(0)
        self._check_region(r.region)
        step = 2 if r.flags & DIFFERENTIAL else 1
        if r.region.columns % step or r.region.column % step:
            raise Refused(Status.BAD_REQUEST, Detail.REGION)
        if not r.count or not 1 <= r.length <= MAX_TRAIN:
            raise Refused(Status.BAD_REQUEST, Detail.COUNT, 0, MAX_TRAIN)
        sizes = [r.count * n for n in (r.region.rows, r.region.columns // step)]
        first = packed_size(sizes[0], r.length + 1)
        if len(r.words) != first + packed_size(sizes[1], r.length + 1):
            raise Refused(Status.BAD_REQUEST, Detail.LENGTH)
        parts = (r.words[:first], r.words[first:])
        words = [
            np.ascontiguousarray(
                unpack_codes(part, size, r.length + 1, signed=False)
                .astype(np.uint32, copy=False).reshape(r.count, -1).T
            )
            for part, size in zip(parts, sizes, strict=True)
        ]  # fmt: skip
        cells = self._chip.cell_index(r.region).reshape(r.region.rows, -1)[:, ::step]
        return Trains(words[0], words[1], r.length), cells.reshape(-1)

    def _wear(self, r: m.WearRequest) -> m.WearResponse:
        self._check_region(r.region)
        if 4 * r.region.rows * r.region.columns > self._profile.link.max_payload:
            raise Refused(Status.BAD_REQUEST, Detail.ANSWER_SIZE)
        cells = self._chip.cell_index(r.region)
        return m.WearResponse(self._chip.cells.pulses[r.region.tile][cells])

    def _load(self, r: m.LoadRequest) -> m.LoadResponse:
        self._need(Capability.LOAD, Detail.LOAD)
        values = np.asarray(r.conductances, dtype=np.uint16)
        cells = self._cells(r.region, (), values.size)
        self._check_targets(values)
        with self._intent(cells.size) as part:
            self._chip.load(r.region.tile, cells[part], values[part])
        return m.LoadResponse()

    def _wait(self, r: m.WaitRequest) -> m.WaitResponse:
        self._need(Capability.WAIT, Detail.WAIT)
        limit = _LONGEST_NS - self._chip.cells.count("waited_ns")
        if not 1 <= r.duration <= limit:
            raise Refused(Status.BAD_REQUEST, Detail.COUNT, 0, limit)
        # The journal counts what is in doubt in cells; here that is each of them, or none.
        with self._intent(1) as part:
            if part.stop is None or part.stop > 0:
                self._chip.wait(r.duration)
        return m.WaitResponse(self._chip.time_ns())

    def _worn(self, tile: int, cells: npt.NDArray[np.int64]) -> int:
        """How many of a command's cells are past the soft budget now."""
        soft = self._profile.limits.lifetime_soft
        return int(np.count_nonzero(self._chip.cells.pulses[tile][cells] > soft)) if soft else 0

    def _check_targets(self, targets: npt.NDArray[np.uint16]) -> None:
        allowed = self._allowed[targets]
        if not allowed.all():
            raise Refused(Status.BAD_REQUEST, Detail.TARGET, int(allowed.argmin()))

    def _check_amplitude(self, amplitude: int, which: int) -> None:
        low, high = self._profile.limits.amplitude_mV
        if not low <= amplitude <= high:
            raise Refused(Status.SAFETY, Detail.AMPLITUDE, which, high)

    def _check_width(self, width: int) -> None:
        low, high = self._profile.limits.width_ns
        if not low <= width <= high:
            raise Refused(Status.SAFETY, Detail.WIDTH, 0, high)

    def _cells(
        self, region: m.Region, indices: npt.NDArray[Any] | Sequence[int], count: int
    ) -> npt.NDArray[np.int64]:
        """Flat cell indices of a mutating command, each once, as many as it has values."""
        self._check_region(region)
        size = region.rows * region.columns
        within = np.asarray(indices, dtype=np.uint16)
        if count != (within.size or size) or not count:
            raise Refused(Status.BAD_REQUEST, Detail.COUNT, count, within.size or size)
        if within.size:
            if (within >= size).any():
                raise Refused(Status.BAD_REQUEST, Detail.INDEX, int((within >= size).argmax()))
            ordered = np.sort(within)
            if (ordered[1:] == ordered[:-1]).any():
                raise Refused(Status.BAD_REQUEST, Detail.INDEX)
        return self._chip.cell_index(region, within)

    def _check_lifetime(
        self, tile: int, cells: npt.NDArray[np.int64], more: npt.NDArray[np.int64]
    ) -> None:
        budget = self._profile.limits.lifetime_pulses
        if not budget:
            return
        spent = self._chip.cells.pulses[tile][cells].astype(np.int64) + more
        if (spent > budget).any():
            raise Refused(Status.SAFETY, Detail.LIFETIME, int((spent > budget).argmax()), budget)

    # ------------------------------------------------------------------ products

    def _multiply(self, r: m.VmmRequest) -> m.VmmResponse:
        slot = self._slot(r.slot)
        asked = self._asked(slot, r.flags, r.input_bits, r.row_blocks, r.count, r.image, r.regions)
        count = prod(asked.shape)
        if len(r.codes) != packed_size(count, r.input_bits):
            raise Refused(Status.BAD_REQUEST, Detail.LENGTH)
        size = packed_size(asked.answers, asked.bits) + _VMM_ANSWER_HEAD
        if size > self._profile.link.max_payload:
            raise Refused(Status.BAD_REQUEST, Detail.ANSWER_SIZE)
        signed = bool(r.flags & SIGNED)
        codes = unpack_codes(r.codes, count, r.input_bits, signed=signed)
        if signed and r.flags & TERNARY:
            without = codes == -(1 << (r.input_bits - 1))
            if without.any():
                raise Refused(Status.BAD_REQUEST, Detail.TERNARY, int(without.argmax()))
        answer, saturated = self._chip.multiply(asked.product, codes.reshape(asked.shape))
        return m.VmmResponse(asked.bits, saturated, pack_codes(answer, asked.bits))

    def _ask(
        self,
        slot: Slot,
        flags: int,
        input_bits: int,
        row_blocks: int,
        count: int,
        image: m.Window,
        regions: tuple[m.Region, ...],
    ) -> _Asked:
        """Checks what a request says before its codes, and works out what follows from it."""
        r = m.VmmRequest(0, flags, input_bits, row_blocks, count, image, regions, b"")
        self._check_product(r)
        product = Product(
            slot,
            regions,
            row_blocks,
            bool(flags & TRANSPOSED),
            bool(flags & DIFFERENTIAL),
            None if image == _NO_WINDOW else image,
            self._profile.chip.column_weights if flags & GROUPS else (),
            self._coding(r),
        )
        inputs, outputs = self._lines(r)
        shape, places = self._batch(r, inputs)
        bits = answer_bits(self._profile.answer_bits, len(product.grid))
        return _Asked(product, shape, count * places * outputs, bits)

    def _coding(self, r: m.VmmRequest) -> Coding | None:
        """How the codes are applied, where that is plane by plane."""
        if not self._profile.plane_conversions:
            return None
        return Coding(r.input_bits, bool(r.flags & SIGNED), bool(r.flags & TERNARY))

    def _check_product(self, r: m.VmmRequest) -> None:
        if r.flags & TRANSPOSED:
            self._need(Capability.TRANSPOSED, Detail.TRANSPOSED)
        if r.flags & SIGNED:
            self._need(Capability.SIGNED_INPUTS, Detail.SIGNED)
        if r.flags & DIFFERENTIAL:
            self._need(Capability.DIFFERENTIAL, Detail.DIFFERENTIAL)
        if r.flags & GROUPS:
            self._need(Capability.GROUPS, Detail.GROUPS)
            if r.flags & (TRANSPOSED | DIFFERENTIAL):
                raise Refused(Status.BAD_REQUEST, Detail.GROUPS)
        if r.flags & TERNARY:
            self._need(Capability.TERNARY, Detail.TERNARY)
        if not 1 <= r.input_bits <= self._profile.chip.input_bits:
            limit = self._profile.chip.input_bits
            raise Refused(Status.BAD_REQUEST, Detail.INPUT_BITS, 0, limit)
        if not r.count:
            raise Refused(Status.BAD_REQUEST, Detail.COUNT)
        grid = r.row_blocks and r.regions and len(r.regions) % r.row_blocks == 0
        if not grid or len(r.regions) > MAX_REGIONS:
            raise Refused(Status.BAD_REQUEST, Detail.GROUPING)
        if len(r.regions) > 1 and (r.row_blocks > 1 or r.flags & TRANSPOSED):
            self._need(Capability.ROW_BLOCK_SUMS, Detail.ROW_BLOCKS)
        columns = len(r.regions) // r.row_blocks
        for i, region in enumerate(r.regions):
            self._check_region(region, i)
            each = self._columns_each(r)
            if region.columns % each or region.column % each:
                raise Refused(Status.BAD_REQUEST, Detail.REGION, i)
            same_rows = region.rows == r.regions[i - i % columns].rows
            same_columns = region.columns == r.regions[i % columns].columns
            if not (same_rows and same_columns):
                raise Refused(Status.BAD_REQUEST, Detail.GROUPING, i)

    def _lines(self, r: m.VmmRequest) -> tuple[int, int]:
        """How many inputs and outputs the regions have together."""
        columns = len(r.regions) // r.row_blocks
        rows_in_all = sum(region.rows for region in r.regions[::columns])
        columns_in_all = sum(region.columns for region in r.regions[:columns])
        columns_in_all //= self._columns_each(r)
        if r.flags & TRANSPOSED:
            return columns_in_all, rows_in_all
        return rows_in_all, columns_in_all

    def _columns_each(self, r: m.VmmRequest) -> int:
        """Columns of an output, or of an input of the transposed product."""
        if r.flags & GROUPS:
            return len(self._profile.chip.column_weights)
        return 2 if r.flags & DIFFERENTIAL else 1

    def _batch(self, r: m.VmmRequest, inputs: int) -> tuple[tuple[int, ...], int]:
        """Shape of the input codes, and how many vectors each entry of the batch makes."""
        if r.image == _NO_WINDOW:
            return (r.count, inputs), 1
        self._need(Capability.IMAGES, Detail.IMAGES)
        w = r.image
        positive = min(w.channels, w.height, w.width, w.kernel_height, w.kernel_width,
                       w.stride_y, w.stride_x, w.dilation_y, w.dilation_x)  # fmt: skip
        height, width = output_size(w)
        if not positive or height < 1 or width < 1 or unrolled_size(w) != inputs:
            raise Refused(Status.BAD_REQUEST, Detail.WINDOW)
        if r.count * height * width * inputs > UNROLLED_LIMIT:
            raise Refused(Status.BAD_REQUEST, Detail.WINDOW, 0, UNROLLED_LIMIT)
        return (r.count, w.channels, w.height, w.width), height * width

    # ------------------------------------------------------------------ snapshots

    def _take_snapshot(self, r: m.SnapshotRequest) -> m.SnapshotResponse:
        self._need(Capability.SNAPSHOT, Detail.SNAPSHOT)
        room = self._profile.link.max_payload - 4
        if r.length > room:
            raise Refused(Status.BAD_REQUEST, Detail.ANSWER_SIZE, 0, room)
        if r.offset == 0:
            self._snapshot = snapshot(self._chip.cells)
        if r.offset > len(self._snapshot):
            raise Refused(Status.BAD_REQUEST, Detail.OFFSET, 0, len(self._snapshot))
        part = self._snapshot[r.offset : r.offset + r.length]
        return m.SnapshotResponse(len(self._snapshot), part)

    def _restore(self, r: m.RestoreRequest) -> m.RestoreResponse:
        self._need(Capability.SNAPSHOT, Detail.SNAPSHOT)
        so_far = self._restoring if r.offset else bytearray()
        room = snapshot_room(self._chip.cells)
        if r.total > room:
            raise Refused(Status.BAD_REQUEST, Detail.SNAPSHOT, 0, room)
        if r.offset != len(so_far) or r.offset + len(r.data) > r.total:
            raise Refused(Status.BAD_REQUEST, Detail.OFFSET, 0, len(so_far))
        self._restoring = so_far + bytes(r.data)
        if len(self._restoring) < r.total:
            return m.RestoreResponse(complete=0)
        blob, self._restoring = bytes(self._restoring), bytearray()
        try:
            restored = opened_snapshot(self._chip.cells, blob)
        except SnapshotError:
            raise Refused(Status.BAD_REQUEST, Detail.SNAPSHOT) from None
        self._chip.restore(restored, *self._place)
        return m.RestoreResponse(complete=1)
