"""The bench: a board on its wire, what HELLO grants, and requests that it should grant."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.board import gain_integers
from boards.description import GAIN_MARGIN
from boards.errors import NoBoardError
from boards.profile import Profile
from cimctl.conformance.cases import COLUMNS, ROWS, Expectation, NotApplicable, expect_equal
from cimctl.conformance.wire import Wire
from firmware_protocol import messages as m
from firmware_protocol.codec import PayloadError
from firmware_protocol.constants import Capability, Opcode
from firmware_protocol.geometry import column_weights, levels_of
from firmware_protocol.packing import pack_codes

Units = npt.NDArray[np.int64]
#: readings averaged where cells are to be known well
SAMPLES = 64
#: standard deviations that no measurement is farther off
SIGMAS = 6.0


@dataclass(frozen=True)
class Gain:
    """Gain of the ADC as CONFIGURE carries it."""

    multiplier: int
    shift: int

    @property
    def value(self) -> float:
        return self.multiplier * 2.0**-self.shift


@dataclass(frozen=True)
class Known:
    """Conductances of the region, as well as they are known.

    Attributes:
        units: (rows, columns), 16-bit conductances.
        offset: what a cell may be off by the steps of the converter.
        sigma: standard deviation of what it may be off by noise.
    """

    units: Units
    offset: float = 0.0
    sigma: float = 0.0


@dataclass(frozen=True)
class State:
    """What a refused or reading request must leave as it was."""

    operations: int
    powered: int
    number: int
    pulses: tuple[int, ...]


class Bench:
    """A board with a session open.

    Attributes:
        profile: what board it should be, and how noisy.
        wire: frames to and from it.
        hello: its first answer to HELLO.
        description: what it grants.
        region: the cells that the suite may change; of tile 0.
        destructive: whether it may change them.
        window, max_payload: of the board, or less where the caller said so.
        first: readings of the region before the first case; None where they could not be taken.
    """

    def __init__(
        self,
        profile: Profile,
        wire: Wire,
        *,
        destructive: bool = False,
        window: int | None = None,
        max_payload: int | None = None,
    ) -> None:
        self.profile = profile
        self.wire = wire
        self.destructive = destructive
        self.first: Units | None = None
        try:
            self.hello = wire.open_session()
            self.description = m.Description.decode(self.hello.description)
        except (Expectation, PayloadError) as error:
            raise NoBoardError(
                f"What is there does not greet as a board of this specification: {error}",
                next="Check --port, that the board runs its firmware, and which it is",
            ) from None
        d = self.description
        self.window = min(window or d.window, d.window)
        self.max_payload = min(max_payload or d.max_payload, d.max_payload)
        self.region = m.Region(0, 0, min(ROWS, d.rows), 0, min(COLUMNS, d.columns))

    @property
    def cells(self) -> int:
        return self.region.rows * self.region.columns

    def fresh(self) -> None:
        """A new session, nothing configured but slot 0."""
        self.wire.open_session()
        self.safe()
        self.configure()

    def safe(self) -> m.SafeResponse:
        return self.wire.answer(m.SafeRequest(), m.SafeResponse)

    # ------------------------------------------------------------------ what the board grants

    def offers(self, capability: Capability) -> bool:
        return bool(self.description.capabilities & capability)

    def knows(self, opcode: int) -> bool:
        return bool(self.description.opcodes >> opcode & 1)

    def need(self, *wanted: Capability | Opcode) -> None:
        """Skips the case where the board lacks one of them."""
        for one in wanted:
            there = self.offers(one) if isinstance(one, Capability) else self.knows(one)
            skip_unless(there, f"the board does not offer {one.name}")

    # ------------------------------------------------------------------ state

    def status(self) -> m.StatusResponse:
        return self.wire.answer(m.StatusRequest(), m.StatusResponse)

    def journal(self) -> m.JournalResponse:
        return self.wire.answer(m.JournalRequest(0x5EED), m.JournalResponse)

    def wear(self, region: m.Region | None = None) -> Units:
        """Pulses of each cell of the region so far."""
        answer = self.wire.answer(m.WearRequest(region or self.region), m.WearResponse)
        return np.asarray(answer.pulses, dtype=np.int64)

    def state(self) -> State:
        """What must stay as it is, in three requests."""
        status = self.status()
        number = self.journal().number if self.knows(Opcode.JOURNAL) else 0
        pulses = tuple(self.wear().tolist()) if self.knows(Opcode.WEAR) else ()
        return State(status.operations, status.powered, number, pulses)

    def expect_state(self, before: State) -> None:
        """Raises ``Expectation`` where a request changed what it must not."""
        after = self.state()
        for field in fields(State):
            name = field.name
            expect_equal(f"unchanged: {name}", getattr(after, name), getattr(before, name))

    # ------------------------------------------------------------------ gains

    @property
    def gain_range(self) -> tuple[float, float]:
        """Settable gains, away from the ends by what rounding to 16 bits needs."""
        low = self.description.gain_low / 2**40 * (1 + GAIN_MARGIN)
        high = self.description.gain_high / 2**40 * (1 - GAIN_MARGIN)
        middle = (low * high) ** 0.5  # of a board with one range only
        return min(low, middle), max(high, middle)

    def gain(self, wanted: float | None = None) -> Gain:
        """The settable gain next to the wanted one, or one in the middle."""
        low, high = self.gain_range
        wanted = (low * high) ** 0.5 if wanted is None else min(max(wanted, low), high)
        return Gain(*gain_integers(wanted))

    def configuring(self, slot: int = 0, gain: Gain | None = None) -> m.ConfigureRequest:
        p, gain = self.profile.programming, gain or self.gain()
        return m.ConfigureRequest(slot, p.read_voltage_mV, p.word_line, gain.multiplier, gain.shift)

    def configure(self, slot: int = 0, gain: Gain | None = None) -> None:
        self.wire.answer(self.configuring(slot, gain), m.ConfigureResponse)

    # ------------------------------------------------------------------ requests to be granted

    def reading(self, **changed: Any) -> m.ReadRequest:
        return replace(m.ReadRequest(slot=0, samples=1, more=0, region=self.region), **changed)

    def programming(self, **changed: Any) -> m.ProgramRequest:
        """PROGRAM of the first cell to the middle of the window."""
        p = self.profile.programming
        request = m.ProgramRequest(
            slot=0,
            cycles=min(p.cycles_training, self.description.cycles_limit),
            tolerance=self.profile.units(p.tolerance_uS),
            read_back=0,
            region=self.region,
            indices=(0,),
            targets=(self.middle,),
        )
        return replace(request, **changed)

    def pulsing(self, **changed: Any) -> m.PulseRequest:
        """PULSE of one SET to the first cell."""
        p = self.profile.programming
        request = m.PulseRequest(
            set_amplitude=p.ramp_mV[1],
            reset_amplitude=p.ramp_mV[1],
            width=p.width_ns,
            region=self.region,
            indices=(0,),
            counts=(1,),
        )
        return replace(request, **changed)

    def coinciding(
        self,
        rows: Units | None = None,
        columns: Units | None = None,
        *,
        length: int = 1,
        **changed: Any,
    ) -> m.OuterRequest:
        """OUTER by (updates, lines) words; without any, one SET of the first cell."""
        region, p = changed.get("region", self.region), self.profile.programming
        lines = region.columns // (2 if changed.get("flags", 0) & 2 else 1)
        rows = _first_only(region.rows) if rows is None else rows
        columns = _first_only(lines) if columns is None else columns
        request = m.OuterRequest(
            set_amplitude=p.ramp_mV[1],
            reset_amplitude=p.ramp_mV[1],
            width=p.width_ns,
            region=region,
            flags=0,
            length=length,
            count=len(rows),
            words=b"".join(bytes(pack_codes(words, length + 1)) for words in (rows, columns)),
        )
        return replace(request, **changed)

    def resetting(self, **changed: Any) -> m.OuterRequest:
        """OUTER that gives one RESET to the first cell."""
        return self.coinciding(3 * _first_only(self.region.rows), **changed)

    def loading(self, **changed: Any) -> m.LoadRequest:
        values = self.pattern().reshape(-1)
        return replace(m.LoadRequest(region=self.region, conductances=values), **changed)

    def multiplying(self, **changed: Any) -> m.VmmRequest:
        """VMM of one vector of zeros, one bit a code, by the region's columns one by one."""
        request = m.VmmRequest(
            slot=0,
            flags=0,
            input_bits=1,
            row_blocks=1,
            count=1,
            image=m.Window(),
            regions=(self.region,),
            codes=bytes((self.region.rows + 7) // 8),
        )
        return replace(request, **changed)

    @property
    def middle(self) -> int:
        low, high = self.profile.programming.window_uS
        return int(self.settable(np.array(self.profile.units((low + high) / 2))))

    def settable(self, conductances: Units) -> Units:
        """The conductances that cells hold next to these."""
        d = self.description
        levels = np.array(levels_of(d.target_low, d.target_high, d.levels))
        if not levels.size:
            return conductances
        nearest: Units = levels[np.abs(conductances[..., None] - levels).argmin(-1)]
        return nearest

    def grouped(self) -> m.Region:
        """The region as far as groups of columns fill it; skips the case where none does."""
        columns = self.region.columns
        columns -= columns % len(self.column_weights)
        skip_unless(columns > 0, "a group has more columns than the suite may use")
        return replace(self.region, columns=columns)

    @property
    def column_weights(self) -> tuple[int, ...]:
        """Weights of the columns of a group."""
        return column_weights(self.description.column_weights)

    # ------------------------------------------------------------------ cells

    @property
    def reading_sigma(self) -> float:
        """Standard deviation of one reading: the cell's own noise and the converter's."""
        faults, chip = self.profile.imperfections, self.profile.chip
        cell = faults.read_noise_uS * 65535 / chip.conductance_full_scale_uS
        return float(np.hypot(cell, faults.adc_noise_lsb * self.reading_step))

    @property
    def reading_step(self) -> float:
        """Conductance of one step of the converter that reads cells."""
        return 65535 / ((1 << self.description.adc_bits) - 1)

    def pattern(self) -> Units:
        """Conductances within the window, the first two pairs at its ends, both ways round."""
        low, high = (self.profile.units(g) for g in self.profile.programming.window_uS)
        shape = (self.region.rows, self.region.columns)
        values = np.random.default_rng(2305).integers(low, high, shape, endpoint=True)
        for column, value in enumerate((high, low, low, high)):
            if column < self.region.columns:
                values[:, column] = value
        return self.settable(values.astype(np.int64))

    def read(self, samples: int = SAMPLES, region: m.Region | None = None) -> Units:
        """Readings, (rows, columns)."""
        region = region or self.region
        answer = self.wire.answer(self.reading(samples=samples, region=region), m.ReadResponse)
        found = np.asarray(answer.conductances, dtype=np.int64)
        expect_equal("readings:", found.size, region.rows * region.columns)
        return found.reshape(region.rows, region.columns)

    def known(self) -> Known:
        """Cells with a pattern loaded where that is allowed and offered, else as they read."""
        if self.destructive and self.offers(Capability.LOAD):
            self.wire.answer(self.loading(), m.LoadResponse)
            return Known(self.pattern())
        if self.description.levels:
            return Known(self.settable(self.read()))
        offset = self.reading_step / 2
        return Known(self.read(), offset, self.reading_sigma / SAMPLES**0.5)


def _first_only(lines: int) -> Units:
    """Words of one update whose first line alone has a pulse, in the first slot."""
    return np.eye(1, lines, dtype=np.int64)


def skip_unless(there: bool, reason: str) -> None:
    """Skips the case unless its subject is there."""
    if not there:
        raise NotApplicable(reason)
