"""cimctl train."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.cli.options import (
    SEED,
    Folder,
    board_options,
    chosen_board,
    decoding_bar,
    json_option,
    show,
    threads_option,
)

if TYPE_CHECKING:
    from cimctl.algorithms.base import Algorithm
    from cimctl.algorithms.settings import Settings
    from cimctl.training.config import RunConfig
    from cimctl.training.trainer import Trainer

#: options that a resumed run takes from its checkpoint, unless they are given and agree
_FIXED = ("dataset", "algorithm", "epochs", "batches_per_epoch", "batch_size", "seed", "init")

_FIELDS = {"init": "initial"}


@click.command()
@click.argument("model", required=False)
@board_options(required=False)
@click.option(
    "--dataset",
    default="digits",
    help="digits, mnist, fashion-mnist, cifar10, or folder:PATH, images in PATH/train/CLASS and "
    "PATH/test/CLASS.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the data set's files.  [the user's cache]",
)
@click.option(
    "--algorithm",
    default="mixed-precision",
    help="mixed-precision; sgd: pulses in the memory itself; ttv1, ttv2, c-ttv2, agad: by way of a "
    "fast array; radix4: 4-bit, on a chip of bit planes (docs/training.md); fp32: the digital "
    "baseline; qat: digital with the levels of a cell.",
)
@click.option(
    "--epochs", type=click.IntRange(1, 10**6), help="Epochs.  [20 for digits, 13 for others]"
)
@click.option("--batch-size", type=click.IntRange(1, 65536), help="Images a batch.  [64]")
@click.option(
    "--batches-per-epoch",
    type=click.IntRange(1, 10**6),
    help="Batches.  [50 for digits, 400 for others]",
)
@click.option("--seed", type=SEED, default=0, help="Seed of the training and an emulated chip.")
@click.option(
    "--init",
    type=click.Choice(["read", "program"]),
    default="read",
    help="Start from the chip as it is found, or from programmed weights.",
)
@click.option(
    "--out",
    type=Folder(file_okay=False, path_type=Path),
    help="Folder for the run.  [runs/TIME-MODEL-BOARD]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Go on with the run in this folder, from its checkpoint.",
)
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="A setting; repeatable.")
@threads_option
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="Where torch does the digital part. Another one gives other last bits.",
)
@json_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    model: str | None,
    json: bool,
    out: Path | None,
    resume: Path | None,
    **values: Any,
) -> None:
    """Train MODEL on a board.

    MODEL is lenet, lenet-large, mlp, lstm, vgg8, resnet18, or path/to/file.py:factory for your
    own. The first Ctrl-C finishes the batch, writes the checkpoint and leaves the board safe; a
    second one stops at once.

    \b
    Examples:
      cimctl train lenet --board emu
      cimctl train lenet --board emu --dataset mnist --data-dir ~/mnist --set lr=0.002
      cimctl train lenet --board brram-soc --port /dev/ttyUSB0
      cimctl train --resume runs/20260101-120000-lenet-emu
    """
    from boards import catalogue

    state, config = _planned(ctx, model, resume, values)
    values["board"] = config.board
    profile = catalogue.load(config.board)
    folder = out or _resumed_folder(resume) or _new_folder(config, profile.name)
    summary = _finished(config, state, folder)
    if summary is None:
        _say("Loading torch, images and board; the very first start compiles kernels ...")
        summary = _train(config, state, values, folder)
    text = (
        f"test accuracy {100 * summary['test_accuracy']:.2f} % on {summary['test_images']} images, "
        f"{_moved(summary)}, {summary['wall_seconds']:.1f} s\n"
        f"written to {folder}"
    )
    schema = summary.pop("schema")
    show(json, schema, {**summary, "folder": str(folder)}, text)


def _moved(summary: dict[str, Any]) -> str:
    """What the weights took: programming, or pulses of an algorithm that sends these."""
    if summary.get("pulses_per_weight"):
        return f"{summary['pulses_per_weight']:.1f} pulses a weight"
    return f"{summary['writes_per_weight']:.2f} writes a weight"


def _planned(
    ctx: click.Context, model: str | None, resume: Path | None, values: dict[str, Any]
) -> tuple[dict[str, Any] | None, RunConfig]:
    """The run to do: a new one from the options, or that of a checkpoint.

    Raises:
        UsageError: an option contradicts the checkpoint that is resumed.
    """
    from boards.errors import UsageError
    from cimctl.algorithms import ALGORITHMS, settings
    from cimctl.training import checkpoint
    from cimctl.training.config import RunConfig

    if resume is None:
        if model is None:
            raise click.UsageError("Missing argument 'MODEL'.", ctx)
        if values["board"] is None:
            raise click.UsageError("Missing option '--board'.", ctx)
        return None, _new_config(model, values)
    state = checkpoint.load(resume)
    config = RunConfig.from_plain(state["config"])
    given = {"model": model} | {
        _FIELDS.get(name, name): values[name]
        for name in _FIXED
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if values["set"]:
        given["settings"] = settings.parse(values["set"], ALGORITHMS[config.algorithm].DEFAULTS)
    for name, value in given.items():
        if value is not None and value != getattr(config, name):
            had, wanted = getattr(config, name), value
            if name == "settings":
                name, had, wanted = _first_difference(had, wanted)
            raise UsageError(
                f"The run in '{resume}' has {name} {had}, not {wanted}",
                left="Nothing was trained",
                next="Leave the option out to go on with the run, or start a new one",
            )
    return state, replace(config, board=values["board"] or config.board)


def _first_difference(had: Settings, wanted: Settings) -> tuple[str, Any, Any]:
    """Which setting is the first to differ, and its values."""
    for name in had.__struct_fields__:
        if getattr(had, name) != getattr(wanted, name):
            return f"settings with {name}", getattr(had, name), getattr(wanted, name)
    raise AssertionError("no setting differs")


def _new_config(model: str, values: dict[str, Any]) -> RunConfig:
    from boards.errors import UsageError
    from cimctl import datasets
    from cimctl.algorithms import ALGORITHMS, settings
    from cimctl.training.config import OWN_SCHEDULE, SCHEDULES, RunConfig

    datasets.check_name(values["dataset"])
    if values["algorithm"] not in ALGORITHMS:
        raise UsageError(
            f"There is no algorithm '{values['algorithm']}'",
            left="Nothing was trained",
            next=f"Known: {', '.join(ALGORITHMS)}",
        )
    epochs, batches, size = SCHEDULES.get(values["dataset"], OWN_SCHEDULE)
    return RunConfig(
        model=model,
        board=values["board"],
        dataset=values["dataset"],
        algorithm=values["algorithm"],
        epochs=values["epochs"] or epochs,
        batches_per_epoch=values["batches_per_epoch"] or batches,
        batch_size=values["batch_size"] or size,
        seed=values["seed"],
        initial=values["init"],
        settings=settings.parse(values["set"], ALGORITHMS[values["algorithm"]].DEFAULTS),
    )


def _finished(
    config: RunConfig, state: dict[str, Any] | None, folder: Path
) -> dict[str, Any] | None:
    """The summary of a resumed run that has nothing left to do."""
    path = folder / "summary.json"
    if state is None or state["progress"]["batch"] < config.batches or not path.exists():
        return None
    _say(f"The run in '{folder}' is complete: nothing was trained. 'cimctl eval' tests it again.")
    summary: dict[str, Any] = loads(path.read_text())
    return summary


def _resumed_folder(resume: Path | None) -> Path | None:
    if resume is None:
        return None
    return resume if resume.is_dir() else resume.parent


def _new_folder(config: RunConfig, board: str) -> Path:
    model = Path(config.model.partition(":")[0]).stem
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{board}"


def _train(
    config: RunConfig, state: dict[str, Any] | None, values: dict[str, Any], folder: Path
) -> dict[str, Any]:
    import torch

    from boards.errors import UsageError
    from cimctl import datasets, files, models
    from cimctl.algorithms import ALGORITHMS
    from cimctl.connect import connect
    from cimctl.training import checkpoint, report
    from cimctl.training.trainer import Trainer

    if state is None and (folder / checkpoint.NAME).exists():
        raise UsageError(
            f"'{folder}' holds a run already",
            left="It was not touched",
            next=f"Name another folder with --out, or go on with --resume {folder}",
        )
    if values["device"] == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch finds no CUDA device here",
            left="Nothing was trained",
            next="Leave the option out, or install torch for CUDA and a driver",
        )
    torch.set_num_threads(values["threads"])
    models.build(config.model)
    with decoding_bar() as bar:
        data = datasets.load(config.dataset, values["data_dir"], bar)
    board = None
    if ALGORITHMS[config.algorithm].ANALOG:
        board = connect(chosen_board(values, config.seed))
    with board or nullcontext():
        trainer = Trainer(
            config, data, board, folder, notify=_say, resume=state, device=values["device"]
        )
        files.make_folder(folder)
        try:
            with _progress_bar(trainer) as on_batch, _stopping(trainer):
                summary = trainer.run(on_batch)
        finally:
            with suppress(OSError):
                # Goes only where not even a checkpoint could be written.
                folder.rmdir()
    report.write(folder, summary)
    return summary


def _say(message: str) -> None:
    click.echo(message, err=True)


@contextmanager
def _progress_bar(trainer: Trainer) -> Iterator[Callable[[float, Algorithm], None]]:
    """A bar on standard error, with loss and writes a weight."""
    from tqdm import tqdm

    config = trainer.config
    with tqdm(
        total=config.batches,
        initial=trainer.progress.batch,
        desc=f"{config.model} on {config.board}"
        if trainer.board
        else f"{config.model}, {config.algorithm}",
        unit="batch",
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2,
    ) as bar:

        def on_batch(loss: float, algorithm: Algorithm) -> None:
            moved = f"{algorithm.writes_per_weight:.2f} writes/weight"
            if algorithm.pulses_per_weight:
                moved = f"{algorithm.pulses_per_weight:.1f} pulses/weight"
            bar.set_postfix_str(f"loss {loss:.3f}, {moved}", refresh=False)
            bar.update()

        yield on_batch


def _resuming(trainer: Trainer) -> str:
    """The command that goes on with a run, on the board that it is on."""
    command = f"cimctl train --resume {trainer.folder}"
    options = click.get_current_context().params
    return command + (f" --port {options['port']}" if options.get("port") else "")


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the trainer to stop after its batch, a second one stops."""
    from boards.errors import CimError
    from cimctl.training.trainer import Interrupted

    def on_signal(*_: object) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True
        _say("\nStopping after this batch; once more stops at once.")

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    stops = [number for number in ends if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in stops}
    try:
        yield
    except Interrupted:
        _say(
            f"Stopped after batch {trainer.progress.batch} of {trainer.config.batches}. "
            f"Go on with: {_resuming(trainer)}"
        )
        raise KeyboardInterrupt from None
    except CimError:
        if trainer.saved is not None:
            _say(
                f"The checkpoint holds the run up to batch {trainer.saved}. When this is mended, "
                f"go on with: {_resuming(trainer)}"
            )
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
