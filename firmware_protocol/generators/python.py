"""The Python side: constants.py and messages.py."""

from __future__ import annotations

from firmware_protocol.spec import INTEGERS, Command, Field, Message, Spec, Struct

_BANNER = "# Generated from spec.yaml by python -m firmware_protocol.generate; do not edit.\n"
_DTYPES = {"u16": "<u2", "i16": "<i2", "u32": "<u4"}


def constants(spec: Spec) -> str:
    """Enumerations and numbers; imports nothing heavy."""
    frame = spec.raw["frame"]
    lines = [
        _BANNER,
        '"""Numbers of the specification."""\n',
        "from __future__ import annotations\n",
        "from enum import IntEnum, IntFlag\n",
        f"VERSION = {spec.version}",
        f"SPEC_HASH = 0x{spec.hash64:016X}",
        f'SPEC_DIGEST = "{spec.digest.hex()}"',
        f"CRC_SEED = 0x{spec.crc_seed:08X}",
        f"DELIMITER = 0x{frame['delimiter']:02X}",
        f"PAYLOAD_XOR = 0x{frame['payload_xor']:02X}",
    ]
    for name, value in spec.raw["arithmetic"].items():
        if name != "doc":
            shown = f"0x{value:X}" if value > 1 << 32 else str(value)
            lines.append(f"{name.upper()} = {shown}")
    lines.append("")
    lines += _enum("Flag", "IntFlag", "Frame flags.", spec.tables["flags"])
    lines += _enum("Status", "IntEnum", "Status of an answer.", spec.tables["status"])
    lines += _enum("Detail", "IntEnum", "Why a request was refused.", spec.tables["details"])
    capabilities = {
        name: {"value": 1 << row["bit"], "doc": row["doc"]}
        for name, row in spec.tables["capabilities"].items()
    }
    lines += _enum("Capability", "IntFlag", "What a board offers.", capabilities)
    opcodes = {c.name: {"value": c.value, "doc": c.doc.split(".")[0]} for c in spec.commands}
    lines += _enum("Opcode", "IntEnum", "Commands.", opcodes)
    lines += ["", "#: class of each status: ok, retry, caller, device, safety", "STATUS_CLASS = {"]
    lines += [f'    Status.{n}: "{r["class"]}",' for n, r in spec.tables["status"].items()]
    lines += ["}", "", "#: what each detail means, for messages", "DETAIL_TEXT = {"]
    lines += [f'    Detail.{n}: "{r["doc"]}",' for n, r in spec.tables["details"].items()]
    lines += ["}", ""]
    return "\n".join(lines)


def messages(spec: Spec) -> str:
    """The typed messages with their encoders and decoders."""
    lines = [
        _BANNER,
        '"""Typed messages: one class per request, answer and struct."""\n',
        "from __future__ import annotations\n",
        "from collections.abc import Sequence",
        "from dataclasses import dataclass",
        "from struct import Struct",
        "from typing import ClassVar, Self\n",
        "from firmware_protocol.codec import (",
        "    Buffer,",
        "    IntArray,",
        "    Message,",
        "    Reader,",
        "    array_bytes,",
        "    count_bytes,",
        "    pack,",
        "    text_bytes,",
        ")",
        "from firmware_protocol.constants import Opcode\n",
    ]
    for struct in spec.structs.values():
        lines += _struct_class(struct)
    for command in spec.commands:
        for message in (command.request, command.response):
            lines += _message_class(spec, message, command)
    lines += _message_class(spec, spec.refusal, None)
    lines += ["", "REQUESTS: dict[int, type[Message]] = {"]
    lines += [f"    Opcode.{c.name}: {c.request.name}," for c in spec.commands]
    lines += ["}", "RESPONSES: dict[int, type[Message]] = {"]
    lines += [f"    Opcode.{c.name}: {c.response.name}," for c in spec.commands]
    lines += ["}", "#: commands that change cells or counters and must be applied exactly once"]
    mutating = ", ".join(f"Opcode.{c.name}" for c in spec.commands if c.mutating)
    lines += [f"MUTATING = frozenset({{{mutating}}})", ""]
    return "\n".join(lines)


def _enum(name: str, base: str, doc: str, rows: dict[str, dict[str, object]]) -> list[str]:
    lines = ["", f"class {name}({base}):", f'    """{doc}"""', ""]
    lines += [f"    {key} = 0x{row['value']:02X}" for key, row in rows.items()]
    return [*lines, ""]


def _class_doc(doc: str, fields: tuple[Field, ...]) -> list[str]:
    import textwrap

    text = doc[0].upper() + doc[1:].rstrip(".") + "."
    lines = textwrap.wrap(text, 92, initial_indent='    """', subsequent_indent="    ")
    if fields:
        lines += ["", "    Attributes:"]
        for f in fields:
            unit = f" ({f.unit})" if f.unit else ""
            lines += textwrap.wrap(
                f"{f.name}: {f.doc}{unit}.", 98, initial_indent=" " * 8, subsequent_indent=" " * 12
            )
        return [*lines, '    """', ""]
    lines[-1] += '"""'
    return [*lines, ""]


