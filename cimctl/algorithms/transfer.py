"""Tiki-Taka and its successors: gradients gather on a fast array, which moves the weights.

Three arrays a layer (arXiv 2303.04721): A, which is pulsed by every input, its reference R in the
columns beside it, and W.  For each batch of vectors (x, d), d the descent direction:

1. ``A += lambda_A d (c x)^T`` by coincidence of pulse trains, c the choppers of the input lines
   (all 1 but for the chopped algorithms), ``lambda_A = eta_0 l_max delta_A / (mu_x mu_d)`` with
   running means mu of max|x| and max|d|, or the literal 1.
2. After every n_s vectors one input line k of A is read, in turn, by a one-hot product:
   ``omega_k = (A - R) v_k``.  What falls due within a batch is read at its end, each line once;
   where more than n_s n vectors pass between two reads of a line, as in a convolution, lambda_A
   falls by as much, so that A gathers no more between reads than it does otherwise [ours].
3. What was read moves W: TTv1 by pulses of probability ``min(1, lambda_H |omega|)`` [ours]; the
   others integrate ``h_k += lambda_H z`` with ``lambda_H = lambda n_s n / (gamma_0 delta_W)``, n
   the number of inputs, and give one pulse where ``|h| >= 1``, which then starts at 0.  n_s n is
   the number of images between two reads of a line: a convolution's places are one input [ours].
4. Choppers flip after a read, with probability rho, or on a fixed period.

AGAD compares with a past of its own: ``z = c_k (omega - p_ref,k)``, then ``p_k <- (1 - beta) p_k +
beta omega``, and a flip sets ``p_ref,k <- p_k``; both start at the first read [ours].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from boards.board import Board
from cimctl.algorithms.in_memory import InMemory, Use
from cimctl.algorithms.settings import Settings
from cimctl.analog.draws import hash_numpy, key_of
from cimctl.analog.fast_array import FastArray
from cimctl.analog.in_memory import InMemoryLayer
from cimctl.analog.quantiser import largest_magnitudes
from cimctl.analog.windows import Windows

Numbers = np.ndarray[Any, Any]
#: running means of the largest inputs and errors forget by this factor a batch
_DECAY = 0.99
#: parts of the seed's streams
_CHOPPERS, _PROBABILITIES, _REFERENCES = 3, 4, 5


@dataclass
class Transfer:
    """Digital state of a layer's transfer, kept in checkpoints.

    Attributes:
        hidden: (outputs, inputs) H, in pulses.
        chopper: (inputs,) signs c.
        past, reference: (outputs, inputs) P and P_ref.
        seen: (inputs,) whether a line was read before.
        line: the next line to be read.
        vectors: vectors since the last read.
        reads: lines read so far.
        x_mean, d_mean: running means of max|x| and max|d|; 0 before the first batch.
    """

    hidden: Numbers
    chopper: Numbers
    past: Numbers
    reference: Numbers
    seen: Numbers
    line: int = 0
    vectors: int = 0
    reads: int = 0
    x_mean: float = 0.0
    d_mean: float = 0.0

    @classmethod
    def fresh(cls, outputs: int, inputs: int) -> Transfer:
        zeros = [np.zeros((outputs, inputs), dtype=np.float32) for _ in range(3)]
        ones = np.ones(inputs, dtype=np.float32)
        return cls(zeros[0], ones, zeros[1], zeros[2], np.zeros(inputs, dtype=bool))

    def see(self, x: Numbers | Windows, d: Numbers | Windows) -> None:
        """Follows a batch's largest inputs and errors."""
        for name, values in (("x_mean", x), ("d_mean", d)):
            most = largest_magnitudes(values)
            now = float(most[most > 0].mean()) if most.any() else 0.0
            before = getattr(self, name)
            if now:
                setattr(self, name, _DECAY * before + (1 - _DECAY) * now if before else now)

    def due(self, vectors: int, every: int) -> Numbers:
        """Lines that fall due with so many vectors more, each once at most."""
        self.vectors += vectors
        inputs = len(self.chopper)
        count, self.vectors = divmod(self.vectors, every)
        lines = (self.line + np.arange(min(count, inputs))) % inputs
        self.line = (self.line + len(lines)) % inputs
        self.reads += len(lines)
        return lines


