"""Arrays in files: .npy, or CSV of plain numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.errors import UsageError
from cimctl.files import write_atomically

_ADVICE = "Free some space or name another file with --output"


def read_matrix(path: Path) -> npt.NDArray[np.float64]:
    """A two-dimensional array of numbers; a single row counts as one.

    Raises:
        UsageError: no such file, or what is in it is no matrix of numbers.
    """
    if not path.exists():
        raise UsageError(f"There is no file '{path}'", left="Nothing was sent")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with warnings.catch_warnings():
                # An empty file is told below, in our words.
                warnings.simplefilter("ignore")
                values = np.loadtxt(path, delimiter=",", ndmin=2)
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be read: {error.strerror or error}", left="Nothing was sent"
        ) from None
    except (ValueError, EOFError) as error:
        raise UsageError(
            f"'{path}' holds no matrix of numbers: {' '.join(str(error).split()).rstrip('.')}",
            left="Nothing was sent",
            next="Give a .npy file, or CSV with numbers only",
        ) from None
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise UsageError(f"'{path}' holds {values.dtype}, not numbers", left="Nothing was sent")
    matrix = np.atleast_2d(values.astype(np.float64))
    if not matrix.size:
        raise UsageError(f"'{path}' holds no numbers", left="Nothing was sent")
    if matrix.ndim != 2:
        raise UsageError(
            f"'{path}' has shape {values.shape}, two dimensions were expected",
            left="Nothing was sent",
        )
    return matrix


def read_integers(path: Path, low: int, high: int) -> npt.NDArray[np.int64]:
    """A matrix of whole numbers from ``low`` to ``high``.

    Raises:
        UsageError: names the first entry that is none.
    """
    matrix = read_matrix(path)
    wrong = ~((matrix == np.rint(matrix)) & (matrix >= low) & (matrix <= high))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UsageError(
            f"'{path}' has {matrix[row, column]:g} in row {row}, column {column}: whole numbers "
            f"from {low} to {high} were expected",
            left="Nothing was sent",
        )
    return matrix.astype(np.int64)


def write_matrix(path: Path, matrix: npt.NDArray[Any]) -> None:
    """Writes .npy, or CSV for any other ending.

    Raises:
        StorageError: no space or no permission.
    """
    if path.suffix == ".npy":
        import io

        buffer = io.BytesIO()
        np.save(buffer, matrix)
        write_atomically(path, buffer.getvalue(), advice=_ADVICE)
    else:
        write_atomically(path, (csv_text(matrix) + "\n").encode(), advice=_ADVICE)


def csv_text(matrix: npt.NDArray[Any]) -> str:
    """Rows of comma-separated numbers."""
    form = "d" if matrix.dtype.kind in "iu" else ".6g"
    return "\n".join(",".join(f"{value:{form}}" for value in row) for row in matrix)
