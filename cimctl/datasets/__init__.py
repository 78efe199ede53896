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
from cimctl.datasets.catalogue import DATASETS, FOLDER
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.decoded import Progress

__all__ = ["DATASETS", "Dataset", "check_name", "load"]


def check_name(name: str) -> None:
    """Raises ``UsageError`` for a name that is none of :data:`DATASETS` and no ``folder:PATH``."""
    if name not in DATASETS and not (name.startswith(FOLDER) and name != FOLDER):
        raise UsageError(
            f"there is no data set {name!r}",
            left="nothing was loaded",
            next=f"choose one of {', '.join(DATASETS)}, or {FOLDER}PATH for images of your own",
        )


def load(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
        name: one of :data:`DATASETS`, or ``folder:PATH`` for images of one's own
            (:mod:`cimctl.datasets.images`).
        data_dir: the folder that holds the files, or that holds a folder of the set's name with
            the files; None means the user's cache.  The embedded digits need neither.
        progress: called with how many images are decoded, where they have to be.

    Raises:
        UsageError: the name is unknown, a file is missing, damaged or of another digest.
    """
    check_name(name)
    if name.startswith(FOLDER):
        from cimctl.datasets import images

        return images.load(name, Path(name.removeprefix(FOLDER)), progress)
    if name == "digits":
        from cimctl.datasets import digits

        return digits.load()
    if name == "cifar10":
        from cimctl.datasets import cifar

        return cifar.load(data_dir, progress)
    from cimctl.datasets import idx

    return idx.load(name, data_dir)
