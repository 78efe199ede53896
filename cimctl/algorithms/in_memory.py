"""What algorithms share whose weights live on the chip only, and plain in-memory SGD.

Forward and backward products are the chip's (``cimctl.analog.in_memory``); after each batch every
layer is updated from the inputs and descent directions of its products.  What is digital, biases
foremost, moves by plain SGD of the same rate.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from torch import nn

from boards.board import Board
from boards.errors import UnsupportedError
from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.settings import Settings
from cimctl.analog.coincidence import Trains, coincidences, words
from cimctl.analog.draws import key_of
from cimctl.analog.in_memory import InMemoryLayer, step_device
from cimctl.analog.joined import joined
from cimctl.analog.pulsed_array import PulsedArray
from cimctl.analog.windows import Windows
from firmware_protocol.constants import Capability, Opcode

#: the part of the seed's streams that pulse trains are drawn from
_TRAINS = 2


@dataclass(frozen=True, slots=True)
class Use:
    """One product of a layer in training, as its update needs it.

    Attributes:
        inputs: those of each vector.
        directions: descent directions of each vector, in units of W.
        places: vectors of each image: the places of a convolution.
    """

    inputs: Windows
    directions: Windows
    places: int = 1


class InMemory(Algorithm):
    """Pulsed updates of arrays that live on the chip only."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"lr": 0.1}
    NEEDS = frozenset({Opcode.VMM, Opcode.PULSE, Opcode.PROGRAM, Opcode.READ, Opcode.CONFIGURE})
    CAPABILITIES = Capability.TRANSPOSED | Capability.SIGNED_INPUTS | Capability.DIFFERENTIAL
    IN_MEMORY = True
    PRODUCTS = frozenset({"wa", "wtd", "dat"})
    CHIP_ONLY = frozenset({"dat"})
    INITIAL_BOUND = 2.45

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        assert board is not None
        digital = msgspec.structs.replace(
            settings, optimizer="SGD", optimizer_arguments={}, weight_decay=0.0
        )
        super().__init__(model, board, digital, seed)
        chosen = self.products(settings)
        for layer in self.layers:
            assert isinstance(layer, InMemoryLayer)
            layer.on_chip = chosen
        self._seed = seed
        self._delta = step_device(board).step
        self._trains = Trains(
            settings.pulse_length,
            balance=settings.update_management,
            fit_length=settings.update_bit_length_management,
        )
        self.batches = 0
        self.pulses = 0

    @classmethod
    def check(cls, board: Board, settings: Settings) -> None:
        super().check(board, settings)
        step_device(board)
        if settings.outer == "board" and not board.offers(Opcode.OUTER):
            raise UnsupportedError(
                f"The board '{board.hello.model}' lacks what this algorithm needs: OUTER",
                left="Nothing was trained",
                next="Let the host send the pulses one by one, --set outer=sparse, or take another "
                "--board",
            )

    @property
    def pulses_per_weight(self) -> float:
        weights = sum(layer.weight.numel() for layer in self.layers)
        return self.pulses / weights if weights else 0.0

    @property
    def rate(self) -> float:
        """The learning rate of now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        self.optimizer.step()
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, InMemoryLayer)
            for place, (inputs, d) in enumerate(layer.tape):
                x = layer.windows(inputs)
                key = key_of(self._seed, _TRAINS, self.batches, number, place)
                self._update(number, layer, Use(x, Windows.of(d), len(x) // len(inputs)), key)
            layer.tape.clear()
            layer.forget()
        self.batches += 1

    @abstractmethod
    def _update(self, number: int, layer: InMemoryLayer, use: Use, key: int) -> None:
        """Applies what a layer's vectors taught.

        Args:
            number: of the layer.
            layer: on the chip.
            use: inputs and descent directions of one product.
            key: of whatever is drawn.
        """

    def _pulse_outer(
        self, array: PulsedArray, x: Windows, d: Windows, rate: float, key: int
    ) -> None:
        """Moves an array by ``rate`` mean steps times ``d x^T`` in the mean."""
        if self.settings.outer == "board":
            trains = joined(words(x, d, rate, self._trains, key))
            if len(trains.inputs):
                self.pulses += array.outer(trains)
            return
        up, down = coincidences(x, d, rate, self._trains, key)
        self.pulses += array.send(up) + array.send(-down)

    def read_back(self) -> None:
        for layer in self.layers:
            layer.weight.data.copy_(layer.read_weights())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "batches": self.batches, "pulses": self.pulses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.batches, self.pulses = state["batches"], state["pulses"]


class InMemorySgd(InMemory):
    """``W += lr d x^T`` by pulse coincidence, the weights frozen within a batch (arXiv 1906.02698).

    With ``outer=sparse`` pulses upwards are sent before those downwards [ours].
    """

    def _update(self, number: int, layer: InMemoryLayer, use: Use, key: int) -> None:
        rate = self.rate / self._delta
        self._pulse_outer(layer.array, use.inputs, use.directions, rate, key)
