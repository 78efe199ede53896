"""Supplies, slots and the lease."""

from __future__ import annotations

import time
from dataclasses import replace

from cimctl.conformance.bench import Bench, skip_unless
from cimctl.conformance.cases import Group, Wear, expect_equal
from cimctl.conformance.expected import Product, check, fitting_gain, sums
from cimctl.conformance.products import codes_of
from cimctl.conformance.wire import detail_name
from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.constants import Opcode

SAFETY = Group("safety")
#: of the slow cases; several times what a round trip takes on a slow line
_LEASE_MS = 500
_TRIES = 3


def _analog(bench: Bench) -> list[Message]:
    """Commands that need the supplies; those that change cells where that is allowed."""
    requests: list[Message] = [bench.reading(), bench.multiplying()]
    if bench.destructive:
        requests += [bench.pulsing(), bench.coinciding(), bench.programming()]
    return [r for r in requests if bench.knows(r.OPCODE)]


def _refused_all(bench: Bench, detail: str) -> None:
    for request in _analog(bench):
        status, refusal = bench.wire.refused(request)
        found = (request.OPCODE.name, status.name, detail_name(refusal.detail))
        expect_equal("refusal", found, (request.OPCODE.name, "SAFETY", detail))


@SAFETY.case("SAFE empties the slots; analog commands are then refused SAFETY SLOT_EMPTY",
             wear=Wear(1, 2))  # fmt: skip
def safe_empties(bench: Bench) -> None:
    before = bench.state()
    expect_equal("powered of SAFE", bench.safe().powered, 0)
    _refused_all(bench, "SLOT_EMPTY")
    bench.expect_state(replace(before, powered=0))


@SAFETY.case("READ and VMM are refused SAFETY SLOT_EMPTY after SAFE, granted after CONFIGURE")
def safe_and_back(bench: Bench) -> None:
    for _ in range(2):
        bench.safe()
        for request in (bench.reading(), bench.multiplying()):
            status, refusal = bench.wire.refused(request)
            found = (status.name, detail_name(refusal.detail))
            expect_equal("refusal", found, ("SAFETY", "SLOT_EMPTY"))
        bench.configure()
        bench.read(1)
        bench.wire.answer(bench.multiplying(), m.VmmResponse)


@SAFETY.case("STATUS says whether any slot is filled, and SAFE may be repeated")
def powered(bench: Bench) -> None:
    bench.configure(slot=bench.description.slots - 1)
    expect_equal("powered with slots filled", bench.status().powered, 1)
    for _ in range(2):
        expect_equal("powered of SAFE", bench.safe().powered, 0)
        expect_equal("powered after SAFE", bench.status().powered, 0)
    bench.configure(slot=bench.description.slots - 1)
    expect_equal("powered with one slot filled", bench.status().powered, 1)


@SAFETY.case("A refused CONFIGURE leaves the slot as it was")
def refused_configure(bench: Bench) -> None:
    known, bits = bench.known(), bench.description.input_bits
    product = Product((bench.region,), input_bits=bits)
    codes = codes_of(2, bench.region.rows, bits)
    gain = fitting_gain(bench, product, sums(bench, known, product, codes))
    bench.configure(gain=gain)
    voltage = bench.description.read_voltage_limit + 1
    skip_unless(voltage < 1 << 16, "every read voltage is allowed")
    other = bench.configuring(gain=bench.gain(gain.value / 3))
    status, _ = bench.wire.refused(replace(other, read_voltage=voltage))
    expect_equal("status", status.name, "SAFETY")
    check(bench, known, product, codes, gain, configure=False)


@SAFETY.case("A refused CONFIGURE of an empty slot leaves it empty")
def refused_configure_of_empty(bench: Bench) -> None:
    bench.safe()
    status, _ = bench.wire.refused(replace(bench.configuring(), multiplier=0))
    expect_equal("status", status.name, "BAD_REQUEST")
    expect_equal("powered", bench.status().powered, 0)


