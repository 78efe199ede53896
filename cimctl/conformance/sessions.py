"""HELLO and sessions."""

from __future__ import annotations

from cimctl.conformance.bench import Bench
from cimctl.conformance.cases import Group, expect, expect_equal
from cimctl.conformance.wire import OPEN, granted, refusal_of, status_name
from firmware_protocol import messages as m
from firmware_protocol.constants import (
    MIN_PAYLOAD,
    SPEC_HASH,
    VERSION,
    Capability,
    Detail,
    Opcode,
    Status,
)
from firmware_protocol.geometry import column_weights

HELLO = Group("hello")
_CAPABLE = {
    Opcode.SNAPSHOT: Capability.SNAPSHOT,
    Opcode.RESTORE: Capability.SNAPSHOT,
    Opcode.LOAD: Capability.LOAD,
    Opcode.WAIT: Capability.WAIT,
    Opcode.OUTER: Capability.OUTER,
}
#: what the firmware must know whatever it offers
_ALWAYS = (Opcode.HELLO, Opcode.PING, Opcode.STATUS, Opcode.CONFIGURE, Opcode.SAFE)


def _other(bench: Bench) -> int:
    return bench.wire.session ^ 0x10


@HELLO.case("HELLO says the same of the board each time, boot id included")
def identity(bench: Bench) -> None:
    first = granted(bench.wire.hello(), m.HelloResponse)
    second = granted(bench.wire.hello(), m.HelloResponse)
    expect(first == second, "two equal answers", f"{first} and {second}")
    expect_equal("version", first.version, VERSION)
    expect_equal("specification", f"{first.spec_hash:016x}", f"{SPEC_HASH:016x}")
    expect_equal("board_id", first.board_id, bench.hello.board_id)
    expect(bool(first.model and first.firmware), "names of model and firmware", first)


@HELLO.case("STATUS and JOURNAL name the boot id of HELLO")
def boot_id(bench: Bench) -> None:
    expected = granted(bench.wire.hello(), m.HelloResponse).boot_id
    expect_equal("boot_id of STATUS", bench.status().boot_id, expected)
    if bench.knows(Opcode.JOURNAL):
        expect_equal("boot_id of JOURNAL", bench.journal().boot_id, expected)


@HELLO.case("The description holds together: limits in order, commands of what is offered")
def description(bench: Bench) -> None:
    d = bench.description
    checks = {
        "commands HELLO to SAFE": all(bench.knows(op) for op in _ALWAYS),
        "no commands but the specification's": d.opcodes == d.opcodes & sum(1 << o for o in Opcode),
        "no capabilities but the specification's": d.capabilities <= sum(Capability),
        "commands of a capability with it alone": all(
            bench.knows(op) == bench.offers(flag) for op, flag in _CAPABLE.items()
        ),
        "tiles, rows, columns": min(d.tiles, d.rows, d.columns) >= 1,
        "input_bits and adc_bits": d.input_bits >= 1 and d.adc_bits >= 2,
        "pair_conversions of 1 or 2": d.pair_conversions in (1, 2),
        "answer_bits of a conversion at least": d.answer_bits >= d.adc_bits,
        "plane_conversions of 0 or 1": d.plane_conversions in (0, 1),
        "no single level": d.levels != 1,
        "column_weights with groups": bool(column_weights(d.column_weights))
        == bench.offers(Capability.GROUPS),
        "slots": d.slots >= 1,
        "window": d.window >= 1,
        f"max_payload of {MIN_PAYLOAD}": d.max_payload >= MIN_PAYLOAD,
        "target_low below target_high": d.target_low < d.target_high,
        "gain_low up to gain_high": 0 < d.gain_low <= d.gain_high,
        "amplitude_low up to amplitude_high": d.amplitude_low <= d.amplitude_high,
        "width_low up to width_high": d.width_low <= d.width_high,
        "pulses_per_command": bench.knows(Opcode.PULSE) <= d.pulses_per_command <= 32767,
        "cycles_limit": d.cycles_limit >= 1,
        "lifetime_soft up to lifetime_pulses": not d.lifetime_pulses
        or d.lifetime_soft <= d.lifetime_pulses,
    }
    for what, holds in checks.items():
        expect(holds, what, d)


@HELLO.case("Geometry, converters and full scale are those of the profile")
def geometry(bench: Bench) -> None:
    chip, d = bench.profile.chip, bench.description
    names = ("tiles", "rows", "columns", "input_bits", "adc_bits", "pair_conversions", "slots")
    for name in names:
        expect_equal(name, getattr(d, name), getattr(chip, name))
    for name in ("answer_bits", "plane_conversions"):
        expect_equal(name, getattr(d, name), int(getattr(bench.profile, name)))
    expect_equal("levels", d.levels, bench.profile.device.LEVELS)
    expect_equal("column_weights", column_weights(d.column_weights), chip.column_weights)
    full_scale = round(chip.conductance_full_scale_uS * 1e6)
    expect_equal("full scale in pS", d.conductance_full_scale, full_scale)


