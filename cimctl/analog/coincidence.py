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
from cimctl.analog.windows import Windows
from sim_backend.noise import GAMMA, MIX_1, mixed
from sim_backend.outer import ones

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint32]

#: slots that a train may have: a word of 32 bits, less the sign
LONGEST = 31
_ONE = 1 << 16
_NONE, _BIT = np.uint32(0), np.uint32(1)
#: hashes that one line of one vector has for itself: 16 words of 32 bits
_HASHES = 8
#: the first of them, which leave few trains undecided
_FIRST = 4
#: trains that are put aside and then drawn together
_ROOM = 1024


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the trains of those vectors are that may give a pulse.

    Attributes:
        vectors: which they are.
        slots: of each.
        x_factor, d_factor: probability of each unit of input and of direction.
    """

    vectors: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    x_factor: Doubles
    d_factor: Doubles

    @classmethod
    def of(cls, x_most: Floats, d_most: Floats, rate: float, trains: Trains) -> _Plan:
        vectors = np.flatnonzero((x_most > 0) & (d_most > 0))
        x, d = (most[vectors].astype(np.float64) for most in (x_most, d_most))
        slots = np.full(len(vectors), trains.longest)
        if trains.fit_length:
            slots = np.minimum(trains.longest, np.ceil(rate * x * d)).astype(np.int64)
        common = np.sqrt(rate / slots)
        ratio = np.sqrt(d / x) if trains.balance else np.ones(len(vectors))
        return cls(vectors, slots, common * ratio, common / ratio)

    def only(self, which: npt.NDArray[np.bool_]) -> _Plan:
        if which.all():
            return self
        return _Plan(
            self.vectors[which], self.slots[which], self.x_factor[which], self.d_factor[which]
        )


def words(x: Floats | Windows, d: Floats | Windows, rate: float, trains: Trains, key: int) -> Words:
    """The trains of a batch: those whose coincidences ``coincidences`` counts.

    Vectors that give no pulse are left out.
    """
    x, d = Windows.of(x), Windows.of(d)
    plan = _Plan.of(x.largest, d.largest, rate, trains)
    length = int(plan.slots.max(initial=1)) if trains.fit_length else trains.longest
    # The shorter vectors first: the others are drawn for those of them that fire.
    outputs = _fired(d, plan, plan.d_factor, x.lines, key, length)
    fires = _joined(outputs)
    plan, outputs = plan.only(fires != 0), _only(outputs, fires != 0)
    inputs = _fired(x, plan, plan.x_factor, 0, key, length)
    meets = (_joined(inputs) & _joined(outputs) & np.uint32((1 << length) - 1)) != 0
    return Words(_only(inputs, meets), _only(outputs, meets), length)


def _only(rows: Bits, which: npt.NDArray[np.bool_]) -> Bits:
    return rows if which.all() else rows[which]


def _joined(rows: Bits) -> Bits:
    """(vectors,) all bits that a word of the vector has."""
    out = np.zeros(len(rows), dtype=np.uint32)
    _join(rows, out)
    return out


def _fired(
    values: Windows, plan: _Plan, factor: Doubles, first: int, key: int, length: int
) -> Bits:
    """(vectors, lines) words of the planned vectors; ``first`` is the number of the first line."""
    out = np.zeros((len(plan.vectors), values.lines), dtype=np.uint32)
    _fire(
        values.flat, values.bases[plan.vectors], values.offsets, values.signs, plan.vectors,
        plan.slots, factor, first, np.uint64(key), np.uint32(1 << length), out.reshape(-1),
    )  # fmt: skip
    return out


def coincidences(
    x: Floats | Windows, d: Floats | Windows, rate: float, trains: Trains, key: int
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
    drawn = words(x, d, rate, trains, key)
    total = np.zeros((drawn.outputs.shape[1], drawn.inputs.shape[1]), dtype=np.int32)
    net = np.zeros_like(total)
    _coincidences(drawn.inputs, drawn.outputs, drawn.length, total, net)
    return (total + net) // 2, (total - net) // 2


@numba.njit(inline="always", error_model="numpy")  # type: ignore[misc, unused-ignore]
def _compared(wanted, place, half, below, undecided):  # type: ignore[no-untyped-def]
    """Two bits more of a probability and of the numbers that are drawn for each slot."""
    drawn = mixed(place + np.uint64(half) * MIX_1)
    first = np.uint32(_NONE - ((wanted >> np.uint32(15 - 2 * half)) & _BIT))
    second = np.uint32(_NONE - ((wanted >> np.uint32(14 - 2 * half)) & _BIT))
    now, next_ = np.uint32(drawn), np.uint32(drawn >> np.uint64(32))
    rest = undecided & ~(now ^ first)
    below |= (undecided & ~now & first) | (rest & ~next_ & second)
    return below, rest & ~(next_ ^ second)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _draw(count, wanted, place, mask, below, undecided):  # type: ignore[no-untyped-def]
    """Slots in which a 16-bit number drawn for each is below the probability, both bit by bit.

    The first bits, which decide most trains, without a branch, so that these are vector
    instructions.
    """
    for j in range(count):
        found, open_ = _NONE, mask[j]
        for half in range(_FIRST):
            found, open_ = _compared(wanted[j], place[j], half, found, open_)
        always = np.uint32(_NONE - (wanted[j] >> np.uint32(16)))
        below[j], undecided[j] = found | (mask[j] & always), open_ & ~always
    for j in range(count):
        half, open_ = _FIRST, undecided[j]
        while open_ and half < _HASHES:
            below[j], open_ = _compared(wanted[j], place[j], half, below[j], open_)
            half += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _empty(count, wanted, place, mask, target, below, undecided, sign, out):  # type: ignore[no-untyped-def]
    """Draws the trains that were put aside, and writes their words."""
    _draw(count, wanted, place, mask, below, undecided)
    for j in range(count):
        # The lowest bit says whether the number is negative.
        where, word = target[j], below[j]
        negative = sign * np.uint32(where & 1) * np.uint32(word != 0)
        out[np.uintp(where >> 1)] = word | negative


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _fire(flat, bases, offsets, signs, vectors, slots, factor, first, key, sign, out):  # type: ignore[no-untyped-def]  # fmt: skip
    """Draws the trains of a batch; ``sign`` is the bit that words of negative numbers get.

    Lines that cannot fire need no draw.
    """
    lines = offsets.size
    room = max(lines, _ROOM)
    wanted, mask = np.zeros(room + 1, np.uint32), np.zeros(room + 1, np.uint32)
    place, target = np.zeros(room + 1, np.uint64), np.zeros(room + 1, np.int64)
    below, undecided = np.zeros(room, np.uint32), np.zeros(room, np.uint32)
    count = 0
    for v in range(vectors.size):
        if count + lines > room:
            _empty(count, wanted, place, mask, target, below, undecided, sign, out)
            count = 0
        every = np.uint32((1 << slots[v]) - 1)
        start = key + np.uint64(vectors[v]) * GAMMA + GAMMA + np.uint64(first * _HASHES) * MIX_1
        begin, scale = bases[v], factor[v]
        for i in range(lines):
            value = flat[np.uintp(begin + offsets[i])]
            probability = min(float(_ONE), np.rint(np.float64(abs(value)) * scale * _ONE))
            # What cannot fire is written over by the next.
            at = np.uintp(count)
            wanted[at], mask[at] = np.uint32(np.int64(probability)), every
            place[at] = start + np.uint64(i * _HASHES) * MIX_1
            target[at] = (v * lines + i) << 1 | ((value < 0.0) != (signs[i] < 0.0))
            count += probability > 0.0
    _empty(count, wanted, place, mask, target, below, undecided, sign, out)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _join(rows, out):  # type: ignore[no-untyped-def]
    for v in range(rows.shape[0]):
        joined = np.uint32(0)
        for i in range(rows.shape[1]):
            joined |= rows[v, i]
        out[v] = joined


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
