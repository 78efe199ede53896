"""The data sets: embedded digits, IDX files, fetching, and `cimctl data`."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from boards.errors import LinkError, StorageError, UsageError
from cimctl.cli.data import data as data_group
from cimctl.datasets import DATASETS, digits, idx, load, locate
from cimctl.datasets.catalogue import IMAGE_SHAPE, SOURCES, FileSet, FileSpec
from cimctl.datasets.dataset import Dataset
from cimctl.datasets.fetch import Progress, fetch

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN, TEST = 7, 3
Change = Callable[[bytes], bytes]

#: For tests that need files of the published digests.
with_tiny_sets = pytest.mark.usefixtures("tiny")


# --- tiny sets -----------------------------------------------------------------------------------


def images(count: int, seed: int = 0, shape: tuple[int, int] = IMAGE_SHAPE) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return struct.pack(">4B3I", 0, 0, 8, 3, count, *shape) + values.tobytes()


def labels(count: int, classes: int = 10) -> bytes:
    return struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(i % classes for i in range(count))


FILES = {
    "train-images-idx3-ubyte": images(TRAIN, 1),
    "train-labels-idx1-ubyte": labels(TRAIN),
    "t10k-images-idx3-ubyte": images(TEST, 2),
    "t10k-labels-idx1-ubyte": labels(TEST),
}
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def pack(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def put(folder: Path, *, packed: bool, **changes: bytes) -> Path:
    """Write the tiny set; a change is stored as it is under the stem with underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in FILES.items():
        stored = changes.get(stem.replace("-", "_"), pack(content) if packed else content)
        (folder / (f"{stem}.gz" if packed else stem)).write_bytes(stored)
    return folder


def file_set(digest: Callable[[str, tuple[int, ...]], FileSpec]) -> FileSet:
    return FileSet(*(digest(stem, IMAGE_SHAPE if "images" in stem else ()) for stem in FILES))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the cache of whoever runs it, or asks a proxy for this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    cache = tmp_path / "user-cache"
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *a, **k: cache)
    return cache / "data"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny files' digests in place of the published ones."""
    by_content = file_set(lambda s, shape: FileSpec(s, shape, content_md5=md5(FILES[s])))
    by_packing = file_set(lambda s, shape: FileSpec(s, shape, packed_md5=md5(pack(FILES[s]))))
    for name, files in (("mnist", by_content), ("fashion-mnist", by_packing)):
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], files=files))


def real_data() -> Path:
    named = os.environ.get("CIMCTL_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no MNIST in {folder}; CIMCTL_TEST_DATA names a folder that holds mnist/")
    return folder


# --- digits --------------------------------------------------------------------------------------


def test_digits_have_the_promised_shapes_types_and_range() -> None:
    digit_set = load("digits", None)
    assert digit_set.train_images.shape == (1497, 1, 28, 28)
    assert digit_set.test_images.shape == (300, 1, 28, 28)
    assert digit_set.train_images.dtype == digit_set.test_images.dtype == np.uint8
    assert digit_set.train_labels.dtype == digit_set.test_labels.dtype == np.int64
    assert digit_set.train_labels.shape == (1497,) and digit_set.test_labels.shape == (300,)
    assert (digit_set.train_images.min(), digit_set.train_images.max()) == (0, 255)
    assert digit_set.classes == 10


def test_digits_test_part_has_thirty_of_each_class() -> None:
    assert np.bincount(load("digits", None).test_labels).tolist() == [30] * 10


def test_digits_parts_are_disjoint_and_complete() -> None:
    train, test = digits.split(np.arange(1797, dtype=np.int64) % 10)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))


def test_digits_and_their_split_never_change() -> None:
    # Checkpoints and published accuracies rest on this very split.
    expected = "171590cab267570ea1234910265d9cf2dd01342c225a1dc930f03b3cc0bddb29"
    assert load("digits", None).fingerprint == expected


def test_digits_do_not_depend_on_the_global_seed() -> None:
    np.random.seed(1)
    first = load("digits", None).fingerprint
    np.random.seed(2)
    assert load("digits", None).fingerprint == first


