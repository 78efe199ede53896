"""Networks by name, and the user's own from a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boards.errors import UsageError
from cimctl.models.plain import lenet, lenet_large, mlp, vgg8

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MODELS", "Network", "build", "lenet", "lenet_large", "lstm", "mlp", "resnet18", "vgg8",
]  # fmt: skip


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A network that has a name.

    Attributes:
        factory: makes a new one.
        input_shape: of one image: channels, height, width.
        summary: what it is, in a few words.
        copies: slow layers, and how often arXiv 2305.14547 has them when it pipelines.
    """

    factory: Callable[[], nn.Module]
    input_shape: Shape
    summary: str
    copies: Mapping[str, int] = field(default_factory=dict)


def resnet18() -> nn.Module:
    """The ResNet-18 of arXiv 2305.14547, for 32 x 32 images (``models.residual``)."""
    from cimctl.models import residual

    return residual.resnet18()


def lstm() -> nn.Module:
    """An LSTM that reads an image row by row (``models.recurrent``)."""
    from cimctl.models.recurrent import RowLSTM

    return RowLSTM()


MODELS: dict[str, Network] = {
    "lenet": Network(lenet, (1, 28, 28), "conv 4, conv 12, 192-10", {"0": 8}),
    "lenet-large": Network(lenet_large, (1, 28, 28), "conv 16, conv 32, 512-128-10"),
    "mlp": Network(mlp, (1, 28, 28), "784-256-128-10"),
    "lstm": Network(lstm, (1, 28, 28), "LSTM of 64 over the rows of an image, 64-10"),
    "vgg8": Network(vgg8, (3, 32, 32), "six convolutions, 2048-128-10", {"0": 4, "3": 4}),
    "resnet18": Network(
        resnet18,
        (3, 32, 32),
        "17 convolutions, three shortcuts, 512-10",
        dict.fromkeys(("0", "3.0.conv1", "3.0.conv2", "3.1.conv1", "3.1.conv2"), 4),
    ),
}


def build(name: str) -> nn.Module:
    """A new network by name, or from ``path/to/file.py:factory``.

    Raises:
        UsageError: no such network, file or factory, or the factory gives no module.
    """
    if name in MODELS:
        return MODELS[name].factory()
    path, colon, factory = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UsageError(
            f"There is no model '{name}'",
            left="Nothing was done",
            next=f"Known models: {', '.join(sorted(MODELS))}; your own: path/to/file.py:factory",
        )
    return _from_file(Path(path), factory)


def _from_file(path: Path, factory: str) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise UsageError(f"There is no file '{path}'", left="Nothing was done")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        model = getattr(module, factory)()
    except Exception as error:
        raise UsageError(
            f"'{path}:{factory}' gives no model: {type(error).__name__}: {error}",
            left="Nothing was done",
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"'{path}:{factory}' gives a {type(model).__name__}, not a torch.nn.Module"
        )
    return model
