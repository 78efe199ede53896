"""The application: command line, analog layers, mapping, training, data sets and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimctl.conversion import convert

__version__ = "0.1.0"
__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> Any:
    """``cimctl.convert``, imported when it is asked for: torch takes a second to load."""
    if name == "convert":
        from cimctl.conversion import convert

        return convert
    raise AttributeError(f"module 'cimctl' has no attribute '{name}'")
