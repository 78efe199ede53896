# Generated from spec.yaml by python -m firmware_protocol.generate; do not edit.

"""Typed messages: one class per request, answer and struct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from firmware_protocol.codec import (
    Buffer,
    IntArray,
    Message,
    Reader,
    array_bytes,
    count_bytes,
    pack,
    text_bytes,
)
from firmware_protocol.constants import Opcode


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of cells of one tile.

    Attributes:
        tile: tile.
        row: first row.
        rows: number of rows.
        column: first column.
        columns: number of columns.
    """

    FORMAT: ClassVar[Struct] = Struct("<HHHHH")
    tile: int = 0
    row: int = 0
    rows: int = 0
    column: int = 0
    columns: int = 0

    def values(self) -> tuple[int, ...]:
        return (self.tile, self.row, self.rows, self.column, self.columns,)

    @classmethod
    def from_values(cls, values: Sequence[int]) -> Self:
        return cls(*values)

    def encode(self) -> bytes:
        return pack(self.FORMAT, *self.values())

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        values = reader.unpack(cls.FORMAT)
        reader.end()
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Window:
    """How a batch of images becomes vectors: kernel, stride, padding, dilation; an all-zero
    window means that the batch holds vectors.

    Attributes:
        channels: image channels; 0: no image.
        height: image height in pixels.
        width: image width in pixels.
        kernel_height: kernel height.
        kernel_width: kernel width.
        stride_y: vertical stride.
        stride_x: horizontal stride.
        dilation_y: vertical dilation.
        dilation_x: horizontal dilation.
        pad_top: rows of zeros above.
        pad_bottom: rows of zeros below.
        pad_left: columns of zeros at the left.
        pad_right: columns of zeros at the right.
    """

    FORMAT: ClassVar[Struct] = Struct("<HHHBBBBBBBBBB")
    channels: int = 0
    height: int = 0
    width: int = 0
    kernel_height: int = 0
    kernel_width: int = 0
    stride_y: int = 0
    stride_x: int = 0
    dilation_y: int = 0
    dilation_x: int = 0
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0

    def values(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width, self.kernel_height, self.kernel_width, self.stride_y, self.stride_x, self.dilation_y, self.dilation_x, self.pad_top, self.pad_bottom, self.pad_left, self.pad_right,)

    @classmethod
    def from_values(cls, values: Sequence[int]) -> Self:
        return cls(*values)

    def encode(self) -> bytes:
        return pack(self.FORMAT, *self.values())

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        values = reader.unpack(cls.FORMAT)
        reader.end()
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Description:
    """What a board says of itself; carried in HELLO, its layout belongs to this
    specification.

    Attributes:
        capabilities: capability bits.
        opcodes: bit n: the board knows opcode n.
        tiles: tiles.
        rows: rows of a tile.
        columns: columns of a tile.
        input_bits: bits of an input code.
        adc_bits: bits of a conversion, sign included.
        pair_conversions: conversions of a differential pair: 1 or 2.
        slots: configuration slots.
        window: requests that may be in flight.
        max_payload: largest payload in bytes, of requests and answers.
        conductance_full_scale: conductance that 65535 stands for (pS).
        target_low: lowest programmable conductance.
        target_high: highest programmable conductance.
        gain_low: smallest multiplier / 2^shift (2^-40).
        gain_high: largest multiplier / 2^shift (2^-40).
        read_voltage_limit: largest read voltage (mV).
        amplitude_low: smallest pulse amplitude (mV).
        amplitude_high: largest pulse amplitude (mV).
        width_low: shortest pulse (ns).
        width_high: longest pulse (ns).
        pulses_per_command: most pulses to one cell in one command.
        cycles_limit: most write-verify cycles of one command.
        lifetime_soft: pulses of a cell from which it counts as worn; 0: none.
        lifetime_pulses: lifetime pulse budget of a cell; 0: none.
        lease: longest lease of the analog supplies; 0: none is needed (ms).
        answer_bits: bits that hold the answer of one row block; those of a conversion, where it
            is one.
        plane_conversions: 1: each bit plane of the inputs is converted by itself, so that a plane
            saturates; 0: the whole code at once.
        levels: conductances that a cell holds, evenly from target_low to target_high; 0: any
            between them.
        column_weights: weights of the columns of a group, eight signed bytes, that of its first
            column lowest; 0 behind the last.
    """

    FORMAT: ClassVar[Struct] = Struct("<IQHHHBBBBBIIHHQQHHHIIHBIIIBBHQ")
    capabilities: int = 0
    opcodes: int = 0
    tiles: int = 0
    rows: int = 0
    columns: int = 0
    input_bits: int = 0
    adc_bits: int = 0
    pair_conversions: int = 0
    slots: int = 0
    window: int = 0
    max_payload: int = 0
    conductance_full_scale: int = 0
    target_low: int = 0
    target_high: int = 0
    gain_low: int = 0
    gain_high: int = 0
    read_voltage_limit: int = 0
    amplitude_low: int = 0
    amplitude_high: int = 0
    width_low: int = 0
    width_high: int = 0
    pulses_per_command: int = 0
    cycles_limit: int = 0
    lifetime_soft: int = 0
    lifetime_pulses: int = 0
    lease: int = 0
    answer_bits: int = 0
    plane_conversions: int = 0
    levels: int = 0
    column_weights: int = 0

    def values(self) -> tuple[int, ...]:
        return (self.capabilities, self.opcodes, self.tiles, self.rows, self.columns, self.input_bits, self.adc_bits, self.pair_conversions, self.slots, self.window, self.max_payload, self.conductance_full_scale, self.target_low, self.target_high, self.gain_low, self.gain_high, self.read_voltage_limit, self.amplitude_low, self.amplitude_high, self.width_low, self.width_high, self.pulses_per_command, self.cycles_limit, self.lifetime_soft, self.lifetime_pulses, self.lease, self.answer_bits, self.plane_conversions, self.levels, self.column_weights,)

    @classmethod
    def from_values(cls, values: Sequence[int]) -> Self:
        return cls(*values)

    def encode(self) -> bytes:
        return pack(self.FORMAT, *self.values())

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        values = reader.unpack(cls.FORMAT)
        reader.end()
        return cls(*values)


