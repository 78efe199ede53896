"""The C side: include/cim_protocol.h."""

from __future__ import annotations

from firmware_protocol.spec import INTEGERS, Field, Message, Spec

_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i16": 2, "i32": 4}


def header(spec: Spec) -> str:
    """Constants, and the offset of every field that has a fixed place."""
    lines = [
        "/* Generated from spec.yaml by python -m firmware_protocol.generate; do not edit.",
        " * Offsets are into a payload; a field behind one of variable size has none. */",
        "#ifndef CIM_PROTOCOL_H",
        "#define CIM_PROTOCOL_H",
        "",
        f"#define CIM_VERSION {spec.version}u",
        f"#define CIM_SPEC_HASH 0x{spec.hash64:016X}ull",
        f"#define CIM_CRC_SEED 0x{spec.crc_seed:08X}u",
        f"#define CIM_CRC_POLYNOMIAL 0x{spec.raw['frame']['crc']['polynomial']:08X}u",
        f"#define CIM_DELIMITER 0x{spec.raw['frame']['delimiter']:02X}u",
        f"#define CIM_PAYLOAD_XOR 0x{spec.raw['frame']['payload_xor']:02X}u",
        "",
    ]
    lines += _offsets(spec, "HEADER", spec.header)
    lines.append("#define CIM_CRC_SIZE 4u\n")
    for name, value in spec.raw["arithmetic"].items():
        if name != "doc":
            suffix = "ull" if value > 0xFFFFFFFF else "u"
            lines.append(f"#define CIM_{name.upper()} {value:#x}{suffix}")
    lines.append("")
    lines += _enum("FLAG", {n: r["value"] for n, r in spec.tables["flags"].items()})
    lines += _enum("STATUS", {n: r["value"] for n, r in spec.tables["status"].items()})
    lines += _enum("DETAIL", {n: r["value"] for n, r in spec.tables["details"].items()})
    lines += _enum("CAP", {n: 1 << r["bit"] for n, r in spec.tables["capabilities"].items()})
    lines += _enum("OP", {c.name: c.value for c in spec.commands})
    for struct in spec.structs.values():
        lines += _offsets(spec, struct.name.upper(), struct.fields)
    for command in spec.commands:
        lines += _message(spec, command.request, f"{command.name}_REQUEST")
        lines += _message(spec, command.response, f"{command.name}_RESPONSE")
    lines += _message(spec, spec.refusal, "REFUSAL")
    return "\n".join([*lines, "#endif", ""])


def _enum(prefix: str, values: dict[str, int]) -> list[str]:
    return [*(f"#define CIM_{prefix}_{name} 0x{value:02X}u" for name, value in values.items()), ""]


def _message(spec: Spec, message: Message, name: str) -> list[str]:
    names = ", ".join(f.name for f in message.fields) or "empty"
    return [f"/* {name}: {names} */", *_offsets(spec, name, message.fields)]


def _offsets(spec: Spec, name: str, fields: tuple[Field, ...]) -> list[str]:
    lines: list[str] = []
    at = 0
    for f in fields:
        lines.append(f"#define CIM_{name}_{f.name.upper()} {at}u")
        size = _size(spec, f)
        if size is None:
            break
        at += size
    return [*lines, f"#define CIM_{name}_FIXED_SIZE {at}u", ""]


def _size(spec: Spec, f: Field) -> int | None:
    if f.type in INTEGERS:
        return _SIZES[f.type]
    if f.type in spec.structs:
        return sum(_SIZES[g.type] for g in spec.structs[f.type].fields)
    return None
