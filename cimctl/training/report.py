"""The report of a run: what it was, what came out, and the curves where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from cimctl.files import write_atomically

_ROWS = (
    ("test_accuracy", "test accuracy (0 to 1)"),
    ("test_images", "test images"),
    ("writes_per_weight", "writes a weight"),
    ("pulses_per_weight", "open-loop pulses a weight"),
    ("train_images_per_second", "training images a second"),
    ("wall_seconds", "wall time, s"),
    ("tile_ops", "tile operations"),
    ("chip_seconds", "chip time, s"),
    ("chip_joules", "chip energy, J"),
    ("training_joules", "of that without tests, J"),
)


def write(folder: Path, summary: dict[str, Any]) -> None:
    """Writes report.md, and curves.png when matplotlib is there.

    Raises:
        StorageError: no space or no permission.
    """
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_atomically(folder / "report.md", _page(summary, metrics).encode())
    if importlib.util.find_spec("matplotlib"):
        _plot(folder / "curves.png", metrics)


def _page(summary: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    title = f"# {summary['model']} on {summary['board']}, {summary['dataset']}"
    run = (
        f"{summary['algorithm']}, seed {summary['seed']}, {summary['epochs']} epochs of "
        f"{summary['batches_per_epoch']} batches of {summary['batch_size']}."
    )
    lines = [title, "", run, ""]
    lines += ["| measure | value |", "|---|---|"]
    lines += [f"| {text} | {_shown(summary[key])} |" for key, text in _ROWS]
    lines += [f"| link: {key} | {value} |" for key, value in summary["link"].items()]
    moved, what = _moved(metrics)
    lines += ["", f"| epoch | loss | training accuracy | test accuracy | {what} |"]
    lines += ["|---|---|---|---|---|"]
    for row in metrics:
        names = ("epoch", "loss", "train_accuracy", "test_accuracy", moved)
        cells = [row[name] for name in names]
        lines.append("| " + " | ".join(_shown(cell) for cell in cells) + " |")
    if metrics:
        lines += [
            "",
            f"Test accuracy after an epoch is on {metrics[-1]['test_images']} images. Each test on "
            "a chip meets fresh converter noise, so two of the same network differ a little.",
        ]
    return "\n".join([*lines, ""])


def _moved(metrics: list[dict[str, Any]]) -> tuple[str, str]:
    """Key and name of what the weights took: pulses of an algorithm that sends these, or writes."""
    if metrics and metrics[-1].get("pulses_per_weight"):
        return "pulses_per_weight", "pulses a weight"
    return "writes_per_weight", "writes a weight"


def _plot(path: Path, metrics: list[dict[str, Any]]) -> None:
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [row["epoch"] for row in metrics]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(epochs, [1 - row["train_accuracy"] for row in metrics], label="training")
    left.plot(epochs, [1 - row["test_accuracy"] for row in metrics], label="test")
    left.set(xlabel="epoch", ylabel="error", yscale="log", ylim=(None, 1))
    left.legend()
    moved, what = _moved(metrics)
    right.plot(epochs, [row[moved] for row in metrics], color="black")
    right.set(xlabel="epoch", ylabel=what, ylim=(0, None))
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    pyplot.close(figure)
    write_atomically(path, image.getvalue())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
