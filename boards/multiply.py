"""Vector-matrix products cut into frames: whole images, strips of rows, or unrolled vectors.

A request accounts for its answer too.  However a batch is cut, its vectors reach the board in the
same order, so the noise of each is the same.  What a board does not do itself (unroll images, add
row blocks, take signed codes) is done here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from boards.driver import Driver, Pending
from boards.errors import UnsupportedError, UsageError
from firmware_protocol import messages as m
from firmware_protocol.constants import Capability
from firmware_protocol.frames import OVERHEAD
from firmware_protocol.geometry import answer_bits, column_weights, output_size, unrolled_size
from firmware_protocol.packing import fitting_count, pack_codes, packed_size, unpack_codes

Codes = npt.NDArray[Any]
TRANSPOSED, DIFFERENTIAL, SIGNED, GROUPS, TERNARY = 1, 2, 4, 8, 16
_REQUEST_HEAD = len(m.VmmRequest(0, 0, 8, 1, 1, m.Window(), (), b"").encode())
_ANSWER_HEAD = len(m.VmmResponse(8, 0, b"").encode())
_NO_WINDOW = m.Window()
#: asked several times for each product, with the same answers all the time
_fitting_count = cache(fitting_count)
#: codes that images are unrolled to at a time, one image at the least
_UNROLLED = 1 << 22


@dataclass(frozen=True)
class Matrix:
    """Where a matrix lies on a board.

    Attributes:
        regions: row blocks times column blocks, row block by row block.
        row_blocks: how many row blocks form one sum.
        differential: columns are pairs, the first minus the second.
        transposed: inputs at the columns, outputs at the rows.
        group: columns of a group, whose codes the board adds by HELLO's column weights; 0: none.
    """

    regions: tuple[m.Region, ...]
    row_blocks: int = 1
    differential: bool = True
    transposed: bool = False
    group: int = 0

    @cached_property
    def blocks(self) -> int:
        """How many conversions form one sum."""
        columns = len(self.regions) // self.row_blocks
        return columns if self.transposed else self.row_blocks

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        columns = len(self.regions) // self.row_blocks
        rows_in_all = sum(r.rows for r in self.regions[::columns])
        columns_in_all = sum(r.columns for r in self.regions[:columns])
        columns_in_all //= 2 if self.differential else max(1, self.group)
        return (columns_in_all, rows_in_all) if self.transposed else (rows_in_all, columns_in_all)

    @property
    def grid(self) -> list[tuple[m.Region, ...]]:
        """Regions by block of inputs, then by block of outputs."""
        return [block.regions for block in self.input_blocks()]

    def places(self) -> Iterator[tuple[m.Region, tuple[slice, slice]]]:
        """Each region, and which rows and columns of all cells together it holds."""
        columns = len(self.regions) // self.row_blocks
        row = 0
        for first in range(0, len(self.regions), columns):
            column, line = 0, self.regions[first : first + columns]
            for r in line:
                yield r, (slice(row, row + r.rows), slice(column, column + r.columns))
                column += r.columns
            row += line[0].rows

    def input_blocks(self) -> list[Matrix]:
        """One matrix for each block of inputs; their products add up to this one's."""
        columns = len(self.regions) // self.row_blocks
        if self.transposed:
            parts = [self.regions[j::columns] for j in range(columns)]
            return [replace(self, regions=part) for part in parts]
        parts = [self.regions[i * columns : (i + 1) * columns] for i in range(self.row_blocks)]
        return [replace(self, regions=part, row_blocks=1) for part in parts]


@dataclass(frozen=True, slots=True)
class Products:
    """Answers of a batch.

    Attributes:
        codes: (batch, outputs), or (batch, outputs, height, width) for images; signed integers.
        saturated: conversions that ended at the end of the ADC range.
        packed_tx, packed_rx: bytes of the packed codes, without any frame.
    """

    codes: Codes
    saturated: int
    packed_tx: int
    packed_rx: int