class TikiTaka(InMemory):
    """TTv2: H filters what is read of A - R."""

    #: for batches [ours], chosen on LeNet and MNIST; the paper's n_s 5, beta 0.5 are of batch 1
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1, "read_every": 1, "pulse_length": 5, "baseline_rate": 0.2,
        "input_normalisation": True,
    }  # fmt: skip
    ARRAYS = 1
    #: whether input lines are chopped
    CHOPPED: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        super().__init__(model, board, settings, seed)
        self._state = []
        for layer in self.layers:
            assert isinstance(layer, InMemoryLayer)
            self._state.append(Transfer.fresh(*layer.array.shape))

    def prepare(self) -> None:
        """Puts A and R to the symmetry points of A, and the offset; forgets what was read of A."""
        s = self.settings
        for number, layer in enumerate(self.layers):
            self._state[number].seen[:] = False
            generator = np.random.default_rng([self._seed, _REFERENCES, number])
            self._fast(layer).prepare(
                s.symmetry_pulses, s.reference_offset, s.reference_spread, generator
            )

    def _update(self, number: int, layer: InMemoryLayer, use: Use, key: int) -> None:
        s, state, fast = self.settings, self._state[number], self._fast(layer)
        x, d = use.inputs, use.directions
        state.see(x, d)
        if not (state.x_mean and state.d_mean):
            return
        # Vectors between two reads of a line: those that n_s asks for, and those that there are.
        regular = s.read_every * x.lines
        between = max(regular, len(x))
        # In mean steps of a device, as lambda_A over delta.
        if s.fast_rate_rule == "formula":
            rate = s.fast_rate * s.pulse_length / (state.x_mean * state.d_mean)
            rate *= regular / between
        else:
            rate = s.fast_rate / self._delta
        self._pulse_outer(fast.array, x.times(state.chopper), d, rate, key)
        lines = state.due(len(x), s.read_every)
        if len(lines):
            gain = self.rate * between / use.places / (s.transfer_damping * self._delta)
            pulses = self._transferred(number, state, lines, fast.read(lines), gain)
            self._move(layer, lines, pulses)

    def _transferred(
        self, number: int, state: Transfer, lines: Numbers, read: Numbers, gain: float
    ) -> Numbers:
        """(lines, outputs) pulses for W from what was read of A - R; state follows.

        Args:
            gain: lambda_H.
        """
        flips = self._flips(number, state, lines)
        hidden = state.hidden[:, lines].T + gain * self._signal(state, lines, read, flips)
        pulses = np.where(np.abs(hidden) >= 1, np.sign(hidden), 0)
        state.hidden[:, lines] = np.where(pulses == 0, hidden, 0).T
        state.chopper[lines] = np.where(flips, -state.chopper[lines], state.chopper[lines])
        return pulses

    def _signal(self, state: Transfer, lines: Numbers, read: Numbers, flips: Numbers) -> Numbers:
        """(lines, outputs) z."""
        del flips
        return read * state.chopper[lines, None]

    def _flips(self, number: int, state: Transfer, lines: Numbers) -> Numbers:
        """Which of the lines just read flip their chopper."""
        s = self.settings
        if not self.CHOPPED:
            return np.zeros(len(lines), dtype=bool)
        place = state.reads - len(lines) + np.arange(len(lines))
        if s.chop_period:
            return np.asarray((place // len(state.chopper) + 1) % s.chop_period == 0)
        return self._uniform(_CHOPPERS, number, place, np.zeros(1)) < s.chop_probability

    def _uniform(self, stream: int, number: int, place: Numbers, index: Numbers) -> Numbers:
        """Uniform numbers in [0, 1) for broadcast places and indices."""
        hashed = hash_numpy(key_of(self._seed, stream, number), place, index)
        return np.asarray((hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def _move(self, layer: InMemoryLayer, lines: Numbers, pulses: Numbers) -> None:
        counts = np.zeros(layer.array.shape, dtype=np.int32)
        counts[:, lines] = pulses.T
        if counts.any():
            self.pulses += layer.array.send(counts)

    @staticmethod
    def _fast(layer: Any) -> FastArray:
        assert isinstance(layer, InMemoryLayer) and layer.fast is not None
        return layer.fast

    def state_dict(self) -> dict[str, Any]:
        plain = [
            {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in vars(s).items()}
            for s in self._state
        ]
        converters = [self._fast(layer).products.state_dict() for layer in self.layers]
        return {**super().state_dict(), "transfer": plain, "fast": converters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._state = [_from_plain(kept) for kept in state["transfer"]]
        for layer, kept in zip(self.layers, state["fast"], strict=True):
            self._fast(layer).products.load_state_dict(kept)


def _from_plain(kept: dict[str, Any]) -> Transfer:
    values: dict[str, Any] = {
        k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in kept.items()
    }
    return Transfer(**values)


class TikiTaka1(TikiTaka):
    """TTv1: what is read goes to W at once."""

    def _transferred(
        self, number: int, state: Transfer, lines: Numbers, read: Numbers, gain: float
    ) -> Numbers:
        place = (state.reads - len(lines) + np.arange(len(lines)))[:, None]
        drawn = self._uniform(_PROBABILITIES, number, place, np.arange(read.shape[1])[None, :])
        return np.where(drawn < np.minimum(1.0, gain * np.abs(read)), np.sign(read), 0)


class ChoppedTikiTaka(TikiTaka):
    """c-TTv2: choppers modulate the input lines, so that a reference's offset averages out."""

    CHOPPED = True


class Agad(TikiTaka):
    """AGAD: the reference is estimated on the fly, from reads of the last chopper period."""

    CHOPPED = True

    def _signal(self, state: Transfer, lines: Numbers, read: Numbers, flips: Numbers) -> Numbers:
        fresh = ~state.seen[lines]
        first = lines[fresh]
        state.past[:, first] = state.reference[:, first] = read[fresh].T
        state.seen[first] = True
        signal = (read - state.reference[:, lines].T) * state.chopper[lines, None]
        beta = self.settings.baseline_rate
        state.past[:, lines] = ((1 - beta) * state.past[:, lines].T + beta * read).T
        flipped = lines[flips]
        state.reference[:, flipped] = state.past[:, flipped]
        return signal
