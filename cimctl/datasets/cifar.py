"""CIFAR-10 from its standard binary files, or from images in folders; either also in an archive.

A binary file holds records of one byte with the label and 3,072 with the pixels: 32 x 32 red ones
row by row, then green, then blue.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from boards.errors import UsageError
from cimctl.datasets import images
from cimctl.datasets.catalogue import SOURCES
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.decoded import Progress
from cimctl.datasets.locate import folders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "cifar10"
TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST = ("test_batch.bin",)
#: Names of archives, the standard one first.
ARCHIVES = ("cifar-10-binary.tar.gz", "cifar*10*.tar*")
ADVICE = (
    "put cifar-10-binary.tar.gz, or its files, or images as train/CLASS/FILE and test/CLASS/FILE "
    "into a folder, and name it with --data-dir"
)
_SHAPE = SOURCES[NAME].image_shape
_RECORD = 1 + 3 * 32 * 32
#: Records of a standard file; a file of one's own may have fewer.
_MOST_RECORDS = 10000

Part = tuple["NDArray[np.uint8]", "NDArray[np.int64]"]


def find(data_dir: Path | None) -> Path | None:
    """The folder or archive that holds the set, or None."""
    for folder in folders(NAME, data_dir):
        for place in (folder, folder / "cifar-10-batches-bin"):
            if all((place / file).is_file() for file in TRAIN + TEST):
                return place
        for pattern in ARCHIVES:
            for found in sorted(folder.glob(pattern)):
                if found.is_file():
                    return found
        if all((folder / part).is_dir() for part in images.PARTS):
            return folder
    return None


def load(data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """The set, from the first place that holds it.

    Args:
        data_dir: as for :func:`cimctl.datasets.load`.
        progress: called with how many images are decoded, where they have to be.

    Raises:
        UsageError: it is not there, or damaged.
    """
    source, place = SOURCES[NAME], find(data_dir)
    if place is None:
        looked = " and in ".join(str(folder) for folder in folders(NAME, data_dir))
        raise UsageError(
            f"the data set {NAME} was not found; looked in {looked}",
            left="nothing was loaded",
            next=ADVICE,
        )
    binary = _loose(place) if place.is_dir() else _packed(place)
    if binary:
        return _from_binary(place, binary)
    return images.load(NAME, place, progress, source.train_count + source.test_count)


def _loose(place: Path) -> dict[str, bytes]:
    """The binary files of a folder; none where it holds images."""
    try:
        return {f: (place / f).read_bytes() for f in TRAIN + TEST if (place / f).is_file()}
    except OSError as error:
        raise _damaged(place, f"a file cannot be read: {error.strerror or error}") from None


def _packed(place: Path) -> dict[str, bytes]:
    """The binary files of an archive; none where it holds images."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = Path(member.name).name
                if images.name_of(member.name):
                    break
                stream = archive.extractfile(member) if name in TRAIN + TEST else None
                if stream:
                    found[name] = stream.read(_MOST_RECORDS * _RECORD + 1)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(place, f"it is no intact tar archive ({error})") from None
    return found


def _from_binary(place: Path, binary: dict[str, bytes]) -> Dataset:
    missing = [file for file in TRAIN + TEST if file not in binary]
    if missing:
        raise _damaged(place, f"it lacks {', '.join(missing)}")
    train, test = ([_records(place / f, binary[f]) for f in part] for part in (TRAIN, TEST))
    return Dataset(NAME, *_joined(train), *_joined(test), SOURCES[NAME].classes)


def _records(path: Path, data: bytes) -> Part:
    """Images (N x 3 x 32 x 32) and labels of one file."""
    import numpy as np

    if not data or len(data) % _RECORD or len(data) > _MOST_RECORDS * _RECORD:
        raise _damaged(
            path, f"found {len(data)} bytes, expected 1 to {_MOST_RECORDS} records of {_RECORD}"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if int(labels.max()) >= SOURCES[NAME].classes:
        raise _damaged(path, f"found the label {labels.max()}, expected 0 to 9")
    return records[:, 1:].reshape(-1, *_SHAPE), labels


def _joined(parts: list[Part]) -> Part:
    import numpy as np

    return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: {why}", left="nothing was loaded", next=ADVICE)