class Multiplier:
    """Multiplies batches on one board.

    Args:
        driver: the board's driver.
        description: what the board says of itself.
        max_payload: largest payload to use.
        paced: whether bytes take time on the line, so that both its ways should be busy at once.
    """

    def __init__(
        self, driver: Driver, description: m.Description, max_payload: int, *, paced: bool = False
    ) -> None:
        self._driver = driver
        self._paced = paced
        self._description = description
        self._room = max_payload
        self._offers = Capability(description.capabilities)
        self._group = len(column_weights(description.column_weights))

    def multiply(
        self,
        matrix: Matrix,
        codes: Codes,
        *,
        slot: int,
        bits: int,
        window: m.Window | None = None,
        signed: bool = False,
        ternary: bool = False,
    ) -> Products:
        """Multiplies a batch.

        Args:
            matrix: where the matrix lies.
            codes: (batch, inputs), or (batch, channels, height, width) with a window; integers of
                ``bits`` bits, two's complement when ``signed``.
            slot: configuration slot with the ADC's gain.
            bits: bits of an input code.
            window: how images become vectors.
            signed: whether codes may be negative.
            ternary: whether signed codes go as planes of -1, 0 and 1, the lowest code being left
                out, and not as planes of two's complement.

        Raises:
            UsageError: the shapes do not fit, or no single vector fits into a payload.
            UnsupportedError: the board lacks something that cannot be done here.
        """
        self._check(matrix, codes, window, ternary)
        if signed and Capability.SIGNED_INPUTS not in self._offers:
            return self._by_sign(matrix, codes, slot, bits, window)
        if matrix.blocks > 1 and Capability.ROW_BLOCK_SUMS not in self._offers:
            return self._by_block(matrix, codes, slot, bits, window, signed, ternary)
        flags = (
            TRANSPOSED * matrix.transposed
            + DIFFERENTIAL * matrix.differential
            + SIGNED * signed
            + GROUPS * bool(matrix.group)
            + TERNARY * ternary
        )
        request = _Request(
            matrix, flags, slot, bits, self._description.answer_bits, self._room, self._paced
        )
        unrolls = window is not None and self._unrolls(request, window)
        pieces = self._pieces(request, codes, window, unrolls)
        return self._exchange(request, pieces, len(codes), window, unrolls)

    def _check(self, matrix: Matrix, codes: Codes, window: m.Window | None, ternary: bool) -> None:
        inputs = matrix.shape[0]
        if matrix.transposed and Capability.TRANSPOSED not in self._offers:
            raise UnsupportedError("The board does not multiply by the transposed array")
        if matrix.differential and Capability.DIFFERENTIAL not in self._offers:
            raise UnsupportedError("The board does not convert differential pairs")
        if matrix.group and matrix.group != self._group:
            raise UnsupportedError(
                f"The board adds no groups of {matrix.group} columns",
                next=f"Its groups have {self._group} columns" if self._group else "It has none",
            )
        if ternary and Capability.TERNARY not in self._offers:
            raise UnsupportedError("The board takes no ternary planes")
        if window is None:
            fits = codes.ndim == 2 and codes.shape[1] == inputs
        else:
            image = (window.channels, window.height, window.width)
            fits = codes.shape[1:] == image and unrolled_size(window) == inputs
            fits = fits and min(output_size(window)) > 0
        if not fits or not len(codes):
            raise UsageError(
                f"Inputs of shape {codes.shape} do not fit a matrix with {inputs} inputs",
                left="Nothing was sent",
            )

    def _by_sign(
        self, matrix: Matrix, codes: Codes, slot: int, bits: int, window: m.Window | None
    ) -> Products:
        plus = np.maximum(codes, 0).astype(np.uint8)
        minus = np.maximum(-codes.astype(np.int16), 0).astype(np.uint8)
        a = self.multiply(matrix, plus, slot=slot, bits=bits, window=window)
        b = self.multiply(matrix, minus, slot=slot, bits=bits, window=window)
        return _combined(a, b, a.codes.astype(np.int32) - b.codes)

    def _by_block(
        self,
        matrix: Matrix,
        codes: Codes,
        slot: int,
        bits: int,
        window: m.Window | None,
        signed: bool,
        ternary: bool,
    ) -> Products:
        vectors = codes if window is None else unrolled(codes, window)
        total: Products | None = None
        first = 0
        for block in matrix.input_blocks():
            size = block.shape[0]
            part = self.multiply(
                block,
                vectors[:, first : first + size],
                slot=slot,
                bits=bits,
                signed=signed,
                ternary=ternary,
            )
            total = (
                part
                if total is None
                else _combined(total, part, total.codes.astype(np.int32) + part.codes)
            )
            first += size
        assert total is not None
        if window is not None:
            return replace(total, codes=_as_images(total.codes, len(codes), window))
        return total

    # ------------------------------------------------------------------ pieces

    def _unrolls(self, request: _Request, window: m.Window) -> bool:
        """Whether images become vectors here."""
        if Capability.IMAGES not in self._offers or not request.row_fits(window):
            return True
        if request.images_fitting(window):
            return False
        # Some strips would hold padding only, and an image has at least one row.
        return max(window.pad_top, window.pad_bottom) >= _reach(window)[0]

    @staticmethod
    def _pieces(
        request: _Request, codes: Codes, window: m.Window | None, unrolls: bool
    ) -> Iterator[_Piece]:
        if window is None:
            return request.vectors([codes], len(codes))
        if unrolls:
            places = math.prod(output_size(window))
            return request.vectors(_unrolled_parts(codes, window), len(codes) * places)
        if request.images_fitting(window):
            return request.images(codes, window)
        return request.strips(codes, window)

    def _exchange(
        self,
        request: _Request,
        pieces: Iterator[_Piece],
        batch: int,
        window: m.Window | None,
        unrolls: bool,
    ) -> Products:
        places = math.prod(output_size(window)) if unrolls and window is not None else 1
        target = _Target(request, batch * places, None if unrolls else window)
        pending: deque[tuple[_Piece, Pending]] = deque()
        tx, saturated = 0, 0

        def take() -> int:
            piece, waiting = pending.popleft()
            answer = self._driver.result(waiting, m.VmmResponse)
            target.put(piece, answer)
            return answer.saturated

        for piece in pieces:
            pending.append((piece, self._driver.submit(request.message(piece))))
            tx += packed_size(piece.codes.size, request.bits)
            # So that a batch of any size needs the memory of a window of frames.
            if len(pending) > self._driver.window:
                saturated += take()
        while pending:
            saturated += take()
        result = target.codes
        if unrolls and window is not None:
            result = _as_images(result, batch, window)
        return Products(result, saturated, tx, packed_size(result.size, request.answer_bits))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a batch that travels in one frame.

    Attributes:
        codes: input codes.
        window: window of this piece, None for vectors.
        first: index of its first vector or image in the batch.
        row: first output row of a strip.
        rows: output rows of a strip, 0 for all.
    """

    codes: Codes
    window: m.Window | None
    first: int
    row: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """What all frames of a product share."""

    matrix: Matrix
    flags: int
    slot: int
    bits: int
    block_bits: int
    room: int
    paced: bool = False

    @property
    def answer_bits(self) -> int:
        return answer_bits(self.block_bits, self.matrix.blocks)

    def message(self, piece: _Piece) -> m.VmmRequest:
        return m.VmmRequest(
            self.slot,
            self.flags,
            self.bits,
            self.matrix.row_blocks,
            len(piece.codes),
            piece.window or _NO_WINDOW,
            self.matrix.regions,
            pack_codes(piece.codes, self.bits),
        )

    @property
    def head(self) -> int:
        """Bytes of a request's payload before its codes."""
        return _REQUEST_HEAD + len(self.matrix.regions) * m.Region.FORMAT.size

    def fitting(self, inputs: int, outputs: int) -> int:
        """How many items of that many inputs and outputs fit one request and its answer."""
        there = _fitting_count(self.room - self.head, self.bits) // inputs
        back = _fitting_count(self.room - _ANSWER_HEAD, self.answer_bits) // outputs
        return min(there, back)

    def taken(self, inputs: int, outputs: int, batch: int) -> int:
        """How many of a batch of such items go into one frame; 0 when none fits.

        All that fit, unless bytes take time: then more frames cost more heads, and fewer let the
        other way of the line wait longer for the first request, or the end of the last answer.  The
        sum is least where both are the same.
        """
        most = self.fitting(inputs, outputs)
        if not self.paced or not most:
            return most
        there, back = packed_size(inputs, self.bits), packed_size(outputs, self.answer_bits)
        head = OVERHEAD + (self.head if there > back else _ANSWER_HEAD)
        return min(most, max(1, round(math.sqrt(batch * head / min(there, back)))))

    def images_fitting(self, window: m.Window) -> int:
        return self.fitting(*self._sizes(window))

    def _sizes(self, window: m.Window) -> tuple[int, int]:
        """Codes of an image, and of its answer."""
        height, width = output_size(window)
        inputs = window.channels * window.height * window.width
        return inputs, self.matrix.shape[1] * height * width

    def row_fits(self, window: m.Window) -> bool:
        return self.strip_fits(window, 1)

    def strip_fits(self, window: m.Window, rows: int) -> bool:
        height = (rows - 1) * window.stride_y + _reach(window)[0]
        inputs = window.channels * min(height, window.height) * window.width
        return self.fitting(inputs, self.matrix.shape[1] * rows * output_size(window)[1]) > 0

    def vectors(self, parts: Iterable[Codes], batch: int) -> Iterator[_Piece]:
        """Frames of a batch of vectors, whatever parts they come in."""
        count = self.taken(*self.matrix.shape, batch)
        if not count:
            raise UsageError(
                f"One vector of {self.matrix.shape[0]} inputs and {self.matrix.shape[1]} outputs "
                f"does not fit into a payload of {self.room} bytes",
                left="Nothing was sent",
                next="Allow larger payloads (--max-payload), or use smaller layers",
            )
        first, rest = 0, None
        for part in parts:
            rest = part if rest is None or not len(rest) else np.concatenate([rest, part])
            while len(rest) > count:
                yield _Piece(rest[:count], None, first)
                first, rest = first + count, rest[count:]
        if rest is not None and len(rest):
            yield _Piece(rest, None, first)

    def images(self, codes: Codes, window: m.Window) -> Iterator[_Piece]:
        count = self.taken(*self._sizes(window), len(codes))
        for first in range(0, len(codes), count):
            yield _Piece(codes[first : first + count], window, first)

    def strips(self, codes: Codes, window: m.Window) -> Iterator[_Piece]:
        """Strips of output rows, image by image: the order of the vectors stays."""
        height = output_size(window)[0]
        rows = 1
        while rows < height and self.strip_fits(window, rows + 1):
            rows += 1
        cuts = [strip(window, y, min(y + rows, height)) for y in range(0, height, rows)]
        for image in range(len(codes)):
            for row, count, top, bottom, narrow in cuts:
                yield _Piece(codes[image : image + 1, :, top:bottom], narrow, image, row, count)


