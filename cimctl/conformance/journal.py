"""The journal, restarts, and what outlives them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from boards.errors import LinkError
from cimctl.conformance.bench import SIGMAS, Bench
from cimctl.conformance.cases import Group, Wear, expect, expect_equal
from cimctl.conformance.wire import granted, refusal_of
from firmware_protocol import messages as m
from firmware_protocol.constants import Opcode

JOURNAL = Group("journal")
#: a board may take that long to start again
_RESTART_SECONDS = 5.0


@JOURNAL.case("JOURNAL names session, sequence and number of the last change", wear=Wear(1, 2))
def names_the_last(bench: Bench) -> None:
    bench.need(Opcode.JOURNAL)
    makers = {Opcode.PULSE: bench.pulsing, Opcode.PROGRAM: bench.programming,
              Opcode.OUTER: bench.coinciding, Opcode.LOAD: bench.loading}  # fmt: skip
    for opcode, make in makers.items():
        if not bench.knows(opcode):
            continue
        sequence = bench.wire.sequence
        granted(bench.wire.ask(make()), m.RESPONSES[opcode])
        journal, operations = bench.journal(), bench.status().operations
        found = (journal.session, journal.sequence, journal.number, journal.operations)
        expected = (bench.wire.session, sequence, operations, operations)
        expect_equal(f"session, sequence, number, operations after {opcode.name}", found, expected)


@JOURNAL.case("Requests that are refused or change nothing leave the journal", wear=Wear(1, 1))
def left_alone(bench: Bench) -> None:
    bench.need(Opcode.JOURNAL, Opcode.PULSE)
    granted(bench.wire.ask(bench.pulsing()), m.PulseResponse)
    before = bench.journal()
    bench.read(1)
    bench.status()
    refusal_of(bench.wire.ask(bench.pulsing(indices=(bench.cells,))))
    refusal_of(bench.wire.ask(bench.programming(cycles=0)))
    after = bench.journal()
    expect(after == before, str(before), after)


@JOURNAL.case("JOURNAL is answered in a foreign session and in none, with its nonce")
def in_any_session(bench: Bench) -> None:
    bench.need(Opcode.JOURNAL)
    own = bench.journal()
    for nonce, session in enumerate((bench.wire.session ^ 0x40, 0)):
        asked = m.JournalRequest(nonce)
        answer = bench.wire.exchange(Opcode.JOURNAL, asked.parts(), session=session, sequence=0)
        found, wanted = granted(answer, m.JournalResponse), replace(own, nonce=nonce)
        expect(found == wanted, str(wanted), found)
    bench.status()


@JOURNAL.case("No change is in doubt on a board at rest")
def nothing_in_doubt(bench: Bench) -> None:
    bench.need(Opcode.JOURNAL)
    journal = bench.journal()
    expect(journal.number <= journal.operations, f"number up to {journal.operations}",
           journal.number)  # fmt: skip


@JOURNAL.case("REBOOT answers, then the board starts anew: boot id, no session, supplies off")
def reboot(bench: Bench) -> None:
    bench.need(Opcode.REBOOT)
    before = bench.status()
    old = _rebooted(bench)
    status, _ = refusal_of(bench.wire.exchange(Opcode.STATUS, session=old, sequence=1))
    expect_equal("old session:", status.name, "NO_SESSION")
    hello = bench.wire.open_session()
    expect(hello.boot_id != before.boot_id, f"a boot id other than {before.boot_id}",
           hello.boot_id)  # fmt: skip
    expect_equal("board_id", hello.board_id, bench.hello.board_id)
    after = bench.status()
    expect_equal("powered", after.powered, 0)
    expect_equal("operations", after.operations, before.operations)
    # Corrupt frames apart: a line may pick up some while its board starts.
    counters = (after.duplicates, after.lapses)
    expect_equal("duplicates and lapses since power-up", counters, (0, 0))
    status, _ = bench.wire.refused(bench.reading())
    expect_equal("READ after a restart:", status.name, "SAFETY")
    bench.configure()
    bench.read(1)


@JOURNAL.case("Cells, wear, operation counter and journal outlive REBOOT", wear=Wear(1, 1))
def outlives_reboot(bench: Bench) -> None:
    bench.need(Opcode.REBOOT, Opcode.PULSE)
    granted(bench.wire.ask(bench.pulsing()), m.PulseResponse)
    journal = bench.journal() if bench.knows(Opcode.JOURNAL) else None
    state, readings = bench.state(), bench.read()
    _rebooted(bench)
    bench.fresh()
    bench.expect_state(state)
    if journal is not None:
        after = bench.journal()
        found = (after.session, after.sequence, after.number, after.progress, after.in_doubt)
        expected = (journal.session, journal.sequence, journal.number, journal.progress,
                    journal.in_doubt)  # fmt: skip
        expect_equal("journal", found, expected)
    apart = float(np.abs(bench.read() - readings).max())
    limit = SIGMAS * bench.reading_sigma * (2 / 64) ** 0.5 + bool(bench.reading_sigma)
    expect(apart <= limit, f"readings as before within {limit:.0f}", apart)


def _rebooted(bench: Bench) -> int:
    """Restarts the board and waits for it; gives the session that it had."""
    session = bench.wire.session
    granted(bench.wire.ask(m.RebootRequest()), m.RebootResponse)
    limit = max(_RESTART_SECONDS, 2 * bench.wire.timeout)
    try:
        bench.wire.await_start(limit)
    except LinkError:
        # A port that belongs to the board goes away with it.
        bench.wire.reopen()
        bench.wire.await_start(limit)
    return session
