"""Images that took a while to decode, kept in the user's cache folder as plain arrays."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boards.errors import StorageError, UsageError
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.locate import cache_root
from cimctl.files import make_folder, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

#: Called with how many images are decoded, and how many there are, or None where nobody knows.
Progress = Callable[[int, int | None], None]

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def cached(name: str, files: Iterable[Path], decode: Callable[[], Dataset]) -> Dataset:
    """What ``decode`` makes of files, from the cache if they are those of an earlier call.

    Files are the same when path, size and time of change are.  A cache that cannot be written or
    that is damaged costs time only.

    Raises:
        UsageError: a file is not there.
    """
    folder = cache_root() / "decoded"
    path = folder / f"{_key(files)}.npz"
    kept = _kept(name, path)
    if kept is not None:
        return kept
    made = decode()
    try:
        make_folder(folder)
        _keep(made, path)
    except StorageError as error:
        log.warning("the decoded images are not kept: %s", error)
    return made


def _key(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror or error}", left="nothing was loaded"
            ) from None
        digest.update(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _kept(name: str, path: Path) -> Dataset | None:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, NDArray[Any]] = {key: stored[key] for key in _ARRAYS}
            return Dataset(name, **arrays, classes=int(stored["classes"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(made: Dataset, path: Path) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, classes=made.classes, **{key: getattr(made, key) for key in _ARRAYS})
    write_atomically(path, buffer.getbuffer())