def strip(window: m.Window, first: int, last: int) -> tuple[int, int, int, int, m.Window]:
    """Cuts output rows [first, last) out of a window.

    Returns:
        (first row, rows, first image row, image row behind the last, window of the strip).
    """
    reach = _reach(window)[0]
    start = first * window.stride_y - window.pad_top
    stop = (last - 1) * window.stride_y + reach - window.pad_top
    top = min(max(start, 0), window.height - 1)
    bottom = max(min(stop, window.height), top + 1)
    narrow = replace(
        window, height=bottom - top, pad_top=max(0, top - start), pad_bottom=max(0, stop - bottom)
    )
    return first, last - first, top, bottom, narrow


class _Target:
    """Where answers are put together; one that came in a single frame is taken as it is.

    Args:
        request: what all frames share.
        batch: vectors, or images where there is a window.
        window: how the board makes vectors of images.
    """

    def __init__(self, request: _Request, batch: int, window: m.Window | None) -> None:
        bits = request.answer_bits
        places = () if window is None else output_size(window)
        self._shape = (batch, request.matrix.shape[1], *places)
        self._kind = np.int8 if bits <= 8 else np.int16 if bits <= 16 else np.int32
        self.codes: Codes = np.empty((0,), dtype=self._kind)

    def put(self, piece: _Piece, answer: m.VmmResponse) -> None:
        if len(piece.codes) == self._shape[0] and not piece.rows:
            count = math.prod(self._shape)
            flat = unpack_codes(answer.codes, count, answer.bits, signed=True)
            # A copy only where the bytes of a small frame lie read-only.
            self.codes = np.require(flat, requirements="W").reshape(self._shape)
            return
        if not self.codes.size:
            self.codes = np.empty(self._shape, dtype=self._kind)
        place = self.codes[piece.first : piece.first + len(piece.codes)]
        if piece.rows:
            place = place[:, :, piece.row : piece.row + piece.rows]
        flat = unpack_codes(answer.codes, place.size, answer.bits, signed=True)
        place[...] = flat.reshape(place.shape)


