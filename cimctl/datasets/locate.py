"""Where the files of a data set lie, or would lie."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from boards.errors import UsageError
from cimctl.datasets.catalogue import FileSet, FileSpec


@dataclass(frozen=True)
class Place:
    """A folder that was looked at, and what it lacks.

    Attributes:
        folder: the folder.
        missing: the stems of the files that are there neither packed nor unpacked.
    """

    folder: Path
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether all files of the set are there."""
        return not self.missing


def cache_root() -> Path:
    """The folder in the user's cache that holds one folder for each fetched set."""
    from platformdirs import user_cache_path

    return user_cache_path("cimctl") / "data"


def file_in(folder: Path, spec: FileSpec) -> Path | None:
    """The file of ``spec`` in a folder, or None.

    The packed file comes first: it is what `cimctl data fetch` writes, and for some sets the only
    form whose digest is known.
    """
    for name in (spec.packed_name, spec.stem):
        path = folder / name
        # os.path.isfile says no where pathlib raises, as for a folder that may not be entered.
        if os.path.isfile(path):
            return path
    return None


def folders(name: str, data_dir: Path | None) -> tuple[Path, ...]:
    """The folders that may hold a set, in the order in which they count.

    ``D/name`` comes before ``D``, so that `cimctl data fetch NAME --data-dir D` repairs a set
    whose damaged files lie in ``D`` itself.
    """
    return (cache_root() / name,) if data_dir is None else (data_dir / name, data_dir)


def places(name: str, files: FileSet, data_dir: Path | None) -> tuple[Place, ...]:
    """The folders that may hold a set of IDX files, in the order in which they count."""
    return tuple(
        Place(folder, tuple(s.stem for s in files.all if file_in(folder, s) is None))
        for folder in folders(name, data_dir)
    )


def require(name: str, files: FileSet, data_dir: Path | None) -> Path:
    """The first folder that holds the whole set.

    Raises:
        UsageError: no folder does; names the places looked at and what each lacks.
    """
    looked = places(name, files, data_dir)
    for place in looked:
        if place.complete:
            return place.folder
    raise UsageError(
        f"the data set {name} was not found; looked in "
        + " and in ".join(_lack(place, files) for place in looked),
        left="nothing was loaded",
        next=f"{fetch_advice(name, data_dir)}, or name the folder of the files with --data-dir",
    )


def fetch_advice(name: str, data_dir: Path | None) -> str:
    """The command that brings the set to where it was looked for."""
    option = "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    return f"run `cimctl data fetch {name}{option}`"


def _lack(place: Place, files: FileSet) -> str:
    if len(place.missing) == len(files.all):
        return f"{place.folder} (no file of it)"
    return f"{place.folder} (lacks {', '.join(place.missing)})"