def test_enlarging_repeats_pads_and_rescales() -> None:
    small = np.zeros((1, 8, 8), dtype=np.uint8)
    small[0, 0, 0], small[0, 7, 7] = 16, 3
    large = digits.enlarge(small)
    assert large.shape == (1, 1, 28, 28) and large.dtype == np.uint8
    assert (large[0, 0, 2:5, 2:5] == 255).all()
    assert (large[0, 0, 23:26, 23:26] == round(3 * 255 / 16)).all()
    assert int((large != 0).sum()) == 18


# --- Dataset -------------------------------------------------------------------------------------


def tiny_dataset(pixels: int = 0, dtype: str = "<i8") -> Dataset:
    image = np.full((2, 1, 28, 28), pixels, dtype=np.uint8)
    label = np.array([3, 4], dtype=dtype)
    return Dataset("any", image, label, image, label, 10)


def test_fingerprint_depends_on_values_not_on_name_or_byte_order() -> None:
    base = tiny_dataset().fingerprint
    assert tiny_dataset(1).fingerprint != base
    assert tiny_dataset(dtype=">i8").fingerprint == base
    assert dataclasses.replace(tiny_dataset(), name="other").fingerprint == base


def test_fingerprint_sees_labels_swapped_between_parts() -> None:
    base = tiny_dataset()
    other = dataclasses.replace(base, test_labels=base.test_labels[::-1])
    assert other.fingerprint != base.fingerprint


def test_a_dataset_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_dataset().name = "x"  # type: ignore[misc]


def test_names_are_listed_without_numpy_torch_or_network_code() -> None:
    code = (
        "import sys, cimctl.datasets, cimctl.cli.data; assert 'mnist' in cimctl.datasets.DATASETS;"
        "print([m for m in ('numpy', 'torch', 'platformdirs', 'urllib.request')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_loading_imports_no_torch() -> None:
    code = "import sys, cimctl.datasets as d; d.load('digits', None); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_an_unknown_name_is_a_usage_error_that_lists_the_names() -> None:
    with pytest.raises(UsageError) as caught:
        load("minst", None)
    assert all(name in str(caught.value) for name in DATASETS)


# --- finding the files ---------------------------------------------------------------------------


@with_tiny_sets
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_files_load_packed_or_raw_directly_or_in_a_folder_of_the_name(
    tmp_path: Path, packed: bool, below: str
) -> None:
    put(tmp_path / below, packed=packed)
    loaded = load("mnist", tmp_path)
    assert loaded.train_images.shape == (TRAIN, 1, 28, 28)
    assert loaded.train_images.tobytes() == FILES[IMAGES][16:]
    assert loaded.train_labels.tolist() == list(range(TRAIN))
    assert loaded.test_labels.dtype == np.int64 and len(loaded.test_images) == TEST
    assert loaded.train_images.flags.writeable


@with_tiny_sets
def test_without_a_data_dir_the_users_cache_is_read(own_cache: Path) -> None:
    put(own_cache / "mnist", packed=True)
    assert load("mnist", None).name == "mnist"


def test_a_missing_set_names_the_places_and_the_remedy(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load("mnist", None)
    assert str(own_cache / "mnist") in caught.value.what
    assert "cimctl data fetch mnist" in caught.value.next and "--data-dir" in caught.value.next
    with pytest.raises(UsageError) as caught:
        load("mnist", tmp_path / "nowhere")
    for place in (tmp_path / "nowhere", tmp_path / "nowhere" / "mnist"):
        assert f"{place} (no file of it)" in caught.value.what


def test_a_set_with_one_file_missing_names_that_file(tmp_path: Path) -> None:
    (put(tmp_path, packed=True) / f"{LABELS}.gz").unlink()
    with pytest.raises(UsageError, match=f"lacks {LABELS}"):
        load("mnist", tmp_path)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        idx.read_blob(tmp_path, advice="")


# --- damaged files -------------------------------------------------------------------------------

HEADER = FILES[IMAGES][:16]
DAMAGES: dict[str, tuple[str, Change, str, str]] = {
    "empty": (IMAGES, lambda b: b"", "found 0 bytes", "16 of a header"),
    "half a header": (IMAGES, lambda b: b[:9], "found 9 bytes", "16 of a header"),
    "magic": (IMAGES, lambda b: b"\x00\x00\x09\x03" + b[4:], "0x00000903", "0x00000803"),
    "labels for images": (IMAGES, lambda b: FILES[LABELS], "0x00000801", "0x00000803"),
    "images for labels": (LABELS, lambda b: FILES[IMAGES], "0x00000803", "0x00000801"),
    "truncated": (IMAGES, lambda b: b[:-1], "truncated", f"{TRAIN * 784} that its header"),
    "surplus": (IMAGES, lambda b: b + b"\x00", "more bytes", f"{TRAIN * 784} that its header"),
    "image size": (IMAGES, lambda b: images(TRAIN, shape=(32, 32)), "32 x 32", "28 x 28"),
    "no items": (LABELS, lambda b: labels(0), "announces 0 items", "1 to"),
    "absurd count": (
        IMAGES,
        lambda b: b[:4] + b"\xff" * 4 + b[8:],
        "announces 4294967295 items",
        "1 to",
    ),
    "label count": (LABELS, lambda b: labels(TRAIN - 1), "6 labels", "7, one for each image"),
    "label value": (LABELS, lambda b: labels(TRAIN)[:-1] + b"\x0a", "the label 10", "0 to 9"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_file_found_and_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, damage: str
) -> None:
    no_digests = file_set(lambda stem, shape: FileSpec(stem, shape))
    changed = dataclasses.replace(SOURCES["mnist"], files=no_digests)
    monkeypatch.setitem(SOURCES, "mnist", changed)
    stem, change, found, expected = DAMAGES[damage]
    content = change(FILES[stem])
    stored = pack(content) if packed else content
    put(tmp_path, packed=packed, **{stem.replace("-", "_"): stored})
    with pytest.raises(UsageError) as caught:
        load("mnist", tmp_path)
    what_found, what_expected = caught.value.what.split(", expected ", 1)
    assert stem in what_found and found in what_found
    assert expected in what_expected
    assert caught.value.left == "nothing was loaded"
    assert "cimctl data fetch mnist" in caught.value.next


@with_tiny_sets
@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:-4],
        lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:],
        lambda b: b"<html>please log in</html>",
        lambda b: b[:100] + b"\xff" * 50 + b[150:],
        lambda b: b + b"garbage",
    ],
    ids=["half", "no length", "checksum", "web page", "overwritten", "garbage behind"],
)
def test_a_corrupt_gzip_is_called_so(tmp_path: Path, damage: Change) -> None:
    put(tmp_path, packed=True, train_images_idx3_ubyte=damage(pack(FILES[IMAGES])))
    with pytest.raises(UsageError, match=f"{IMAGES}.gz: found a corrupt gzip"):
        load("mnist", tmp_path)


