"""The three products of a layer on a chip of bit planes: ``W a``, ``W^T d`` and ``d a^T``.

Weights of 4 bits lie in groups of columns, W and W^T each in cells of their own.  A gradient of
powers is applied one exponent at a time, as a plane of -1, 0 and 1, whose products are shifted and
added here.  For ``d a^T`` the activations are programmed where there is room, a block of vectors
after the other; those without a sign as ``a - 8``, and ``8 sum(d)`` is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from boards.bits import bits_of
from boards.board import Board
from boards.multiply import Matrix, unrolled
from cimctl.analog.adaptability import PlaneConverters
from cimctl.formats.powers import Powers
from cimctl.mapping.scratch import Scratch
from firmware_protocol.messages import Window

Numbers = np.ndarray[Any, Any]
_BITS = 4
#: half of the range of unsigned activations
_OFFSET = 8
#: what an integer product is multiplied by on its way to codes, besides the gain
_FULL = 65535
#: vectors whose popcounts set a range
_SAMPLE = 128


class HeldMatrix:
    """Integer weights on the chip, written where they have changed.

    Args:
        board: an open board.
        matrix: of groups.
        converters: of the products with it.
    """

    def __init__(self, board: Board, matrix: Matrix, converters: PlaneConverters) -> None:
        self._board, self._matrix, self.converters = board, matrix, converters
        #: (inputs, outputs) int8 weights as they were last written
        self.held: Numbers | None = None
        #: whether somebody else may have written there since
        self.doubted = False

    def hold(self, weights: Numbers) -> int:
        """Brings integer weights to the chip; returns how many have changed."""
        weights = weights.astype(np.int8)
        changed = weights.size if self.held is None else np.count_nonzero(weights != self.held)
        if changed:
            self._board.program_integers(self._matrix, weights)
            self.held, self.doubted = weights, False
        return int(changed)

    def multiply(
        self, codes: Numbers, window: Window | None, *, signed: bool, ternary: bool, learning: bool
    ) -> Numbers:
        """(batch, outputs, ...) products with integer codes, in units of code times weight."""
        codes = codes.astype(np.int8 if signed else np.uint8)
        bits = 2 if ternary else _BITS

        rows = self._matrix.regions[0].rows

        def popcounts() -> Numbers:
            assert self.held is not None
            some, held = _sample(codes, window)[:, :rows], self.held[:rows]
            return _popcounts(some, held, self._board.column_weights, bits, ternary)

        gain = self.converters.gain(rows, popcounts, learning=learning)
        answer = self._board.multiply(
            self._matrix,
            codes,
            slot=self.converters.slot,
            bits=bits,
            window=window,
            signed=signed,
            ternary=ternary,
        )
        return answer.codes.astype(np.float64) / (gain * _FULL)


class TransposedMatrix:
    """``W^T``, whose inputs are gradients of powers."""

    def __init__(self, held: HeldMatrix, powers: Powers) -> None:
        self.held, self._powers = held, powers

    def multiply(self, codes: Any, window: Window | None, *, learning: bool) -> Numbers:
        """(batch, outputs, ...) products; whatever is all zero in a plane is not sent.

        Args:
            codes: (batch, ...) tensor of a gradient's codes.
            window: how images become vectors.
            learning: whether the range may follow.
        """
        weights, items, parts = [], [], []
        for magnitude, plane in self._powers.planes(codes):
            item = plane.flatten(1).any(1).nonzero().flatten().numpy()
            items.append(item)
            weights.append(np.full(len(item), float(magnitude)))
            parts.append(plane.numpy()[item])
        if not parts:
            return np.zeros(0)
        found = self.held.multiply(
            np.concatenate(parts), window, signed=True, ternary=True, learning=learning
        )
        total = np.zeros((len(codes), *found.shape[1:]))
        shifts = np.concatenate(weights).reshape((-1,) + (1,) * (found.ndim - 1))
        np.add.at(total, np.concatenate(items), found * shifts)
        return total


class OuterProducts:
    """``d a^T`` by activations in the place of weights.

    Args:
        board: an open board.
        scratch: cells for them.
        converters: of the product.
        powers: format of the gradients.
    """

    def __init__(
        self, board: Board, scratch: Scratch, converters: PlaneConverters, powers: Powers
    ) -> None:
        self._board, self._scratch = board, scratch
        self.converters, self._powers = converters, powers

    def multiply(self, codes: Any, activations: Numbers, *, signed: bool) -> Numbers:
        """(outputs, inputs) sums over vectors of gradient times activation.

        Args:
            codes: (vectors, outputs) tensor of a gradient's codes.
            activations: (vectors, inputs) integers of 4 bits.
            signed: whether they are two's complement.
        """
        planes = list(self._powers.planes(codes.T.contiguous()))
        offset = 0 if signed else _OFFSET
        outputs, size = codes.shape[1], activations.shape[1]
        if not planes:
            return np.zeros((outputs, size))
        cut = self._scratch.cut(len(activations), size, len(self._board.column_weights))
        weights = np.array([magnitude for magnitude, _ in planes], dtype=np.float64)
        stacked = np.concatenate([plane.numpy() for _, plane in planes])
        total = np.zeros((len(stacked), size))
        for number in range(cut.rounds):
            part = slice(number * cut.vectors, (number + 1) * cut.vectors)
            for left in range(0, size, cut.elements):
                some = activations[part, left : left + cut.elements]
                # The range is looked at once a batch.
                learning = number == left == 0
                total[:, left : left + some.shape[1]] += self._round(
                    cut.matrix, stacked[:, part], some, offset, learning=learning
                )
        total += offset * stacked.sum(1, dtype=np.int64)[:, None]
        return np.tensordot(weights, total.reshape(len(weights), outputs, size), 1)

    def _round(
        self, matrix: Matrix, planes: Numbers, activations: Numbers, offset: int, *, learning: bool
    ) -> Numbers:
        """(planes, inputs) products of what the chip holds at a time, of vectors and elements."""
        missing, width = matrix.shape[0] - len(activations), activations.shape[1]
        beyond = (0, matrix.shape[1] - width)
        # Rows without a vector take no part; they hold the zero of the others.
        shifted = np.pad(activations.astype(np.int8) - np.int8(offset), ((0, missing), beyond))
        planes = np.pad(planes, ((0, 0), (0, missing)))
        self._board.program_integers(matrix, shifted)
        rows = matrix.regions[0].rows

        def popcounts() -> Numbers:
            lines = planes[:_SAMPLE, :rows]
            return _popcounts(lines, shifted[:rows], self._board.column_weights, 2, True)

        gain = self.converters.gain(rows, popcounts, learning=learning)
        live = planes.any(1)
        found = np.zeros((len(planes), matrix.shape[1]))
        if live.any():
            answer = self._board.multiply(
                matrix, planes[live], slot=self.converters.slot, bits=2, signed=True, ternary=True
            )
            found[live] = answer.codes / (gain * _FULL)
        return found[:, :width]


def _sample(codes: Numbers, window: Window | None) -> Numbers:
    """Some of the vectors of a batch."""
    if window is None:
        return codes[:_SAMPLE]
    vectors = unrolled(codes[:: max(1, len(codes) // 4)][:4], window)
    return vectors[:: max(1, len(vectors) // _SAMPLE)]


def _popcounts(
    codes: Numbers, weights: Numbers, column_weights: tuple[int, ...], bits: int, ternary: bool
) -> Numbers:
    """Sums of each plane of codes over the bits of each column of weights."""
    columns = bits_of(weights, column_weights).astype(np.float32)
    if ternary:
        return codes.astype(np.float32) @ columns
    planes: list[Numbers] = [((codes >> k) & 1).astype(np.float32) @ columns for k in range(bits)]
    return np.concatenate(planes)
