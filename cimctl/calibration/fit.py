"""The model of a converter line, its fit to measured products, and its inverse.

    code = y + offset + bow * k(y / top)     y = gain * expected     k(u) = 3 sqrt(3) / 2 (u - u^3)

``expected`` is the product in codes as an ideal converter would give it, ``top`` half the range of
codes.  The cubic is zero at both ends and in the middle, and at most 1 between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[Any]

#: standard errors by which a bow must differ from zero to be taken for one
SIGNIFICANT = 4.0
#: noise of a code, in codes, from which on rounding no longer biases the mean of many
_DITHERED = 0.4
#: rounds in which gain and bow settle
_ROUNDS = 4
_SHAPE = 1.5 * 3.0**0.5


@dataclass(frozen=True)
class Lines:
    """Parameters of converter lines, one entry a line.

    Attributes:
        gain: factor of an ideal converter's gain.
        offset: code that stands for no current.
        bow: largest deviation from a straight line, in codes.
    """

    gain: Floats
    offset: Floats
    bow: Floats


def shape(share: Floats) -> Floats:
    """The cubic k; no bow beyond the range."""
    inside = np.clip(share, -1.0, 1.0)
    bent: Floats = _SHAPE * (inside - inside * inside * inside)
    return bent


def inverse(codes: Codes, lines: Lines, top: float) -> Floats:
    """The products that stand behind codes, in the codes of an ideal converter.

    Args:
        codes: measured, of a shape that the lines' arrays broadcast to.
        lines: of the converters.
        top: half the range of codes.
    """
    level: Floats = codes - lines.offset
    straight = level
    if lines.bow.any():
        # A bow is small beside the range, so each round leaves a small share of the error.
        for _ in range(4):
            level = straight - lines.bow * shape(level / top)
    return level / lines.gain


def fit(expected: Floats, codes: Codes, zeros: Codes, top: float) -> Lines:
    """Fits the lines' parameters, by least squares.

    Args:
        expected: (products, lines), in codes of an ideal converter.
        codes: (products, lines), measured.
        zeros: (many, lines), measured without any input.
        top: half the range of codes.
    """
    level, free = _offsets(zeros)
    rest = codes - level
    ones = np.where(free, 1.0, 0.0) * np.ones_like(expected)
    straight, _ = _solved([expected, ones], rest)
    gain = straight[0]
    # Where on the bow a product lies depends on the gain, which the bow's own slope has part in.
    for _ in range(_ROUNDS):
        full, errors = _solved([expected, ones, shape(gain * expected / top)], rest)
        gain = full[0]
    bow = np.where(np.abs(full[2]) > SIGNIFICANT * errors[2], full[2], 0.0)
    chosen = np.where(bow != 0.0, full[:2], straight)
    return Lines(chosen[0], level + chosen[1], bow)


def _offsets(zeros: Codes) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Mean code of each line without input; and where too little noise leaves it to the fit."""
    return zeros.mean(axis=0), zeros.std(axis=0) < _DITHERED


def _solved(terms: list[Floats], values: Floats) -> tuple[Floats, Floats]:
    """Least squares for each line by itself: (terms, lines) coefficients and standard errors.

    The errors take the noise as it is found, product by product (White): it grows with the inputs.
    """
    design = np.stack(terms)
    normal = np.einsum("inl,jnl->lij", design, design)
    # A term that a line does not have gets a zero coefficient instead of a singular matrix.
    absent = np.einsum("lii->li", normal) == 0.0
    normal += absent[:, :, None] * np.eye(len(terms))
    inverted = np.linalg.pinv(normal, hermitian=True)
    found = np.einsum("lij,jl->il", inverted, np.einsum("inl,nl->il", design, values))
    left = values - np.einsum("inl,il->nl", design, found)
    spread = np.einsum("inl,jnl,nl->lij", design, design, left**2, optimize=True)
    errors: Floats = np.sqrt(np.einsum("lii->il", inverted @ spread @ inverted))
    return found, errors