@dataclass(frozen=True, slots=True, eq=False)
class HelloRequest(Message):
    """HELLO, request: Frozen for ever, CRC unseeded. Says who is there and, with the OPEN
    bit, opens the session that the header names: sequence numbers start at 1 and the kept
    answers are dropped. The same session opened twice changes nothing. With a foreign
    specification hash the answer has status SPEC_MISMATCH and its description must not be
    read. A session number is not 0. The board keeps the answers to the last window of
    requests, and answers a request that comes again from there.

    Attributes:
        version: protocol version of the host.
        spec_hash: first 8 bytes of the hash of the host's specification.
        flags: bit 0: OPEN.
    """

    OPCODE: ClassVar[Opcode] = Opcode.HELLO
    _FIXED_0: ClassVar[Struct] = Struct("<BQB")
    version: int
    spec_hash: int
    flags: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.version,
                self.spec_hash,
                self.flags,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        version = fixed_0[0]
        spec_hash = fixed_0[1]
        flags = fixed_0[2]
        reader.end()
        return cls(version, spec_hash, flags)


@dataclass(frozen=True, slots=True, eq=False)
class HelloResponse(Message):
    """HELLO, answer: Frozen for ever, CRC unseeded. Says who is there and, with the OPEN
    bit, opens the session that the header names: sequence numbers start at 1 and the kept
    answers are dropped. The same session opened twice changes nothing. With a foreign
    specification hash the answer has status SPEC_MISMATCH and its description must not be
    read. A session number is not 0. The board keeps the answers to the last window of
    requests, and answers a request that comes again from there.

    Attributes:
        version: protocol version of the board.
        spec_hash: first 8 bytes of the hash of the board's specification.
        board_id: serial number of the chip.
        boot_id: number drawn at power-up.
        model: name of the board's model.
        firmware: name and version of the firmware.
        description: a Description, of this specification.
    """

    OPCODE: ClassVar[Opcode] = Opcode.HELLO
    _FIXED_0: ClassVar[Struct] = Struct("<BQQI")
    version: int
    spec_hash: int
    board_id: int
    boot_id: int
    model: str
    firmware: str
    description: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.version,
                self.spec_hash,
                self.board_id,
                self.boot_id,
            ),
            text_bytes(self.model),
            text_bytes(self.firmware),
            self.description,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        version = fixed_0[0]
        spec_hash = fixed_0[1]
        board_id = fixed_0[2]
        boot_id = fixed_0[3]
        model = reader.text()
        firmware = reader.text()
        description = reader.rest()
        reader.end()
        return cls(version, spec_hash, board_id, boot_id, model, firmware, description)


@dataclass(frozen=True, slots=True, eq=False)
class PingRequest(Message):
    """PING, request: Answers with the same bytes.

    Attributes:
        echo: any bytes.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PING
    echo: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            self.echo,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        echo = reader.rest()
        reader.end()
        return cls(echo)


@dataclass(frozen=True, slots=True, eq=False)
class PingResponse(Message):
    """PING, answer: Answers with the same bytes.

    Attributes:
        echo: the bytes of the request.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PING
    echo: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            self.echo,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        echo = reader.rest()
        reader.end()
        return cls(echo)


