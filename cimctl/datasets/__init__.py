"""The data sets that networks are trained and tested on.

>>> from cimctl.datasets import load
>>> load("digits").train_images.shape
(1497, 1, 28, 28)

Importing this package is light: numpy is imported when a set is loaded, not when the names are
listed, and nothing here imports torch.  Nothing is downloaded unless
:func:`cimctl.datasets.fetch.fetch` is called.
"""

from __future__ import annotations

from pathlib import Path

from boards.errors import UsageError
from cimctl.datasets.catalogue import DATASETS
from cimctl.datasets.dataset import Dataset

__all__ = ["DATASETS", "Dataset", "load"]


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
        name: one of :data:`DATASETS`.
        data_dir: the folder that holds the files, or that holds a folder of the set's name with
            the files; None means the user's cache.  The embedded digits need neither.

    Raises:
        UsageError: the name is unknown, a file is missing, damaged or of another digest.
    """
    if name not in DATASETS:
        raise UsageError(
            f"there is no data set {name!r}",
            left="nothing was loaded",
            next=f"choose one of {', '.join(DATASETS)}",
        )
    if name == "digits":
        from cimctl.datasets import digits

        return digits.load()
    from cimctl.datasets import idx

    return idx.load(name, data_dir)