@with_tiny_sets
@pytest.mark.parametrize("packed", [True, False])
def test_a_wrong_digest_names_file_both_digests_and_the_remedy(
    tmp_path: Path, packed: bool
) -> None:
    other = images(TRAIN, seed=9)
    put(tmp_path, packed=packed, train_images_idx3_ubyte=pack(other) if packed else other)
    with pytest.raises(UsageError) as caught:
        load("mnist", tmp_path)
    for part in (IMAGES, md5(other), md5(FILES[IMAGES])):
        assert part in caught.value.what
    assert caught.value.left == "nothing was loaded"
    assert f"cimctl data fetch mnist --data-dir {tmp_path}" in caught.value.next


@with_tiny_sets
def test_files_packed_again_load_where_the_content_is_what_is_known(tmp_path: Path) -> None:
    again = gzip.compress(FILES[IMAGES], 1, mtime=5)
    load("mnist", put(tmp_path / "a", packed=True, train_images_idx3_ubyte=again))
    with pytest.raises(UsageError, match=md5(again)):
        load("fashion-mnist", put(tmp_path / "b", packed=True, train_images_idx3_ubyte=again))


@with_tiny_sets
def test_raw_files_of_unknown_digest_load_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load("fashion-mnist", put(tmp_path / "raw", packed=False))
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 4
    assert "only its structure" in caplog.text
    caplog.clear()
    load("fashion-mnist", put(tmp_path / "packed", packed=True))
    assert not caplog.records


def parse(data: bytes, packed: bool) -> idx.Content:
    return idx.parse(idx.Blob("some-file", data, packed, "advice"), IMAGE_SHAPE)


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_a_usage_error(data: bytes, packed: bool) -> None:
    with pytest.raises(UsageError):
        parse(data, packed)


