"""Reader of the standard IDX files of MNIST and its relatives, packed with gzip or not.

An IDX file has two zero bytes, a type byte (8: unsigned bytes), a byte with the number of
dimensions, one big-endian 32-bit size for each dimension, and then the values.  This reader takes
exactly that and nothing else: a file that is a byte short or a byte long is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from boards.errors import UsageError
from cimctl.datasets.catalogue import SOURCES, FileSpec, Source
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.locate import fetch_advice, file_in, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

#: More items than this in a header are taken for damage, before memory is spent on them.
MAX_ITEMS = 1_000_000

_UNSIGNED_BYTE = 0x08
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """The bytes of a file before anything in them is believed.

    Attributes:
        label: what messages call it: a path, or the address it was fetched from.
        data: the bytes as they were stored.
        packed: whether they are packed with gzip.
        advice: what a message says to do next.
    """

    label: str
    data: bytes
    packed: bool
    advice: str

    def refuse(self, found: str, expected: str) -> NoReturn:
        """Raise the UsageError that says what was found and what was expected."""
        raise UsageError(
            f"{self.label}: found {found}, expected {expected}",
            left="nothing was loaded",
            next=self.advice,
        )


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        values: uint8; N x the shape of an item.
        md5: MD5 of the unpacked file, in hexadecimal.
    """

    values: NDArray[np.uint8]
    md5: str


def load(name: str, data_dir: Path | None) -> Dataset:
    """Load a set that lies in four IDX files.

    Raises:
        UsageError: a file is missing or cannot be read, is no such IDX file, or is of another
            digest than the published one; nothing is loaded then.
    """
    source = SOURCES[name]
    assert source.files is not None, f"{name} is embedded and has no files"
    folder = require(name, source.files, data_dir)
    advice = fetch_advice(name, data_dir)
    train = _load_pair(folder, source, source.files.train_images, source.files.train_labels, advice)
    test = _load_pair(folder, source, source.files.test_images, source.files.test_labels, advice)
    return Dataset(name, *train, *test, source.classes)


def read_blob(path: Path, advice: str) -> Blob:
    """Read a file whole; by its name it is packed or not.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}",
            left="nothing was loaded",
            next=advice,
        ) from error
    return Blob(str(path), data, path.suffix == ".gz", advice)


def parse(blob: Blob, item_shape: tuple[int, ...]) -> Content:
    """Take the values out of an IDX file.

    Args:
        blob: the file.
        item_shape: the shape that one item must have: (28, 28) for images, () for labels.

    Raises:
        UsageError: a corrupt packing, a wrong magic, type, shape or size.
    """
    import numpy as np

    stream = gzip.GzipFile(fileobj=io.BytesIO(blob.data)) if blob.packed else io.BytesIO(blob.data)
    dimensions = 1 + len(item_shape)
    header = _read(blob, stream, 4 + 4 * dimensions)
    shape = _check_header(blob, bytes(header), item_shape)
    size = math.prod(shape)
    # One byte more than there should be: it finds surplus, and reaching the end of a packed file
    # is what makes gzip compare its checksum.
    body = _read(blob, stream, size + 1)
    if len(body) != size:
        _refuse_size(blob, len(body), shape)
    digest = hashlib.md5(header, usedforsecurity=False)
    digest.update(body)
    return Content(np.frombuffer(body, dtype=np.uint8).reshape(shape), digest.hexdigest())


def check_digest(blob: Blob, content: Content, spec: FileSpec) -> bool:
    """Compare the digest that is known for the file, of its content or of its packed form.

    Returns:
        False where none is known, so that only the structure was checked.

    Raises:
        UsageError: the digest differs.
    """
    if spec.content_md5:
        kind, found, expected = "unpacked content", content.md5, spec.content_md5
    elif spec.packed_md5 and blob.packed:
        packed = hashlib.md5(blob.data, usedforsecurity=False).hexdigest()
        kind, found, expected = "packed file", packed, spec.packed_md5
    else:
        return False
    if found != expected:
        blob.refuse(f"MD5 {found} of the {kind}", expected)
    return True


def _load_pair(
    folder: Path, source: Source, images: FileSpec, labels: FileSpec, advice: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N x 1 x 28 x 28, uint8) and their labels (N, int64)."""
    import numpy as np

    _, pixels = _load_file(folder, images, advice)
    blob, classes = _load_file(folder, labels, advice)
    if len(classes) != len(pixels):
        blob.refuse(f"{len(classes)} labels", f"{len(pixels)}, one for each image")
    if int(classes.max()) >= source.classes:
        blob.refuse(f"the label {int(classes.max())}", f"0 to {source.classes - 1}")
    return pixels[:, np.newaxis], classes.astype(np.int64)


def _load_file(folder: Path, spec: FileSpec, advice: str) -> tuple[Blob, NDArray[np.uint8]]:
    """One file, parsed and compared with its digest where one is known."""
    # Should it have vanished since it was located, reading the unpacked name says so.
    blob = read_blob(file_in(folder, spec) or folder / spec.stem, advice)
    content = parse(blob, spec.item_shape)
    if not check_digest(blob, content, spec):
        log.warning("%s: no digest is known of the unpacked file, only its structure", blob.label)
    return blob, content.values


def _read(blob: Blob, stream: io.BufferedIOBase, limit: int) -> bytearray:
    """Up to ``limit`` bytes, in pieces, so that a lying header reserves no memory."""
    # A bytearray, because numpy arrays over bytes are read-only, of which torch complains.
    taken = bytearray()
    try:
        while len(taken) < limit:
            piece = stream.read(min(_CHUNK, limit - len(taken)))
            if not piece:
                break
            taken += piece
    except (OSError, EOFError, zlib.error) as error:
        blob.refuse(f"a corrupt gzip file ({error})", "an intact one")
    return taken


def _check_header(blob: Blob, header: bytes, item_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the values, (N, *item_shape)."""
    dimensions = 1 + len(item_shape)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if len(header) >= 4 and header[:4] != magic:
        kind = "images" if item_shape else "labels"
        blob.refuse(
            f"the magic number 0x{header[:4].hex()}", f"0x{magic.hex()} of an IDX file of {kind}"
        )
    if len(header) < 4 + 4 * dimensions:
        blob.refuse(f"{len(header)} bytes", f"at least the {4 + 4 * dimensions} of a header")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    if shape[1:] != item_shape:
        blob.refuse(f"images of {_by(shape[1:])} pixels", _by(item_shape))
    if not 0 < shape[0] <= MAX_ITEMS:
        blob.refuse(f"a header that announces {shape[0]} items", f"1 to {MAX_ITEMS}")
    return shape


def _refuse_size(blob: Blob, found: int, shape: tuple[int, ...]) -> NoReturn:
    expected = f"the {math.prod(shape)} that its header announces ({_by(shape)})"
    if found < math.prod(shape):
        blob.refuse(f"a truncated file with {found} bytes of values", expected)
    blob.refuse("more bytes of values", f"no more than {expected}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