def _reach(window: m.Window) -> tuple[int, int]:
    """Rows and columns of an image that one place of the window spans."""
    return (
        window.dilation_y * (window.kernel_height - 1) + 1,
        window.dilation_x * (window.kernel_width - 1) + 1,
    )


def unrolled(codes: Codes, window: m.Window) -> Codes:
    """(batch * places, inputs): the vectors that a window makes of images, in wire order."""
    w = window
    padded = np.pad(codes, ((0, 0), (0, 0), (w.pad_top, w.pad_bottom), (w.pad_left, w.pad_right)))
    views = np.lib.stride_tricks.sliding_window_view(padded, _reach(w), axis=(2, 3))
    taken = views[:, :, :: w.stride_y, :: w.stride_x, :: w.dilation_y, :: w.dilation_x]
    ordered = taken.transpose(0, 2, 3, 1, 4, 5)
    return ordered.reshape(-1, unrolled_size(window))


def _unrolled_parts(codes: Codes, window: m.Window) -> Iterator[Codes]:
    """The same, a few images at a time."""
    one = math.prod(output_size(window)) * unrolled_size(window)
    step = max(1, _UNROLLED // one)
    for first in range(0, len(codes), step):
        yield unrolled(codes[first : first + step], window)


def _as_images(codes: Codes, batch: int, window: m.Window) -> Codes:
    height, width = output_size(window)
    images = codes.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)


def _combined(a: Products, b: Products, codes: Codes) -> Products:
    return Products(
        codes, a.saturated + b.saturated, a.packed_tx + b.packed_tx, a.packed_rx + b.packed_rx
    )