@settings(deadline=None)
@given(st.integers(0, len(FILES[IMAGES]) - 1))
def test_every_truncation_of_a_raw_file_is_a_usage_error(length: int) -> None:
    with pytest.raises(UsageError):
        parse(FILES[IMAGES][:length], packed=False)


@settings(deadline=None)
@given(st.integers(0, len(pack(FILES[IMAGES])) - 1))
def test_every_truncation_of_a_packed_file_is_a_usage_error(length: int) -> None:
    with pytest.raises(UsageError):
        parse(pack(FILES[IMAGES])[:length], packed=True)


@settings(deadline=None)
@given(st.integers(0, 15), st.integers(1, 255))
def test_every_change_to_a_header_is_a_usage_error(position: int, flip: int) -> None:
    data = bytearray(FILES[IMAGES])
    data[position] ^= flip
    with pytest.raises(UsageError):
        parse(bytes(data), packed=False)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    st.binary(max_size=12),
)
def test_a_changed_packed_file_is_the_same_content_or_a_usage_error(
    changes: list[tuple[int, int]], behind: bytes
) -> None:
    # Some bytes of a gzip header, such as the time, do not matter; the content must not differ.
    data = bytearray(pack(FILES[IMAGES]))
    for position, value in changes:
        data[position] = value
    try:
        content = parse(bytes(data) + behind, packed=True)
    except UsageError:
        return
    assert content.md5 == md5(FILES[IMAGES])


# --- fetching ------------------------------------------------------------------------------------


