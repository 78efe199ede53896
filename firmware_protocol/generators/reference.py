"""The reference page: docs/protocol.md."""

from __future__ import annotations

from firmware_protocol.spec import Field, Message, Spec


def page(spec: Spec) -> str:
    """The protocol as a person reads it."""
    raw = spec.raw
    lines = [
        "<!-- Generated from firmware_protocol/spec.yaml; do not edit. -->",
        f"# The wire: {raw['protocol']['name']}, version {spec.version}",
        "",
        raw["protocol"]["doc"],
        "",
        f"Specification hash `{spec.digest.hex()}`, CRC seed `0x{spec.crc_seed:08X}`.",
        "",
        "## Frames",
        "",
        f"`COBS(header, payload XOR 0x{raw['frame']['payload_xor']:02X}, CRC-32)`, then a"
        " zero byte. " + raw["frame"]["crc"]["doc"],
        "",
        *_table(spec.header),
        "## Types",
        "",
        "`u8` to `u64` and `i16` are integers. `text` is a length byte and UTF-8. `T list` is a"
        " count (32 bits for integers, 16 bits for structs) and that many T. `T array` and `bytes`"
        " take the rest of the payload.",
        "",
    ]
    for struct in spec.structs.values():
        lines += [f"### {struct.name}", "", struct.doc, "", *_table(struct.fields)]
    lines += ["## Commands", ""]
    for command in spec.commands:
        kind = "mutating, exactly once" if command.mutating else "changes no cell"
        lines += [f"### {command.name} (0x{command.value:02X}, {kind})", "", command.doc, ""]
        lines += _message("Request", command.request) + _message("Answer", command.response)
    lines += ["## Refusals", "", spec.refusal.doc + ".", "", *_table(spec.refusal.fields)]
    lines += ["| status | value | class | meaning |", "|---|---|---|---|"]
    for name, row in spec.tables["status"].items():
        lines.append(f"| {name} | 0x{row['value']:02X} | {row['class']} | {row['doc']} |")
    lines += ["", "| detail | value | meaning |", "|---|---|---|"]
    for name, row in spec.tables["details"].items():
        lines.append(f"| {name} | {row['value']} | {row['doc']} |")
    lines += ["", "## Capabilities", "", "| name | bit | meaning |", "|---|---|---|"]
    for name, row in spec.tables["capabilities"].items():
        lines.append(f"| {name} | {row['bit']} | {row['doc']} |")
    lines += ["", "## Arithmetic", "", raw["arithmetic"]["doc"], ""]
    lines += ["| constant | value |", "|---|---|"]
    lines += [f"| {n} | {v:#x} |" for n, v in raw["arithmetic"].items() if n != "doc"]
    return "\n".join([*lines, ""])


def _message(title: str, message: Message) -> list[str]:
    if not message.fields:
        return [f"{title}: empty.", ""]
    return [f"{title}:", "", *_table(message.fields)]


def _table(fields: tuple[Field, ...]) -> list[str]:
    lines = ["| field | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.type} | {f.unit} | {f.doc} |" for f in fields]
    return [*lines, ""]
