"""cimctl estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.estimate_planes import planes_training
from cimctl.cli.map import RULES, aligned, asked, notes, plan_options
from cimctl.cli.options import json_option, number, show
from cimctl.estimate import ALGORITHMS, NOT_ASKED, Update, UpdateTimes

if TYPE_CHECKING:
    from cimctl.mapping.asked import Answer
    from cimctl.mapping.cost import Endurance, Inference, TrainingStep
    from cimctl.mapping.runs import Run


#: options of each kind of estimate, besides those that choose it
_UPDATE = {
    name: {"size", "read_every", "pulse_length"} - NOT_ASKED.get(name, set()) for name in ALGORITHMS
}
_PLANES = {"board", "input_shape", "batch", "algorithm", "run"}
_STEP = _PLANES | {"mapping", "copies", "avoid", "steps", "writes_per_weight"}


# One command and no group: MODEL, an argument, would be taken for the name of a sub-command.
@click.command()
@click.argument("model", required=False)
@click.option("--board", help="Profile name, or path to a .yaml file.")
@click.option(
    "--mapping",
    type=click.Choice(RULES),
    default="paper",
    help="paper: as many arrays as it needs; packed: side by side on the board's tiles; auto: what "
    "training takes.",
)
@plan_options
@click.option(
    "--algorithm",
    type=click.Choice(("mixed-precision", "sgd", "radix4")),
    default="mixed-precision",
    help="Algorithm of the training step.",
)
@click.option("--batch", type=click.IntRange(1), help="Images of a training step.  [64]")
@click.option("--steps", type=click.IntRange(1), help="Steps of the whole training.  [5200]")
@click.option(
    "--writes-per-weight",
    type=click.FloatRange(0, 1e12),
    callback=number,
    help="Writes of a weight in the whole training; for sgd: pulses.  [10.8, the paper's LeNet]",
)
@click.option(
    "--run",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take model, board and what its weights took from a finished run in this folder.",
)
@click.option(
    "--update",
    type=click.Choice(list(ALGORITHMS)),
    help="Instead of MODEL: algorithm whose update of one array is timed.",
)
@click.option("--size", type=click.IntRange(1, 10**6), default=512, help="N of an N x N array.")
@click.option(
    "--read-every",
    type=click.IntRange(1, 10**9),
    default=5,
    help="Vectors between two readings of the fast array, where there is one.",
)
@click.option(
    "--pulse-length",
    type=click.IntRange(1, 10**6),
    default=5,
    help="Slots of a pulse train; mixed-precision has none.",
)
@json_option
def estimate(model: str | None, update: str | None, json: bool, **values: Any) -> None:
    """Estimate what MODEL costs on a board: arrays, operations, time, energy, wear.

    The counting of arXiv 2305.14547 (docs/mapping.md), with the costs of the board's profile. With
    --update it is how long an algorithm takes to update an array for each input vector, by the
    time model of arXiv 2303.04721. No board is opened.

    \b
    Examples:
      cimctl estimate lenet --board brram-soc
      cimctl estimate resnet18 --board brram-256x64 --json
      cimctl estimate lenet --board cap-imc-16nm --algorithm radix4
      cimctl estimate --run runs/20260101-120000-lenet-emu
      cimctl estimate --update agad --size 512 --read-every 2 --pulse-length 5
    """
    if update is not None:
        if model is not None or values["run"] is not None:
            raise click.UsageError("--update times an array: leave out MODEL and --run.")
        _check_options(_UPDATE[update], f"--update {update}")
        _update(update, json, values)
        return
    _network(model, json, values)


def _check_options(known: set[str], what: str) -> None:
    """Refuses what was typed and would not be looked at."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        typed = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if typed and name not in known | {"model", "update", "json"}:
            raise click.UsageError(f"{what} does not look at {option.opts[0]}: leave it out.")


