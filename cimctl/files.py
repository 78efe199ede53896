"""Writing files so that a crash or a full disk leaves the old one whole."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from boards.errors import StorageError

_ADVICE = "Free some space or name another folder with --out"


def write_atomically(path: Path, data: bytes | memoryview, *, advice: str = _ADVICE) -> None:
    """Writes a file under a temporary name, flushes it to the disk, and renames it.

    Args:
        path: the file.
        data: its new content.
        advice: what to do when it cannot be written.

    Raises:
        StorageError: no space or no permission; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    existed = path.exists()
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"'{path}' cannot be written: {error.strerror or error}",
            left="The one before it is untouched" if existed else "No part of it was left behind",
            next=advice,
        ) from None
    finally:
        # Renamed by now, unless it failed or was interrupted.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Finds out before long work whether its result can be written.

    Raises:
        StorageError: it cannot; nothing was done.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir():
        raise StorageError(
            f"'{path}' cannot be written", left="Nothing was done", next="Name another file"
        )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes one JSON object, atomically."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def append_line(path: Path, text: str) -> None:
    """Appends a line to a log.

    Raises:
        StorageError: no space or no permission.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise StorageError(
            f"'{path}' cannot be written: {error.strerror or error}",
            next=_ADVICE,
        ) from None


def make_folder(path: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder '{path}' cannot be made: {error.strerror or error}",
            left="Nothing was done",
            next="Name another folder with --out",
        ) from None


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
