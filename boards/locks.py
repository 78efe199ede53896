"""One program at a time on a board."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import filelock

from boards.errors import PortBusyError, StorageError


def lock_path(port: str) -> Path:
    """The file whose lock stands for a port; aliases of a device path share it."""
    resolved = str(Path(port).resolve()) if port.startswith("/") else port
    resolved = resolved.replace("socket://", "tcp://")
    name = hashlib.sha256(resolved.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cimctl-{os.getuid()}" / f"{name}.lock"


def acquire(port: str) -> filelock.BaseFileLock:
    """Takes the lock of a port, or says at once that it is taken.

    Raises:
        PortBusyError: another program has it.
        StorageError: the lock file cannot be made.
    """
    path = lock_path(port)
    lock = filelock.FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise PortBusyError(
            f"The board at {port} is in use by another cimctl",
            left="The board was not touched",
            next=f"Wait for it or end it; the lock is {path}",
        ) from None
    except OSError as error:
        raise StorageError(
            f"The lock file {path} cannot be made: {error.strerror or error}",
            left="The board was not touched",
        ) from None
    return lock
