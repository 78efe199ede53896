"""Golden vectors: frames in hex with their meaning, from the examples of the specification."""

from __future__ import annotations

import json
from typing import Any

from firmware_protocol.spec import Command, Field, Message, Spec

SESSION = 0x00C0FFEE
SEQUENCE = 42


def vectors(spec: Spec) -> str:
    """JSON: one entry per example and direction."""
    # Imported here: these modules are themselves generated, and must exist before vectors can be.
    from firmware_protocol import frames
    from firmware_protocol.constants import CRC_SEED, Flag

    if spec.crc_seed != CRC_SEED:
        raise RuntimeError("constants.py is older than the specification; generate it first")
    rows = []
    for command in spec.commands:
        for example in command.examples:
            for message, key in ((command.request, "request"), (command.response, "response")):
                payload = build(spec, message, example[key]).encode()
                sequence = example.get("sequence", SEQUENCE)
                flags = Flag.RESPONSE if message.response else 0
                frame = frames.encode(command.value, SESSION, sequence, [payload], flags=flags)
                rows.append(_row(command, message, example, key, sequence, payload, frame))
    return json.dumps({"spec": spec.digest.hex(), "vectors": rows}, indent=1) + "\n"


def build(spec: Spec, message: Message, values: dict[str, Any]) -> Any:
    """A message from the plain values of an example; byte fields are written in hex there."""
    from firmware_protocol import messages

    kind = getattr(messages, message.name)
    return kind(**{f.name: _value(spec, f, values[f.name]) for f in message.fields})


def _value(spec: Spec, f: Field, value: Any) -> Any:
    from firmware_protocol import messages

    if f.type == "bytes":
        return bytes.fromhex(value)
    if f.type in spec.structs:
        return getattr(messages, f.type)(**value)
    element = f.type.split()[0]
    if element in spec.structs:
        return tuple(getattr(messages, element)(**row) for row in value)
    return value


def _row(
    command: Command,
    message: Message,
    example: dict[str, Any],
    key: str,
    sequence: int,
    payload: bytes,
    frame: bytes,
) -> dict[str, Any]:
    return {
        "name": f"{command.name} {key}: {example['name']}",
        "message": message.name,
        "opcode": command.value,
        "session": SESSION,
        "sequence": sequence,
        "fields": example[key],
        "payload": payload.hex(),
        "frame": frame.hex(),
    }
