"""Sizes that follow from a multiply request, shared by host and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A profile needs these sizes too, and messages bring numpy.
    from firmware_protocol.messages import Window


def output_size(window: Window) -> tuple[int, int]:
    """Height and width of what a window makes of an image; 0 or less where it does not fit."""
    w = window
    span_y = w.dilation_y * (w.kernel_height - 1) + 1
    span_x = w.dilation_x * (w.kernel_width - 1) + 1
    return (
        (w.height + w.pad_top + w.pad_bottom - span_y) // max(1, w.stride_y) + 1,
        (w.width + w.pad_left + w.pad_right - span_x) // max(1, w.stride_x) + 1,
    )


def unrolled_size(window: Window) -> int:
    """Inputs of the vector that one place of the window makes."""
    return window.channels * window.kernel_height * window.kernel_width


def answer_bits(block_bits: int, blocks: int) -> int:
    """Bits that hold the sum of that many blocks' answers: one more for each doubling."""
    return block_bits + (blocks - 1).bit_length()


def plane_weights(bits: int, signed: bool, ternary: bool) -> list[int]:
    """Weight of each bit plane of an input code, where planes are converted each by itself."""
    if ternary and signed:
        return [1 << k for k in range(max(1, bits - 1))]
    weights = [1 << k for k in range(bits)]
    if signed:
        weights[-1] = -weights[-1]
    return weights


def conversion_ends(adc_bits: int, *, unsigned: bool) -> tuple[int, int]:
    """Lowest and highest code of one conversion."""
    half = 1 << (adc_bits - 1)
    return (0, 2 * half - 1) if unsigned else (-half, half - 1)


def levels_of(low: int, high: int, levels: int) -> list[int]:
    """The conductances that a cell of so many levels holds; none where it holds any."""
    return [low + round(i * (high - low) / (levels - 1)) for i in range(levels)]


def column_weights(packed: int) -> tuple[int, ...]:
    """Weights of the columns of a group, out of HELLO's field: signed bytes up to the first 0."""
    data = packed.to_bytes(8, "little")
    return tuple(b - 256 if b > 127 else b for b in data[: (data + b"\0").index(0)])


def packed_column_weights(weights: Sequence[int]) -> int:
    """HELLO's field for the weights of the columns of a group, eight at most."""
    return int.from_bytes(bytes(w % 256 for w in weights), "little")
