"""The command line: commands load when called, so that help is quick."""

from __future__ import annotations

import sys

from cimctl.cli.root import run


def main() -> None:
    """Entry point of ``cimctl``."""
    sys.exit(run(sys.argv[1:]))