@dataclass(frozen=True, slots=True, eq=False)
class StatusRequest(Message):
    """STATUS, request: State and counters. Counters run since the chip was made, not since
    the session."""

    OPCODE: ClassVar[Opcode] = Opcode.STATUS
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class StatusResponse(Message):
    """STATUS, answer: State and counters. Counters run since the chip was made, not since
    the session.

    Attributes:
        powered: 1 while a configuration slot is in use, 0 after SAFE.
        boot_id: as in HELLO.
        operations: mutating commands applied; survives power loss.
        time: chip time spent in commands (ns).
        energy: chip energy spent in commands (pJ).
        vectors: vectors multiplied.
        steps: array operations in sequence; tiles that work side by side count once.
        tile_operations: array operations of single tiles.
        conversions: ADC conversions.
        saturations: conversions that ended at the end of the ADC range.
        reads: cells read, verification included.
        writes: cells programmed.
        set_pulses: SET pulses.
        reset_pulses: RESET pulses.
        corrupt_frames: frames that failed their check since power-up.
        duplicates: requests answered from the kept answers since power-up.
        lapses: leases that ran out with the supplies on, since power-up.
        waited: emulated time that WAIT has let pass; 0 where there is no WAIT (ns).
        temperature: temperature of the chip; -32768: not known (0.01 C).
    """

    OPCODE: ClassVar[Opcode] = Opcode.STATUS
    _FIXED_0: ClassVar[Struct] = Struct("<BIQQQQQQQQQQQQQQQQh")
    powered: int
    boot_id: int
    operations: int
    time: int
    energy: int
    vectors: int
    steps: int
    tile_operations: int
    conversions: int
    saturations: int
    reads: int
    writes: int
    set_pulses: int
    reset_pulses: int
    corrupt_frames: int
    duplicates: int
    lapses: int
    waited: int
    temperature: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.powered,
                self.boot_id,
                self.operations,
                self.time,
                self.energy,
                self.vectors,
                self.steps,
                self.tile_operations,
                self.conversions,
                self.saturations,
                self.reads,
                self.writes,
                self.set_pulses,
                self.reset_pulses,
                self.corrupt_frames,
                self.duplicates,
                self.lapses,
                self.waited,
                self.temperature,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        powered = fixed_0[0]
        boot_id = fixed_0[1]
        operations = fixed_0[2]
        time = fixed_0[3]
        energy = fixed_0[4]
        vectors = fixed_0[5]
        steps = fixed_0[6]
        tile_operations = fixed_0[7]
        conversions = fixed_0[8]
        saturations = fixed_0[9]
        reads = fixed_0[10]
        writes = fixed_0[11]
        set_pulses = fixed_0[12]
        reset_pulses = fixed_0[13]
        corrupt_frames = fixed_0[14]
        duplicates = fixed_0[15]
        lapses = fixed_0[16]
        waited = fixed_0[17]
        temperature = fixed_0[18]
        reader.end()
        return cls(powered, boot_id, operations, time, energy, vectors, steps, tile_operations, conversions, saturations, reads, writes, set_pulses, reset_pulses, corrupt_frames, duplicates, lapses, waited, temperature)


@dataclass(frozen=True, slots=True, eq=False)
class ConfigureRequest(Message):
    """CONFIGURE, request: Fills a configuration slot: read voltage, word-line code and the
    gain of the ADC. Every analog command names a slot; the analog supplies are on while any
    slot is filled.

    Attributes:
        slot: slot to fill.
        read_voltage: voltage of an input pulse (mV).
        word_line: DAC code of the word lines (gate of the access transistor).
        multiplier: gain of the ADC: multiplier / 2^shift; 1 to 65535.
        shift: 1 to 48.
    """

    OPCODE: ClassVar[Opcode] = Opcode.CONFIGURE
    _FIXED_0: ClassVar[Struct] = Struct("<BHHIB")
    slot: int
    read_voltage: int
    word_line: int
    multiplier: int
    shift: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.slot,
                self.read_voltage,
                self.word_line,
                self.multiplier,
                self.shift,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        slot = fixed_0[0]
        read_voltage = fixed_0[1]
        word_line = fixed_0[2]
        multiplier = fixed_0[3]
        shift = fixed_0[4]
        reader.end()
        return cls(slot, read_voltage, word_line, multiplier, shift)


@dataclass(frozen=True, slots=True, eq=False)
class ConfigureResponse(Message):
    """CONFIGURE, answer: Fills a configuration slot: read voltage, word-line code and the
    gain of the ADC. Every analog command names a slot; the analog supplies are on while any
    slot is filled."""

    OPCODE: ClassVar[Opcode] = Opcode.CONFIGURE
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class SafeRequest(Message):
    """SAFE, request: Empties every configuration slot and takes the analog supplies to
    ground."""

    OPCODE: ClassVar[Opcode] = Opcode.SAFE
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class SafeResponse(Message):
    """SAFE, answer: Empties every configuration slot and takes the analog supplies to
    ground.

    Attributes:
        powered: supplies read back: 0 is safe.
    """

    OPCODE: ClassVar[Opcode] = Opcode.SAFE
    _FIXED_0: ClassVar[Struct] = Struct("<B")
    powered: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.powered,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        powered = fixed_0[0]
        reader.end()
        return cls(powered)


@dataclass(frozen=True, slots=True, eq=False)
class LeaseRequest(Message):
    """LEASE, request: Renews the lease: the analog supplies go to ground when no request of
    the session has arrived for that long, on the wall clock and between commands. Every
    request of the session but HELLO and JOURNAL renews it; this one also sets its length,
    which is the board's longest when a session opens. It travels with sequence number 0,
    outside of the order, and may be repeated at will.

    Attributes:
        duration: length from now on; 1 to the board's longest (ms).
    """

    OPCODE: ClassVar[Opcode] = Opcode.LEASE
    _FIXED_0: ClassVar[Struct] = Struct("<I")
    duration: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.duration,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        duration = fixed_0[0]
        reader.end()
        return cls(duration)


@dataclass(frozen=True, slots=True, eq=False)
class LeaseResponse(Message):
    """LEASE, answer: Renews the lease: the analog supplies go to ground when no request of
    the session has arrived for that long, on the wall clock and between commands. Every
    request of the session but HELLO and JOURNAL renews it; this one also sets its length,
    which is the board's longest when a session opens. It travels with sequence number 0,
    outside of the order, and may be repeated at will.

    Attributes:
        powered: 1 while a configuration slot is in use.
    """

    OPCODE: ClassVar[Opcode] = Opcode.LEASE
    _FIXED_0: ClassVar[Struct] = Struct("<B")
    powered: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.powered,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        powered = fixed_0[0]
        reader.end()
        return cls(powered)


