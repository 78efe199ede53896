"""The command line: commands load when called, so that help is quick."""

from __future__ import annotations

import signal
import sys

from cimctl.cli.root import INTERRUPTED, run


def main() -> None:
    """Entry point of ``cimctl``."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        # A second one, while the first was being answered.
        code = INTERRUPTED
    # All is said and done: one that comes while libraries are taken down ends it, without a word.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.exit(code)