def _struct_class(struct: Struct) -> list[str]:
    layout = "<" + "".join(INTEGERS[f.type] for f in struct.fields)
    values = ", ".join(f"self.{f.name}" for f in struct.fields)
    return [
        "",
        "@dataclass(frozen=True, slots=True)",
        f"class {struct.name}:",
        *_class_doc(struct.doc, struct.fields),
        f'    FORMAT: ClassVar[Struct] = Struct("{layout}")',
        *(f"    {f.name}: int = 0" for f in struct.fields),
        "",
        "    def values(self) -> tuple[int, ...]:",
        f"        return ({values},)",
        "",
        "    @classmethod",
        "    def from_values(cls, values: Sequence[int]) -> Self:",
        "        return cls(*values)",
        "",
        "    def encode(self) -> bytes:",
        "        return pack(self.FORMAT, *self.values())",
        "",
        "    @classmethod",
        "    def decode(cls, payload: Buffer) -> Self:",
        "        reader = Reader(payload)",
        "        values = reader.unpack(cls.FORMAT)",
        "        reader.end()",
        "        return cls(*values)",
        "",
    ]


def _python_type(spec: Spec, f: Field) -> str:
    if f.type in INTEGERS:
        return "int"
    if f.type in spec.structs:
        return f.type
    if f.type == "text":
        return "str"
    if f.type == "bytes":
        return "Buffer"
    element, shape = f.type.split()
    if element in spec.structs:
        return f"tuple[{element}, ...]"
    return "IntArray | Sequence[int]" if shape in ("list", "array") else "Buffer"


def _message_class(spec: Spec, message: Message, command: Command | None) -> list[str]:
    runs = _runs(spec, message.fields)
    kind = "answer" if message.response else "request"
    doc = f"{command.name}, {kind}: {message.doc}" if command else message.doc
    lines = [
        "",
        "@dataclass(frozen=True, slots=True, eq=False)",
        f"class {message.name}(Message):",
        *_class_doc(doc, message.fields),
    ]
    if command:
        lines.append(f"    OPCODE: ClassVar[Opcode] = Opcode.{command.name}")
    for i, run in enumerate(runs):
        if isinstance(run, list):
            lines.append(f'    _FIXED_{i}: ClassVar[Struct] = Struct("{_layout(spec, run)}")')
    lines += [f"    {f.name}: {_python_type(spec, f)}" for f in message.fields]
    if message.fields:
        lines.append("")
    lines += _parts_method(spec, runs) + _decode_method(spec, message, runs)
    return lines


def _runs(spec: Spec, fields: tuple[Field, ...]) -> list[list[Field] | Field]:
    """Groups consecutive fields of fixed size; a field of variable size stands alone."""
    runs: list[list[Field] | Field] = []
    for f in fields:
        if f.type not in INTEGERS and f.type not in spec.structs:
            runs.append(f)
        elif runs and isinstance(runs[-1], list):
            runs[-1].append(f)
        else:
            runs.append([f])
    return runs


def _members(spec: Spec, run: list[Field]) -> list[tuple[str, str]]:
    """(expression, integer type) of each number in a run, structs flattened."""
    members: list[tuple[str, str]] = []
    for f in run:
        if f.type in spec.structs:
            inner = spec.structs[f.type].fields
            members += [(f"self.{f.name}.{g.name}", g.type) for g in inner]
        else:
            members.append((f"self.{f.name}", f.type))
    return members


def _layout(spec: Spec, run: list[Field]) -> str:
    return "<" + "".join(INTEGERS[kind] for _, kind in _members(spec, run))


def _parts_method(spec: Spec, runs: list[list[Field] | Field]) -> list[str]:
    lines = ["    def parts(self) -> tuple[Buffer, ...]:"]
    if not runs:
        return [*lines, "        return ()", ""]
    lines.append("        return (")
    for i, run in enumerate(runs):
        if isinstance(run, list):
            lines.append("            pack(")
            lines.append(f"                self._FIXED_{i},")
            lines += [f"                {expression}," for expression, _ in _members(spec, run)]
            lines.append("            ),")
        else:
            lines += [f"            {part}," for part in _encoded(spec, run)]
    return [*lines, "        )", ""]


def _encoded(spec: Spec, f: Field) -> list[str]:
    if f.type == "text":
        return [f"text_bytes(self.{f.name})"]
    if f.type == "bytes":
        return [f"self.{f.name}"]
    element, shape = f.type.split()
    if element in spec.structs:
        return [f"count_bytes(self.{f.name}, 2)", f"*(s.encode() for s in self.{f.name})"]
    values = f'array_bytes(self.{f.name}, "{_DTYPES[element]}")'
    return [f"count_bytes(self.{f.name}, 4)", values] if shape == "list" else [values]


def _decode_method(spec: Spec, message: Message, runs: list[list[Field] | Field]) -> list[str]:
    lines = [
        "    @classmethod",
        "    def decode(cls, payload: Buffer) -> Self:",
        "        reader = Reader(payload)",
    ]
    for i, run in enumerate(runs):
        if isinstance(run, list):
            lines.append(f"        fixed_{i} = reader.unpack(cls._FIXED_{i})")
            at = 0
            for f in run:
                if f.type in spec.structs:
                    size = len(spec.structs[f.type].fields)
                    lines.append(
                        f"        {f.name} = {f.type}.from_values(fixed_{i}[{at}:{at + size}])"
                    )
                    at += size
                else:
                    lines.append(f"        {f.name} = fixed_{i}[{at}]")
                    at += 1
        else:
            lines.append(f"        {run.name} = {_decoded(spec, run)}")
    names = ", ".join(f.name for f in message.fields)
    return [*lines, "        reader.end()", f"        return cls({names})", ""]


def _decoded(spec: Spec, f: Field) -> str:
    if f.type == "text":
        return "reader.text()"
    if f.type == "bytes":
        return "reader.rest()"
    element, shape = f.type.split()
    if element in spec.structs:
        return f"reader.structs({element})"
    method = "counted_array" if shape == "list" else "array"
    return f'reader.{method}("{_DTYPES[element]}")'
