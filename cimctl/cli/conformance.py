"""cimctl conformance: the regression suite of a board's firmware."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import (
    ask_for_changes,
    board_options,
    chosen_board,
    json_option,
    seed_option,
    show,
)

if TYPE_CHECKING:
    from boards.profile import Profile
    from cimctl.conformance.cases import Case
    from cimctl.conformance.runner import Result, Run, Settings
    from cimctl.connect import BoardOptions


@click.command()
@board_options(required=False)
@seed_option
@click.option("--list", "listed", is_flag=True, help="List the cases, and ask no board.")
@click.option("--only", multiple=True, help="Run cases whose name contains this; repeatable.")
@click.option(
    "--destructive/--no-destructive",
    default=None,
    help="Run cases that change cells.  [emulated boards: yes; with --port: no]",
    show_default=False,
)
@click.option("--yes", is_flag=True, help="Change cells of a board on a port without asking.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the JSON report to this file, too.",
)
@json_option
def conformance(
    listed: bool,
    only: tuple[str, ...],
    destructive: bool | None,
    yes: bool,
    report: Path | None,
    json: bool,
    seed: int,
    **values: Any,
) -> None:
    """Run the regression suite on a board: does its firmware do what the specification says?

    Cases that change cells pulse or program a region of at most 4 x 8 cells in the corner of tile
    0, and put it back at the end. On a board at a port they run when --destructive is given.
    Ends with exit code 5 where a case failed.

    \b
    Example:
      cimctl conformance --board brram-soc --port /dev/ttyUSB0 --destructive
    """
    from boards import catalogue
    from boards.errors import UsageError
    from cimctl.conformance import report as reports
    from cimctl.conformance.suite import cases
    from cimctl.files import check_writable

    chosen = cases(only)
    if not chosen:
        raise UsageError(
            f"No case has {' or '.join(only)} in its name", next="See them with --list"
        )
    if listed:
        show(json, "cimctl.conformance.list/1", _listed(chosen), reports.listing(chosen))
        return
    if values["board"] is None:
        raise click.UsageError("Missing option '--board'.")
    options = chosen_board(values, seed)
    profile = catalogue.load(options.board)
    if destructive is None:
        destructive = options.port is None
    if destructive:
        _agree(profile, options, chosen, yes)
    if report is not None:
        check_writable(report)
    done = _run(profile, options, chosen, destructive)
    _deliver(done, profile.name, json, report)


def _listed(chosen: list[Case]) -> dict[str, Any]:
    return {
        "cases": [
            {
                "name": c.name,
                "group": c.group,
                "expects": c.expects,
                "destructive": c.destructive,
                "slow": c.slow,
            }
            for c in chosen
        ]
    }


def _agree(profile: Profile, options: BoardOptions, chosen: list[Case], yes: bool) -> None:
    """Says what cells may get at worst, and asks, where the board is not emulated here."""
    from cimctl.conformance.cases import COLUMNS, ROWS
    from cimctl.conformance.runner import check_budget, worst_pulses

    changing = [case for case in chosen if case.destructive]
    worst = worst_pulses(profile, chosen)
    check_budget(worst, profile.limits.lifetime_pulses)
    if options.port is None or not changing:
        return
    cells = min(ROWS, profile.chip.rows) * min(COLUMNS, profile.chip.columns)
    said = (
        f"{len(changing)} cases change {cells} cells of tile 0, rows 0 to {ROWS - 1}, columns 0 to "
        f"{COLUMNS - 1}: at most {worst} pulses each"
    )
    ask_for_changes(said, yes)


def _run(profile: Profile, options: BoardOptions, chosen: list[Case], destructive: bool) -> Run:
    from boards import locks
    from cimctl.conformance import runner
    from cimctl.connect import open_link

    lock = locks.acquire(options.port) if options.port else None
    try:
        settings = _settings(options, destructive)
        with _progress(len(chosen)) as progress:
            return runner.run(profile, lambda: open_link(options), chosen, settings, progress)
    finally:
        if lock is not None:
            lock.release()


def _settings(options: BoardOptions, destructive: bool) -> Settings:
    from boards.capture import CaptureWriter
    from cimctl.conformance.runner import Settings
    from firmware_protocol.constants import SPEC_DIGEST

    header = {"board": options.board, "seed": options.seed, "spec": SPEC_DIGEST}
    recorder = CaptureWriter(options.capture, header) if options.capture else None
    return Settings(destructive, options.window, options.max_payload, recorder)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Result], None]]:
    """A bar on standard error that names the case before, and failures as they come."""
    from tqdm import tqdm

    with tqdm(
        total=total, desc="conformance", unit="case", file=sys.stderr, dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip

        def on_result(result: Result) -> None:
            if result.outcome == "failed":
                with bar.external_write_mode(file=sys.stderr):
                    click.echo(f"failed: {result.name}", err=True)
            bar.set_postfix_str(result.name, refresh=False)
            if result.group != "end":
                bar.update()

        yield on_result


def _deliver(done: Run, board: str, json: bool, report: Path | None) -> None:
    from json import dumps

    from boards.errors import DeviceError
    from cimctl.conformance import report as reports
    from cimctl.files import write_atomically

    values = reports.values(done, board)
    show(json, reports.SCHEMA, values, reports.text(done))
    if report is not None:
        data = dumps({"schema": reports.SCHEMA, **values}, indent=2) + "\n"
        write_atomically(report, data.encode(), advice="Name another file with --report")
    failed = [result for result in done.results if result.outcome == "failed"]
    if failed:
        names = ", ".join(result.name for result in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise DeviceError(
            f"The board '{done.hello.model}' failed {len(failed)} of {len(done.results)} cases: "
            f"{names}{more}",
            next="The report says what was expected and what was found",
        )
