"""Codes packed at their own width, in planes.

A code of ``8 a + r`` bits travels as ``a`` planes of whole bytes, lowest first, and ``r`` bit
planes of one eighth of a byte a code.  Planes cost one vectorised pass each, however odd the width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_protocol.codec import Buffer

Codes = npt.NDArray[Any]


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take."""
    return count * (bits // 8) + (bits % 8) * ((count + 7) // 8)


def fitting_count(size: int, bits: int) -> int:
    """How many codes of ``bits`` bits fit into ``size`` bytes (0 when none does)."""
    count = max(size, 0) * 8 // bits
    while count > 0 and packed_size(count, bits) > size:
        count -= 1
    return count


def pack_codes(codes: Codes, bits: int) -> Buffer:
    """Packs integer codes of any shape; what a code has beyond ``bits`` bits is dropped.

    Eight-bit codes that lie as bytes already are passed on without a copy.
    """
    flat = codes.reshape(-1)
    if bits == 8 and flat.dtype.itemsize == 1:
        return np.ascontiguousarray(flat).view(np.uint8).data
    whole, rest = divmod(bits, 8)
    # The lowest plane needs no shift, which would cost a copy of its own.
    planes: list[Buffer] = [
        (flat >> (8 * i) if i else flat).astype(np.uint8).data for i in range(whole)
    ]
    if rest:
        top = (flat >> (8 * whole)).astype(np.uint8)
        # Any number but 0 is a bit that is set: a shift would cost as much again.
        masks = [np.uint8(1 << i) for i in range(rest)]
        planes += [np.packbits(top & mask, bitorder="little").data for mask in masks]
    return planes[0] if len(planes) == 1 else b"".join(planes)


def unpack_codes(data: Buffer, count: int, bits: int, *, signed: bool) -> Codes:
    """Unpacks ``count`` codes of ``bits`` bits.

    Returns:
        int8 or uint8 for codes of up to 8 bits, int16 or uint16 for up to 16, else int32 or uint32.

    Raises:
        ValueError: when ``data`` is not ``packed_size(count, bits)`` bytes long.
    """
    if len(data) != packed_size(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, not {len(data)}"
        )
    raw = np.frombuffer(data, dtype=np.uint8)
    if bits == 8:
        return raw.view(np.int8) if signed else raw
    whole, rest = divmod(bits, 8)
    wide: type[np.signedinteger[Any]] = (
        np.int8 if bits < 8 else np.int16 if bits <= 16 else np.int32
    )
    # From the highest bits down, so that the sign is that of the first cast to the wide type.
    top = _bit_planes(raw[whole * count :], count, rest) if rest else raw[-count:]
    if signed and rest:
        sign = np.uint8(1 << (rest - 1))
        top ^= sign
        top -= sign
    codes: Codes = (top.view(np.int8) if signed else top).astype(wide)
    for i in reversed(range(whole if rest else whole - 1)):
        codes *= 256
        codes += raw[i * count : (i + 1) * count]
    return codes if signed else codes.view(np.dtype(wide).str.replace("i", "u"))


def _bit_planes(raw: npt.NDArray[np.uint8], count: int, planes: int) -> npt.NDArray[np.uint8]:
    """(count,) integers of fewer than 8 bits, from their bit planes."""
    size = (count + 7) // 8
    codes = np.unpackbits(raw[(planes - 1) * size :], count=count, bitorder="little")
    # From the highest down and doubled each time: numpy shifts bytes one by one.
    for i in reversed(range(planes - 1)):
        codes += codes
        codes |= np.unpackbits(raw[i * size : (i + 1) * size], count=count, bitorder="little")
    return codes