@dataclass
class Mirror:
    """A web server on this machine that hands out what a test puts into it.

    Attributes:
        url: its address.
        files: the body for each file name.
        cut: names whose body breaks off in the middle.
        asked: the names asked for, in order.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


def serve(mirror: Mirror) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            mirror.asked.append(name)
            if name not in mirror.files:
                self.send_error(404)
                return
            body = mirror.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if name in mirror.cut else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror.url = f"http://127.0.0.1:{server.server_address[1]}/sets/"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    return server


@pytest.fixture
def mirrors() -> Iterator[tuple[Mirror, Mirror]]:
    """Two mirrors that have everything right, for a test to spoil."""
    pair = tuple(Mirror(files={f"{s}.gz": pack(c) for s, c in FILES.items()}) for _ in range(2))
    servers = [serve(mirror) for mirror in pair]
    yield pair[0], pair[1]
    for server in servers:
        server.shutdown()
        server.server_close()


NAMES = [f"{stem}.gz" for stem in FILES]


@with_tiny_sets
def test_fetch_brings_the_files_where_load_finds_them(
    own_cache: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    seen: list[Progress] = []
    result = fetch("mnist", progress=seen.append, mirrors=[mirrors[0].url])
    assert result.folder == own_cache / "mnist"
    assert sorted(p.name for p in result.folder.iterdir()) == sorted(NAMES)
    assert [f.mirror for f in result.files] == [mirrors[0].url] * 4
    assert [(p.file, p.received) for p in seen if p.received == p.total] == [
        (file.path.name, file.size) for file in result.files
    ]
    assert load("mnist", None).train_labels.tolist() == list(range(TRAIN))


@with_tiny_sets
def test_fetch_into_a_data_dir_is_found_with_that_data_dir(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    # Damaged files in the folder itself must not hide the fetched ones.
    put(tmp_path, packed=True, train_images_idx3_ubyte=b"broken")
    fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    assert len(load("mnist", tmp_path).train_images) == TRAIN


@with_tiny_sets
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_fetch_keeps_what_is_right_and_replaces_what_is_not(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], name: str
) -> None:
    folder = put(tmp_path / name, packed=True, train_images_idx3_ubyte=b"half of it")
    (folder / f"{LABELS}.gz").unlink()
    result = fetch(name, tmp_path, mirrors=[mirrors[0].url])
    assert mirrors[0].asked == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert [bool(file.mirror) for file in result.files] == [True, True, False, False]
    again = fetch(name, tmp_path, mirrors=[mirrors[0].url])
    assert len(mirrors[0].asked) == 2 and not any(file.mirror for file in again.files)


@with_tiny_sets
def test_unpacked_files_are_kept_only_where_their_digest_is_known(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    for name in ("mnist", "fashion-mnist"):
        put(tmp_path / name, packed=False)
    fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    assert mirrors[0].asked == []
    fetch("fashion-mnist", tmp_path, mirrors=[mirrors[0].url])
    assert mirrors[0].asked == NAMES


@with_tiny_sets
def test_what_a_mirror_packed_again_is_accepted_by_its_content(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    mirrors[0].files[NAMES[0]] = gzip.compress(FILES[IMAGES], 1, mtime=99)
    fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    with pytest.raises(UsageError, match="of the packed file"):
        fetch("fashion-mnist", tmp_path, mirrors=[mirrors[0].url])


@with_tiny_sets
@pytest.mark.parametrize("fault", ["missing", "half", "other content", "web page"])
def test_the_next_mirror_is_tried_and_then_stays_the_first(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], fault: str
) -> None:
    bad, good = mirrors
    if fault == "missing":
        bad.files.clear()
    elif fault == "half":
        bad.cut = set(NAMES)
    else:
        body = pack(images(TRAIN, 9)) if fault == "other content" else b"<html>log in</html>"
        bad.files = dict.fromkeys(NAMES, body)
    result = fetch("mnist", tmp_path, mirrors=[bad.url.rstrip("/"), good.url])
    assert [file.mirror for file in result.files] == [good.url] * 4
    assert bad.asked == NAMES[:1] and good.asked == NAMES


@with_tiny_sets
def test_a_wrong_digest_everywhere_is_a_usage_error_and_leaves_no_file(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    other = images(TRAIN, 9)
    for mirror in mirrors:
        mirror.files[NAMES[0]] = pack(other)
    with pytest.raises(UsageError) as caught:
        fetch("mnist", tmp_path, mirrors=[m.url for m in mirrors])
    for part in (md5(other), md5(FILES[IMAGES]), mirrors[0].url, mirrors[1].url):
        assert part in caught.value.what
    assert caught.value.next
    assert list((tmp_path / "mnist").iterdir()) == []


@with_tiny_sets
def test_half_a_file_is_a_link_error_and_a_second_fetch_goes_on_from_there(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    mirror = mirrors[0]
    mirror.cut = {NAMES[2]}
    with pytest.raises(LinkError, match="broke off after"):
        fetch("mnist", tmp_path, mirrors=[mirror.url])
    assert sorted(p.name for p in (tmp_path / "mnist").iterdir()) == sorted(NAMES[:2])
    mirror.cut, mirror.asked = set(), []
    fetch("mnist", tmp_path, mirrors=[mirror.url])
    assert mirror.asked == NAMES[2:]


@with_tiny_sets
def test_no_network_is_a_link_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        fetch("mnist", tmp_path, mirrors=["http://127.0.0.1:9/"], timeout_s=2)
    assert "127.0.0.1:9" in caught.value.what and caught.value.left and caught.value.next


@with_tiny_sets
def test_a_body_of_absurd_size_is_refused(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cimctl.datasets.fetch.MAX_BYTES", 100)
    with pytest.raises(UsageError, match="more than 100 bytes"):
        fetch("mnist", tmp_path, mirrors=[mirrors[0].url])


@with_tiny_sets
def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        fetch("mnist", tmp_path / "file", mirrors=["http://127.0.0.1:9/"])
    assert caught.value.left and caught.value.next


@with_tiny_sets
def test_a_full_disk_is_a_storage_error_that_leaves_the_old_file_and_no_rest(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    old = tmp_path / "mnist" / NAMES[0]
    old.parent.mkdir()
    old.write_bytes(b"old")
    monkeypatch.setattr("cimctl.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    assert list(old.parent.iterdir()) == [old] and old.read_bytes() == b"old"


@with_tiny_sets
def test_an_interrupted_write_leaves_no_rest(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cimctl.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.parametrize("name", ["digits", "minst"])
def test_what_cannot_be_fetched_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        fetch(name)
    assert caught.value.left == "nothing was fetched" and caught.value.next


@pytest.mark.parametrize("mirror", ["", "example.org/x", "file:///etc/", "http://", "http://[x/"])
def test_a_mirror_that_is_no_web_address_is_a_usage_error(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UsageError, match="no http or https address"):
        fetch("mnist", tmp_path, mirrors=[mirror])
    assert list(tmp_path.iterdir()) == []


# --- the real files ------------------------------------------------------------------------------


def test_real_mnist_loads_right_and_fast() -> None:
    folder = real_data()
    seconds = []
    for _ in range(2):  # the better of two: other work on the machine is not what is measured
        start = time.perf_counter()
        mnist = load("mnist", folder)
        seconds.append(time.perf_counter() - start)
    assert mnist.train_images.shape == (60000, 1, 28, 28)
    assert mnist.test_images.shape == (10000, 1, 28, 28)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert min(seconds) < 1.5


def test_real_packed_test_images_are_the_published_ones() -> None:
    packed = (real_data() / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes()
    assert md5(packed) == "9fb629c4189551a2d022fa330f9573f3"


def test_real_mnist_is_fetched_from_a_mirror(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    folder = real_data() / "mnist"
    mirrors[0].files = {name: (folder / name).read_bytes() for name in NAMES}
    fetch("mnist", tmp_path, mirrors=[mirrors[0].url])
    assert locate.places("mnist", file_set(FileSpec), tmp_path)[0].complete


def test_mnist_offered_as_fashion_mnist_is_refused() -> None:
    with pytest.raises(UsageError, match="8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        load("fashion-mnist", real_data() / "mnist")


# --- the commands --------------------------------------------------------------------------------


def run_json(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(data_group, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    decoded: dict[str, object] = json.loads(result.stdout)
    return decoded


def test_list_tells_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path / "mnist", packed=True)
    listed = run_json("list", "--data-dir", str(tmp_path))
    assert listed["schema"] == "cimctl.data.list/1"
    rows = listed["datasets"]
    assert isinstance(rows, list)
    assert {row["name"]: row["status"] for row in rows} == {
        "digits": "embedded",
        "mnist": "found",
        "fashion-mnist": "missing",
        "cifar10": "missing",
    }
    assert rows[0]["licence"] == "CC BY 4.0" and "Alpaydin" in rows[0]["source"]
    assert len(rows[2]["missing_files"]) == 4


def test_list_for_people_names_every_set_and_its_licence() -> None:
    result = CliRunner().invoke(data_group, ["list"], catch_exceptions=False)
    for source in SOURCES.values():
        assert source.name in result.stdout and source.licence in result.stdout
    assert "cimctl data fetch mnist" in result.stdout


def test_listed_sizes_of_the_digits_are_the_real_ones() -> None:
    digit_set, listed = load("digits", None), SOURCES["digits"]
    assert len(digit_set.train_images) == listed.train_count
    assert len(digit_set.test_images) == listed.test_count


def test_path_of_the_digits_is_a_file_that_exists() -> None:
    answer = run_json("path", "digits")
    assert answer["found"] is True and Path(str(answer["path"])).is_file()


def test_path_of_a_missing_set_is_where_a_fetch_would_put_it(own_cache: Path) -> None:
    assert run_json("path", "mnist") == {
        "schema": "cimctl.data.path/1",
        "name": "mnist",
        "path": str(own_cache / "mnist"),
        "found": False,
    }
    result = CliRunner().invoke(data_group, ["path"])
    assert result.stdout.strip() == str(own_cache)


@with_tiny_sets
def test_fetch_command_prints_results_to_stdout_and_progress_to_stderr(
    tmp_path: Path, mirrors: tuple[Mirror, Mirror]
) -> None:
    arguments = ["fetch", "mnist", "--data-dir", str(tmp_path), "--mirror", mirrors[0].url]
    result = CliRunner().invoke(data_group, arguments, catch_exceptions=False)
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["fetched"] * 4
    assert result.stderr.splitlines() == [f"fetching {mirrors[0].url}{name}" for name in NAMES]
    answer = run_json(*arguments)
    assert answer["schema"] == "cimctl.data.fetch/1"
    files = answer["files"]
    assert isinstance(files, list)
    assert [file["status"] for file in files] == ["kept"] * 4


@with_tiny_sets
def test_fetch_command_leaves_errors_to_the_top_level(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        data_group,
        ["fetch", "mnist", "--data-dir", str(tmp_path), "--mirror", "http://127.0.0.1:9/"],
    )
    assert isinstance(result.exception, LinkError)


@pytest.mark.parametrize("command", ["list", "fetch", "path"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(data_group, [command, "--help"])
    assert f"Example:\n    cimctl data {command}" in result.stdout