def _update(update: str, json: bool, values: dict[str, Any]) -> None:
    size = values["size"]
    question = Update(size, values["read_every"], values["pulse_length"])
    found = ALGORITHMS[update](question, UpdateTimes())
    out: dict[str, Any] = {"algorithm": update}
    out |= {name: values[name] for name in ("size", "read_every", "pulse_length")}
    out = {k: v for k, v in out.items() if k not in NOT_ASKED.get(update, set())}
    out["update_ns"] = found
    text = f"{found:.1f} ns for each vector: {update} on an array of {size} x {size}"
    show(json, "cimctl.estimate.update/1", out, text)


def _network(model: str | None, json: bool, values: dict[str, Any]) -> None:
    from cimctl.mapping import cost, runs

    run = None if values["run"] is None else runs.read(values["run"])
    if run is not None:
        model = model or run.model
        values = {**values, "board": values["board"] or run.board, "algorithm": run.algorithm}
    if model is None:
        raise click.UsageError("Give MODEL, or --run, or --update.")
    if values["board"] is None:
        raise click.UsageError("Missing option '--board'.")
    algorithm = values["algorithm"]
    _check_options(
        *((_PLANES, "--algorithm radix4") if algorithm == "radix4" else (_STEP, f"'{model}'"))
    )
    if algorithm == "radix4":
        planes_training(model, json, values)
        return
    in_memory = runs.ALGORITHMS[algorithm]
    updates = _updates(run, values, in_memory)
    found = asked(model, values)
    _check_pairs(found)
    weights = sum(layer.weights for layer in found.layers)
    one = cost.inference(found.profile, found.layers, found.plan)
    step = cost.training_step(found.profile, found.layers, found.plan, updates, in_memory=in_memory)
    wear = cost.endurance(found.profile, weights, updates, in_memory=in_memory)
    out = {
        "model": model,
        "board": found.profile.name,
        "mapping": found.plan.rule,
        "input_shape": list(found.input_shape),
        "inference": _inference(one),
        "layers": _layers(found, one),
        "training_step": {
            "algorithm": algorithm,
            "batch": updates.batch,
            "steps": updates.steps,
            **_training(step),
        },
        "endurance": _endurance(wear, run),
    }
    show(json, "cimctl.estimate/1", out, _text(model, found, out))


def _check_pairs(found: Answer) -> None:
    from boards.errors import UsageError

    if "DIFFERENTIAL" not in found.profile.chip.capabilities:
        raise UsageError(
            f"The board '{found.profile.name}' takes no pairs of columns as weights: it lacks "
            "DIFFERENTIAL",
            left="Nothing was estimated",
            next="Ask for --algorithm radix4, which it is made for, or take another --board",
        )


def _updates(run: Run | None, values: dict[str, Any], in_memory: bool) -> Any:
    """A run's, or the paper's, with what the options say instead."""
    from cimctl.mapping import runs

    updates = runs.PAPER if run is None else run.updates
    steps = values["steps"] or updates.steps
    moved = values["writes_per_weight"]
    if moved is None and run is None and in_memory:
        moved = runs.PULSES_A_STEP * steps
    return replace(
        updates,
        batch=values["batch"] or updates.batch,
        steps=steps,
        per_weight=updates.per_weight if moved is None else moved,
    )


# ---------------------------------------------------------------------- JSON


def _inference(one: Inference) -> dict[str, Any]:
    def ms(ns: int | None) -> float | None:
        return None if ns is None else ns / 1e6

    return {
        "devices": one.devices,
        "flops": one.flops,
        "crossbars": one.crossbars,
        "crossbars_with_copies": one.crossbars_with_copies,
        "operations": one.counts.steps,
        "tile_operations": one.counts.tile_operations,
        "conversions": one.counts.conversions,
        "latency_ms": ms(one.latency_ns),
        "pipelined_ms": ms(one.pipelined_ns),
        "pipelined_with_copies_ms": ms(one.pipelined_with_copies_ns),
        "energy_mJ": one.energy_pJ / 1e9,
    }


def _layers(found: Answer, one: Inference) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "inputs": layer.demand.inputs,
            "outputs": layer.demand.outputs,
            "crossbars": len(placed.tiles(1)),
            "copies": placed.copies,
            "vectors": part.vectors,
            "operations": part.counts.steps,
            "operations_with_copies": part.copied,
            "tile_operations": part.counts.tile_operations,
            "conversions": part.counts.conversions,
        }
        for part, layer, placed in zip(one.layers, found.layers, found.plan.layers, strict=True)
    ]