@dataclass(frozen=True, slots=True, eq=False)
class JournalRequest(Message):
    """JOURNAL, request: The last mutating command that was begun, and how far it came; it
    survives power loss. The board writes session, sequence and number before it touches a
    cell, and advances the operation counter after the last one: the command was applied
    whole if `number` is not above `operations`. Otherwise it was cut short: the cells
    before `progress`, in the order that the command names them, are done, the next
    `in_doubt` may or may not be, the others are as they were. It travels with sequence
    number 0 and is answered in any session, also in none; the nonce tells a late answer
    from the one that was asked for.

    Attributes:
        nonce: any number.
    """

    OPCODE: ClassVar[Opcode] = Opcode.JOURNAL
    _FIXED_0: ClassVar[Struct] = Struct("<I")
    nonce: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.nonce,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        nonce = fixed_0[0]
        reader.end()
        return cls(nonce)


@dataclass(frozen=True, slots=True, eq=False)
class JournalResponse(Message):
    """JOURNAL, answer: The last mutating command that was begun, and how far it came; it
    survives power loss. The board writes session, sequence and number before it touches a
    cell, and advances the operation counter after the last one: the command was applied
    whole if `number` is not above `operations`. Otherwise it was cut short: the cells
    before `progress`, in the order that the command names them, are done, the next
    `in_doubt` may or may not be, the others are as they were. It travels with sequence
    number 0 and is answered in any session, also in none; the nonce tells a late answer
    from the one that was asked for.

    Attributes:
        nonce: as in the request.
        boot_id: as in HELLO.
        operations: mutating commands applied.
        number: value of the operation counter that the last command leads to.
        session: session of the last command.
        sequence: sequence number of the last command.
        progress: cells done for certain.
        in_doubt: cells from there on of which it is not known.
    """

    OPCODE: ClassVar[Opcode] = Opcode.JOURNAL
    _FIXED_0: ClassVar[Struct] = Struct("<IIQQIIII")
    nonce: int
    boot_id: int
    operations: int
    number: int
    session: int
    sequence: int
    progress: int
    in_doubt: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.nonce,
                self.boot_id,
                self.operations,
                self.number,
                self.session,
                self.sequence,
                self.progress,
                self.in_doubt,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        nonce = fixed_0[0]
        boot_id = fixed_0[1]
        operations = fixed_0[2]
        number = fixed_0[3]
        session = fixed_0[4]
        sequence = fixed_0[5]
        progress = fixed_0[6]
        in_doubt = fixed_0[7]
        reader.end()
        return cls(nonce, boot_id, operations, number, session, sequence, progress, in_doubt)


@dataclass(frozen=True, slots=True, eq=False)
class RebootRequest(Message):
    """REBOOT, request: Answers, then restarts as after a power loss: the supplies are off,
    the session and the kept answers are gone, the boot id is another; cells, operation
    counter and journal stay. What is sent while the board restarts may be lost."""

    OPCODE: ClassVar[Opcode] = Opcode.REBOOT
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class RebootResponse(Message):
    """REBOOT, answer: Answers, then restarts as after a power loss: the supplies are off,
    the session and the kept answers are gone, the boot id is another; cells, operation
    counter and journal stay. What is sent while the board restarts may be lost."""

    OPCODE: ClassVar[Opcode] = Opcode.REBOOT
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class ReadRequest(Message):
    """READ, request: Reads the conductance of each cell of a region, row by row, through
    the ADC at its single-cell range. The noise position is the tile's vector counter, which
    advances when `more` is 0, so that a region read in parts gives what it gives in one.

    Attributes:
        slot: configuration slot.
        samples: reads averaged per cell, 1 to 255.
        more: 1: another part of the same read follows.
        region: cells to read.
    """

    OPCODE: ClassVar[Opcode] = Opcode.READ
    _FIXED_0: ClassVar[Struct] = Struct("<BBBHHHHH")
    slot: int
    samples: int
    more: int
    region: Region

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.slot,
                self.samples,
                self.more,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        slot = fixed_0[0]
        samples = fixed_0[1]
        more = fixed_0[2]
        region = Region.from_values(fixed_0[3:8])
        reader.end()
        return cls(slot, samples, more, region)


