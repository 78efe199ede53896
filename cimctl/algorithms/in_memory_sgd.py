"""In-memory SGD (arXiv 1906.02698): weights move by open-loop pulses, batch by batch.

Forward and backward products are the chip's (``cimctl.analog.in_memory``).  After a batch each
weight has moved by ``-lr * gradient`` in the mean: inputs and errors of every vector become pulse
trains, and a cell gets a pulse where two coincide (``cimctl.analog.coincidence``).  Weights are
frozen within a batch; pulses upwards are sent before those downwards [ours].  What is digital,
biases foremost, moves by plain SGD of the same rate.
"""

from __future__ import annotations

from typing import Any

import msgspec
from torch import nn

from boards.board import Board
from boards.device_settings import StepSettings
from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.settings import Settings
from cimctl.analog.coincidence import Trains, coincidences
from cimctl.analog.draws import key_of
from cimctl.analog.in_memory import InMemoryLayer
from firmware_protocol.constants import Capability, Opcode

#: the part of the seed's streams that pulse trains are drawn from
_TRAINS = 2


class InMemorySgd(Algorithm):
    """Pulsed updates of weights that live on the chip only."""

    NEEDS = frozenset({Opcode.VMM, Opcode.PULSE, Opcode.PROGRAM, Opcode.READ, Opcode.CONFIGURE})
    CAPABILITIES = Capability.TRANSPOSED | Capability.SIGNED_INPUTS
    IN_MEMORY = True
    INITIAL_BOUND = 2.45

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        assert board is not None and isinstance(board.profile.device, StepSettings)
        digital = msgspec.structs.replace(
            settings, optimizer="SGD", optimizer_arguments={}, weight_decay=0.0
        )
        super().__init__(model, board, digital, seed)
        self._seed = seed
        self._delta = board.profile.device.step
        self._trains = Trains(
            settings.pulse_length,
            balance=settings.update_management,
            fit_length=settings.update_bit_length_management,
        )
        self.batches = 0
        self.pulses = 0

    @property
    def pulses_per_weight(self) -> float:
        weights = sum(layer.weight.numel() for layer in self.layers)
        return self.pulses / weights if weights else 0.0

    def step(self) -> None:
        self.optimizer.step()
        rate = float(self.optimizer.param_groups[0]["lr"]) / self._delta
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, InMemoryLayer)
            for use, (x, d) in enumerate(layer.tape):
                key = key_of(self._seed, _TRAINS, self.batches, number, use)
                up, down = coincidences(x, d, rate, self._trains, key)
                self.pulses += layer.pulse(up, down)
            layer.tape.clear()
        self.batches += 1

    def read_back(self) -> None:
        for layer in self.layers:
            layer.weight.data.copy_(layer.read_weights())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "batches": self.batches, "pulses": self.pulses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.batches, self.pulses = state["batches"], state["pulses"]
