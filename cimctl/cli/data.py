"""`cimctl data`: which data sets there are, where they lie, and fetching them."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cimctl.datasets import DATASETS, cifar, locate
from cimctl.datasets.catalogue import FETCHABLE, SOURCES, Source

if TYPE_CHECKING:
    from cimctl.datasets.fetch import Fetched, Progress

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder with a folder for each data set.  [default: the user's cache]",
)
_json = click.option("--json", is_flag=True, help="Print one JSON object.")


@click.group()
def data() -> None:
    """List, find and fetch data sets.

    The digits are part of the package; the other sets lie in files. Nothing is downloaded unless
    `cimctl data fetch` is called.

    \b
    Example:
      cimctl data list
    """


@data.command("list")
@_data_dir
@_json
def list_command(data_dir: Path | None, json: bool) -> None:
    """List the data sets, and whether they are there.

    \b
    Example:
      cimctl data list --data-dir ~/datasets
    """
    rows = [_describe(SOURCES[name], data_dir) for name in DATASETS]
    if json:
        _print_object("cimctl.data.list/1", datasets=rows)
        return
    for row in rows:
        click.echo(
            f"{row['name']}: {row['title']}\n"
            f"  images   {row['train_images']} training, {row['test_images']} test, "
            f"{_pixels(row['image_shape'])}, {row['classes']} classes\n"
            f"  where    {_where(row, data_dir)}\n"
            f"  source   {row['source']}\n"
            f"  licence  {row['licence']}\n"
            f"  checked  {row['checked_by']}"
        )


@data.command("fetch")
@click.argument("name", type=click.Choice(FETCHABLE))
@_data_dir
@click.option(
    "--mirror",
    "mirror",
    multiple=True,
    metavar="URL",
    help="Web folder with the files, instead of the known ones; may be given more than once.",
)
@_json
def fetch_command(name: str, data_dir: Path | None, mirror: tuple[str, ...], json: bool) -> None:
    """Download a data set and check its digests.

    The files go to the user's cache, or to DIR/NAME with --data-dir. Files that are there and
    right are not fetched again.

    \b
    Example:
      cimctl data fetch mnist
    """
    from cimctl.datasets.fetch import fetch

    with _ProgressBar() as bar:
        result = fetch(name, data_dir, bar.show, mirror or None)
    if json:
        _print_object("cimctl.data.fetch/1", **_result(result))
        return
    for file in result.files:
        click.echo(f"{file.path} {'fetched' if file.mirror else 'was there'} ({file.size} bytes)")


@data.command("path")
@click.argument("name", required=False, type=click.Choice(DATASETS))
@_data_dir
@_json
def path_command(name: str | None, data_dir: Path | None, json: bool) -> None:
    """Print where the data set NAME lies, or where a fetch would put it.

    Without NAME, print the folder that holds all fetched sets.

    \b
    Example:
      cimctl data path mnist
    """
    if name is None:
        path = locate.cache_root() if data_dir is None else data_dir
        found = path.is_dir()
    else:
        row = _describe(SOURCES[name], data_dir)
        path, found = Path(row["path"]), row["status"] != "missing"
    if json:
        _print_object("cimctl.data.path/1", name=name, path=str(path), found=found)
        return
    click.echo(path)


def _describe(source: Source, data_dir: Path | None) -> dict[str, Any]:
    """One data set as `list --json` shows it."""
    status, path, missing = _state(source, data_dir)
    return {
        "name": source.name,
        "title": source.title,
        "train_images": source.train_count,
        "test_images": source.test_count,
        "image_shape": list(source.image_shape),
        "classes": source.classes,
        "status": status,
        "path": str(path),
        "missing_files": list(missing),
        "source": source.origin,
        "licence": source.licence,
        "checked_by": source.checked_by,
    }


def _state(source: Source, data_dir: Path | None) -> tuple[str, Path, tuple[str, ...]]:
    """Status (embedded, found or missing), place and missing files; contents are not read."""
    if source.name == cifar.NAME:
        found = cifar.find(data_dir)
        folder = locate.folders(source.name, data_dir)[0]
        return ("found", found, ()) if found else ("missing", folder, cifar.TRAIN + cifar.TEST)
    if source.files is None:
        return "embedded", Path(locate.__file__).with_name(f"{source.name}.npz"), ()
    looked = locate.places(source.name, source.files, data_dir)
    for place in looked:
        if place.complete:
            return "found", place.folder, ()
    return "missing", looked[0].folder, looked[0].missing


def _pixels(shape: list[int]) -> str:
    channels, height, width = shape
    return f"{height} x {width} pixels" + (f" of {channels} colours" if channels > 1 else "")


def _where(row: dict[str, Any], data_dir: Path | None) -> str:
    if row["status"] == "embedded":
        return "part of the package"
    if row["status"] == "found":
        return str(row["path"])
    if row["name"] not in FETCHABLE:
        return f"missing in {row['path']}; {cifar.ADVICE}"
    lacking = f"{len(row['missing_files'])} of 4 files missing in {row['path']}"
    return f"{lacking}; {locate.fetch_advice(row['name'], data_dir)}"


def _result(result: Fetched) -> dict[str, Any]:
    files = [
        {
            "path": str(file.path),
            "bytes": file.size,
            "status": "fetched" if file.mirror else "kept",
            "mirror": file.mirror or None,
        }
        for file in result.files
    ]
    return {"name": result.name, "path": str(result.folder), "files": files}


def _print_object(schema: str, **fields: Any) -> None:
    click.echo(dumps({"schema": schema, **fields}, indent=2))


class _ProgressBar:
    """One bar for each file on standard error; on no terminal, one line for each file."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._current = ("", "")

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, now: Progress) -> None:
        """Take one report of a download."""
        if (now.file, now.mirror) != self._current:
            self._current = (now.file, now.mirror)
            self._start(now)
        if self._bar is not None:
            self._bar.update(now.received - self._bar.n)

    def _start(self, now: Progress) -> None:
        if not sys.stderr.isatty():
            click.echo(f"fetching {now.mirror}{now.file}", err=True)
            return
        from tqdm import tqdm

        if self._bar is not None:
            self._bar.close()
        self._bar = tqdm(total=now.total, desc=now.file, unit="B", unit_scale=True, file=sys.stderr)
