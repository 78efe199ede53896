"""cimctl characterize: device models from measured pulse responses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import (
    Folder,
    board_options,
    json_option,
    seed_option,
    show,
)

if TYPE_CHECKING:
    from cimctl.lab.fit import Estimate, Fitted

_FILE = click.Path(dir_okay=False, path_type=Path)
_NEEDED = ("scipy", "matplotlib")


@click.group()
def characterize() -> None:
    """Fit device models to measured pulse responses, and measure these.

    \b
    Example:
      cimctl characterize measure --board ecram --tile 0 --output pulses.csv
      cimctl characterize fit --data pulses.csv --model linear-step
    """


@characterize.command()
@click.option("--data", type=_FILE, required=True, help="CSV file of pulse responses.")
@click.option(
    "--model",
    required=True,
    help="constant-step, linear-step, soft-bounds, exponential-step or power-step.",
)
@click.option(
    "--out",
    type=Folder(file_okay=False, path_type=Path),
    default=Path("characterized"),
    help="Folder for profile and plot.",
)
@click.option("--extends", default="rpu-baseline", help="Profile that the fitted one is laid over.")
@click.option(
    "--cycle-noise",
    type=click.Choice(("multiplicative", "additive")),
    default="multiplicative",
    help="Whether the noise of a pulse scales with its step.",
)
@click.option(
    "--zero", type=float, help="Conductance of weight 0, uS.  [middle of the devices' range]"
)
@click.option("--unit", type=float, help="Conductance of a unit of weight, uS.  [half of it]")
@json_option
def fit(
    data: Path,
    model: str,
    out: Path,
    extends: str,
    cycle_noise: str,
    zero: float | None,
    unit: float | None,
    json: bool,
) -> None:
    """Estimate the parameters of a device model, with their uncertainty.

    The file has the columns device, pulse, direction (up, down, or start before the first pulse)
    and conductance_uS, read after the pulse; amplitude_mV and width_ns may follow. Writes a
    profile, MODEL.yaml, and a plot of data against model, MODEL.png.

    \b
    Example:
      cimctl characterize fit --data pulses.csv --model soft-bounds --out fitted
      cimctl train lenet --board fitted/soft-bounds.yaml --init program
    """
    from boards import catalogue
    from boards.errors import UsageError
    from cimctl.files import make_folder
    from cimctl.lab import fit as fitting
    from cimctl.lab import fragment, plot
    from cimctl.lab.models import model_of
    from cimctl.lab.pulses import read_pulses

    chosen = model_of(model)
    _check_extra()
    catalogue.load(extends)
    pulses = read_pulses(data)
    make_folder(out)
    fitted = fitting.fit(
        pulses, chosen, additive=cycle_noise == "additive", zero_uS=zero, unit_uS=unit,
        said=lambda value: click.echo(f"\rlog-likelihood {value:.1f}   ", nl=False, err=True),
    )  # fmt: skip
    click.echo(err=True)
    for note in fitted.notes:
        click.echo(f"Note: {note}.", err=True)
    files = {"profile": out / f"{model}.yaml", "plot": out / f"{model}.png"}
    plot.write(files["plot"], fitted, pulses)
    try:
        fragment.write(files["profile"], fitted, pulses, extends)
    except UsageError:
        click.echo(_table(fitted, [files["plot"]]), err=True)
        raise
    values = _values(fitted) | {"files": {name: str(path) for name, path in files.items()}}
    show(json, "cimctl.characterize/1", values, _table(fitted, list(files.values())))


def _check_extra() -> None:
    """Finds out before work whether the packages of the extra are there.

    Raises:
        UsageError: one is not.
    """
    from boards.errors import UsageError

    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"Fitting needs the package '{package}', which is not installed",
                left="Nothing was written",
                next="Install it: pip install 'cimctl[lab]'",
            )


def _values(fitted: Fitted) -> dict[str, Any]:
    parameters = {
        name: {"estimate": e.estimate, "low": e.low, "high": e.high, "unit": e.unit}
        for name, e in fitted.parameters.items()
    }
    return {
        "model": fitted.model.name,
        "parameters": parameters,
        "zero_uS": fitted.zero_uS,
        "unit_uS": fitted.unit_uS,
        "devices": fitted.devices,
        "pulses": fitted.pulses,
        "log_likelihood": fitted.log_likelihood,
        "aic": fitted.aic,
        "notes": list(fitted.notes),
    }


def _table(fitted: Fitted, files: list[Path]) -> str:
    lines = [f"{'parameter':30} {'estimate':>10}   95 % interval"]
    for name, said in fitted.parameters.items():
        lines.append(f"{name:30} {said.estimate:10.4g}   {_interval(said)}")
    lines += [
        f"weight 0 at {fitted.zero_uS:.5g} uS, a unit is {fitted.unit_uS:.5g} uS",
        f"{fitted.devices} devices, {fitted.pulses} pulses, log-likelihood "
        f"{fitted.log_likelihood:.1f}, AIC {fitted.aic:.1f}",
        *(f"written to {path}" for path in files),
    ]
    return "\n".join(lines)


def _interval(said: Estimate) -> str:
    low, high = ("open" if end is None else f"{end:.4g}" for end in (said.low, said.high))
    return f"{low} to {high}"


@characterize.command()
@board_options()
@seed_option
@click.option("--tile", type=click.IntRange(0), required=True, help="Tile number.")
@click.option("--row", type=click.IntRange(0), default=0, help="First row.")
@click.option("--column", type=click.IntRange(0), default=0, help="First column.")
@click.option("--rows", type=click.IntRange(1), default=4, help="Rows.")
@click.option("--columns", type=click.IntRange(1), default=4, help="Columns.")
@click.option("--up", type=click.IntRange(1, 100_000), default=100, help="Pulses of a train up.")
@click.option("--down", type=click.IntRange(1, 100_000), default=100, help="And of one down.")
@click.option("--cycles", type=click.IntRange(1, 1000), default=2, help="Trains up and down.")
@click.option(
    "--amplitude-mv", type=click.IntRange(1, 65535), help="Of a pulse.  [the device's own, or 2000]"
)
@click.option(
    "--width-ns", type=click.IntRange(1, 2**32 - 1), help="Of a pulse.  [the device's own, or 100]"
)
@click.option("--samples", type=click.IntRange(1, 255), default=1, help="Readings averaged.")
@click.option("--output", type=_FILE, required=True, help="CSV file.")
@json_option
def measure(
    tile: int,
    row: int,
    column: int,
    rows: int,
    columns: int,
    up: int,
    down: int,
    cycles: int,
    amplitude_mv: int | None,
    width_ns: int | None,
    samples: int,
    output: Path,
    json: bool,
    **values: Any,
) -> None:
    """Measure pulse responses: trains of pulses up and down, a reading after each pulse.

    \b
    Example:
      cimctl characterize measure --board ecram --tile 0 --up 800 --down 800 --output pulses.csv
    """
    from boards.device_settings import StepSettings
    from cimctl.cli.cells import opened_tile, region_of
    from cimctl.files import check_writable
    from cimctl.lab.measure import measure as measured

    check_writable(output)
    with opened_tile(values, tile) as (board, opened):
        device = board.profile.device
        own = (2000, 100)
        if isinstance(device, StepSettings):
            own = (round(device.pulse.amplitude_mV), max(1, round(device.pulse.width_ns)))
        lines = measured(
            opened, region_of(opened, row, column, rows, columns), output,
            train=(up, down), cycles=cycles, samples=samples,
            amplitude_mV=amplitude_mv or own[0], width_ns=width_ns or own[1],
            said=lambda at, of: click.echo(f"\rpulse {at} of {of}   ", nl=False, err=True),
        )  # fmt: skip
    click.echo(err=True)
    said = {"tile": tile, "devices": rows * columns, "readings": lines, "output": str(output)}
    show(json, "cimctl.characterize.measure/1", said, f"{lines} readings written to {output}")
