"""How long an update of an N x N array takes, by the time model of arXiv 2303.04721.

Three parts that follow each other: what is computed digitally for each input vector, the pulses of
the update, and the readings of the fast array, which come once in ``read_every`` vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpdateTimes:
    """Constants of the model; the defaults are the paper's.

    Attributes:
        flops: digital operations a second that an array has for itself.
        pulse_ns: one slot of a pulse train.
        read_ns: one product of an array.
        written: pulses of mixed precision for each vector, as a share of N.
    """

    flops: float = 175e9
    pulse_ns: float = 5.0
    read_ns: float = 40.0
    written: float = 0.01


@dataclass(frozen=True, slots=True)
class Update:
    """What is updated, and how.

    Attributes:
        size: N, lines and columns of the array.
        read_every: n_s, vectors between two readings of a line of the fast array.
        pulse_length: l, slots of a pulse train.
    """

    size: int
    read_every: int = 5
    pulse_length: int = 5


def sgd(update: Update, times: UpdateTimes) -> float:
    """Nanoseconds of an update: 2N operations, l slots."""
    return _digital(2 * update.size, times) + update.pulse_length * times.pulse_ns


def ttv2(update: Update, times: UpdateTimes) -> float:
    """Nanoseconds of an update: 2N + 2N/n_s operations; TTv2 and c-TTv2."""
    return _transferring(2, update, times)


def agad(update: Update, times: UpdateTimes) -> float:
    """Nanoseconds of an update: 2N + 6N/n_s operations, since past and reference are digital."""
    return _transferring(6, update, times)


def mixed_precision(update: Update, times: UpdateTimes) -> float:
    """Nanoseconds of an update: 2N^2 + N operations, and N/100 pulses one by one."""
    pulses = times.written * update.size
    return _digital(2 * update.size**2 + update.size, times) + pulses * times.pulse_ns


ALGORITHMS: dict[str, Callable[[Update, UpdateTimes], float]] = {
    "sgd": sgd,
    "ttv2": ttv2,
    "c-ttv2": ttv2,
    "agad": agad,
    "mixed-precision": mixed_precision,
}
#: what of ``Update`` an algorithm has not
NOT_ASKED = {"sgd": {"read_every"}, "mixed-precision": {"read_every", "pulse_length"}}


def _transferring(operations: int, update: Update, times: UpdateTimes) -> float:
    """Of an algorithm with a fast array: so many operations on each number that is read.

    A reading costs its product, and one slot for the pulse of the weights.
    """
    reads = 1 / update.read_every
    digital = _digital((2 + operations * reads) * update.size, times)
    return digital + (update.pulse_length + reads) * times.pulse_ns + reads * times.read_ns


def _digital(operations: float, times: UpdateTimes) -> float:
    return operations / times.flops * 1e9
