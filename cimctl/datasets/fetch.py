"""Download of the data sets that are not embedded; the only code here that uses the network.

A file is downloaded into memory (the largest has 26 MB), checked there, written under a temporary
name and renamed.  So whatever lies in the cache under its final name was whole and right when it
was put there, also after a crash in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boards.errors import CimError, LinkError, StorageError, UsageError
from cimctl.datasets import idx
from cimctl.datasets.catalogue import FETCHABLE, SOURCES, FileSpec
from cimctl.datasets.locate import cache_root, file_in
from cimctl.files import write_atomically

_STORAGE_ADVICE = "Make space, or name a folder that may be written with --data-dir"
#: Seconds that a mirror may stay silent.
TIMEOUT_S = 30.0

#: No file of any set comes near this; what is larger is not the file.
MAX_BYTES = 64 << 20

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Progress:
    """How far the download of one file is.

    Attributes:
        file: the name of the file.
        mirror: where it comes from.
        received: bytes so far.
        total: bytes in all, or None where the mirror does not say.
    """

    file: str
    mirror: str
    received: int
    total: int | None


@dataclass(frozen=True)
class FetchedFile:
    """What became of one file.

    Attributes:
        path: where it lies.
        size: bytes, as stored.
        mirror: where it was fetched from; "" if it was there already, and right.
    """

    path: Path
    size: int
    mirror: str


@dataclass(frozen=True)
class Fetched:
    """The result of a fetch: the set's name, its folder and its four files."""

    name: str
    folder: Path
    files: tuple[FetchedFile, ...]


def fetch(
    name: str,
    cache_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    mirrors: Sequence[str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Fetched:
    """Bring a data set into ``cache_dir/name``; files that are there and right are kept.

    Args:
        name: a set that lies in files, see :data:`cimctl.datasets.catalogue.FETCHABLE`.
        cache_dir: the folder that holds a folder for each set; None means the user's cache.
        progress: called for every piece received.
        mirrors: the addresses to try, in order, instead of the known ones.
        timeout_s: seconds that a mirror may stay silent.

    Raises:
        UsageError: no such set, a mirror that is no http address, or a mirror that sent
            something other than the published file.
        LinkError: no mirror could be reached, or none sent the whole file.
        StorageError: the folder or a file could not be written.
    """
    source = SOURCES.get(name)
    if source is None or source.files is None:
        raise _not_fetchable(name)
    # A mirror that worked moves to the front, so that a dead one costs its timeout once only.
    order = _addresses(source.mirrors if mirrors is None else mirrors)
    folder = (cache_root() if cache_dir is None else cache_dir) / name
    _make_folder(folder)
    files = []
    for spec in source.files.all:
        there = _right_file(folder, spec)
        files.append(there or _fetch_file(folder, spec, order, progress, timeout_s))
    return Fetched(name, folder, tuple(files))


def _not_fetchable(name: str) -> UsageError:
    if name in SOURCES and not SOURCES[name].embedded:
        return UsageError(
            f"the files of the data set {name} cannot be fetched from here",
            left="nothing was fetched",
            next=f"get them from {SOURCES[name].origin}",
        )
    if name in SOURCES:
        return UsageError(
            f"the data set {name} is part of the package and need not be fetched",
            left="nothing was fetched",
            next=f"use it as it is, with `--dataset {name}`",
        )
    return UsageError(
        f"there is no data set {name!r}",
        left="nothing was fetched",
        next=f"choose one of {', '.join(FETCHABLE)}",
    )


def _addresses(mirrors: Sequence[str]) -> list[str]:
    """The mirrors as a list of addresses that end in a slash."""
    from urllib.parse import urlsplit

    for mirror in mirrors:
        try:
            parts = urlsplit(mirror)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            good = False
        if not good:
            raise UsageError(
                f"the mirror {mirror!r} is no http or https address",
                left="nothing was fetched",
                next="name a folder on a web server, such as https://example.org/mnist/",
            )
    if not mirrors:
        raise UsageError("no mirror was named", left="nothing was fetched", next="name one")
    return [mirror if mirror.endswith("/") else mirror + "/" for mirror in mirrors]


def _right_file(folder: Path, spec: FileSpec) -> FetchedFile | None:
    """The file that is there already, if its digest is known and right."""
    path = file_in(folder, spec)
    if path is None:
        return None
    try:
        blob = idx.read_blob(path, advice="")
        right = idx.check_digest(blob, idx.parse(blob, spec.item_shape), spec)
    except UsageError:
        return None
    return FetchedFile(path, len(blob.data), mirror="") if right else None


def _fetch_file(
    folder: Path,
    spec: FileSpec,
    order: list[str],
    progress: Callable[[Progress], None] | None,
    timeout_s: float,
) -> FetchedFile:
    """Fetch one file from the first mirror that has it right, and move that to the front."""
    failures: list[CimError] = []
    for mirror in tuple(order):
        try:
            data = _download(mirror, spec, progress, timeout_s)
            _check(mirror, spec, data)
        except (LinkError, UsageError) as error:
            failures.append(error)
            continue
        order.remove(mirror)
        order.insert(0, mirror)
        path = folder / spec.packed_name
        write_atomically(path, data, advice=_STORAGE_ADVICE)
        return FetchedFile(path, len(data), mirror)
    raise _failed(folder, spec, failures)


def _download(
    mirror: str,
    spec: FileSpec,
    progress: Callable[[Progress], None] | None,
    timeout_s: float,
) -> bytes:
    """The bytes of one file.

    Raises:
        LinkError: the mirror cannot be reached, does not have it, or broke off.
        UsageError: it sends more than any such file has.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    url = mirror + spec.packed_name
    data = bytearray()
    try:
        with urlopen(url, timeout=timeout_s) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while len(data) <= MAX_BYTES and (piece := response.read(_CHUNK)):
                data += piece
                if progress is not None:
                    progress(Progress(spec.packed_name, mirror, len(data), total))
    except HTTPError as error:
        error.close()  # it holds the connection open
        raise LinkError(f"{url}: HTTP status {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise LinkError(f"{url}: {str(reason) or type(error).__name__}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{url}: found more than {MAX_BYTES} bytes, expected fewer")
    if total is not None and len(data) != total:
        raise LinkError(f"{url}: broke off after {len(data)} of {total} bytes")
    return bytes(data)


def _check(mirror: str, spec: FileSpec, data: bytes) -> None:
    """Raise UsageError unless the bytes are the published file."""
    blob = idx.Blob(mirror + spec.packed_name, data, packed=True, advice="")
    idx.check_digest(blob, idx.parse(blob, spec.item_shape), spec)


def _failed(folder: Path, spec: FileSpec, failures: Sequence[CimError]) -> CimError:
    """The error for a file that no mirror has right; wrong content outweighs silence."""
    what = f"{spec.packed_name} could not be fetched: " + "; ".join(e.what for e in failures)
    left = f"files of the set that are right are kept in {folder}"
    if any(isinstance(error, UsageError) for error in failures):
        return UsageError(
            what,
            left=left,
            next="try another network (a login page may answer in place of the mirror) or, "
            "with --mirror, another mirror",
        )
    return LinkError(
        what,
        left=left,
        next="check the network connection and try again, or copy the files there by hand",
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_storage(folder, error) from error


def _no_storage(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}",
        left="files of the set that are right are kept",
        next=_STORAGE_ADVICE,
    )
