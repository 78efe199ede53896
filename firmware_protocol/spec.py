"""Reading the specification, and its hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SPEC_PATH = Path(__file__).with_name("spec.yaml")
#: Keys that explain and do not bind; a change of them leaves the hash as it is.
_NOT_HASHED = frozenset({"doc", "examples"})

#: struct format of each integer type
INTEGERS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i16": "h", "i32": "i"}


@dataclass(frozen=True)
class Field:
    """One field of a message or struct."""

    name: str
    type: str
    doc: str
    unit: str = ""


@dataclass(frozen=True)
class Struct:
    """A fixed-size group of integer fields."""

    name: str
    doc: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Message:
    """A request or an answer: its class name and fields in wire order."""

    name: str
    opcode: str
    response: bool
    doc: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Command:
    """An opcode with its request, its answer and its examples."""

    name: str
    value: int
    mutating: bool
    doc: str
    request: Message
    response: Message
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Spec:
    """The specification in the shape that the generators walk over."""

    raw: dict[str, Any]
    digest: bytes
    header: tuple[Field, ...]
    structs: dict[str, Struct]
    commands: tuple[Command, ...]
    refusal: Message
    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return int(self.raw["protocol"]["version"])

    @property
    def hash64(self) -> int:
        """First 8 bytes of the digest, little-endian: what HELLO carries."""
        return int.from_bytes(self.digest[:8], "little")

    @property
    def crc_seed(self) -> int:
        """First 4 bytes of the digest, little-endian: where the CRC of a frame starts."""
        return int.from_bytes(self.digest[:4], "little")


def load(path: Path = SPEC_PATH) -> Spec:
    """Reads the specification file."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    structs = {
        name: Struct(name, body["doc"], _fields(body["fields"]))
        for name, body in raw["structs"].items()
    }
    commands = tuple(_command(name, body) for name, body in raw["opcodes"].items())
    refusal = Message("Refusal", "", True, raw["refusal"]["doc"], _fields(raw["refusal"]["fields"]))
    tables = {name: raw[name] for name in ("flags", "status", "details", "capabilities")}
    header = _fields(raw["frame"]["header"])
    return Spec(raw, digest(raw), header, structs, commands, refusal, tables)


def digest(raw: dict[str, Any]) -> bytes:
    """SHA-256 over the binding part of the specification, in canonical JSON."""
    canonical = json.dumps(_binding(raw), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def camel(opcode: str) -> str:
    """HELLO -> Hello, SELF_TEST -> SelfTest."""
    return "".join(word.capitalize() for word in opcode.split("_"))


def _binding(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _binding(v) for k, v in node.items() if k not in _NOT_HASHED}
    if isinstance(node, list):
        return [_binding(v) for v in node]
    return node


def _fields(rows: list[dict[str, Any]]) -> tuple[Field, ...]:
    return tuple(Field(r["name"], r["type"], r["doc"], str(r.get("unit", ""))) for r in rows)


def _command(name: str, body: dict[str, Any]) -> Command:
    base = camel(name)
    request = Message(base + "Request", name, False, body["doc"], _fields(body["request"]))
    response = Message(base + "Response", name, True, body["doc"], _fields(body["response"]))
    return Command(
        name,
        body["value"],
        body["mutating"],
        body["doc"],
        request,
        response,
        tuple(body["examples"]),
    )
