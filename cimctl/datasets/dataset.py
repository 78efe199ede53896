"""What a loaded data set is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Without eq=False two sets would be compared array by array, which numpy refuses to call true or
# false; compare fingerprints instead.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, split into a training part and a test part.

    Attributes:
        name: the name under which the set is listed.
        train_images: uint8, N x channels x height x width, 0 to 255.
        train_labels: int64, N, 0 to ``classes`` - 1.
        test_images: uint8, M x channels x height x width.
        test_labels: int64, M.
        classes: how many classes there are.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the four arrays in the order of the attributes.

        A checkpoint keeps it, so that a resume notices other data.  It depends on the shapes and
        the values only, not on the name, the folder or the byte order of the machine.  It is
        computed at the first use and kept: arrays changed afterwards go unnoticed.
        """
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            _add(digest, array)
        return digest.hexdigest()


def _add(digest: hashlib._Hash, array: NDArray[Any]) -> None:
    """Add kind, shape and values; the first two keep apart arrays with the same bytes."""
    import numpy as np

    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest.update(f"{plain.dtype.str}{plain.shape}".encode())
    digest.update(plain.data)
