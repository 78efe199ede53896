"""``Board``: what the rest of the program sees of a connected chip."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Self

import filelock
import numpy as np
import numpy.typing as npt

from boards import limits, recovery
from boards.bits import bits_of
from boards.capture import CaptureWriter
from boards.description import GAIN_MARGIN
from boards.driver import Driver, LinkStatistics, Pending
from boards.errors import (
    CimError,
    DeviceError,
    IndeterminateError,
    LinkError,
    Outcome,
    RestartedError,
    SafetyRefusal,
    UnsupportedError,
    UsageError,
)
from boards.links import Link
from boards.multiply import Codes, Matrix, Multiplier, Products
from boards.profile import Profile
from boards.tile import CELL_SLOT, Tile
from firmware_protocol import messages as m
from firmware_protocol.constants import Capability, Opcode
from firmware_protocol.geometry import column_weights

#: what the chip's time, 63 bits of nanoseconds, holds
_LONGEST_WAIT_S = 9e9
_LOG = logging.getLogger(__name__)


@dataclass
class Traffic:
    """Bytes of packed codes and cell values that went each way, frames apart."""

    packed_tx: int = 0
    packed_rx: int = 0


class Board:
    """A connected board, its session open.

    Args:
        profile: what board it should be; HELLO has the last word on what it offers.
        link: where it is; closed with the board.
        window: requests in flight, limited by the board's own window; None takes the profile's.
        max_payload: largest payload, limited by the board's own; None takes the board's.
        recorder: takes every byte.
        lock: held as long as the board is open.

    Raises:
        NoBoardError, SpecMismatchError, UsageError: the link has been closed again.
    """

    def __init__(
        self,
        profile: Profile,
        link: Link,
        *,
        window: int | None = None,
        max_payload: int | None = None,
        recorder: CaptureWriter | None = None,
        lock: filelock.BaseFileLock | None = None,
    ) -> None:
        self.profile = profile
        self.traffic = Traffic()
        self._lock = lock
        self._closed = False
        self._told_worn = False
        self._driver = Driver(
            link,
            window=window or profile.link.window,
            timeout=profile.link.timeout_s,
            recorder=recorder,
        )
        try:
            self.hello = self._driver.hello()
            self.description = m.Description.decode(self.hello.description)
            self._check_geometry()
            self._driver.limit_window(self.description.window)
            room = min(max_payload or self.description.max_payload, self.description.max_payload)
            self._driver.max_payload = room
            self._driver.note_journal()
            self._driver.keep_lease(self.description.lease)
        except BaseException:
            self.close(safe=False)
            raise
        self._room = room
        paced = link.rate is not None
        self._multiplier = Multiplier(self._driver, self.description, room, paced=paced)
        self.tiles = tuple(Tile(self, i) for i in range(self.description.tiles))

    def _check_geometry(self) -> None:
        chip, found = self.profile.chip, self.description
        said = (found.tiles, found.rows, found.columns)
        expected = (chip.tiles, chip.rows, chip.columns)
        full_scale = round(chip.conductance_full_scale_uS * 1e6)
        if said != expected or found.conductance_full_scale != full_scale:
            raise UsageError(
                f"Profile '{self.profile.name}' describes {expected[0]} tiles of {expected[1]} x "
                f"{expected[2]} cells, the board '{self.hello.model}' says {said[0]} of {said[1]} "
                f"x {said[2]} with {found.conductance_full_scale / 1e6:g} uS full scale",
                left="The board was not touched",
                next=f"Use the profile that belongs to it, perhaps --board {self.hello.model}",
            )

    # ------------------------------------------------------------------ state

    @property
    def statistics(self) -> LinkStatistics:
        """What went over the link so far."""
        return self._driver.statistics

    @property
    def capabilities(self) -> Capability:
        return Capability(self.description.capabilities)

    def offers(self, opcode: Opcode) -> bool:
        """Whether HELLO lists the command."""
        return bool(self.description.opcodes >> opcode & 1)

    def status(self) -> m.StatusResponse:
        """State and counters."""
        return self._driver.call(m.StatusRequest(), m.StatusResponse)

    @property
    def window(self) -> int:
        """Requests in flight at most."""
        return self._driver.window

    def ping(self, data: bytes = b"", count: int = 1, in_flight: int | None = None) -> None:
        """Round trips of some bytes.

        Args:
            data: what goes there and back.
            count: round trips.
            in_flight: how many at a time; None: as many as the window allows.

        Raises:
            DeviceError: other bytes come back.
        """
        waiting: deque[Pending] = deque()
        for number in range(count):
            waiting.append(self._driver.submit(m.PingRequest(data)))
            while waiting and (len(waiting) >= (in_flight or self.window) or number + 1 == count):
                answer = self._driver.result(waiting.popleft(), m.PingResponse)
                if bytes(answer.echo) != data:
                    raise DeviceError("The board answered a PING with other bytes")

    def safe(self) -> None:
        """Takes the analog supplies to ground and reads that back."""
        answer = self._driver.call(m.SafeRequest(), m.SafeResponse)
        if answer.powered:
            raise SafetyRefusal(
                "The board answers that its analog supplies are still on",
                next="Switch the board off",
            )

    def journal(self) -> m.JournalResponse:
        """The board's journal of its last mutating command."""
        journal = self._driver.journal()
        if journal is None:
            raise LinkError(f"The board '{self.hello.model}' does not answer for its journal")
        return journal

    def outcome(self, error: IndeterminateError) -> tuple[Outcome, int, list[tuple[int, int, int]]]:
        """What became of a command that an earlier connection to this board could not settle.

        Opening this one has shut the earlier session out, so nothing of it can arrive any more.

        Returns:
            The outcome; how many of ``error.cells`` were changed for certain; those in doubt.
        """
        if error.outcome is not Outcome.UNKNOWN:
            return error.outcome, error.done, list(error.cells)
        return recovery.outcome_of(self.journal(), error.place, error.cells)

    def reboot(self) -> None:
        """Restarts the board; this connection's session is gone afterwards."""
        # Where the answer is lost, the retry meets a board that has already done it.
        with contextlib.suppress(RestartedError):
            self._driver.call(m.RebootRequest(), m.RebootResponse)
        self._driver.await_restart()

    def configure(self, slot: int, gain: float) -> None:
        """Fills a configuration slot.

        Args:
            slot: which.
            gain: ADC codes for each unit of the integer sum; brought into the board's range.
        """
        gain = min(max(gain, self.gain_range[0]), self.gain_range[1])
        multiplier, shift = gain_integers(gain)
        programming = self.profile.programming
        limits.check_read_voltage(
            self.profile.limits, self.description, programming.read_voltage_mV
        )
        request = m.ConfigureRequest(
            slot, programming.read_voltage_mV, programming.word_line, multiplier, shift
        )
        self._driver.call(request, m.ConfigureResponse)

    def power_up(self) -> None:
        """Configures the slot that reading and programming use, which turns the supplies on."""
        self.configure(CELL_SLOT, (self.gain_range[0] * self.gain_range[1]) ** 0.5)

    @property
    def gain_range(self) -> tuple[float, float]:
        """Smallest and largest gain that the ADC can be set to."""
        # The board checks the gain after rounding to 16 bits: keep that much away from the ends.
        low = self.description.gain_low / 2**40 * (1 + GAIN_MARGIN)
        high = self.description.gain_high / 2**40 * (1 - GAIN_MARGIN)
        middle = (low * high) ** 0.5  # of a board with one range only
        return min(low, middle), max(high, middle)

    # ------------------------------------------------------------------ products

    def multiply(
        self,
        matrix: Matrix,
        codes: Codes,
        *,
        slot: int,
        window: m.Window | None = None,
        signed: bool = False,
        ternary: bool = False,
        bits: int | None = None,
    ) -> Products:
        """Multiplies a batch of vectors or images (``Multiplier.multiply``)."""
        products = self._multiplier.multiply(
            matrix,
            codes,
            slot=slot,
            bits=bits or self.description.input_bits,
            window=window,
            signed=signed,
            ternary=ternary,
        )
        self.traffic.packed_tx += products.packed_tx
        self.traffic.packed_rx += products.packed_rx
        return products

    # ------------------------------------------------------------------ integer weights

    @property
    def column_weights(self) -> tuple[int, ...]:
        """Weights of the columns of a group; empty where the board adds none."""
        return column_weights(self.description.column_weights)

    def program_integers(self, matrix: Matrix, weights: Codes) -> None:
        """Writes integer weights as bits over the columns of groups.

        A product of them is ``codes / (gain * 65535)``, with the gain of the slot (``configure``).

        Args:
            matrix: where they go, of groups.
            weights: (inputs, outputs) integers.

        Raises:
            UnsupportedError: the board adds no groups, or not these.
            UsageError: a weight is beyond what a group holds, or the shapes do not fit.
        """
        if not matrix.group or matrix.group != len(self.column_weights):
            raise UnsupportedError(
                f"The board '{self.hello.model}' adds no such groups of columns",
                left="Nothing was programmed",
            )
        if weights.shape != matrix.shape:
            raise UsageError(
                f"Weights of shape {weights.shape} do not fit a matrix of {matrix.shape}",
                left="Nothing was programmed",
            )
        low, high = self.description.target_low, self.description.target_high
        targets = np.where(bits_of(weights, self.column_weights), high, low)
        for region, place in matrix.places():
            self.tiles[region.tile].program_region(region, targets[place])

    # ------------------------------------------------------------------ emulated time

    def wait(self, seconds: float) -> float:
        """Lets emulated time pass at once: cells drift, relax and diffuse.

        Returns:
            The chip's time from now on, in seconds: waited, and spent in commands.

        Raises:
            UnsupportedError: the board is no model of a chip, so its time cannot be advanced.
            UsageError: no time, or too much.
        """
        if not self.offers(Opcode.WAIT):
            raise UnsupportedError(
                f"The board '{self.hello.model}' is no model: its time cannot be advanced",
                left="Nothing was changed",
            )
        if not 0 < seconds <= _LONGEST_WAIT_S:
            raise UsageError(
                f"Time to wait is {seconds:g} s: more than 0 and at most {_LONGEST_WAIT_S:g} is "
                "allowed",
                left="Nothing was changed",
            )
        answer = self._driver.call(m.WaitRequest(max(1, round(seconds * 1e9))), m.WaitResponse)
        return answer.time * 1e-9

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> bytes:
        """Cells, counters and noise positions of an emulated chip.

        Raises:
            UnsupportedError: the board offers none, as silicon cannot.
        """
        self._need_snapshot()
        data = b""
        while True:
            request = m.SnapshotRequest(len(data), self._room - 4)
            answer = self._driver.call(request, m.SnapshotResponse)
            data += bytes(answer.data)
            if len(data) >= answer.total or not answer.data:
                self.traffic.packed_rx += len(data)
                return data

    def restore(self, blob: bytes) -> None:
        """Takes a snapshot back, whole or not at all."""
        self._need_snapshot()
        step = self._room - 8
        for offset in range(0, len(blob), step):
            part = blob[offset : offset + step]
            self._driver.call(m.RestoreRequest(offset, len(blob), part), m.RestoreResponse)
        self.traffic.packed_tx += len(blob)

    def _need_snapshot(self) -> None:
        if Capability.SNAPSHOT not in self.capabilities:
            raise UnsupportedError(f"The board '{self.hello.model}' offers no snapshots")

    # ------------------------------------------------------------------ ending

    def close(self, *, safe: bool = True) -> None:
        """Leaves the board safe, ends the session and frees the lock; may be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if safe:
                self._leave_safe()
        finally:
            self._close_link()

    def _leave_safe(self) -> None:
        try:
            self.safe()
        except RestartedError:
            # A board that has just started has its supplies off.
            return
        except CimError as error:
            lease = self.description.lease / 1000
            then = f"its lease ends by itself within {lease:g} s" if lease else "switch it off"
            _LOG.warning("The board could not be told to go safe: %s; %s.", error.what, then)

    def _close_link(self) -> None:
        try:
            self._driver.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ for Tile: one exchange each

    def exchange_read(self, request: m.ReadRequest) -> npt.NDArray[np.uint16]:
        answer = self._driver.call(request, m.ReadResponse)
        self.traffic.packed_rx += 2 * len(answer.conductances)
        return np.asarray(answer.conductances, dtype=np.uint16)

    def exchange_program(self, request: m.ProgramRequest) -> m.ProgramResponse:
        self.traffic.packed_tx += 2 * (len(request.targets) + len(request.indices))
        answer = self._driver.call(request, m.ProgramResponse)
        self.traffic.packed_rx += 2 * len(answer.conductances)
        return answer

    def exchange_wear(self, request: m.WearRequest) -> npt.NDArray[np.uint32]:
        answer = self._driver.call(request, m.WearResponse)
        return np.asarray(answer.pulses, dtype=np.uint32)

    def exchange_load(self, request: m.LoadRequest) -> None:
        self._driver.call(request, m.LoadResponse)

    def exchange_pulse(self, request: m.PulseRequest) -> m.PulseResponse:
        self.traffic.packed_tx += 2 * (len(request.counts) + len(request.indices))
        return self._driver.call(request, m.PulseResponse)

    def exchange_outer(self, request: m.OuterRequest) -> m.OuterResponse:
        self.traffic.packed_tx += len(request.words)
        return self._driver.call(request, m.OuterResponse)

    def note_worn(self, cells: int) -> None:
        """Tells the user, once, that cells have passed their soft lifetime budget."""
        if cells and not self._told_worn:
            self._told_worn = True
            _LOG.warning(
                "%d cells just written have had more than %d pulses in their life, the soft "
                "budget; at %d the board refuses them.",
                cells,
                self.description.lifetime_soft,
                self.description.lifetime_pulses,
            )

    @property
    def room(self) -> int:
        """Largest payload in use, in bytes."""
        return self._room


def gain_integers(gain: float) -> tuple[int, int]:
    """Multiplier of 16 bits and shift for a gain, ``multiplier / 2^shift`` to 5 digits."""
    mantissa, exponent = np.frexp(gain)
    multiplier, shift = round(float(mantissa) * 65536), 16 - int(exponent)
    if multiplier > 65535:
        multiplier, shift = multiplier // 2, shift - 1
    return multiplier, shift
