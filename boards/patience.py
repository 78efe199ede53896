"""How long to wait for an answer before a request is sent again.

A lost frame is found the sooner the better, and a slow command must not be asked for twice.  So
the driver learns how long each command takes for its size, and waits several times that; what it
has not met yet gets the whole time limit.
"""

from __future__ import annotations

from collections.abc import Iterable

#: answers may take this many times what they took at the slowest lately
_MARGIN = 4.0
#: never shorter, since the computer itself may be busy
_LEAST_SECONDS = 0.2
#: bytes that stand for the fixed part of a command's time
_FIXED = 1000
#: how much of the slowest time is forgotten with each answer
_FORGOTTEN = 0.01


class Patience:
    """Time limits that follow the answers.

    Args:
        timeout: seconds that no limit exceeds, the line's own time apart.
        rate: bytes a second that the line carries; None where it does not matter.
    """

    def __init__(self, timeout: float, rate: float | None) -> None:
        self.timeout = timeout
        self._rate = rate
        self._slowest: dict[int, float] = {}

    def learn(self, opcode: int, size: int, seconds: float) -> None:
        """An answer came, ``seconds`` after its request of ``size`` bytes was sent once."""
        share = seconds / (size + _FIXED)
        self._slowest[opcode] = max(share, self._slowest.get(opcode, 0.0) * (1 - _FORGOTTEN))

    def limit(self, waiting: Iterable[tuple[int, int]], answer: int, silences: int) -> float:
        """Seconds to wait for the oldest of the requests in flight.

        Args:
            waiting: opcode and size in bytes of each.
            answer: largest size of an answer.
            silences: how often in a row nothing came; the limit doubles with each.
        """
        waiting = list(waiting)
        expected = 0.0
        for opcode, size in waiting:
            share = self._slowest.get(opcode)
            expected += self.timeout if share is None else share * (size + _FIXED) * _MARGIN
        seconds = min(self.timeout, max(_LEAST_SECONDS, expected) * 2.0 ** min(silences, 20))
        return seconds + self.line(waiting, answer)

    def line(self, waiting: Iterable[tuple[int, int]], answer: int) -> float:
        """Seconds that the line needs for the requests in flight and their answers."""
        return sum(size + answer for _, size in waiting) / self._rate if self._rate else 0.0
