"""Which data sets there are: their files, digests, mirrors, sizes and licences.

Plain facts only, so that listing the names costs no import of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Height and width of every image of an IDX file, in pixels.
IMAGE_SHAPE = (28, 28)

#: What stands before the path of a folder or archive of images, where a set is named.
FOLDER = "folder:"


@dataclass(frozen=True)
class FileSpec:
    """One IDX file of a set.

    Attributes:
        stem: the file's name without ``.gz``.
        item_shape: the shape of one item: (28, 28) for images, () for labels.
        content_md5: MD5 of the unpacked file, or "" where it is not known.
        packed_md5: MD5 of the published ``.gz`` file, or "" where it is not relied upon.
    """

    stem: str
    item_shape: tuple[int, ...]
    content_md5: str = ""
    packed_md5: str = ""

    @property
    def packed_name(self) -> str:
        """The file's name as published, with ``.gz``."""
        return f"{self.stem}.gz"


@dataclass(frozen=True)
class FileSet:
    """The four files of a set, images before labels, training before test."""

    train_images: FileSpec
    train_labels: FileSpec
    test_images: FileSpec
    test_labels: FileSpec

    @property
    def all(self) -> tuple[FileSpec, ...]:
        """The four, in the order of the attributes."""
        return (self.train_images, self.train_labels, self.test_images, self.test_labels)


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is loaded.

    Attributes:
        name: the name on the command line.
        title: the name in words.
        train_count, test_count: how many images the published set has.
        classes: how many classes there are.
        origin: who made it.
        licence: under which terms it may be used.
        checked_by: what is compared when the files are read, in words.
        files: its IDX files; None for a set of another form.
        mirrors: where the files can be fetched from, in the order to try; each ends in "/".
        embedded: whether it is part of the package.
        image_shape: channels, height and width of an image.
    """

    name: str
    title: str
    train_count: int
    test_count: int
    classes: int
    origin: str
    licence: str
    checked_by: str
    files: FileSet | None = None
    mirrors: tuple[str, ...] = ()
    embedded: bool = False
    image_shape: tuple[int, int, int] = (1, *IMAGE_SHAPE)


_DIGITS = Source(
    name="digits",
    title="Optical Recognition of Handwritten Digits",
    train_count=1497,
    test_count=300,
    classes=10,
    origin="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository",
    licence="CC BY 4.0",
    checked_by="part of the package",
    embedded=True,
)

# The mirrors do not agree on how the files were packed, but they do on what is inside; therefore
# the content is what is checked.
_MNIST = Source(
    name="mnist",
    title="MNIST handwritten digits",
    train_count=60000,
    test_count=10000,
    classes=10,
    origin="Y. LeCun, C. Cortes and C. Burges",
    licence="CC BY-SA 3.0",
    checked_by="MD5 of the unpacked files",
    files=FileSet(
        FileSpec("train-images-idx3-ubyte", IMAGE_SHAPE, "6bbc9ace898e44ae57da46a324031adb"),
        FileSpec("train-labels-idx1-ubyte", (), "a25bea736e30d166cdddb491f175f624"),
        FileSpec("t10k-images-idx3-ubyte", IMAGE_SHAPE, "2646ac647ad5339dbf082846283269ea"),
        FileSpec("t10k-labels-idx1-ubyte", (), "27ae3e4e09519cfbb04c329615203637"),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

# Only the digests of the packed files are published.  Of files that somebody unpacked, the
# structure is all that can be checked.
_FASHION = Source(
    name="fashion-mnist",
    title="Fashion-MNIST articles of clothing",
    train_count=60000,
    test_count=10000,
    classes=10,
    origin="H. Xiao, K. Rasul and R. Vollgraf, Zalando Research",
    licence="MIT",
    checked_by="MD5 of the packed files; of unpacked ones the structure only",
    files=FileSet(
        FileSpec(
            "train-images-idx3-ubyte", IMAGE_SHAPE, packed_md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d"
        ),
        FileSpec("train-labels-idx1-ubyte", (), packed_md5="25c81989df183df01b3e8a0aad5dffbe"),
        FileSpec(
            "t10k-images-idx3-ubyte", IMAGE_SHAPE, packed_md5="bef4ecab320f06d8554ea6380940ec79"
        ),
        FileSpec("t10k-labels-idx1-ubyte", (), packed_md5="bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
)

_CIFAR10 = Source(
    name="cifar10",
    title="CIFAR-10 photographs of ten kinds of things",
    train_count=50000,
    test_count=10000,
    classes=10,
    origin="A. Krizhevsky, V. Nair and G. Hinton, https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated",
    checked_by="sizes and labels",
    image_shape=(3, 32, 32),
)

#: Every set by its name, the default first.
SOURCES: dict[str, Source] = {s.name: s for s in (_DIGITS, _MNIST, _FASHION, _CIFAR10)}

#: The names, the default first.
DATASETS: tuple[str, ...] = tuple(SOURCES)

#: The names of the sets that lie in files and can be fetched.
FETCHABLE: tuple[str, ...] = tuple(s.name for s in SOURCES.values() if s.files is not None)
