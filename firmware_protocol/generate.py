"""Writes everything that comes from the specification, or checks that nothing drifted.

python -m firmware_protocol.generate            write
python -m firmware_protocol.generate --check    exit 1 and name what drifted
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from firmware_protocol import spec as specification
from firmware_protocol.generators import c_header, golden, python, reference
from firmware_protocol.spec import Spec

PACKAGE = Path(__file__).parent

#: In this order: the golden vectors are made with the constants and messages above them.
ARTEFACTS: dict[Path, Callable[[Spec], str]] = {
    PACKAGE / "constants.py": python.constants,
    PACKAGE / "messages.py": python.messages,
    PACKAGE / "include" / "cim_protocol.h": c_header.header,
    PACKAGE.parent / "docs" / "protocol.md": reference.page,
    PACKAGE / "golden" / "vectors.json": golden.vectors,
}


def drifted(spec: Spec) -> list[Path]:
    """The artefacts that are not what the specification makes today."""
    stale = []
    for path, make in ARTEFACTS.items():
        try:
            fresh = make(spec)
        except (RuntimeError, ImportError):
            fresh = None
        if fresh is None or not path.exists() or path.read_text() != fresh:
            stale.append(path)
    return stale


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m firmware_protocol.generate")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    options = parser.parse_args(arguments)
    spec = specification.load()
    if options.check:
        stale = drifted(spec)
        for path in stale:
            print(f"drifted from the specification: {path}", file=sys.stderr)
        return 1 if stale else 0
    for path, make in ARTEFACTS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make(spec))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
