"""cimctl eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import (
    Folder,
    board_options,
    chosen_board,
    decoding_bar,
    json_option,
    seed_option,
    show,
    threads_option,
)

if TYPE_CHECKING:
    from cimctl.training.transfer import Transferred


@click.command("eval")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@board_options()
@seed_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the data set's files.  [the user's cache]",
)
@click.option(
    "--chips",
    type=click.IntRange(1, 10_000),
    help="Test on so many other emulated chips, seeds from --seed + 1 on.",
)
@click.option(
    "--program-sigma",
    type=click.FloatRange(0, 10),
    help="Programming error of these chips, in spacings of 16 levels.  [profile's]",
)
@click.option(
    "--out",
    type=Folder(file_okay=False, path_type=Path),
    help="Folder for transfer.json and, where matplotlib is, transfer.png.",
)
@threads_option
@json_option
def eval_(
    runs: tuple[Path, ...],
    json: bool,
    seed: int,
    threads: int,
    data_dir: Path | None,
    chips: int | None,
    program_sigma: float | None,
    out: Path | None,
    **values: Any,
) -> None:
    """Test the trained run in folder RUN on a board, the one it was trained on or another.

    An emulated chip with the run's seed gets its cells back; the chip that the run left is taken
    as it is; any other chip is programmed with the digital weights.

    With --chips each RUN, also one by fp32 or qat, is programmed on other chips of a kind, and a
    table and a box plot say what it loses from chip to chip.

    \b
    Examples:
      cimctl eval runs/20260101-120000-lenet-emu --board emu --seed 3
      cimctl eval runs/chip runs/fp32 runs/qat --board emu --chips 10 --program-sigma 0.5
    """
    import torch

    torch.set_num_threads(threads)
    if chips is None:
        if len(runs) > 1 or program_sigma is not None or out is not None:
            raise click.UsageError(
                "Several runs, --program-sigma and --out go with --chips: tests on other chips."
            )
        _own(runs[0], json, seed, data_dir, values)
        return
    if values["port"] or values["capture"]:
        raise click.UsageError("--chips tests emulated chips: leave out --port and --capture.")
    results = _others(runs, range(seed + 1, seed + 1 + chips), program_sigma, data_dir, values)
    said = {
        "board": values["board"],
        "chips": chips,
        "program_sigma": program_sigma,
        "runs": [_numbers(result) for result in results],
    }
    if out is not None:
        _write(out, said, results)
    show(json, "cimctl.eval.chips/1", said, _table(results))


def _own(run: Path, json: bool, seed: int, data_dir: Path | None, values: dict[str, Any]) -> None:
    from contextlib import nullcontext

    from cimctl import datasets
    from cimctl.algorithms import ALGORITHMS
    from cimctl.connect import connect
    from cimctl.training import checkpoint
    from cimctl.training.config import RunConfig
    from cimctl.training.evaluation import evaluate

    state = checkpoint.load(run)
    config = RunConfig.from_plain(state["config"])
    with decoding_bar() as bar:
        data = datasets.load(config.dataset, data_dir, bar)
    analog = ALGORITHMS[config.algorithm].ANALOG
    board = connect(chosen_board(values, seed)) if analog else None
    with board or nullcontext():
        accuracy, chip = evaluate(state, data, board)
    batch = state["progress"]["batch"]
    _tell_unfinished(config, batch)
    said = {
        "run": str(run),
        "model": config.model,
        "board": values["board"] if board else None,
        "dataset": config.dataset,
        "algorithm": config.algorithm,
        "chip": chip,
        "batch": batch,
        "batches": config.batches,
        "test_accuracy": accuracy,
        "test_images": len(data.test_images),
    }
    text = f"test accuracy {100 * accuracy:.2f} % on {len(data.test_images)} images, chip {chip}"
    show(json, "cimctl.eval/1", said, text)


def _others(
    runs: tuple[Path, ...],
    seeds: range,
    sigma: float | None,
    data_dir: Path | None,
    values: dict[str, Any],
) -> list[Transferred]:
    from tqdm import tqdm

    from boards import catalogue
    from cimctl import datasets
    from cimctl.training import checkpoint, transfer
    from cimctl.training.config import RunConfig

    profile = catalogue.load(values["board"])
    _check_emulated(profile.name, profile.link.kind)
    if sigma is not None:
        profile = transfer.programmed_with(profile, sigma)
    states = [(run, checkpoint.load(run), _home(run)) for run in runs]
    results = []
    with tqdm(total=len(runs) * len(seeds), unit="chip", disable=None) as bar:

        def tell(accuracy: float) -> None:
            bar.set_postfix_str(f"{100 * accuracy:.2f} %")
            bar.update()

        for run, state, home in states:
            config = RunConfig.from_plain(state["config"])
            _tell_unfinished(config, state["progress"]["batch"])
            data = datasets.load(config.dataset, data_dir)
            bar.set_description(str(run))
            board = chosen_board(values)
            results.append(
                transfer.transfer(str(run), state, home, data, board, profile, seeds, tell)
            )
    return results


def _check_emulated(name: str, kind: str) -> None:
    from boards.errors import UsageError

    if kind != "in-process":
        raise UsageError(
            f"Board '{name}' is no emulated chip in this process: there is only one of it",
            left="Nothing was tested",
            next="Take --board emu or another emulated profile (cimctl board list)",
        )


def _home(run: Path) -> float:
    """Test accuracy at the end of a run, where it was trained."""
    import json

    from boards.errors import UsageError

    path = (run if run.is_dir() else run.parent) / "summary.json"
    if not path.is_file():
        raise UsageError(
            f"The run in '{run}' has no summary: it is not finished",
            left="Nothing was tested",
            next=f"Go on with it: cimctl train --resume {run}",
        )
    return float(json.loads(path.read_text())["test_accuracy"])


def _tell_unfinished(config: Any, batch: int) -> None:
    if batch < config.batches:
        click.echo(
            f"The checkpoint is of batch {batch} of {config.batches}: the run is not finished.",
            err=True,
        )


def _numbers(result: Transferred) -> dict[str, Any]:
    return {
        "run": result.run,
        "algorithm": result.algorithm,
        "home": result.home,
        "chips": list(result.chips),
        "loss": result.loss,
    }


def _table(results: list[Transferred]) -> str:
    import statistics

    heads = ("run", "trained by", "where trained, %", "other chips, %", "spread", "worst", "loss")
    rows = [
        (
            result.run,
            result.algorithm,
            f"{100 * result.home:.2f}",
            f"{100 * statistics.mean(result.chips):.2f}",
            f"{100 * statistics.pstdev(result.chips):.2f}",
            f"{100 * min(result.chips):.2f}",
            f"{100 * result.loss:.2f}",
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    )


def _write(out: Path, said: dict[str, Any], results: list[Transferred]) -> None:
    import importlib.util

    from cimctl import files

    files.make_folder(out)
    files.write_json(out / "transfer.json", said)
    if importlib.util.find_spec("matplotlib"):
        _plot(out / "transfer.png", results)


def _plot(path: Path, results: list[Transferred]) -> None:
    import io

    import matplotlib

    from cimctl.files import write_atomically

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1.5 + 1.5 * len(results), 4), layout="constrained")
    axes.boxplot([[100 * a for a in result.chips] for result in results])
    places = range(1, len(results) + 1)
    axes.scatter(places, [100 * r.home for r in results], marker="_", s=300, label="where trained")
    axes.set_xticks(places, [f"{Path(r.run).name}\n{r.algorithm}" for r in results])
    axes.set(ylabel="test accuracy, %")
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    pyplot.close(figure)
    write_atomically(path, image.getvalue())
