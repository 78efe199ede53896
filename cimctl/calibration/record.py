"""``Calibration``: what was measured of a chip, its file, and when it no longer holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
import platformdirs

from boards.errors import StorageError, UsageError
from boards.multiply import Codes, Matrix
from cimctl.calibration.fit import Floats, Lines, inverse
from cimctl.files import write_atomically

if TYPE_CHECKING:
    from boards.board import Board

Kind = Literal["pairs", "rows"]
SCHEMA: Final = "cimctl.calibration/1"
#: days after which a calibration is too old
MAX_AGE_DAYS = 30.0
#: kelvin by which the chip may be warmer or colder
MAX_KELVIN = 5.0
#: what STATUS says where there is no thermometer
_UNKNOWN = -32768
_AGAIN = "Measure it again: cimctl calibrate"


class TileLines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of lines of one tile.

    Attributes:
        tile: number of the tile.
        kind: ``pairs`` of columns, or ``rows`` of transposed products.
        span_uA: ADC range that they were measured at.
        gain, offset, bow: one entry a line (``fit.Lines``).
    """

    tile: int
    kind: Kind
    span_uA: float
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    bow: tuple[float, ...]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a calibration belongs to; any difference makes it another chip's."""

    board_id: str
    model: str
    specification: str
    tiles: int
    rows: int
    columns: int
    adc_bits: int
    read_voltage_mV: int


#: how a difference is told
_NAMES = {
    "board_id": "board id",
    "model": "model",
    "specification": "specification",
    "tiles": "number of tiles",
    "rows": "number of rows",
    "columns": "number of columns",
    "adc_bits": "number of ADC bits",
    "read_voltage_mV": "read voltage in mV",
}


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The converters of one chip, as measured.

    Attributes:
        schema: of the file.
        identity: which chip, and how it is set.
        made: date and time, UTC.
        temperature_C: of the chip; None where it does not say.
        lines: one entry for each tile and kind that was measured.
    """

    schema: Literal["cimctl.calibration/1"]
    identity: Identity
    made: datetime
    temperature_C: float | None
    lines: tuple[TileLines, ...]

    def check(self, board: Board, max_age_days: float = MAX_AGE_DAYS) -> None:
        """Refuses a calibration that no longer holds for the board.

        Raises:
            UsageError: another chip, other settings, too warm or too cold, too old; it says which.
        """
        found = identity_of(board)
        for field, name in _NAMES.items():
            here, there = getattr(found, field), getattr(self.identity, field)
            if here != there:
                raise _stale(f"it has another {name}: {there}, the board {here}")
        age = (datetime.now(UTC) - self.made).total_seconds() / 86400
        if age > max_age_days:
            raise _stale(f"it is {age:.1f} days old, {max_age_days:g} are accepted")
        now = temperature_of(board)
        known = now is not None and self.temperature_C is not None
        if known and abs(now - self.temperature_C) > MAX_KELVIN:  # type: ignore[operator]
            raise _stale(
                f"it was made at {self.temperature_C:.1f} degrees, the chip is at {now:.1f} now, "
                f"{MAX_KELVIN:g} K apart are accepted"
            )

    def correction(self, matrix: Matrix, *, by_sign: bool = False) -> Correction:
        """What takes the errors out of a matrix's products; worth keeping for many batches.

        Args:
            matrix: where it lies.
            by_sign: products of signed inputs on a board that takes none: ``Board.multiply``
                subtracts two products there.

        Raises:
            UsageError: its lines were not measured.
        """
        blocks = [self._lines(block) for block in matrix.input_blocks()]
        gain = np.mean([block.gain for block in blocks], axis=0)
        offset = np.sum([block.offset for block in blocks], axis=0)
        bow = np.sum([block.bow for block in blocks], axis=0)
        if by_sign:
            offset, bow = np.zeros_like(offset), np.zeros_like(bow)
        top = len(blocks) * 2.0 ** (self.identity.adc_bits - 1)
        return Correction(Lines(gain, offset, bow), top)

    def corrected(self, codes: Codes, matrix: Matrix, *, by_sign: bool = False) -> Floats:
        """Products without the converters' errors, in codes of an ideal converter.

        Args:
            codes: (batch, outputs, ...), as ``Board.multiply`` gives them.
            matrix, by_sign: as for ``correction``.

        Saturated codes cannot be corrected: what was cut off is not known.

        Raises:
            UsageError: the matrix's lines were not measured.
        """
        return self.correction(matrix, by_sign=by_sign).apply(codes)

    def _lines(self, block: Matrix) -> Lines:
        """Lines of a matrix whose sums are one conversion each, in the order of its outputs."""
        if not (block.differential or block.transposed):
            raise UsageError(
                "Products of single columns cannot be corrected: pairs were measured",
                next="Multiply by differential pairs",
            )
        parts = []
        for region in block.regions:
            if block.transposed:
                chosen = slice(region.row, region.row + region.rows)
            else:
                chosen = slice(region.column // 2, (region.column + region.columns) // 2)
            known = self._of(region.tile, "rows" if block.transposed else "pairs")
            parts.append([values[chosen] for values in (known.gain, known.offset, known.bow)])
        return Lines(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _of(self, tile: int, kind: Kind) -> TileLines:
        for lines in self.lines:
            if (lines.tile, lines.kind) == (tile, kind):
                return lines
        raise UsageError(
            f"The calibration does not cover the {kind} of tile {tile}",
            next="Measure all: cimctl calibrate --tile all",
        )


class Correction(msgspec.Struct, frozen=True):
    """Takes the errors out of products of one matrix.

    Where a sum has several blocks, their offsets add up, their gains count alike, and each is taken
    to carry the same part of the sum along its bow (ours).

    Attributes:
        lines: (outputs,) each.
        top: half the range of the summed codes.
    """

    lines: Lines
    top: float

    def apply(self, codes: Codes) -> Floats:
        """(batch, outputs, ...) codes to products, in codes of an ideal converter."""
        form = (-1,) + (1,) * (codes.ndim - 2)
        l = self.lines
        shaped = Lines(l.gain.reshape(form), l.offset.reshape(form), l.bow.reshape(form))
        return inverse(codes, shaped, self.top)


def of(board: Board, lines: tuple[TileLines, ...]) -> Calibration:
    """What was just measured of a connected board."""
    made = datetime.now(UTC).replace(microsecond=0)
    return Calibration(SCHEMA, identity_of(board), made, temperature_of(board), lines)


def identity_of(board: Board) -> Identity:
    """What a calibration of a connected board belongs to."""
    hello, said = board.hello, board.description
    return Identity(
        board_id=f"{hello.board_id:016x}",
        model=hello.model,
        specification=f"{hello.spec_hash:016x}",
        tiles=said.tiles,
        rows=said.rows,
        columns=said.columns,
        adc_bits=said.adc_bits,
        read_voltage_mV=board.profile.programming.read_voltage_mV,
    )


def temperature_of(board: Board) -> float | None:
    """The chip's temperature in degrees Celsius; None where it does not say."""
    said = board.status().temperature
    return None if said == _UNKNOWN else said / 100