@HELLO.case("No limit is wider than the profile's")
def limits(bench: Bench) -> None:
    limits_, d = bench.profile.limits, bench.description
    checks = {
        "read_voltage_limit": d.read_voltage_limit <= limits_.read_voltage_mV,
        "amplitudes": limits_.amplitude_mV[0] <= d.amplitude_low
        and d.amplitude_high <= limits_.amplitude_mV[1],
        "widths": limits_.width_ns[0] <= d.width_low and d.width_high <= limits_.width_ns[1],
        "pulses_per_command": d.pulses_per_command <= limits_.pulses_per_command,
        "lifetime_pulses": not limits_.lifetime_pulses
        or 0 < d.lifetime_pulses <= limits_.lifetime_pulses,
        "lease": not limits_.lease_ms or 0 < d.lease <= limits_.lease_ms,
    }
    for what, holds in checks.items():
        expect(holds, f"{what} within the profile's", d)


@HELLO.case("The same session opened again goes on: sequence, kept answers and slots stay")
def opened_twice(bench: Bench) -> None:
    wire = bench.wire
    first = wire.request(m.PingRequest(b"kept"), wire.sequence)
    expect_equal("echo", bytes(wire.ask(m.PingRequest(b"kept")).payload), b"kept")
    granted(wire.hello(), m.HelloResponse)
    wire.write(first)
    again = wire.matched(Opcode.PING, wire.session, wire.sequence - 1)
    expect_equal("kept answer", bytes(again.payload), b"kept")
    expect_equal("powered", bench.status().powered, 1)


@HELLO.case("Another session ends the one before, and counts from 1")
def another_session(bench: Bench) -> None:
    wire, other = bench.wire, _other(bench)
    granted(wire.hello(session=other), m.HelloResponse)
    status, _ = refusal_of(wire.exchange(Opcode.PING, sequence=wire.sequence))
    expect_equal("old session:", status.name, "NO_SESSION")
    granted(wire.exchange(Opcode.PING, session=other, sequence=1), m.PingResponse)


@HELLO.case("HELLO without the OPEN bit answers and opens nothing")
def without_open(bench: Bench) -> None:
    wire, other = bench.wire, _other(bench)
    granted(wire.hello(session=other, flags=0), m.HelloResponse)
    status, _ = refusal_of(wire.exchange(Opcode.PING, session=other, sequence=1))
    expect_equal("session that was not opened:", status.name, "NO_SESSION")
    granted(wire.ask(m.PingRequest(b"")), m.PingResponse)


@HELLO.case("HELLO of another specification or version gets SPEC_MISMATCH and opens nothing")
def foreign(bench: Bench) -> None:
    wire, other = bench.wire, _other(bench)
    wrong = ((VERSION, SPEC_HASH ^ 1), (VERSION + 1, SPEC_HASH), (0, 0))
    for version, spec_hash in wrong:
        answer = wire.hello(session=other, version=version, spec_hash=spec_hash, flags=OPEN)
        expect_equal("status", status_name(answer.status), "SPEC_MISMATCH")
        said = m.HelloResponse.decode(answer.payload)
        expect_equal("specification", f"{said.spec_hash:016x}", f"{SPEC_HASH:016x}")
        status, _ = refusal_of(wire.exchange(Opcode.PING, session=other, sequence=1))
        expect_equal("session that was not opened:", status.name, "NO_SESSION")
    granted(wire.ask(m.PingRequest(b"")), m.PingResponse)


@HELLO.case("A HELLO of the wrong length is refused with BAD_REQUEST LENGTH and opens nothing")
def malformed(bench: Bench) -> None:
    wire, other = bench.wire, _other(bench)
    payload = m.HelloRequest(VERSION, SPEC_HASH, OPEN).encode()
    for wrong in (b"", payload[:-1], payload + b"\0"):
        answer = wire.exchange(Opcode.HELLO, (wrong,), session=other, sequence=0)
        status, refusal = refusal_of(answer)
        expect_equal("status", status.name, "BAD_REQUEST")
        expect_equal("detail", Detail(refusal.detail).name, "LENGTH")
    status, _ = refusal_of(wire.exchange(Opcode.PING, session=other, sequence=1))
    expect_equal("session that was not opened:", status.name, "NO_SESSION")
    expect_equal("status", wire.ask(m.PingRequest(b"")).status, Status.OK)
