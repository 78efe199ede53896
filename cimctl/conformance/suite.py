"""The suite: every group of cases in the order in which they run."""

from __future__ import annotations

from cimctl.conformance.cases import Case
from cimctl.conformance.coincidences import OUTER
from cimctl.conformance.commands import COMMANDS
from cimctl.conformance.framing import WIRE
from cimctl.conformance.journal import JOURNAL
from cimctl.conformance.malformed import MALFORMED
from cimctl.conformance.order import ORDER
from cimctl.conformance.products import PRODUCTS
from cimctl.conformance.programming import CELLS
from cimctl.conformance.refusals import REFUSALS
from cimctl.conformance.safety import SAFETY
from cimctl.conformance.sessions import HELLO
from cimctl.conformance.sizes import SIZES
from cimctl.conformance.snapshots import SNAPSHOTS

GROUPS = (
    WIRE, HELLO, ORDER, COMMANDS, REFUSALS, MALFORMED, CELLS, OUTER, PRODUCTS, SAFETY, JOURNAL,
    SIZES, SNAPSHOTS,
)  # fmt: skip


def cases(only: tuple[str, ...] = ()) -> list[Case]:
    """All cases, or those whose name contains one of the texts."""
    every = [case for group in GROUPS for case in group.cases]
    return [c for c in every if not only or any(text in c.name for text in only)]
