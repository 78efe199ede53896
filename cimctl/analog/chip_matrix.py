"""A matrix on a chip as real vectors see it: products in weight times input units, compensated.

Inputs are signed codes, ``|x| <= 1`` at the largest; ``cimctl.analog.compensation`` says what they
are divided by first.  The ADC's gain is the board's where it has one only, and else follows the
share of saturated conversions as in every layer (``Ranges``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.board import Board
from boards.errors import UnsupportedError
from boards.multiply import Matrix
from cimctl.analog.compensation import (
    MOST_HALVING,
    Compensations,
    Direction,
    input_scale,
    worst_case_scale,
)
from cimctl.analog.draws import key_of
from cimctl.analog.quantiser import quantise, spread, unscaled
from cimctl.analog.ranges import Ranges
from cimctl.analog.windows import Windows
from cimctl.calibration.record import Calibration, Correction
from firmware_protocol.constants import Capability

Floats = npt.NDArray[np.float32]

#: share of the first batch's products that the first settable range leaves out [ours]
_FIRST_RANGE_QUANTILE = 0.99
#: a board whose gains differ by less has one range, to the rounding of its limits
_ONE_RANGE = 1.001
#: the worst case leaves room for this many standard deviations of the ADC's noise [ours]
_WORST_NOISE = 5.0


@dataclass(frozen=True, slots=True)
class ChipUnits:
    """What a matrix's conductances stand for.

    Attributes:
        weight: weight of one 16-bit conductance step.
        largest: w_max, the largest magnitude of a weight.
    """

    weight: float
    largest: float


@dataclass
class _Side:
    """One direction of a matrix: where it is made, and its state."""

    matrix: Matrix
    slot: int
    state: Direction
    key: int
    told: float = 0.0

    @property
    def gain(self) -> float:
        """The gain in use, ADC codes for each unit of the integer sum."""
        return self.state.ranges.configured


class ChipMatrix:
    """Products with a matrix on a board, forward and by its transpose.

    Args:
        board: an open board.
        matrix: where the matrix lies, inputs at the rows.
        slots: configuration slots of the forward and of the transposed product.
        units: what conductances stand for.
        rules: which compensations.
        seed: of stochastic rounding.
        calibration: takes the converters' errors out of every product; None leaves them in.

    Raises:
        UnsupportedError: bound management needs whole conversions of signed inputs; or inputs have
            one bit only.
    """

    def __init__(
        self,
        board: Board,
        matrix: Matrix,
        slots: tuple[int, int],
        units: ChipUnits,
        rules: Compensations,
        seed: int = 0,
        calibration: Calibration | None = None,
    ) -> None:
        if rules.bound == "iterative" and Capability.SIGNED_INPUTS not in board.capabilities:
            raise UnsupportedError(
                f"The board '{board.hello.model}' lacks what iterative bound management needs: "
                "SIGNED_INPUTS",
                left="Nothing was sent",
                next="Choose bound_management=off or worst-case, or another --board",
            )
        if board.description.input_bits < 2:
            raise UnsupportedError(
                f"The board '{board.hello.model}' takes inputs of one bit: signed inputs need two",
                left="Nothing was sent",
                next="Take another --board, or another --algorithm",
            )
        self._board, self._units, self._rules = board, units, rules
        self._calibration = calibration
        self._corrections: dict[Matrix, Correction] = {}
        back = Matrix(matrix.regions, matrix.row_blocks, matrix.differential, transposed=True)
        self._forward = _Side(matrix, slots[0], Direction(Ranges()), key_of(seed, 0))
        self._backward = _Side(back, slots[1], Direction(Ranges()), key_of(seed, 1))
        self._top = (1 << (board.description.input_bits - 1)) - 1
        self._high = (1 << (board.description.adc_bits - 1)) - 1

    def seed(self, seed: int) -> None:
        """Sets the key of stochastic rounding."""
        self._forward.key, self._backward.key = key_of(seed, 0), key_of(seed, 1)

    def share_converters(self, other: ChipMatrix) -> None:
        """Takes over the running values of a matrix that uses the same slots."""
        self._forward.state, self._backward.state = other._forward.state, other._backward.state

    def forward(self, x: Floats | Windows, *, learning: bool = False) -> Floats:
        """Multiplies.

        Args:
            x: (vectors, inputs), or vectors where they lie.
            learning: whether running values follow this batch.

        Returns:
            (vectors, outputs) products, in weight times input units.
        """
        return self._product(self._forward, Windows.of(x), learning, self._rules.bound)

    def backward(self, d: Floats, *, learning: bool = False) -> Floats:
        """Multiplies (vectors, outputs) by the transpose: (vectors, inputs), no bound management.

        Raises:
            UnsupportedError: the board does not multiply by the transposed array.
        """
        return self._product(self._backward, Windows.of(d), learning, "off")

    def state_dict(self) -> dict[str, Any]:
        """Running values of both directions."""
        return {"forward": self._forward.state.plain(), "backward": self._backward.state.plain()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self._forward.state.take(state["forward"])
        self._backward.state.take(state["backward"])

    # ------------------------------------------------------------------ one batch

    def _product(self, side: _Side, x: Windows, learning: bool, bound: str) -> Floats:
        largest = x.largest
        if learning or not side.state.ranges.largest:
            side.state.see(largest)
        scale = input_scale(self._rules, side.state, largest)
        live = np.flatnonzero(scale > 0)
        if not live.size:
            return np.zeros((len(x), side.matrix.shape[1]), dtype=np.float32)
        count = len(x)
        everything = live.size == len(x)
        if not everything:
            x, scale = x.only(live), scale[live]
        self._configure(side, x, scale)
        if bound == "worst-case":
            scale = np.maximum(scale, self._worst_case(side, x))
        product = self._sum(side, x, scale, bound == "iterative", learning)
        return product if everything else spread(product, live, count)

    def _sum(
        self, side: _Side, x: Windows, scale: Floats, iterative: bool, learning: bool
    ) -> Floats:
        """Adds up the blocks of inputs here where each has to be judged on its own."""
        total: Floats | None = None
        for matrix, lines in _blocks(side.matrix, apart=iterative):
            part = self._managed(side, matrix, x.part(lines), scale, iterative, learning)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _managed(
        self,
        side: _Side,
        matrix: Matrix,
        x: Windows,
        scale: Floats,
        iterative: bool,
        learning: bool,
    ) -> Floats:
        """One product, repeated at half the input for those vectors that clipped."""
        codes, saturated = self._convert(side, matrix, x, scale)
        if learning:
            conversions = codes.size * matrix.blocks
            side.state.ranges.see_products(saturated, conversions, self._rules.saturation)
        step = np.float32(self._units.weight / (side.gain * self._top))
        product = unscaled(self._corrected(matrix, codes), scale * step)
        rows, halving = np.arange(len(x)), 1.0
        while iterative and halving < MOST_HALVING:
            ends = (codes == self._high) | (codes == -self._high - 1)
            if not ends.any():
                break
            rows = rows[ends.any(axis=1)]
            halving *= 2
            wide = scale[rows] * np.float32(halving)
            codes, _ = self._convert(side, matrix, x.only(rows), wide)
            product[rows] = unscaled(self._corrected(matrix, codes), wide * step)
        return product

    def _corrected(self, matrix: Matrix, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The codes that ideal converters would have given, as far as their errors are known."""
        if self._calibration is None:
            return codes
        if matrix not in self._corrections:
            by_sign = Capability.SIGNED_INPUTS not in self._board.capabilities
            self._corrections[matrix] = self._calibration.correction(matrix, by_sign=by_sign)
        return self._corrections[matrix].apply(codes).astype(np.float32)

    def _convert(
        self, side: _Side, matrix: Matrix, x: Windows, scale: Floats
    ) -> tuple[npt.NDArray[Any], int]:
        """Answer codes of a batch, and how many conversions saturated."""
        first = side.state.vectors if self._rules.stochastic_rounding else -1
        codes = quantise(x, scale, self._top, key=side.key, first=first)
        side.state.vectors += len(x)
        products = self._board.multiply(matrix, codes, slot=side.slot, signed=True)
        return products.codes, products.saturated

    # ------------------------------------------------------------------ the ADC's range

    def _configure(self, side: _Side, x: Windows, scale: Floats) -> None:
        """Follows the wanted gain; the first one comes from a product at the widest range."""
        ranges = side.state.ranges
        low, high = self._board.gain_range
        if not ranges.gain:
            ranges.gain = high if high < _ONE_RANGE * low else self._first_gain(side, x, scale)
        ranges.gain = min(max(ranges.gain, low), high)
        if ranges.is_stale():
            ranges.configured = ranges.gain
        if side.told != ranges.configured:
            self._board.configure(side.slot, ranges.configured)
            side.told = ranges.configured

    def _first_gain(self, side: _Side, x: Windows, scale: Floats) -> float:
        low, _ = self._board.gain_range
        self._board.configure(side.slot, low)
        side.told = low
        codes, _ = self._convert(side, side.matrix, x, scale)
        typical = float(np.quantile(np.abs(codes), _FIRST_RANGE_QUANTILE))
        return low * self._high / max(1.0, typical)

    def _worst_case(self, side: _Side, x: Windows) -> Floats:
        """(vectors,) scales at which no block's sum can reach the end of the range."""
        noise = _WORST_NOISE * self._board.profile.imperfections.adc_noise_lsb
        code = self._units.largest / self._units.weight * side.gain
        room = (self._high - 1 - noise) / code
        # Rounding may add half a code to each input.
        room = max(room - x.lines / 2, room / 2)
        return worst_case_scale(np.abs(x.vectors()).sum(axis=1), room / self._top)


def _blocks(matrix: Matrix, *, apart: bool) -> Iterator[tuple[Matrix, slice]]:
    """Matrices and their inputs: the whole, or block by block."""
    if not apart or matrix.blocks == 1:
        yield matrix, slice(None)
        return
    first = 0
    for block in matrix.input_blocks():
        yield block, slice(first, first + block.shape[0])
        first += block.shape[0]
