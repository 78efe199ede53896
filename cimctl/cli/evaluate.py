"""cimctl eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cimctl.cli.options import (
    board_options,
    chosen_board,
    decoding_bar,
    json_option,
    seed_option,
    show,
    threads_option,
)


@click.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@board_options()
@seed_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the data set's files.  [the user's cache]",
)
@threads_option
@json_option
def eval_(
    run: Path, json: bool, seed: int, threads: int, data_dir: Path | None, **values: Any
) -> None:
    """Test the trained run in folder RUN on a board, the one it was trained on or another.

    An emulated chip with the run's seed gets its cells back; the chip that the run left is taken
    as it is; any other chip is programmed with the digital weights.

    \b
    Example:
      cimctl eval runs/20260101-120000-lenet-emu --board emu --seed 3
    """
    from contextlib import nullcontext

    import torch

    from cimctl import datasets
    from cimctl.algorithms import ALGORITHMS
    from cimctl.connect import connect
    from cimctl.training import checkpoint
    from cimctl.training.config import RunConfig
    from cimctl.training.evaluation import evaluate

    torch.set_num_threads(threads)
    state = checkpoint.load(run)
    config = RunConfig.from_plain(state["config"])
    with decoding_bar() as bar:
        data = datasets.load(config.dataset, data_dir, bar)
    analog = ALGORITHMS[config.algorithm].ANALOG
    board = connect(chosen_board(values, seed)) if analog else None
    with board or nullcontext():
        accuracy, chip = evaluate(state, data, board)
    batch = state["progress"]["batch"]
    if batch < config.batches:
        click.echo(
            f"The checkpoint is of batch {batch} of {config.batches}: the run is not finished.",
            err=True,
        )
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
