"""The limits of pulses and voltages, checked by the host before anything is sent.

The firmware checks the same ones, and has the last word; the host's check gives the better message,
and holds where a profile is stricter than the board.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from boards.errors import SafetyRefusal
from boards.profile import LimitSettings
from firmware_protocol.messages import Description


def check_read_voltage(limits: LimitSettings, board: Description, millivolts: int) -> None:
    """Raises ``SafetyRefusal`` for a read voltage past the limit."""
    high = min(limits.read_voltage_mV, board.read_voltage_limit)
    if millivolts > high:
        raise _refused(f"A read voltage of {millivolts} mV", f"{high} mV")


def check_pulses(
    limits: LimitSettings,
    board: Description,
    counts: npt.NDArray[Any],
    *,
    set_mV: int,
    reset_mV: int,
    width_ns: int,
) -> None:
    """Raises ``SafetyRefusal`` for an amplitude, a width or a count past its limit.

    Args:
        limits, board: the profile's limits and the board's own; the stricter one holds.
        counts: pulses of each cell, SET positive.
        set_mV, reset_mV: amplitudes; one that no pulse uses may be anything.
        width_ns: width of a pulse.
    """
    most = min(limits.pulses_per_command, board.pulses_per_command)
    wanted = int(np.abs(counts.astype(np.int64)).max(initial=0))
    if wanted > most:
        raise _refused(f"{wanted} pulses to one cell", f"{most} in one command")
    low = max(limits.amplitude_mV[0], board.amplitude_low)
    high = min(limits.amplitude_mV[1], board.amplitude_high)
    for name, millivolts, used in (
        ("SET", set_mV, (counts > 0).any()),
        ("RESET", reset_mV, (counts < 0).any()),
    ):
        if used and not low <= millivolts <= high:
            raise _refused(f"A {name} pulse of {millivolts} mV", f"{low} to {high} mV")
    low, high = max(limits.width_ns[0], board.width_low), min(limits.width_ns[1], board.width_high)
    if not low <= width_ns <= high:
        raise _refused(f"A pulse of {width_ns} ns", f"{low} to {high} ns")


def _refused(what: str, limit: str) -> SafetyRefusal:
    return SafetyRefusal(
        f"{what} would pass a limit ({limit})",
        left="Nothing was sent",
        next="Stay within the limits, or have them changed in the board's profile and firmware",
    )