def usual_path(board: Board) -> Path:
    """Where the calibration of a chip is kept unless told otherwise."""
    folder = Path(platformdirs.user_data_dir("cimctl")) / "calibrations"
    return folder / f"{board.hello.model}-{board.hello.board_id:016x}.json"


def save(path: Path, calibration: Calibration) -> None:
    """Writes the file, and the folder for it.

    Raises:
        StorageError: no space or no permission; an earlier file is still there.
    """
    advice = "Free some space or name another file with --out"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder '{path.parent}' cannot be made: {error.strerror or error}", next=advice
        ) from None
    text = msgspec.json.format(msgspec.json.encode(calibration), indent=1)
    write_atomically(path, text + b"\n", advice=advice)


def load(path: Path) -> Calibration:
    """Reads a calibration.

    Raises:
        UsageError: there is none, or the file is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"There is no calibration '{path}': {error.strerror}", next="Make one: cimctl calibrate"
        ) from None
    try:
        found = msgspec.json.decode(data, type=Calibration)
    except msgspec.MsgspecError as error:
        raise UsageError(f"'{path}' holds no calibration: {error}", next=_AGAIN) from None
    _check_sizes(path, found)
    return found


def _check_sizes(path: Path, found: Calibration) -> None:
    sizes = {"pairs": found.identity.columns // 2, "rows": found.identity.rows}
    for lines in found.lines:
        counts = {len(lines.gain), len(lines.offset), len(lines.bow)}
        sound = counts == {sizes[lines.kind]} and all(lines.gain)
        if not sound or found.made.tzinfo is None:
            raise UsageError(f"'{path}' holds no calibration: its lines disagree", next=_AGAIN)


def _stale(why: str) -> UsageError:
    return UsageError(
        f"The calibration does not hold any more: {why}", left="No product was corrected",
        next=_AGAIN,
    )  # fmt: skip
