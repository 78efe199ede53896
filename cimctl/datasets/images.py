"""Images in folders, one folder a class, on the disk or within a tar archive.

The layout is ``train/CLASS/FILE`` and ``test/CLASS/FILE``, in an archive below any folder.  Classes
are numbered in the order of their names, images of a class in that of theirs.  All images have one
size; they have one channel if all are grey, and else three.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from boards.errors import UsageError
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.decoded import Progress, cached

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

PARTS = ("train", "test")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".webp"))
#: Kinds of pixels, as Pillow names them, that become grey, or colours, of 8 bits.
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")
#: No image that fits a chip has a file as large; read no further into a damaged archive.
_MOST_BYTES = 1 << 26


class Name(NamedTuple):
    """Where an image belongs: train or test, its class, its file."""

    part: str
    label: str
    file: str


def load(
    name: str, path: Path, progress: Progress | None = None, count: int | None = None
) -> Dataset:
    """The images of a folder or archive, decoded once and then kept in the user's cache.

    Args:
        name: the set's.
        path: a folder with ``train`` and ``test``, or a tar archive, packed or not.
        progress: called with how many images are decoded.
        count: how many an archive holds, if that is known.

    Raises:
        UsageError: nothing is there, a file is damaged, sizes differ, or train and test have not
            the same classes.
    """
    if not path.is_dir():
        return cached(name, [path], lambda: _decoded(name, path, _packed(path), progress, count))
    files = {
        file: entry
        for file in sorted(path.glob("*/*/*"))
        if (entry := name_of(file.relative_to(path).as_posix()))
    }
    return cached(name, files, lambda: _decoded(name, path, _loose(files), progress, len(files)))


def name_of(path: str) -> Name | None:
    """The name of an image; None for any other file."""
    parts = PurePosixPath(path).parts[-3:]
    known = len(parts) == 3 and parts[0] in PARTS and not parts[2].startswith(".")
    if not known or PurePosixPath(path).suffix.lower() not in SUFFIXES:
        return None
    return Name(*parts)


def _loose(files: dict[Path, Name]) -> Iterator[tuple[Name, bytes]]:
    for file, entry in files.items():
        try:
            yield entry, file.read_bytes()
        except OSError as error:
            raise _unusable(file, f"it cannot be read: {error.strerror or error}") from None


def _packed(path: Path) -> Iterator[tuple[Name, bytes]]:
    """In the order of the archive: going back in a packed one would unpack it again.

    Not as a stream ("r|*"): tarfile takes the end of a truncated one for that of the archive.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                entry = name_of(member.name)
                stream = archive.extractfile(member) if entry and member.isfile() else None
                if entry and stream:
                    yield entry, stream.read(_MOST_BYTES)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise _unusable(path, f"it is no intact tar archive ({error})") from None


def _decoded(
    name: str,
    path: Path,
    entries: Iterable[tuple[Name, bytes]],
    progress: Progress | None,
    count: int | None,
) -> Dataset:
    taken: dict[Name, Pixels] = {}
    size: tuple[int, ...] = ()
    for entry, data in entries:
        pixels = taken[entry] = _pixels(path, entry, data)
        size = size or pixels.shape[:2]
        if pixels.shape[:2] != size:
            found, expected = (f"{h} x {w} pixels" for h, w in (pixels.shape[:2], size))
            raise _unusable(
                path / "/".join(entry), f"found {found}, expected {expected} as in the others"
            )
        if progress is not None:
            progress(len(taken), count)
    labels = _labels(path, taken)
    channels = max((3 if each.ndim == 3 else 1 for each in taken.values()), default=1)
    train, test = (_stacked(part, taken, labels, channels) for part in PARTS)
    return Dataset(name, *train, *test, len(labels))


def _pixels(path: Path, entry: Name, data: bytes) -> Pixels:
    """(height, width) of a grey image, (height, width, 3) of one in colour."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in _GREY + _COLOUR:
                raise ValueError(f"pixels of kind {image.mode}")
            plain = image.convert("L" if image.mode in _GREY else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the stream that it was given, which says nothing to anybody.
        reason = str(error).partition(" file <")[0]
        raise _unusable(path / "/".join(entry), f"the image cannot be decoded ({reason})") from None
    return np.asarray(plain)


def _labels(path: Path, taken: Iterable[Name]) -> dict[str, int]:
    """Number of each class.

    Raises:
        UsageError: there are none, or not the same in both parts.
    """
    found = {part: {n.label for n in taken if n.part == part} for part in PARTS}
    for part, other in (PARTS, PARTS[::-1]):
        if not found[part]:
            raise _unusable(path, f"found no image {part}/CLASS/FILE")
        lacking = sorted(found[other] - found[part])
        if lacking:
            raise _unusable(path, f"the class '{lacking[0]}' of {other} has no image in {part}")
    return {label: number for number, label in enumerate(sorted(found["train"]))}


def _stacked(
    part: str, taken: dict[Name, Pixels], labels: dict[str, int], channels: int
) -> tuple[Pixels, NDArray[np.int64]]:
    """(images, channels, height, width) and their labels, in the order of the names."""
    import numpy as np

    names = sorted(each for each in taken if each.part == part)
    shape = taken[names[0]].shape[:2]
    images = np.empty((len(names), channels, *shape), dtype=np.uint8)
    for number, each in enumerate(names):
        # A grey image among coloured ones has the same value in all channels.
        images[number] = taken[each].reshape(*shape, -1).transpose(2, 0, 1)
    return images, np.array([labels[each.label] for each in names], dtype=np.int64)


def _unusable(where: Path, why: str) -> UsageError:
    return UsageError(
        f"{where}: {why}",
        left="nothing was loaded",
        next="give images of one size in train/CLASS and test/CLASS, in a folder or a tar archive",
    )