@dataclass(frozen=True, slots=True, eq=False)
class ReadResponse(Message):
    """READ, answer: Reads the conductance of each cell of a region, row by row, through the
    ADC at its single-cell range. The noise position is the tile's vector counter, which
    advances when `more` is 0, so that a region read in parts gives what it gives in one.

    Attributes:
        conductances: measured conductances, row by row.
    """

    OPCODE: ClassVar[Opcode] = Opcode.READ
    conductances: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            array_bytes(self.conductances, "<u2"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        conductances = reader.array("<u2")
        reader.end()
        return cls(conductances)


@dataclass(frozen=True, slots=True, eq=False)
class ProgramRequest(Message):
    """PROGRAM, request: Write-verify of cells to target conductances. With no indices the
    targets are the region's cells row by row; else indices name cells within the region,
    row * columns + column, each once. A cell that reads within the tolerance is left alone.
    A cell that does not converge within the cycles is accepted as it is. Where cells have
    levels, a target between two of them is refused, and so is one of LOAD.

    Attributes:
        slot: configuration slot for the verifying reads.
        cycles: SET-RESET cycles at most.
        tolerance: accepted distance from the target.
        read_back: 1: answer with a reading of each cell after programming.
        region: cells.
        indices: cells within the region; empty: all.
        targets: target conductances.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PROGRAM
    _FIXED_0: ClassVar[Struct] = Struct("<BBHBHHHHH")
    slot: int
    cycles: int
    tolerance: int
    read_back: int
    region: Region
    indices: IntArray | Sequence[int]
    targets: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.slot,
                self.cycles,
                self.tolerance,
                self.read_back,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
            ),
            count_bytes(self.indices, 4),
            array_bytes(self.indices, "<u2"),
            array_bytes(self.targets, "<u2"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        slot = fixed_0[0]
        cycles = fixed_0[1]
        tolerance = fixed_0[2]
        read_back = fixed_0[3]
        region = Region.from_values(fixed_0[4:9])
        indices = reader.counted_array("<u2")
        targets = reader.array("<u2")
        reader.end()
        return cls(slot, cycles, tolerance, read_back, region, indices, targets)


@dataclass(frozen=True, slots=True, eq=False)
class ProgramResponse(Message):
    """PROGRAM, answer: Write-verify of cells to target conductances. With no indices the
    targets are the region's cells row by row; else indices name cells within the region,
    row * columns + column, each once. A cell that reads within the tolerance is left alone.
    A cell that does not converge within the cycles is accepted as it is. Where cells have
    levels, a target between two of them is refused, and so is one of LOAD.

    Attributes:
        set_pulses: SET pulses spent.
        reset_pulses: RESET pulses spent.
        unconverged: cells accepted outside the tolerance.
        worn: cells of this command that are past the soft lifetime budget.
        conductances: readings, in the order of the targets; empty unless asked for.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PROGRAM
    _FIXED_0: ClassVar[Struct] = Struct("<IIII")
    set_pulses: int
    reset_pulses: int
    unconverged: int
    worn: int
    conductances: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.set_pulses,
                self.reset_pulses,
                self.unconverged,
                self.worn,
            ),
            array_bytes(self.conductances, "<u2"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        set_pulses = fixed_0[0]
        reset_pulses = fixed_0[1]
        unconverged = fixed_0[2]
        worn = fixed_0[3]
        conductances = reader.array("<u2")
        reader.end()
        return cls(set_pulses, reset_pulses, unconverged, worn, conductances)


@dataclass(frozen=True, slots=True, eq=False)
class PulseRequest(Message):
    """PULSE, request: Open-loop pulses: a positive count is that many SET pulses, a
    negative one RESET pulses.

    Attributes:
        set_amplitude: amplitude of SET pulses (mV).
        reset_amplitude: amplitude of RESET pulses (mV).
        width: width of a pulse (ns).
        region: cells.
        indices: cells within the region; empty: all.
        counts: pulses per cell, SET positive.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PULSE
    _FIXED_0: ClassVar[Struct] = Struct("<HHIHHHHH")
    set_amplitude: int
    reset_amplitude: int
    width: int
    region: Region
    indices: IntArray | Sequence[int]
    counts: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.set_amplitude,
                self.reset_amplitude,
                self.width,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
            ),
            count_bytes(self.indices, 4),
            array_bytes(self.indices, "<u2"),
            array_bytes(self.counts, "<i2"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        set_amplitude = fixed_0[0]
        reset_amplitude = fixed_0[1]
        width = fixed_0[2]
        region = Region.from_values(fixed_0[3:8])
        indices = reader.counted_array("<u2")
        counts = reader.array("<i2")
        reader.end()
        return cls(set_amplitude, reset_amplitude, width, region, indices, counts)


@dataclass(frozen=True, slots=True, eq=False)
class PulseResponse(Message):
    """PULSE, answer: Open-loop pulses: a positive count is that many SET pulses, a negative
    one RESET pulses.

    Attributes:
        set_pulses: SET pulses applied.
        reset_pulses: RESET pulses applied.
        worn: cells of this command that are past the soft lifetime budget.
    """

    OPCODE: ClassVar[Opcode] = Opcode.PULSE
    _FIXED_0: ClassVar[Struct] = Struct("<III")
    set_pulses: int
    reset_pulses: int
    worn: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.set_pulses,
                self.reset_pulses,
                self.worn,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        set_pulses = fixed_0[0]
        reset_pulses = fixed_0[1]
        worn = fixed_0[2]
        reader.end()
        return cls(set_pulses, reset_pulses, worn)


@dataclass(frozen=True, slots=True, eq=False)
class WearRequest(Message):
    """WEAR, request: Pulses that each cell of a region got in its life, row by row.

    Attributes:
        region: cells.
    """

    OPCODE: ClassVar[Opcode] = Opcode.WEAR
    _FIXED_0: ClassVar[Struct] = Struct("<HHHHH")
    region: Region

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        region = Region.from_values(fixed_0[0:5])
        reader.end()
        return cls(region)


@dataclass(frozen=True, slots=True, eq=False)
class WearResponse(Message):
    """WEAR, answer: Pulses that each cell of a region got in its life, row by row.

    Attributes:
        pulses: pulses, SET and RESET together.
    """

    OPCODE: ClassVar[Opcode] = Opcode.WEAR
    pulses: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            array_bytes(self.pulses, "<u4"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        pulses = reader.array("<u4")
        reader.end()
        return cls(pulses)


@dataclass(frozen=True, slots=True, eq=False)
class OuterRequest(Message):
    """OUTER, request: A batch of rank-one updates of a region by coincidence. Every update
    gives each row and each column a train of `length` slots, at most 31; in a slot in which
    both have a pulse, the cell where they cross gets one: SET where their signs agree,
    RESET where they differ. Updates follow each other, and the slots of an update; cells do
    not touch each other. A train is a word of length + 1 bits: bit n is slot n, the highest
    bit its sign. Words travel packed like the codes of VMM, update by update: those of the
    rows, and apart from them those of the columns. With pairs, a column word is that of a
    pair, whose first column is updated. A power loss is told like that of PULSE, in cells,
    row by row.

    Attributes:
        set_amplitude: amplitude of SET pulses (mV).
        reset_amplitude: amplitude of RESET pulses (mV).
        width: width of a pulse (ns).
        region: cells.
        flags: bit 1: columns are differential pairs.
        length: slots of a train, 1 to 31.
        count: updates.
        words: packed words of the rows, then packed words of the columns.
    """

    OPCODE: ClassVar[Opcode] = Opcode.OUTER
    _FIXED_0: ClassVar[Struct] = Struct("<HHIHHHHHBBI")
    set_amplitude: int
    reset_amplitude: int
    width: int
    region: Region
    flags: int
    length: int
    count: int
    words: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.set_amplitude,
                self.reset_amplitude,
                self.width,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
                self.flags,
                self.length,
                self.count,
            ),
            self.words,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        set_amplitude = fixed_0[0]
        reset_amplitude = fixed_0[1]
        width = fixed_0[2]
        region = Region.from_values(fixed_0[3:8])
        flags = fixed_0[8]
        length = fixed_0[9]
        count = fixed_0[10]
        words = reader.rest()
        reader.end()
        return cls(set_amplitude, reset_amplitude, width, region, flags, length, count, words)


@dataclass(frozen=True, slots=True, eq=False)
class OuterResponse(Message):
    """OUTER, answer: A batch of rank-one updates of a region by coincidence. Every update
    gives each row and each column a train of `length` slots, at most 31; in a slot in which
    both have a pulse, the cell where they cross gets one: SET where their signs agree,
    RESET where they differ. Updates follow each other, and the slots of an update; cells do
    not touch each other. A train is a word of length + 1 bits: bit n is slot n, the highest
    bit its sign. Words travel packed like the codes of VMM, update by update: those of the
    rows, and apart from them those of the columns. With pairs, a column word is that of a
    pair, whose first column is updated. A power loss is told like that of PULSE, in cells,
    row by row.

    Attributes:
        set_pulses: SET pulses applied.
        reset_pulses: RESET pulses applied.
        worn: cells of this command that are past the soft lifetime budget.
    """

    OPCODE: ClassVar[Opcode] = Opcode.OUTER
    _FIXED_0: ClassVar[Struct] = Struct("<III")
    set_pulses: int
    reset_pulses: int
    worn: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.set_pulses,
                self.reset_pulses,
                self.worn,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        set_pulses = fixed_0[0]
        reset_pulses = fixed_0[1]
        worn = fixed_0[2]
        reader.end()
        return cls(set_pulses, reset_pulses, worn)


@dataclass(frozen=True, slots=True, eq=False)
class VmmRequest(Message):
    """VMM, request: Multiplies a batch of vectors, or of images that the board unrolls, by
    regions of conductances. Regions come row block by row block: region i * column_blocks +
    j holds row block i, column block j. Inputs run over the row blocks, outputs over the
    column blocks (the other way round when transposed). Codes are packed at their own width
    in planes: whole low bytes first, then the remaining bits as bit planes, lowest first,
    each plane with its codes in ascending order, least significant bit first, padded to a
    byte. Vectors: inputs and outputs run vector by vector. Images: inputs are (image,
    channel, y, x), outputs (image, output, y, x). A vector's place in the noise is its
    number in the batch, images counted row by row of their output. An image unrolls to
    (channel, kernel row, kernel column).

    Attributes:
        slot: configuration slot.
        flags: bit 0 transposed, bit 1 differential pairs, bit 2 signed inputs, bit 3 groups of
            columns, bit 4 ternary planes.
        input_bits: bits of an input code.
        row_blocks: row blocks that form one sum.
        count: vectors or images in the batch.
        image: all zero: the batch holds vectors.
        regions: row_blocks * column_blocks regions.
        codes: packed input codes.
    """

    OPCODE: ClassVar[Opcode] = Opcode.VMM
    _FIXED_0: ClassVar[Struct] = Struct("<BBBBIHHHBBBBBBBBBB")
    slot: int
    flags: int
    input_bits: int
    row_blocks: int
    count: int
    image: Window
    regions: tuple[Region, ...]
    codes: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.slot,
                self.flags,
                self.input_bits,
                self.row_blocks,
                self.count,
                self.image.channels,
                self.image.height,
                self.image.width,
                self.image.kernel_height,
                self.image.kernel_width,
                self.image.stride_y,
                self.image.stride_x,
                self.image.dilation_y,
                self.image.dilation_x,
                self.image.pad_top,
                self.image.pad_bottom,
                self.image.pad_left,
                self.image.pad_right,
            ),
            count_bytes(self.regions, 2),
            *(s.encode() for s in self.regions),
            self.codes,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        slot = fixed_0[0]
        flags = fixed_0[1]
        input_bits = fixed_0[2]
        row_blocks = fixed_0[3]
        count = fixed_0[4]
        image = Window.from_values(fixed_0[5:18])
        regions = reader.structs(Region)
        codes = reader.rest()
        reader.end()
        return cls(slot, flags, input_bits, row_blocks, count, image, regions, codes)


@dataclass(frozen=True, slots=True, eq=False)
class VmmResponse(Message):
    """VMM, answer: Multiplies a batch of vectors, or of images that the board unrolls, by
    regions of conductances. Regions come row block by row block: region i * column_blocks +
    j holds row block i, column block j. Inputs run over the row blocks, outputs over the
    column blocks (the other way round when transposed). Codes are packed at their own width
    in planes: whole low bytes first, then the remaining bits as bit planes, lowest first,
    each plane with its codes in ascending order, least significant bit first, padded to a
    byte. Vectors: inputs and outputs run vector by vector. Images: inputs are (image,
    channel, y, x), outputs (image, output, y, x). A vector's place in the noise is its
    number in the batch, images counted row by row of their output. An image unrolls to
    (channel, kernel row, kernel column).

    Attributes:
        bits: bits of an answer code, two's complement.
        saturated: conversions that ended at the end of the ADC range.
        codes: packed answer codes.
    """

    OPCODE: ClassVar[Opcode] = Opcode.VMM
    _FIXED_0: ClassVar[Struct] = Struct("<BI")
    bits: int
    saturated: int
    codes: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.bits,
                self.saturated,
            ),
            self.codes,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        bits = fixed_0[0]
        saturated = fixed_0[1]
        codes = reader.rest()
        reader.end()
        return cls(bits, saturated, codes)


@dataclass(frozen=True, slots=True, eq=False)
class SnapshotRequest(Message):
    """SNAPSHOT, request: Gives a part of the chip's state: cells, counters and noise
    positions. Offset 0 takes the snapshot, later offsets go on with that one. Only
    emulators offer it.

    Attributes:
        offset: first byte wanted.
        length: bytes wanted at most.
    """

    OPCODE: ClassVar[Opcode] = Opcode.SNAPSHOT
    _FIXED_0: ClassVar[Struct] = Struct("<II")
    offset: int
    length: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.offset,
                self.length,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        offset = fixed_0[0]
        length = fixed_0[1]
        reader.end()
        return cls(offset, length)


@dataclass(frozen=True, slots=True, eq=False)
class SnapshotResponse(Message):
    """SNAPSHOT, answer: Gives a part of the chip's state: cells, counters and noise
    positions. Offset 0 takes the snapshot, later offsets go on with that one. Only
    emulators offer it.

    Attributes:
        total: bytes of the whole snapshot.
        data: the part.
    """

    OPCODE: ClassVar[Opcode] = Opcode.SNAPSHOT
    _FIXED_0: ClassVar[Struct] = Struct("<I")
    total: int
    data: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.total,
            ),
            self.data,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        total = fixed_0[0]
        data = reader.rest()
        reader.end()
        return cls(total, data)


@dataclass(frozen=True, slots=True, eq=False)
class RestoreRequest(Message):
    """RESTORE, request: Takes a snapshot back, in parts from offset 0 on. Nothing changes
    before the last part has arrived and the whole is found sound and of this chip's
    geometry; a power loss drops the parts that have arrived, and only the last one is
    written to the journal. The operation counter becomes that of the snapshot.

    Attributes:
        offset: place of this part.
        total: bytes of the whole snapshot.
        data: the part.
    """

    OPCODE: ClassVar[Opcode] = Opcode.RESTORE
    _FIXED_0: ClassVar[Struct] = Struct("<II")
    offset: int
    total: int
    data: Buffer

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.offset,
                self.total,
            ),
            self.data,
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        offset = fixed_0[0]
        total = fixed_0[1]
        data = reader.rest()
        reader.end()
        return cls(offset, total, data)


@dataclass(frozen=True, slots=True, eq=False)
class RestoreResponse(Message):
    """RESTORE, answer: Takes a snapshot back, in parts from offset 0 on. Nothing changes
    before the last part has arrived and the whole is found sound and of this chip's
    geometry; a power loss drops the parts that have arrived, and only the last one is
    written to the journal. The operation counter becomes that of the snapshot.

    Attributes:
        complete: 1: restored; 0: more parts are wanted.
    """

    OPCODE: ClassVar[Opcode] = Opcode.RESTORE
    _FIXED_0: ClassVar[Struct] = Struct("<B")
    complete: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.complete,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        complete = fixed_0[0]
        reader.end()
        return cls(complete)


@dataclass(frozen=True, slots=True, eq=False)
class LoadRequest(Message):
    """LOAD, request: Sets conductances as they are, without a pulse, so that one model of a
    chip continues with the cells of another. Silicon cannot do it.

    Attributes:
        region: cells, row by row.
        conductances: conductance of each.
    """

    OPCODE: ClassVar[Opcode] = Opcode.LOAD
    _FIXED_0: ClassVar[Struct] = Struct("<HHHHH")
    region: Region
    conductances: IntArray | Sequence[int]

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.region.tile,
                self.region.row,
                self.region.rows,
                self.region.column,
                self.region.columns,
            ),
            array_bytes(self.conductances, "<u2"),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        region = Region.from_values(fixed_0[0:5])
        conductances = reader.array("<u2")
        reader.end()
        return cls(region, conductances)


@dataclass(frozen=True, slots=True, eq=False)
class LoadResponse(Message):
    """LOAD, answer: Sets conductances as they are, without a pulse, so that one model of a
    chip continues with the cells of another. Silicon cannot do it."""

    OPCODE: ClassVar[Opcode] = Opcode.LOAD
    def parts(self) -> tuple[Buffer, ...]:
        return ()

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        reader.end()
        return cls()


@dataclass(frozen=True, slots=True, eq=False)
class WaitRequest(Message):
    """WAIT, request: Lets emulated time pass at once: conductances drift, relax and diffuse
    as the device of the model does. Silicon cannot do it.

    Attributes:
        duration: time to let pass, at least 1 (ns).
    """

    OPCODE: ClassVar[Opcode] = Opcode.WAIT
    _FIXED_0: ClassVar[Struct] = Struct("<Q")
    duration: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.duration,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        duration = fixed_0[0]
        reader.end()
        return cls(duration)


@dataclass(frozen=True, slots=True, eq=False)
class WaitResponse(Message):
    """WAIT, answer: Lets emulated time pass at once: conductances drift, relax and diffuse
    as the device of the model does. Silicon cannot do it.

    Attributes:
        time: chip time from now on, waited and spent in commands (ns).
    """

    OPCODE: ClassVar[Opcode] = Opcode.WAIT
    _FIXED_0: ClassVar[Struct] = Struct("<Q")
    time: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.time,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        time = fixed_0[0]
        reader.end()
        return cls(time)


@dataclass(frozen=True, slots=True, eq=False)
class Refusal(Message):
    """Payload of every answer whose status is not OK; a command of the specification that a
    board does not offer is refused with its own detail (SNAPSHOT, LOAD, WAIT, OUTER,
    PULSE), an unknown one with OPCODE.

    Attributes:
        detail: detail code.
        index: index at fault: cell, region or field of the command.
        limit: the limit that holds, where one does.
    """

    _FIXED_0: ClassVar[Struct] = Struct("<HIQ")
    detail: int
    index: int
    limit: int

    def parts(self) -> tuple[Buffer, ...]:
        return (
            pack(
                self._FIXED_0,
                self.detail,
                self.index,
                self.limit,
            ),
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = Reader(payload)
        fixed_0 = reader.unpack(cls._FIXED_0)
        detail = fixed_0[0]
        index = fixed_0[1]
        limit = fixed_0[2]
        reader.end()
        return cls(detail, index, limit)


REQUESTS: dict[int, type[Message]] = {
    Opcode.HELLO: HelloRequest,
    Opcode.PING: PingRequest,
    Opcode.STATUS: StatusRequest,
    Opcode.CONFIGURE: ConfigureRequest,
    Opcode.SAFE: SafeRequest,
    Opcode.LEASE: LeaseRequest,
    Opcode.JOURNAL: JournalRequest,
    Opcode.REBOOT: RebootRequest,
    Opcode.READ: ReadRequest,
    Opcode.PROGRAM: ProgramRequest,
    Opcode.PULSE: PulseRequest,
    Opcode.WEAR: WearRequest,
    Opcode.OUTER: OuterRequest,
    Opcode.VMM: VmmRequest,
    Opcode.SNAPSHOT: SnapshotRequest,
    Opcode.RESTORE: RestoreRequest,
    Opcode.LOAD: LoadRequest,
    Opcode.WAIT: WaitRequest,
}
RESPONSES: dict[int, type[Message]] = {
    Opcode.HELLO: HelloResponse,
    Opcode.PING: PingResponse,
    Opcode.STATUS: StatusResponse,
    Opcode.CONFIGURE: ConfigureResponse,
    Opcode.SAFE: SafeResponse,
    Opcode.LEASE: LeaseResponse,
    Opcode.JOURNAL: JournalResponse,
    Opcode.REBOOT: RebootResponse,
    Opcode.READ: ReadResponse,
    Opcode.PROGRAM: ProgramResponse,
    Opcode.PULSE: PulseResponse,
    Opcode.WEAR: WearResponse,
    Opcode.OUTER: OuterResponse,
    Opcode.VMM: VmmResponse,
    Opcode.SNAPSHOT: SnapshotResponse,
    Opcode.RESTORE: RestoreResponse,
    Opcode.LOAD: LoadResponse,
    Opcode.WAIT: WaitResponse,
}
#: commands that change cells or counters and must be applied exactly once
MUTATING = frozenset({Opcode.PROGRAM, Opcode.PULSE, Opcode.OUTER, Opcode.RESTORE, Opcode.LOAD, Opcode.WAIT})
