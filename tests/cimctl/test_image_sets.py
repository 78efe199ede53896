"""CIFAR-10 and images in folders: their forms, what is kept decoded, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from boards.errors import UsageError
from cimctl import datasets
from cimctl.cli.data import data as data_group
from cimctl.cli.root import run
from cimctl.datasets import cifar, images

CLASSES = ("bird", "cat")
PER_CLASS = {"train": 3, "test": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "user-cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *a, **k: cache)
    return cache / "data" / "decoded"


def pixels(seed: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def put_folder(folder: Path, mode: str = "RGB") -> Path:
    """PNG images, 3 and 2 of each class; their seeds count up in the order of names."""
    seed = 0
    for part, count in PER_CLASS.items():
        for label in CLASSES:
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels(seed)).convert(mode)
                image.save(folder / part / label / f"{number}.png")
                seed += 1
    return folder


def pack(folder: Path, archive: Path, *, backwards: bool = False) -> Path:
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(folder.rglob("*"), reverse=backwards):
            tar.add(path, f"some/where/{path.relative_to(folder)}", recursive=False)
    return archive


def record(label: int, seed: int) -> bytes:
    drawn = np.random.default_rng(seed).integers(0, 256, 3072, dtype=np.uint8)
    return bytes([label]) + drawn.tobytes()


def put_cifar(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(cifar.TRAIN + cifar.TEST):
        (folder / name).write_bytes(record(number, number) + record(9, 10 + number))
    return folder


# --- folders and archives ------------------------------------------------------------------------


def test_images_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    loaded = datasets.load(f"folder:{put_folder(tmp_path / 'set')}")
    assert loaded.classes == 2
    assert loaded.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test_labels.tolist() == [0, 0, 1, 1]
    both = np.concatenate([loaded.train_images, loaded.test_images])
    for seed, image in enumerate(both):
        np.testing.assert_array_equal(image, pixels(seed).transpose(2, 0, 1))


@pytest.mark.parametrize("backwards", [False, True])
def test_an_archive_in_any_order_holds_what_its_folder_holds(
    tmp_path: Path, backwards: bool
) -> None:
    folder = put_folder(tmp_path / "set")
    archive = pack(folder, tmp_path / "set.tar.xz", backwards=backwards)
    packed, loose = (datasets.load(f"folder:{path}") for path in (archive, folder))
    assert packed.fingerprint == loose.fingerprint


def test_grey_images_have_one_channel_and_among_coloured_ones_three(tmp_path: Path) -> None:
    folder = put_folder(tmp_path / "set", mode="L")
    grey = datasets.load(f"folder:{folder}").train_images
    assert grey.shape == (6, 1, 6, 6)
    Image.fromarray(pixels(0)).save(folder / "test" / "cat" / "9.png")
    mixed = datasets.load(f"folder:{folder}").train_images
    np.testing.assert_array_equal(mixed, np.repeat(grey, 3, axis=1))


def test_images_are_decoded_once_and_again_after_a_change(tmp_path: Path) -> None:
    folder = put_folder(tmp_path / "set")
    seen: list[int] = []

    def load() -> datasets.Dataset:
        seen.clear()
        return datasets.load(f"folder:{folder}", progress=lambda done, _: seen.append(done))

    first = load()
    assert seen == list(range(1, 11))
    assert load().fingerprint == first.fingerprint
    assert not seen
    Image.fromarray(pixels(99)).save(folder / "test" / "cat" / "0.png")
    assert load().fingerprint != first.fingerprint
    assert len(seen) == 10


def test_a_damaged_or_forbidden_cache_costs_time_only(tmp_path: Path, own_cache: Path) -> None:
    folder = put_folder(tmp_path / "set")
    first = datasets.load(f"folder:{folder}")
    (kept,) = own_cache.iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[: len(content) // 2])
    assert datasets.load(f"folder:{folder}").fingerprint == first.fingerprint
    assert kept.read_bytes() == content
    kept.unlink()
    own_cache.rmdir()
    own_cache.write_text("in the way")
    assert datasets.load(f"folder:{folder}").fingerprint == first.fingerprint


def without(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / part / "cat").iterdir():
            path.unlink()

    return change


def another_size(folder: Path) -> None:
    Image.fromarray(pixels(0, size=5)).save(folder / "train" / "cat" / "2.png")


def cut(folder: Path) -> None:
    path = folder / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def no_image(folder: Path) -> None:
    (folder / "train" / "cat" / "1.png").write_bytes(b"text")


def deep_pixels(folder: Path) -> None:
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(folder / "train" / "cat" / "1.png")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another size": (another_size, "cat/2.png: found 5 x 5 pixels, expected 6 x 6"),
    "a cut image": (cut, "cat/1.png: the image cannot be decoded"),
    "no image": (no_image, "cat/1.png: the image cannot be decoded (cannot identify image"),
    "16 bits": (deep_pixels, "pixels of kind I;16"),
    "a class without test": (without("test"), "the class 'cat' of train has no image in test"),
    "a class without training": (without("train"), "the class 'cat' of test has no image in train"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_named_and_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, packed: bool
) -> None:
    change, said = FAULTS[fault]
    path = put_folder(tmp_path / "set")
    change(path)
    if packed:
        path = pack(path, tmp_path / "set.tar.xz")
    code = run(["train", "lenet", "--board", "emu", "--dataset", f"folder:{path}",
                "--out", str(tmp_path / "run")])  # fmt: skip
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("packing", ["xz", "gz", "bz2"])
def test_an_archive_truncated_anywhere_is_a_usage_error(tmp_path: Path, packing: str) -> None:
    archive = tmp_path / f"set.tar.{packing}"
    with tarfile.open(archive, f"w:{packing}") as tar:
        tar.add(put_folder(tmp_path / "set"), "set")
    data = archive.read_bytes()
    for share in np.linspace(0.0, 0.95, 39):
        archive.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UsageError, match=rf"set\.tar\.{packing}: "):
            datasets.load(f"folder:{archive}")


@pytest.mark.parametrize("name", ["folder:", "folder:/nowhere/at/all", "photos"])
def test_a_set_that_is_not_there_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        datasets.load(name)


def test_what_is_no_image_by_its_name_is_left_alone(tmp_path: Path) -> None:
    folder = put_folder(tmp_path / "set")
    before = datasets.load(f"folder:{folder}").fingerprint
    (folder / "train" / "cat" / "notes.txt").write_text("none")
    (folder / "train" / "cat" / "._0.png").write_bytes(b"of another system")
    (folder / "README.png").write_bytes(b"at another place")
    assert datasets.load(f"folder:{folder}").fingerprint == before


# --- CIFAR-10 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "cifar10", "cifar-10-batches-bin"])
def test_binary_files_of_cifar10_are_found_and_read(tmp_path: Path, below: str) -> None:
    put_cifar(tmp_path / "data" / below)
    loaded = datasets.load("cifar10", tmp_path / "data")
    assert loaded.train_images.shape == (10, 3, 32, 32)
    assert loaded.train_labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert loaded.test_labels.tolist() == [5, 9]
    expected = np.frombuffer(record(5, 5)[1:], np.uint8).reshape(3, 32, 32)
    np.testing.assert_array_equal(loaded.test_images[0], expected)


def test_the_standard_archive_holds_what_its_files_hold(tmp_path: Path) -> None:
    loose = put_cifar(tmp_path / "loose")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.add(loose, "cifar-10-batches-bin")
    sets = [datasets.load("cifar10", tmp_path / name) for name in ("loose", "packed")]
    assert sets[0].fingerprint == sets[1].fingerprint


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_may_be_images(tmp_path: Path, packed: bool) -> None:
    folder = put_folder(tmp_path / "cifar10")
    expected = images.load("any", folder).fingerprint
    if packed:
        (tmp_path / "other").mkdir()
        pack(folder, tmp_path / "other" / "cifar10-jpeg.tar.xz")
    loaded = datasets.load("cifar10", tmp_path / "other" if packed else tmp_path)
    assert loaded.name == "cifar10"
    assert loaded.fingerprint == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "found 0 bytes"), (record(1, 1)[:-1], "found 3072 bytes"), (record(10, 1), "label 10")],
)
def test_a_damaged_binary_file_is_a_usage_error(tmp_path: Path, content: bytes, said: str) -> None:
    (put_cifar(tmp_path / "cifar10") / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(UsageError, match=rf"data_batch_3\.bin: .*{said}"):
        datasets.load("cifar10", tmp_path)


def test_an_archive_that_lacks_a_file_says_which(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = 3073
        tar.addfile(member, io.BytesIO(record(1, 1)))
    with pytest.raises(UsageError, match=r"it lacks data_batch_1\.bin, "):
        datasets.load("cifar10", tmp_path)


def test_the_list_finds_cifar10_and_says_where_to_put_it(tmp_path: Path) -> None:
    def listed() -> dict[str, object]:
        result = CliRunner().invoke(
            data_group, ["list", "--data-dir", str(tmp_path), "--json"], catch_exceptions=False
        )
        return next(r for r in json.loads(result.output)["datasets"] if r["name"] == "cifar10")

    assert listed()["status"] == "missing"
    put_cifar(tmp_path / "cifar10")
    assert listed() == listed() | {
        "status": "found",
        "path": str(tmp_path / "cifar10"),
        "image_shape": [3, 32, 32],
    }
