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

from cimctl.analog.draws import hash_numpy
from cimctl.analog.quantiser import largest_magnitudes
from sim_backend.noise import GAMMA, MIX_1, mixed
from sim_backend.outer import ones

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]

#: slots that a train may have: a word of 32 bits, less the sign
LONGEST = 31
_ONE = 1 << 16
#: hashes that one line of one vector has for itself: 16 words of 32 bits
_HASHES = 8
#: trains that are drawn together
_TOGETHER = 1024


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
    sign = np.uint32(1 << length)
    alive = _words(
        x, d, largest_magnitudes(x), largest_magnitudes(d), rate, trains.longest, trains.balance,
        trains.fit_length, np.uint64(key), inputs, outputs, sign,
    )  # fmt: skip
    return Words(inputs[:alive], outputs[:alive], length)


def _most_slots(x: Floats, d: Floats, rate: float) -> int:
    if not x.size or not d.size:
        return 1
    x_most, d_most = (largest_magnitudes(a).astype(np.float64) for a in (x, d))
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
    drawn = words(x, d, rate, trains, key)
    _coincidences(drawn.inputs, drawn.outputs, drawn.length, total, net)
    return (total + net) // 2, (total - net) // 2


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _trains(count, wanted, place, mask, below, undecided, drawn):  # type: ignore[no-untyped-def]
    """Slots in which a 16-bit number drawn for each is below the probability, both bit by bit.

    Many trains at once and without a branch, so that these are vector instructions.
    """
    for j in range(count):
        below[j], undecided[j] = 0, mask[j]
    for half in range(_HASHES):
        for j in range(count):
            drawn[j] = mixed(place[j] + np.uint64(half) * MIX_1)
        left = np.uint64(0)
        for j in range(count):
            first = np.uint64(-((wanted[j] >> (15 - 2 * half)) & 1))
            second = np.uint64(-((wanted[j] >> (14 - 2 * half)) & 1))
            next_ = drawn[j] >> np.uint64(32)
            rest = undecided[j] & ~(drawn[j] ^ first)
            below[j] |= (undecided[j] & ~drawn[j] & first) | (rest & ~next_ & second)
            undecided[j] = rest & ~(next_ ^ second)
            left |= undecided[j]
        if left == 0:
            break
    for j in range(count):
        below[j] = mask[j] if wanted[j] >= _ONE else below[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _offer(values, factor, start, mask, count, wanted, place, masks):  # type: ignore[no-untyped-def]
    """Adds a vector's lines to the trains to be drawn; those that cannot fire, too."""
    for i in range(values.size):
        probability = np.rint(np.float64(abs(values[i])) * factor * _ONE)
        wanted[count + i] = np.int64(min(float(_ONE), probability))
        place[count + i] = start + np.uint64(i * _HASHES) * MIX_1
        masks[count + i] = mask


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _words(x, d, x_most, d_most, rate, longest, balance, fit_length, key, out_x, out_d, sign):  # type: ignore[no-untyped-def]  # fmt: skip
    """Draws the trains of a batch; ``sign`` is the bit that words of negative numbers get.

    Vectors that give no pulse are left out; returns how many there are.
    """
    lines = x.shape[1] + d.shape[1]
    room = max(1, _TOGETHER // lines) * lines
    wanted, below = np.empty(room, np.int64), np.empty(room, np.uint64)
    place, masks = np.empty(room, np.uint64), np.empty(room, np.uint64)
    undecided, drawn = np.empty(room, np.uint64), np.empty(room, np.uint64)
    vectors = np.empty(room // lines, np.int64)
    alive, count = 0, 0
    for v in range(x.shape[0] + 1):
        if count == vectors.size or v == x.shape[0]:
            _trains(count * lines, wanted, place, masks, below, undecided, drawn)
            for k in range(count):
                some_x = _put(x[vectors[k]], below[k * lines :], sign, out_x[alive])
                some_d = _put(d[vectors[k]], below[k * lines + x.shape[1] :], sign, out_d[alive])
                alive += some_x and some_d
            count = 0
        if v == x.shape[0] or x_most[v] == 0.0 or d_most[v] == 0.0:
            continue
        slots = longest
        if fit_length:
            slots = np.int64(min(float(longest), np.ceil(rate * x_most[v] * d_most[v])))
        mask = np.uint64((1 << slots) - 1)
        common = np.sqrt(rate / slots)
        ratio = np.sqrt(np.float64(d_most[v]) / np.float64(x_most[v])) if balance else 1.0
        start = key + np.uint64(v) * GAMMA + GAMMA
        at = count * lines
        _offer(x[v], common * ratio, start, mask, at, wanted, place, masks)
        start += np.uint64(x.shape[1] * _HASHES) * MIX_1
        _offer(d[v], common / ratio, start, mask, at + x.shape[1], wanted, place, masks)
        vectors[count] = v
        count += 1
    return alive


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _put(values, below, sign, out):  # type: ignore[no-untyped-def]
    """Writes a vector's words; returns whether one of them has a pulse."""
    joined = np.uint64(0)
    for i in range(values.size):
        word = np.uint32(below[i])
        out[i] = word | (sign if word != 0 and values[i] < 0.0 else np.uint32(0))
        joined |= below[i]
    return joined != 0


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _coincidences(inputs, outputs, length, total, net):  # type: ignore[no-untyped-def]
    slots = np.uint32((1 << length) - 1)
    for v in range(inputs.shape[0]):
        for o in range(outputs.shape[1]):
            word = outputs[v, o]
            if word & slots == 0:
                continue
            for i in range(inputs.shape[1]):
                found = ones(inputs[v, i] & word & slots)
                total[o, i] += found
                differ = ((inputs[v, i] ^ word) >> np.uint32(length)) & np.uint32(1)
                net[o, i] += -found if differ else found


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
