# Generated from spec.yaml by python -m firmware_protocol.generate; do not edit.

"""Numbers of the specification."""

from __future__ import annotations

from enum import IntEnum, IntFlag

VERSION = 1
SPEC_HASH = 0x5A1ACF987CDB6F63
SPEC_DIGEST = "636fdb7c98cf1a5a26c55cd05a38edd9a306ca150654eb27b9ca14d934968bbb"
CRC_SEED = 0x7CDB6F63
DELIMITER = 0x00
PAYLOAD_XOR = 0x55
CONDUCTANCE_BITS = 16
NOISE_TABLE_BITS = 16
NOISE_FRACTION_BITS = 12
MIN_PAYLOAD = 256
MAX_ROW_BLOCKS = 255
MAX_REGIONS = 4096
MAX_TRAIN = 31
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
STREAM_CONVERT = 1
STREAM_READ = 2
STREAM_PULSE = 3
STREAM_PROGRAM = 4
STREAM_DEVICE = 5
STREAM_INITIAL = 6
STREAM_STUCK = 7
STREAM_VERIFY = 8
STREAM_ADC = 9
STREAM_ADC_ROWS = 10
STREAM_DAC = 11
STREAM_DAC_COLUMNS = 12
STREAM_AGING = 13
STREAM_DIFFUSION = 14
STREAM_MISMATCH = 15
IDEAL_STEP = 64
UNROLLED_LIMIT = 268435456


class Flag(IntFlag):
    """Frame flags."""

    RESPONSE = 0x01


class Status(IntEnum):
    """Status of an answer."""

    OK = 0x00
    RETRY = 0x01
    STALE = 0x02
    NO_SESSION = 0x03
    BAD_REQUEST = 0x10
    UNSUPPORTED = 0x11
    SPEC_MISMATCH = 0x12
    DEVICE_FAULT = 0x20
    SAFETY = 0x30


class Detail(IntEnum):
    """Why a request was refused."""

    NONE = 0x00
    LENGTH = 0x01
    OPCODE = 0x02
    TILE = 0x03
    REGION = 0x04
    INDEX = 0x05
    TARGET = 0x06
    COUNT = 0x07
    SLOT = 0x08
    SLOT_EMPTY = 0x09
    GAIN = 0x0A
    READ_VOLTAGE = 0x0B
    AMPLITUDE = 0x0C
    WIDTH = 0x0D
    LIFETIME = 0x0E
    GROUPING = 0x0F
    WINDOW = 0x10
    INPUT_BITS = 0x11
    ANSWER_SIZE = 0x12
    TRANSPOSED = 0x13
    IMAGES = 0x14
    ROW_BLOCKS = 0x15
    SIGNED = 0x16
    SNAPSHOT = 0x17
    OFFSET = 0x18
    CYCLES = 0x19
    DIFFERENTIAL = 0x1A
    LEASE = 0x1B
    LOAD = 0x1C
    WAIT = 0x1E
    OUTER = 0x1F
    PULSE = 0x20
    GROUPS = 0x21
    TERNARY = 0x22
    ORDER = 0x1D


class Capability(IntFlag):
    """What a board offers."""

    TRANSPOSED = 0x01
    IMAGES = 0x02
    ROW_BLOCK_SUMS = 0x04
    SIGNED_INPUTS = 0x08
    SNAPSHOT = 0x10
    DIFFERENTIAL = 0x20
    LOAD = 0x40
    OUTER = 0x100
    WAIT = 0x80
    GROUPS = 0x200
    TERNARY = 0x400


class Opcode(IntEnum):
    """Commands."""

    HELLO = 0x01
    PING = 0x02
    STATUS = 0x03
    CONFIGURE = 0x04
    SAFE = 0x05
    LEASE = 0x06
    JOURNAL = 0x07
    REBOOT = 0x08
    READ = 0x10
    PROGRAM = 0x11
    PULSE = 0x12
    WEAR = 0x13
    OUTER = 0x14
    VMM = 0x20
    SNAPSHOT = 0x30
    RESTORE = 0x31
    LOAD = 0x32
    WAIT = 0x33


#: class of each status: ok, retry, caller, device, safety
STATUS_CLASS = {
    Status.OK: "ok",
    Status.RETRY: "retry",
    Status.STALE: "retry",
    Status.NO_SESSION: "retry",
    Status.BAD_REQUEST: "caller",
    Status.UNSUPPORTED: "caller",
    Status.SPEC_MISMATCH: "caller",
    Status.DEVICE_FAULT: "device",
    Status.SAFETY: "safety",
}

#: what each detail means, for messages
DETAIL_TEXT = {
    Detail.NONE: "no more to say",
    Detail.LENGTH: "the payload is too short, too long, or its counts disagree",
    Detail.OPCODE: "unknown command",
    Detail.TILE: "no such tile",
    Detail.REGION: "the region is empty or leaves the tile",
    Detail.INDEX: "a cell index leaves the region, or is named twice",
    Detail.TARGET: "a target conductance is out of the programmable range",
    Detail.COUNT: "a count is zero or passes its limit",
    Detail.SLOT: "no such configuration slot",
    Detail.SLOT_EMPTY: "the slot is not configured: the analog supplies are off for it",
    Detail.GAIN: "multiplier or shift leave the settable ADC ranges",
    Detail.READ_VOLTAGE: "the read voltage passes its limit",
    Detail.AMPLITUDE: "a pulse amplitude is outside its limits",
    Detail.WIDTH: "a pulse width is outside its limits",
    Detail.LIFETIME: "a cell would pass its lifetime pulse budget",
    Detail.GROUPING: "regions do not form the named row and column blocks",
    Detail.WINDOW: "the kernel does not fit the image, or a dimension is zero",
    Detail.INPUT_BITS: "more input bits than the DAC has",
    Detail.ANSWER_SIZE: "the answer would pass the largest payload",
    Detail.TRANSPOSED: "the board does not multiply transposed",
    Detail.IMAGES: "the board does not unroll images",
    Detail.ROW_BLOCKS: "the board does not add row blocks",
    Detail.SIGNED: "the board takes no signed inputs",
    Detail.SNAPSHOT: "the snapshot is damaged or of another chip geometry",
    Detail.OFFSET: "a part of a transfer is out of order",
    Detail.CYCLES: "more write-verify cycles than the limit",
    Detail.DIFFERENTIAL: "the board converts no differential pairs",
    Detail.LEASE: "the lease ran out, or the one asked for is too long: supplies go to ground",
    Detail.LOAD: "the board is no model: its cells cannot be set",
    Detail.WAIT: "the board is no model: its time cannot be advanced",
    Detail.OUTER: "the board has no update by coincidence",
    Detail.PULSE: "the board gives no open-loop pulses",
    Detail.GROUPS: "the board adds no groups of columns, or not these: transposed, or pairs too",
    Detail.TERNARY: "the board takes no ternary planes, or a code has no magnitude in them",
    Detail.ORDER: "only LEASE and JOURNAL travel with sequence number 0, and they with no other",
}
