"""Measuring a chip's converters over the wire: expected products from readings, then regression.

Single cells are read by a converter of their own, many times; what the products should be follows
from the readings.  Zero inputs give the offsets, random ones gain and bow, and fresh ones tell how
well it all holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boards.board import Board, gain_integers
from boards.errors import DeviceError, UsageError
from boards.multiply import Codes, Matrix
from boards.tile import Tile
from cimctl.calibration import fit
from cimctl.calibration.fit import Floats
from cimctl.calibration.record import Kind, TileLines
from firmware_protocol.constants import Capability

#: configuration slot in use
_SLOT = 1
#: readings that one READ averages at most
_PER_READ = 255
#: share of half the range of codes that the largest expected products take
_REACH = 0.8
#: ... and the least that says something about gains
_LEAST_REACH = 0.1
_NARROWINGS = 8
#: vectors that show how large random products are, and the share of them that fits the range
_TRIED, _FITTING = 512, 0.6
_ALIKE = "Program something into it first, or let --program write a random pattern"


@dataclass(frozen=True)
class Plan:
    """How much is measured of each tile and kind of lines.

    Attributes:
        samples: readings of each cell.
        products: random inputs that the fit uses.
        fresh: random inputs that its result is tested with.
        repeats: products of each of those.
        zeros: products without input.
        span_uA: ADC range; None takes one that the products fill without saturating.
        seed: of the random inputs.
    """

    samples: int = 4080
    products: int = 8192
    fresh: int = 64
    repeats: int = 128
    zeros: int = 1024
    span_uA: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Errors:
    """Distance of products from the expected ones, in LSB of the ADC.

    Attributes:
        rms: of one product, noise included.
        lasting: rms of what repeating does not average away.
        worst: largest, of products averaged over the repeats.
        by_line: (lines,) rms of what lasts.
    """

    rms: float
    lasting: float
    worst: float
    by_line: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """One kind of lines of one tile, before and after its calibration.

    Attributes:
        lines: what was found.
        before, after: errors of fresh products.
        noise: rms of one product around its own mean, LSB.
        reading: rms by which the expected products themselves are uncertain, LSB.
        resolution: the least lasting error that these repeats can tell from none, LSB.
    """

    lines: TileLines
    before: Errors
    after: Errors
    noise: float
    reading: float
    resolution: float

    @property
    def ratio(self) -> float:
        """By what factor the lasting error fell; at least that, where nothing is left to see."""
        return self.before.lasting / max(self.after.lasting, self.resolution)

    @property
    def reached(self) -> bool:
        """Whether the error fell tenfold, or to the noise floor."""
        return self.ratio >= 10.0 or self.after.rms <= 1.05 * self.noise


def kinds(board: Board) -> tuple[Kind, ...]:
    """What kinds of lines a board offers."""
    return ("pairs", "rows") if Capability.TRANSPOSED in board.capabilities else ("pairs",)


def program_pattern(tile: Tile, seed: int) -> int:
    """Programs random conductances into all cells; returns how many missed their target."""
    profile = tile.board.profile
    low, high = (profile.units(g) for g in profile.programming.window_uS)
    rng = np.random.default_rng((seed, tile.index))
    rows, columns = (a.reshape(-1) for a in np.indices((tile.rows, tile.columns)))
    done = tile.program(
        rows,
        columns,
        rng.integers(low, high, rows.size, endpoint=True).astype(np.uint16),
        cycles=profile.programming.cycles_characterising,
        tolerance=profile.units(profile.programming.tolerance_uS),
    )
    return done.unconverged


def read_cells(tile: Tile, samples: int) -> tuple[Floats, Floats]:
    """Conductances of a tile from many readings.

    Returns:
        (rows, columns) mean of each cell's readings, in units of 1/65535 of full scale; and what
        the means of two halves of them differ from it, which is how uncertain it is.
    """
    reads = max(2, 2 * -(-samples // (2 * _PER_READ)))
    count = -(-samples // reads)
    readings = np.stack([tile.read(samples=count).astype(np.float64) for _ in range(reads)])
    first, second = readings[0::2].mean(axis=0), readings[1::2].mean(axis=0)
    return (first + second) / 2, (first - second) / 2


def measure(
    board: Board, number: int, cells: tuple[Floats, Floats], kind: Kind, plan: Plan
) -> Measured:
    """Calibrates one kind of lines of one tile.

    Args:
        board: powered up.
        number: of the tile.
        cells: its conductances (``read_cells``).
        kind: of lines.
        plan: how much to measure.

    Raises:
        UsageError: its cells are too alike, or too small, to tell gains.
        DeviceError: products saturate at every range.
    """
    bench = _Bench(board, number, cells, kind, plan)
    inputs, codes = bench.unsaturated()
    zeros, _ = bench.multiply(np.zeros((plan.zeros, inputs.shape[1]), dtype=np.uint8))
    lines = fit.fit(bench.expected(inputs), codes, zeros, bench.top)
    fresh = bench.inputs(plan.fresh)
    answers, _ = bench.multiply(np.repeat(fresh, plan.repeats, axis=0))
    expected = bench.expected(fresh)[:, None, :]
    raw = answers.reshape(plan.fresh, plan.repeats, -1).astype(np.float64)
    variance = float(raw.var(axis=1, ddof=1).mean())
    before = _errors(raw - expected)
    after = _errors(fit.inverse(raw, lines, bench.top) - expected)
    span = board.profile.gain(1.0) / bench.gain
    names = ("gain", "offset", "bow")
    found = {name: tuple(getattr(lines, name).tolist()) for name in names}
    return Measured(
        TileLines(number, kind, span, **found),
        before,
        after,
        noise=variance**0.5,
        reading=float(np.sqrt((bench.uncertainty(fresh) ** 2).mean())),
        resolution=(variance / plan.repeats * (2 / raw[:, 0].size) ** 0.5) ** 0.5,
    )


def _errors(errors: Floats) -> Errors:
    """Of (inputs, repeats, lines) distances."""
    mean = errors.mean(axis=1)
    noise = errors.var(axis=1, ddof=1).mean(axis=0) / errors.shape[1]
    lasting = (mean**2).mean(axis=0) - noise
    return Errors(
        rms=float(np.sqrt((errors**2).mean())),
        lasting=float(np.sqrt(max(0.0, lasting.mean()))),
        worst=float(np.abs(mean).max()),
        by_line=tuple(np.sqrt(np.maximum(0.0, lasting)).tolist()),
    )


class _Bench:
    """Random products of one kind of lines, and what they should be."""

    def __init__(
        self, board: Board, number: int, cells: tuple[Floats, Floats], kind: Kind, plan: Plan
    ) -> None:
        self._board = board
        self._plan = plan
        self._what = f"tile {number}"
        transposed = kind == "rows"
        self._matrix = Matrix((board.tiles[number].whole(),), transposed=transposed)
        pairs = [g[:, 0::2] - g[:, 1::2] for g in cells]
        self._weights, self._doubt = (g.T if transposed else g for g in pairs)
        self._rng = np.random.default_rng((plan.seed, number, transposed))
        self.top = 2.0 ** (board.description.adc_bits - 1)
        self._highest = (1 << board.description.input_bits) - 1
        self.gain = 0.0
        #: the largest sum of an unsaturated product
        self.limit = np.inf

    def inputs(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, inputs) random codes, every other vector turned towards an end of a line's range.

        Plain random ones would leave the ends of most lines' ranges untried.  Vectors that would
        pass the range are scaled down to it.
        """
        codes = self._drawn(count)
        largest = np.abs(codes @ self._weights).max(axis=1)
        room = self.limit / np.maximum(largest, self.limit)
        scaled: npt.NDArray[np.uint8] = np.floor(codes * room[:, None]).astype(np.uint8)
        return scaled

    def _drawn(self, count: int) -> Floats:
        weights = self._weights
        size, lines = weights.shape
        sign = self._rng.choice((-1.0, 1.0), count)
        towards = weights.T[self._rng.integers(0, lines, count)] * sign[:, None] > 0
        share = self._rng.random((count, 1))
        share[::2] = 1.0
        kept = self._rng.random((count, size)) < share
        codes = self._rng.integers(0, self._highest, (count, size), endpoint=True)
        return np.where(towards | kept, codes, 0).astype(np.float64)

    def expected(self, inputs: npt.NDArray[np.uint8]) -> Floats:
        """(count, lines) products, in codes of an ideal converter."""
        sums: Floats = inputs.astype(np.float64) @ self._weights
        return sums * self.gain

    def uncertainty(self, inputs: npt.NDArray[np.uint8]) -> Floats:
        """(count, lines) one draw of the error of the expected products."""
        sums: Floats = inputs.astype(np.float64) @ self._doubt
        return sums * self.gain

    def multiply(self, inputs: npt.NDArray[np.uint8]) -> tuple[Codes, int]:
        """(count, lines) codes, and how many of them saturated."""
        products = self._board.multiply(self._matrix, inputs, slot=_SLOT)
        return products.codes, products.saturated

    def unsaturated(self) -> tuple[npt.NDArray[np.uint8], Codes]:
        """Random inputs and their products, at a range that they fill and do not pass."""
        reach = _REACH
        for _ in range(_NARROWINGS):
            inputs = self._ranged(reach)
            codes, saturated = self.multiply(inputs)
            if not saturated:
                return inputs, codes
            reach *= _REACH
        raise DeviceError(
            f"Products of {self._what} saturate at every range",
            left="Nothing was kept",
            next="See whether its columns and converters are sound: cimctl vmm",
        )

    def _ranged(self, reach: float) -> npt.NDArray[np.uint8]:
        """Sets a range that random products fill to that share; gives the inputs."""
        largest = np.abs(self._drawn(_TRIED) @ self._weights).max(axis=1)
        wanted = reach * self.top / max(float(np.quantile(largest, _FITTING)), 1.0)
        if self._plan.span_uA is not None:
            wanted = self._board.profile.gain(self._plan.span_uA)
        low, high = self._board.gain_range
        multiplier, shift = gain_integers(min(max(wanted, low), high))
        self.gain = multiplier / 2.0**shift
        self._board.configure(_SLOT, self.gain)
        share = self.gain * float(largest.max()) / self.top
        if share < _LEAST_REACH:
            raise UsageError(
                f"The cells of {self._what} are too alike: products reach {100 * share:.1f} % of "
                f"the ADC's range, {100 * _LEAST_REACH:.0f} % is the least",
                left="Nothing was kept",
                next=_ALIKE if self._plan.span_uA is None else "Give a smaller --span",
            )
        self.limit = reach * self.top / self.gain
        return self.inputs(self._plan.products)
