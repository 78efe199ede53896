"""Networks by name, and the user's own from a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from boards.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def lenet() -> nn.Module:
    """The LeNet of arXiv 2305.14547: 3,220 weights, 28 x 28 images, 10 classes."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 12, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"lenet": lenet}


def build(name: str) -> nn.Module:
    """A new network by name, or from ``path/to/file.py:factory``.

    Raises:
        UsageError: no such network, file or factory, or the factory gives no module.
    """
    if name in MODELS:
        return MODELS[name]()
    path, colon, factory = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UsageError(
            f"There is no model '{name}'",
            left="Nothing was trained",
            next=f"Known models: {', '.join(sorted(MODELS))}; your own: path/to/file.py:factory",
        )
    return _from_file(Path(path), factory)


def _from_file(path: Path, factory: str) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise UsageError(f"There is no file '{path}'", left="Nothing was trained")
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
            left="Nothing was trained",
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"'{path}:{factory}' gives a {type(model).__name__}, not a torch.nn.Module"
        )
    return model
