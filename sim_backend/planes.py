"""Input codes as what is applied at once: the whole code, or one bit plane after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_protocol.geometry import plane_weights

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Coding:
    """How codes are cut into planes.

    Attributes:
        bits: of a code.
        signed: whether codes are two's complement.
        ternary: whether a plane carries the sign of its codes, so that it holds -1, 0 and 1.
    """

    bits: int
    signed: bool = False
    ternary: bool = False

    @property
    def weights(self) -> list[int]:
        """Weight of each plane."""
        return plane_weights(self.bits, self.signed, self.ternary)

    @property
    def unsigned(self) -> bool:
        """Whether planes hold 0 and 1 alone, so that a converter sees no negative sum."""
        return not self.ternary


def applied(codes: Codes, coding: Coding | None) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(weight, inputs) of what is applied one after the other, in the shape of the codes.

    Args:
        codes: integers.
        coding: how they become planes; None applies them whole.
    """
    if coding is None:
        yield 1, codes.astype(np.float32)
        return
    # Shifts of the narrow integers that codes arrive in take in their sign.
    bits, signs = (np.abs(codes), np.sign(codes)) if coding.ternary else (codes, None)
    for k, weight in enumerate(coding.weights):
        plane = (bits >> k) & 1
        yield weight, (plane if signs is None else plane * signs).astype(np.float32)
