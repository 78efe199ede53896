"""cimctl map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cimctl.cli.options import Picture, json_option, show

if TYPE_CHECKING:
    from cimctl.mapping.asked import Answer, Question
    from cimctl.mapping.plan import Part, Placed

F = TypeVar("F", bound=Callable[..., Any])
RULES = ("auto", "paper", "packed")


def plan_options(command: F) -> F:
    """--copies, --input-shape and --avoid."""
    for option in (
        click.option(
            "--avoid",
            default="",
            help="File with cells to leave free: TILE,ROW,COLUMN in each line (CSV, or .npy), "
            "row -1 for a whole column.",
        ),
        click.option(
            "--input-shape", help="Of one image: CHANNELS,HEIGHT,WIDTH.  [the model's own]"
        ),
        click.option(
            "--copies",
            default="",
            help="LAYER=N,LAYER=N: copies of slow layers; paper: those of Table 2; none.  [paper "
            "with mapping paper]",
        ),
    ):
        command = option(command)
    return command


def asked(model: str, values: dict[str, Any]) -> Answer:
    """The answer to a command's options."""
    from cimctl.mapping.asked import answered

    return answered(question(model, values))


def question(model: str, values: dict[str, Any]) -> Question:
    """What a command's options ask."""
    from cimctl.mapping.asked import Question, parse_shape

    shape = values["input_shape"]
    return Question(
        model=model,
        board=values["board"],
        rule=values["mapping"],
        copies=values["copies"],
        input_shape=parse_shape(shape) if shape else None,
        avoid=values["avoid"],
    )


@click.command(name="map")
@click.argument("model")
@click.option("--board", required=True, help="Profile name, or path to a .yaml file.")
@click.option(
    "--mapping",
    type=click.Choice(RULES),
    default="auto",
    help="paper: whole input channels, each block an array of its own, as many as it needs; "
    "packed: side by side on the board's tiles; auto: what training takes.",
)
@plan_options
@click.option("--plot", type=Picture(), help="Draw the tiles to this PNG.")
@json_option
def map_(model: str, plot: Path | None, json: bool, **values: Any) -> None:
    """Show which rows and columns of which tile hold which part of MODEL.

    No board is opened: its profile says all that is needed.

    \b
    Examples:
      cimctl map lenet --board emu
      cimctl map vgg8 --board brram-256x64 --mapping paper --plot vgg8.png
    """
    from cimctl.files import check_writable

    if plot is not None:
        from cimctl.mapping import plot as plotting

        plotting.check_matplotlib()
        check_writable(plot)
    found = asked(model, values)
    profile, plan = found.profile, found.plan
    used = len(plan.tiles())
    head = (
        f"{model} on {profile.name}, mapping {plan.rule}: {used} tiles of {plan.rows} x "
        f"{plan.columns}"
    )
    if plot is not None:
        plotting.write(plot, plan, head)
    out = {
        "model": model,
        "board": profile.name,
        "mapping": plan.rule,
        "rows": plan.rows,
        "columns": plan.columns,
        "tiles": profile.chip.tiles,
        "tiles_used": used,
        "fits": max(plan.tiles()) < profile.chip.tiles,
        "layers": [_layer(layer) for layer in plan.layers],
    }
    lines = [head, *notes(found), "", *_table(found)]
    show(json, "cimctl.map/1", out, "\n".join(lines))


def notes(found: Answer) -> list[str]:
    """What a reader of a plan must know."""
    said = []
    tiles, used = found.profile.chip.tiles, max(found.plan.tiles()) + 1
    if used > tiles:
        said.append(f"Note: the board has {tiles} tiles; a profile with {used} would hold this.")
    both = [layer.demand.name for layer in found.plan.layers if layer.overlapping]
    if both:
        said.append(
            f"Note: two copies of layer {', '.join(both)} share the columns of an array, as the "
            "paper counts them; one operation cannot tell their sums apart."
        )
    return said


def _layer(layer: Placed) -> dict[str, Any]:
    demand = layer.demand
    return {
        "name": demand.name,
        "inputs": demand.inputs,
        "outputs": demand.outputs,
        "inputs_per_channel": demand.channel,
        "row_blocks": layer.row_blocks,
        "copies": layer.copies,
        "parts": [_part(part) for part in layer.parts],
    }


def _part(part: Part) -> dict[str, int]:
    r = part.region
    return {
        "copy": part.copy,
        "tile": r.tile,
        "row": r.row,
        "rows": r.rows,
        "column": r.column,
        "columns": r.columns,
        "first_input": part.first_input,
        "first_output": part.first_output,
    }


def _table(found: Answer) -> list[str]:
    head = ("layer", "copy", "tile", "rows", "columns", "inputs", "channels", "outputs")
    rows = [head]
    for layer in found.plan.layers:
        channel = layer.demand.channel
        for part in layer.parts:
            r = part.region
            # Where no whole channel fits an array, a block begins and ends within one.
            whole = channel > 1 and part.first_input % channel == 0 and r.rows % channel == 0
            channels = _span(part.first_input // channel, r.rows // channel) if whole else ""
            rows.append(
                (
                    layer.demand.name,
                    f"{part.copy + 1}/{layer.copies}",
                    str(r.tile),
                    _span(r.row, r.rows),
                    _span(r.column, r.columns),
                    _span(part.first_input, r.rows),
                    channels,
                    _span(part.first_output, part.outputs),
                )
            )
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines with straight columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _span(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first)
