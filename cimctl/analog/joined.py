"""Pulse trains of several vectors one behind the other in one word, in the order they had.

A word has room for 31 slots, and many vectors need few of them.  A line has one sign in a word: a
vector in which a line that fires has the other sign begins the next one.  Each cell gets the same
pulses in the same order, from fewer updates and bytes [ours].
"""

from __future__ import annotations

import numba
import numpy as np

from cimctl.analog.coincidence import LONGEST, Words

#: slots that a word may have, tried in this order
_MOST = (LONGEST, 15, 7, 3)
_ZERO, _LAST = np.uint32(0), np.uint32(LONGEST)
_SLOTS = np.uint32((1 << LONGEST) - 1)


def joined(words: Words) -> Words:
    """The same coincidences in as few updates as their order and no more bits allow."""
    bits = len(words.inputs) * (words.length + 1)
    for most in _MOST:
        if most < words.length:
            break
        inputs, outputs = np.zeros_like(words.inputs), np.zeros_like(words.outputs)
        count, length = _join(words.inputs, words.outputs, words.length, most, inputs, outputs)
        if count * (length + 1) <= bits:
            inputs, outputs = inputs[:count], outputs[:count]
            for each in (inputs, outputs):
                _move_signs(each, length)
            return Words(inputs, outputs, int(length))
    return words


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _join(inputs, outputs, length, room, out_inputs, out_outputs):  # type: ignore[no-untyped-def]
    """Joins words, with their signs in the highest bit; returns how many, and most slots of one.

    ``room`` is how many slots a word may have.
    """
    at, used, most = -1, room, 0
    for v in range(inputs.shape[0]):
        meets = _any(inputs[v]) & _any(outputs[v]) & np.uint32((1 << length) - 1)
        slots = 0
        while meets >> np.uint32(slots):
            slots += 1
        kept = np.uint32((1 << slots) - 1)
        if (
            used + slots > room
            or _clashes(inputs[v], length, kept, out_inputs[at])
            or _clashes(outputs[v], length, kept, out_outputs[at])
        ):
            at, used = at + 1, 0
        _append(inputs[v], length, kept, used, out_inputs[at])
        _append(outputs[v], length, kept, used, out_outputs[at])
        used += slots
        most = max(most, used)
    return at + 1, most


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _any(words):  # type: ignore[no-untyped-def]
    found = _ZERO
    for i in range(words.size):
        found |= words[i]
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _clashes(words, length, kept, out):  # type: ignore[no-untyped-def]
    """Whether a line fires with the other sign than before."""
    found = False
    for i in range(words.size):
        differ = (words[i] >> np.uint32(length)) != (out[i] >> _LAST)
        found |= differ & ((words[i] & kept) != 0) & ((out[i] & _SLOTS) != 0)
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _append(words, length, kept, used, out):  # type: ignore[no-untyped-def]
    for i in range(words.size):
        fires = words[i] & kept
        sign = (words[i] >> np.uint32(length)) << _LAST
        out[i] |= (fires << np.uint32(used)) | (sign if fires else _ZERO)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _move_signs(words, length):  # type: ignore[no-untyped-def]
    for v in range(words.shape[0]):
        for i in range(words.shape[1]):
            sign = (words[v, i] >> _LAST) << np.uint32(length)
            words[v, i] = (words[v, i] & _SLOTS) | sign
