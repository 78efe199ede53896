"""The plan of a network on a board, or what to say where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from boards import catalogue
from boards.errors import ProfileError, UsageError
from boards.profile import CapabilityName
from cimctl.mapping.blocks import columns_needed
from cimctl.mapping.demand import Arrays, Avoid, Demand, Geometry
from cimctl.mapping.plan import Plan, RuleName
from cimctl.mapping.rules import ONCE, Copies, place

#: auto: paper where it fits, and else packed
MappingChoice = Literal["auto", "paper", "packed"]
#: tiles that a profile may have
MOST_TILES = 65535


def mapped(
    demands: Sequence[Demand],
    arrays: Arrays,
    rule: MappingChoice = "auto",
    *,
    avoid: Avoid | None = None,
    copies: Copies = ONCE,
) -> Plan:
    """Maps layers to arrays.

    Args:
        demands: the layers.
        arrays: how many tiles there are, and of which size.
        rule: by which rule.
        avoid: cells to leave free.
        copies: of slow layers.

    Raises:
        UsageError: the layers do not fit; says by how much, and what would hold them. A cell to
            avoid is not there.
    """
    if avoid:
        avoid.check(arrays)
    rules: tuple[RuleName, ...] = ("paper", "packed") if rule == "auto" else (rule,)
    left_over = None
    for name in rules:
        placed, left_over = place(name, demands, arrays, avoid or Avoid(), copies)
        if left_over is None:
            return Plan(name, arrays.rows, arrays.columns, tuple(placed))
    assert left_over is not None
    raise _too_large(demands, left_over, arrays, rules[-1])


def fits(demands: Sequence[Demand], arrays: Arrays, rule: RuleName) -> bool:
    """Whether layers fit, each once and no cell avoided."""
    return place(rule, demands, arrays, Avoid())[1] is None


def without_limit(arrays: Arrays) -> Geometry:
    """As many tiles of that size as are needed."""
    return Geometry(MOST_TILES, arrays.rows, arrays.columns)


def _too_large(
    demands: Sequence[Demand], demand: Demand, arrays: Arrays, rule: RuleName
) -> UsageError:
    if rule == "paper":
        needed, there = _arrays_needed(demands, arrays), arrays.tiles
        what = f"all layers take {needed} arrays, the board has {there}"
    else:
        needed = sum(columns_needed(demand, arrays) for demand in demands)
        there = arrays.columns * arrays.tiles
        what = f"all layers take {needed} columns, the board has {there} on {arrays.tiles} tiles"
    short = f", {needed - there} too few" if needed > there else ", too few of them side by side"
    return UsageError(
        f"The network does not fit the board: layer '{demand.name}' finds no room; {what}{short}",
        left="Nothing was programmed",
        next=_advice(demands, arrays, rule),
    )


def _advice(demands: Sequence[Demand], arrays: Arrays, rule: RuleName) -> str:
    if rule == "paper" and fits(demands, arrays, "packed"):
        return "Side by side in the columns it fits: mapping packed"
    cells = arrays.tiles * arrays.rows * arrays.columns
    larger = [
        name
        for name, chip in _catalogue("GROUPS" if demands[0].group else "DIFFERENTIAL")
        if chip.tiles * chip.rows * chip.columns > cells and fits(demands, chip, "packed")
    ]
    if larger:
        return f"It fits --board {' or '.join(larger)}; or take a smaller network"
    return (
        "No board of the catalogue holds it: take a smaller network, or a profile that extends "
        f"this one with chip: {{tiles: {_arrays_needed(demands, arrays)}}}"
    )


def _catalogue(needed: CapabilityName) -> list[tuple[str, Arrays]]:
    """Boards that add up columns as the layers want it."""
    found: list[tuple[str, Arrays]] = []
    for name in sorted(catalogue.profile_files()):
        try:
            chip = catalogue.load(name).chip
        except ProfileError:
            # A broken profile of another package is no advice.
            continue
        if needed in chip.capabilities:
            found.append((name, chip))
    return found


def _arrays_needed(demands: Sequence[Demand], arrays: Arrays) -> int:
    placed, _ = place("paper", demands, without_limit(arrays), Avoid())
    return sum(len(layer.tiles()) for layer in placed)
