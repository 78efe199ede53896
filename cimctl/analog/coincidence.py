"""Outer products by pulse coincidence: how many pulses each cell gets from a batch of vectors.

For a vector of inputs x and one of directions d, both lines of a crossbar carry trains of BL slots,
and a cell gets a pulse in each slot in which its row and its column fire (arXiv 1906.02698).  With
``k = (lr / delta) max|x| max|d|`` the trains have

    BL  = min(ceil(k), BL_max), or BL_max without update bit-length management,
    p_x = min(1, |x| sqrt(lr / (delta BL)) m),    m = sqrt(max|d| / max|x|)
    p_d = min(1, |d| sqrt(lr / (delta BL)) / m),  1 without update management,

so a cell moves by ``lr x d`` in the mean, less what is clipped.  A train is a word of 32 bits,
drawn at 16 bits of probability, a bit of the probability at a time for all slots at once [ours].
``coincidences`` is compiled; ``coincidences_numpy`` is its oracle, with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from cimctl.analog.draws import hash_at, hash_numpy
from sim_backend.outer import ones

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]

#: slots that a train may have: a word of 32 bits, less the sign
LONGEST = 31
_ONE = 1 << 16
#: hashes that one line of one vector has for itself: 16 words of 32 bits
_HASHES = 8


@dataclass(frozen=True, slots=True)
class Trains:
    """How pulse trains are made.

    Attributes:
        longest: BL_max, at most 31.
        balance: update management.
        fit_length: update bit-length management.
    """

    longest: int = 31
    balance: bool = True
    fit_length: bool = True


@dataclass(frozen=True, slots=True)
class Words:
    """Trains as a board takes them (``OUTER`` in the specification).

    Attributes:
        inputs: (vectors, inputs) words; bit n is slot n, bit ``length`` the sign.
        outputs: (vectors, outputs) words, likewise.
        length: slots of a word; those that a vector's own train does not have are empty.
    """

    inputs: npt.NDArray[np.uint32]
    outputs: npt.NDArray[np.uint32]
    length: int


def words(x: Floats, d: Floats, rate: float, trains: Trains, key: int) -> Words:
    """The trains of a batch: those whose coincidences ``coincidences`` counts.

    Vectors that give no pulse are left out.
    """
    length = min(trains.longest, _most_slots(x, d, rate)) if trains.fit_length else trains.longest
    inputs = np.zeros(x.shape, dtype=np.uint32)
    outputs = np.zeros(d.shape, dtype=np.uint32)
    _words(
        x, d, rate, trains.longest, trains.balance, trains.fit_length, np.uint64(key), length,
        inputs, outputs,
    )  # fmt: skip
    slots = np.uint32((1 << length) - 1)
    alive = (inputs & slots).any(1) & (outputs & slots).any(1)
    return Words(inputs[alive], outputs[alive], length)


def _most_slots(x: Floats, d: Floats, rate: float) -> int:
    if not x.size or not d.size:
        return 1
    x_most, d_most = (np.abs(a).max(1).astype(np.float64) for a in (x, d))
    # In the order of the compiled product: a last bit more would be a slot more.
    return max(1, int(np.ceil(min(float((rate * x_most * d_most).max()), float(LONGEST)))))


def coincidences(
    x: Floats, d: Floats, rate: float, trains: Trains, key: int
) -> tuple[Counts, Counts]:
    """Pulses of each cell, summed over a batch.

    Args:
        x: (vectors, inputs) inputs.
        d: (vectors, outputs) descent directions.
        rate: learning rate in mean steps of a device, ``lr / delta``.
        trains: how trains are made.
        key: of the draws.

    Returns:
        (outputs, inputs) pulses upwards, where x and d have one sign, and pulses downwards.
    """
    total = np.zeros((d.shape[1], x.shape[1]), dtype=np.int32)
    net = np.zeros_like(total)
    _coincidences(
        x, d, rate, trains.longest, trains.balance, trains.fit_length, np.uint64(key), total, net
    )
    return (total + net) // 2, (total - net) // 2


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _train(probability, mask, key, vector, line):  # type: ignore[no-untyped-def]
    """Slots in which a 16-bit number drawn for each is below the probability, both bit by bit."""
    if probability >= _ONE:
        return mask
    below, open_slots = np.uint32(0), mask
    hashed = np.uint64(0)
    for i in range(16):
        if i & 1 == 0:
            hashed = hash_at(key, vector, np.uint64(line * _HASHES + (i >> 1)))
            drawn = np.uint32(hashed & np.uint64(0xFFFFFFFF))
        else:
            drawn = np.uint32(hashed >> np.uint64(32))
        if (probability >> (15 - i)) & 1:
            below |= open_slots & ~drawn
            open_slots &= drawn
        else:
            open_slots &= ~drawn
        # What is left cannot fall below any more, or is decided.
        if open_slots == 0 or probability & ((1 << (15 - i)) - 1) == 0:
            break
    return below


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _lines(values, factor, mask, key, vector, first, words, signs, active):  # type: ignore[no-untyped-def]
    """Trains and signs of the lines that fire; returns how many there are."""
    count = 0
    for i in range(values.size):
        value = np.float64(values[i])
        if value == 0.0:
            continue
        probability = np.int64(min(float(_ONE), np.rint(abs(value) * factor * _ONE)))
        if probability == 0:
            continue
        word = _train(probability, mask, key, vector, first + i)
        if word:
            words[count] = word
            signs[count] = 1 if value > 0.0 else -1
            active[count] = i
            count += 1
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _draw(x, d, rate, longest, balance, fit_length, key, place, x_lines, d_lines):  # type: ignore[no-untyped-def]
    """Draws the trains of one vector; returns how many lines of each side fire.

    ``x_lines`` and ``d_lines`` take them, see ``_scratch``.
    """
    x_most, d_most = np.float32(0.0), np.float32(0.0)
    for j in range(d.size):
        d_most = max(d_most, abs(d[j]))
    if d_most == 0.0:
        return 0, 0
    for i in range(x.size):
        x_most = max(x_most, abs(x[i]))
    if x_most == 0.0:
        return 0, 0
    slots = longest
    if fit_length:
        slots = np.int64(min(float(longest), np.ceil(rate * x_most * d_most)))
    mask = np.uint32((1 << slots) - 1)
    common = np.sqrt(rate / slots)
    ratio = np.sqrt(np.float64(d_most) / np.float64(x_most)) if balance else 1.0
    d_count = _lines(
        d, common / ratio, mask, key, place, x.size, d_lines[0], d_lines[1], d_lines[2]
    )
    if d_count == 0:
        return 0, 0
    x_count = _lines(x, common * ratio, mask, key, place, 0, x_lines[0], x_lines[1], x_lines[2])
    return x_count, d_count


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _scratch(lines):  # type: ignore[no-untyped-def]
    """Words, signs and places of the lines of one vector that fire."""
    return np.empty(lines, np.uint32), np.empty(lines, np.int32), np.empty(lines, np.int64)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _words(x, d, rate, longest, balance, fit_length, key, length, out_x, out_d):  # type: ignore[no-untyped-def]
    x_lines, d_lines = _scratch(x.shape[1]), _scratch(d.shape[1])
    sign = np.uint32(1 << length)
    for v in range(x.shape[0]):
        x_count, d_count = _draw(
            x[v], d[v], rate, longest, balance, fit_length, key, np.uint64(v), x_lines, d_lines
        )
        for out, lines, count in ((out_x, x_lines, x_count), (out_d, d_lines, d_count)):
            words, signs, active = lines
            for i in range(count):
                out[v, active[i]] = words[i] | (sign if signs[i] < 0 else np.uint32(0))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _coincidences(x, d, rate, longest, balance, fit_length, key, total, net):  # type: ignore[no-untyped-def]
    x_lines, d_lines = _scratch(x.shape[1]), _scratch(d.shape[1])
    x_words, x_signs, x_active = x_lines
    d_words, d_signs, d_active = d_lines
    for v in range(x.shape[0]):
        x_count, d_count = _draw(
            x[v], d[v], rate, longest, balance, fit_length, key, np.uint64(v), x_lines, d_lines
        )
        for j in range(d_count):
            row, word, sign = d_active[j], d_words[j], d_signs[j]
            for i in range(x_count):
                hits = ones(x_words[i] & word)
                total[row, x_active[i]] += hits
                net[row, x_active[i]] += hits * sign * x_signs[i]


def coincidences_numpy(
    x: Floats, d: Floats, rate: float, trains: Trains, key: int
) -> tuple[Counts, Counts]:
    """The oracle of ``coincidences``: same arguments, same bits."""
    x_most, d_most = (np.abs(a).max(axis=1).astype(np.float64) for a in (x, d))
    alive = np.flatnonzero((x_most > 0) & (d_most > 0))
    x, d, x_most, d_most = x[alive], d[alive], x_most[alive], d_most[alive]
    slots = np.full(len(alive), trains.longest)
    if trains.fit_length:
        slots = np.minimum(trains.longest, np.ceil(rate * x_most * d_most)).astype(np.int64)
    common = np.sqrt(rate / slots)
    ratio = np.sqrt(d_most / x_most) if trains.balance else np.ones(len(alive))
    rows = _trains_numpy(x, common * ratio, slots, key, alive, 0)
    columns = _trains_numpy(d, common / ratio, slots, key, alive, x.shape[1])
    hits = np.matmul(columns, rows.transpose(0, 2, 1))
    alike = np.sign(d)[:, :, None] * np.sign(x)[:, None, :]
    up = (hits * (alike > 0)).sum(axis=0, dtype=np.int32)
    return up, (hits * (alike < 0)).sum(axis=0, dtype=np.int32)


def _trains_numpy(
    values: Floats,
    factor: npt.NDArray[np.float64],
    slots: npt.NDArray[np.int64],
    key: int,
    vectors: npt.NDArray[np.int64],
    first: int,
) -> Counts:
    """(vectors, lines, slots) trains, 1 where a line fires; slots' numbers are compared whole."""
    exact = np.rint(np.abs(values).astype(np.float64) * factor[:, None] * _ONE)
    probability = np.minimum(_ONE, exact).astype(np.int64)
    line = first + np.arange(values.shape[1])
    drawn = np.zeros((*values.shape, LONGEST), dtype=np.int64)
    slot = np.arange(LONGEST, dtype=np.uint64)
    for i in range(16):
        hashed = hash_numpy(key, vectors[:, None], line[None, :] * _HASHES + (i >> 1))
        word = hashed >> np.uint64(32 * (i & 1))
        drawn = 2 * drawn + ((word[..., None] >> slot) & np.uint64(1)).astype(np.int64)
    fires = (drawn < probability[..., None]) & (slot < slots[:, None, None].astype(np.uint64))
    return fires.astype(np.int32)
