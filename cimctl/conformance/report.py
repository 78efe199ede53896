"""What is printed of a run."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import Any

from cimctl.conformance.cases import Case
from cimctl.conformance.runner import Result, Run

SCHEMA = "cimctl.conformance/1"
_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def values(run: Run, board: str) -> dict[str, Any]:
    """The run as one JSON object, its schema apart."""
    return {
        "board": {
            "profile": board,
            "model": run.hello.model,
            "firmware": run.hello.firmware,
            "board_id": f"{run.hello.board_id:016x}",
            "boot_id": f"{run.hello.boot_id:08x}",
            "spec_hash": run.hello.spec_hash.to_bytes(8, "little").hex(),
        },
        "counts": counts(run),
        "worst_pulses": run.worst_pulses,
        "cases": [asdict(result) for result in run.results],
    }


def counts(run: Run) -> dict[str, int]:
    return {name: run.count(name) for name in ("passed", "failed", "skipped")}


def text(run: Run) -> str:
    """One line a case, group by group, and a line of counts."""
    lines = [f"{run.hello.model}, {run.hello.firmware}, board {run.hello.board_id:016x}"]
    for group, results in groupby(run.results, lambda result: result.group):
        lines += ["", group, *(line for result in results for line in _lines(result))]
    return "\n".join([*lines, "", summary(run)])


def _lines(result: Result) -> list[str]:
    name = result.name.partition(".")[2]
    first = f"  {_MARKS[result.outcome]:<8} {name:<32} "
    if result.outcome == "failed":
        return [f"{first} expected {result.expected}", f"{'':44} found {result.found}"]
    return [first + (f"({result.expected})" if result.outcome == "skipped" else result.expected)]


def summary(run: Run) -> str:
    """The line of counts."""
    said = ", ".join(f"{count} {name}" for name, count in counts(run).items())
    seconds = sum(result.seconds for result in run.results)
    return f"{len(run.results)} cases: {said}, in {seconds:.1f} s"


def listing(cases: list[Case]) -> str:
    """One line a case, with what it needs."""
    return "\n".join(f"{c.name:<44} {c.expects}{_flags(c)}" for c in cases)


def _flags(case: Case) -> str:
    flags = [name for name in ("destructive", "slow") if getattr(case, name)]
    return f" [{', '.join(flags)}]" if flags else ""
