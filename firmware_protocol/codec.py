"""What the generated messages share: reading a payload with a check at every step."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from firmware_protocol.constants import Opcode

Buffer = bytes | bytearray | memoryview
IntArray = npt.NDArray[Any]
T = TypeVar("T", bound="FixedStruct")


class PayloadError(ValueError):
    """A payload does not have the layout that its command prescribes."""


class FixedStruct(Protocol):
    """A generated struct of fixed size."""

    FORMAT: ClassVar[struct.Struct]

    def values(self) -> tuple[int, ...]: ...

    @classmethod
    def from_values(cls, values: Sequence[int]) -> Self: ...


class Message:
    """Base of the generated messages; two are equal when their bytes are."""

    __slots__ = ()
    #: the command; a refusal, which answers any command, has none
    OPCODE: ClassVar[Opcode]

    def parts(self) -> tuple[Buffer, ...]:
        """The payload in pieces, large arrays uncopied."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """The payload in one piece."""
        return b"".join(self.parts())

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        """The message of a payload; raises ``PayloadError``."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash((type(self), self.encode()))


class Reader:
    """Takes a payload apart from front to back.

    Raises:
        PayloadError: from every method, where bytes are missing or left over.
    """

    __slots__ = ("_at", "_view")

    def __init__(self, payload: Buffer) -> None:
        self._view = memoryview(payload)
        self._at = 0

    def take(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._view):
            raise PayloadError(f"{len(self._view)} bytes where at least {end} were expected")
        piece = self._view[self._at : end]
        self._at = end
        return piece

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def text(self) -> str:
        (size,) = self.take(1)
        return bytes(self.take(size)).decode("utf-8", errors="replace")

    def rest(self) -> memoryview:
        return self.take(len(self._view) - self._at)

    def array(self, dtype: str) -> IntArray:
        """The rest of the payload as integers."""
        rest = self.rest()
        if len(rest) % np.dtype(dtype).itemsize:
            raise PayloadError(f"{len(rest)} bytes are no whole number of {dtype} values")
        return np.frombuffer(rest, dtype=dtype)

    def counted_array(self, dtype: str) -> IntArray:
        """A 32-bit count and that many integers."""
        count = int.from_bytes(self.take(4), "little")
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype=dtype)

    def structs(self, kind: type[T]) -> tuple[T, ...]:
        """A 16-bit count and that many structs."""
        count = int.from_bytes(self.take(2), "little")
        data = self.take(count * kind.FORMAT.size)
        return tuple(kind.from_values(values) for values in kind.FORMAT.iter_unpack(data))

    def end(self) -> None:
        if self._at != len(self._view):
            raise PayloadError(f"{len(self._view) - self._at} bytes too many")


def pack(layout: struct.Struct, *values: int) -> bytes:
    """Packs integers; a value that does not fit its field is a ValueError of the caller."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"a field of the message does not fit: {error}") from None


def text_bytes(text: str) -> bytes:
    data = text.encode()[:255]
    return bytes([len(data)]) + data


def array_bytes(values: IntArray | Sequence[int], dtype: str) -> memoryview:
    return np.ascontiguousarray(values, dtype=dtype).reshape(-1).view(np.uint8).data


def count_bytes(values: Sequence[Any] | IntArray, size: int) -> bytes:
    return len(values).to_bytes(size, "little")