def _training(step: TrainingStep) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "forward": asdict(step.forward),
        "backward": asdict(step.backward),
        "update": asdict(step.update),
        "time_ms": step.time_ns / 1e6,
        "energy_mJ": step.energy_pJ / 1e9,
    }


def _endurance(wear: Endurance, run: Run | None) -> dict[str, Any]:
    measured = None if run is None else run.worst_cell_pulses
    pulses = wear.pulses_worst_cell if measured is None else measured
    return {
        "per_weight": wear.per_weight,
        "worst_weight": wear.worst,
        "worst_cell_pulses": pulses,
        "measured": measured is not None,
        "lifetime_pulses": wear.budget,
        "trainings": wear.budget / pulses if wear.budget and pulses else None,
    }


# ---------------------------------------------------------------------- text

#: keys of an inference, what they are called, and the unit
_ROWS = (
    ("devices", "devices", ""),
    ("flops", "floating-point operations", ""),
    ("crossbars", "crossbars", ""),
    ("crossbars_with_copies", "crossbars with copies", ""),
    ("operations", "operations in sequence", ""),
    ("tile_operations", "tile operations", ""),
    ("conversions", "conversions", ""),
    ("latency_ms", "latency", "ms"),
    ("pipelined_ms", "latency, pipelined", "ms"),
    ("pipelined_with_copies_ms", "latency, pipelined, with copies", "ms"),
    ("energy_mJ", "energy", "mJ"),
)


def _text(model: str, found: Answer, out: dict[str, Any]) -> str:
    shape = " x ".join(map(str, found.input_shape))
    lines = [
        f"{model} on {found.profile.name}, mapping {found.plan.rule}, one image of {shape}",
        *notes(found),
        "",
        *aligned([(text, _shown(out["inference"][key], unit)) for key, text, unit in _ROWS]),
        "",
        *_layer_table(out["layers"]),
        "",
        *_step_text(out["training_step"]),
        _wear_text(out["training_step"], out["endurance"]),
    ]
    return "\n".join(lines)


def _layer_table(layers: list[dict[str, Any]]) -> list[str]:
    keys = (
        "name", "inputs", "outputs", "crossbars", "copies", "vectors", "operations",
        "tile_operations",
    )  # fmt: skip
    head = tuple("layer" if key == "name" else key.replace("_", " ") for key in keys)
    return aligned([head, *(tuple(str(layer[key]) for key in keys) for layer in layers)])


def _step_text(step: dict[str, Any]) -> list[str]:
    forward, backward, update = step["forward"], step["backward"], step["update"]
    back = f"{backward['steps']:,} operations backward" if backward["steps"] else "backward digital"
    return [
        f"a training step of {step['batch']} images, {step['algorithm']}: "
        f"{_shown(step['time_ms'], 'ms')}, {_shown(step['energy_mJ'], 'mJ')}",
        f"  {forward['steps']:,} operations forward, {back}, {update['pulses']:,} pulses and "
        f"{update['verify_reads']:,} verifying reads",
    ]


def _wear_text(step: dict[str, Any], wear: dict[str, Any]) -> str:
    what = "pulses" if step["algorithm"] == "sgd" else "writes"
    most = f"{wear['worst_cell_pulses']:,.0f} pulses"
    source = "as the chip counted" if wear["measured"] else "expected"
    life = (
        f": {wear['trainings']:,.0f} trainings in a life of {wear['lifetime_pulses']:,}"
        if wear["trainings"]
        else ""
    )
    return (
        f"a training of {step['steps']:,} steps: {wear['per_weight']:,.1f} {what} a weight, the "
        f"worst cell {most} ({source}){life}"
    )


def _shown(value: float | int | None, unit: str) -> str:
    if value is None:
        return "none: layers share tiles"
    text = f"{value:,}" if isinstance(value, int) else f"{value:#.3g}".rstrip(".")
    return f"{text} {unit}".rstrip()
