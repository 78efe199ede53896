"""Sizes that follow from a multiply request, shared by host and device."""

from __future__ import annotations

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


def answer_bits(adc_bits: int, blocks: int) -> int:
    """Bits that hold the sum of that many conversions: one more for each doubling."""
    return adc_bits + (blocks - 1).bit_length()
