"""Checkpoints: one file, its digest in front, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from boards.errors import UsageError
from cimctl.files import write_atomically

_MAGIC = b"CIMCKPT1"
_DIGEST = 32
NAME = "checkpoint.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, texts and bytes.

    Raises:
        StorageError: no space or no permission; an earlier checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; a folder stands for the checkpoint in it.

    Raises:
        UsageError: there is none, or it is truncated or damaged.
    """
    path = path / NAME if path.is_dir() else path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"There is no checkpoint '{path}': {error.strerror}",
            left="No file was changed",
            next="Give the folder of a run, or its checkpoint.pt",
        ) from None
    head = len(_MAGIC) + _DIGEST
    body = data[head:]
    if not data.startswith(_MAGIC):
        raise _damaged(path, "it is no checkpoint of cimctl")
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : head]:
        raise _damaged(path, "its content does not match its digest")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(
        f"The checkpoint '{path}' is damaged or truncated: {why}",
        left="No file was changed",
        next="Take another checkpoint, or train again",
    )