@SAFETY.case("LEASE may be as long as HELLO says, and as short as 1 ms")
def lease_limits(bench: Bench) -> None:
    _need_lease(bench)
    for duration in (bench.description.lease, 1):
        answer = bench.wire.ask(m.LeaseRequest(duration))
        expect_equal(f"status of {duration} ms", answer.status, 0)
    bench.wire.answer(m.LeaseRequest(bench.description.lease), m.LeaseResponse)


@SAFETY.case("Requests within the lease renew it: the supplies stay on", slow=True)
def lease_renewed(bench: Bench) -> None:
    _need_lease(bench)
    for _ in range(_TRIES):
        bench.configure()
        if _kept_alive(bench):
            expect_equal("powered", bench.status().powered, 1)
            return
    skip_unless(False, "this computer is too busy to keep a lease of half a second")


def _kept_alive(bench: Bench) -> bool:
    """Renews for longer than the lease; False where a pause of ours was too long to judge."""
    lapses = bench.status().lapses
    bench.wire.answer(m.LeaseRequest(_LEASE_MS), m.LeaseResponse)
    start = last = time.monotonic()
    longest = 0.0
    while last - start < 1.6 * _LEASE_MS / 1000:
        time.sleep(_LEASE_MS / 4000)
        found = bench.status()
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if longest > 0.7 * _LEASE_MS / 1000:
            return False
        expect_equal("powered within the lease", found.powered, 1)
        expect_equal("lapses within the lease", found.lapses, lapses)
    return True


@SAFETY.case("A silence longer than the lease takes the supplies to ground, and counts",
             slow=True)  # fmt: skip
def lease_lapses(bench: Bench) -> None:
    _need_lease(bench)
    lapses = bench.status().lapses
    answer = bench.wire.answer(m.LeaseRequest(_LEASE_MS), m.LeaseResponse)
    expect_equal("powered of LEASE", answer.powered, 1)
    time.sleep(1.4 * _LEASE_MS / 1000)
    for request in (bench.reading(), bench.multiplying()):
        status, refusal = bench.wire.refused(request)
        found = (status.name, detail_name(refusal.detail))
        expect_equal("refusal after the lease", found, ("SAFETY", "LEASE"))
    found_status = bench.status()
    expect_equal("powered after the lease", found_status.powered, 0)
    expect_equal("lapses more:", found_status.lapses - lapses, 1)
    bench.configure()
    bench.read(1)
    expect_equal("powered after CONFIGURE", bench.status().powered, 1)
    expect_equal("lapses after CONFIGURE", bench.status().lapses - lapses, 1)


@SAFETY.case("A lease that ends with the supplies off is no lapse", slow=True)
def lease_without_supplies(bench: Bench) -> None:
    _need_lease(bench)
    bench.safe()
    lapses = bench.status().lapses
    bench.wire.answer(m.LeaseRequest(100), m.LeaseResponse)
    time.sleep(0.2)
    status, refusal = bench.wire.refused(bench.reading())
    found = (status.name, detail_name(refusal.detail))
    expect_equal("refusal", found, ("SAFETY", "SLOT_EMPTY"))
    expect_equal("lapses more:", bench.status().lapses - lapses, 0)


@SAFETY.case("A new session has the board's longest lease", slow=True)
def lease_of_new_session(bench: Bench) -> None:
    _need_lease(bench)
    skip_unless(bench.description.lease >= 2000, "the board's longest lease is short as well")
    bench.wire.answer(m.LeaseRequest(200), m.LeaseResponse)
    bench.fresh()
    time.sleep(0.4)
    expect_equal("powered", bench.status().powered, 1)


def _need_lease(bench: Bench) -> None:
    bench.need(Opcode.LEASE)
    skip_unless(bench.description.lease >= _LEASE_MS, "the board needs no lease")
