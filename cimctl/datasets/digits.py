"""The embedded default: 1,797 real handwritten digits, so that a first training needs no file.

The images are the "Optical Recognition of Handwritten Digits" data set by E. Alpaydin and
C. Kaynak (1998), UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, used under
CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).  Of it, this is the part that
scikit-learn distributes as ``load_digits``.  Changes made here: stored as bytes, and enlarged,
padded and rescaled when loaded.

``digits.npz`` next to this file holds ``images`` (uint8, 1797 x 8 x 8, values 0 to 16) and
``labels`` (uint8, 1797).  It was made with this recipe, which anybody can repeat::

    import numpy as np
    from sklearn.datasets import load_digits

    d = load_digits()
    np.savez_compressed(
        "digits.npz", images=d.images.astype("uint8"), labels=d.target.astype("uint8")
    )

The split into training and test is ours.  The writers are not marked in the data, so the same
hand may appear in both parts: an accuracy here is not one for unseen writers.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from cimctl.datasets.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Seed of the permutation behind the split.  It has nothing to do with the seed of a training:
#: every training sees the same test images.
SPLIT_SEED = 1797
TEST_PER_CLASS = 30
CLASSES = 10

_TOP = 16  # the largest value of a stored pixel
_SCALE = 3  # 8 x 8 becomes 24 x 24
_PAD = 2  # 24 x 24 becomes 28 x 28


def load() -> Dataset:
    """The digits, 1,497 for training and 300 for test, 30 of each class."""
    import numpy as np

    file = resources.files("cimctl.datasets").joinpath("digits.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        images, labels = enlarge(stored["images"]), stored["labels"].astype(np.int64)
    train, test = split(labels)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], CLASSES)


def enlarge(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn N x 8 x 8 images of 0 to 16 into N x 1 x 28 x 28 images of 0 to 255.

    Each pixel becomes a block of 3 x 3, and a border of 2 pixels of background is put around.
    """
    import numpy as np

    grey = np.round(small * (255 / _TOP)).astype(np.uint8)
    block = np.ones((1, _SCALE, _SCALE), dtype=np.uint8)
    padded = np.pad(np.kron(grey, block), ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    return padded[:, np.newaxis]


def split(labels: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indices for training and for test, both in the order of one fixed permutation.

    The permutation is ``RandomState(SPLIT_SEED).permutation(N)``; in its order, the first 30 of
    each class are test images and all others training images.  ``RandomState`` is old, but it is
    the generator whose stream numpy promises never to change.
    """
    import numpy as np

    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    is_test = np.zeros(len(order), dtype=bool)
    for digit in range(CLASSES):
        is_test[np.flatnonzero(labels[order] == digit)[:TEST_PER_CLASS]] = True
    return order[~is_test], order[is_test]
