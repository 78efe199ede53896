"""Layers whose weights live on the chip only: forward, backward and update are made there.

A weight is a cell minus the reference cell in the column beside it, which training leaves alone.
The layer computes ``alpha * (W x) + bias`` with ``alpha`` fixed when W was programmed (weight
scaling, arXiv 1906.02698); backward is ``W^T (alpha d)``, by the transposed product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from boards.board import Board
from boards.device_settings import StepSettings
from boards.errors import UnsupportedError
from boards.multiply import Matrix
from cimctl.analog.compensation import Compensations
from cimctl.analog.fast_array import FastArray
from cimctl.analog.layers import AnalogConv2d, AnalogLayer, AnalogLinear, WeightRule, along
from cimctl.analog.pulsed_array import Pulse, PulsedArray
from cimctl.analog.windows import Windows
from cimctl.calibration.record import Calibration

WeightScaling = Literal["off", "tensor", "column"]
Counts = np.ndarray[Any, Any]
Floats = npt.NDArray[np.float32]

#: readings averaged where a reference is taken from the symmetry point [ours]
_REFERENCE_SAMPLES = 16
#: inputs whose vectors are kept, should nobody ever update; the others are found again
_MOST_SEEN = 256

#: where a tensor lies, its shape and its strides
_Place = tuple[int, torch.Size, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class SingleSided(WeightRule):
    """A weight above a reference cell; ``low`` and ``high`` are the device's nominal bounds.

    Attributes:
        zero: 16-bit conductance of weight 0, which references get.
        scaling: whether the largest weight, of the layer or of each output, is programmed as omega.
        omega: the weight that it becomes.
        zero_shift: pulses up and down in turn that bring a cell to its symmetry point, where its
            reference is then put; 0 leaves references at weight 0.
        pulse: the pulse of one step.
    """

    zero: int
    scaling: WeightScaling
    omega: float
    zero_shift: int
    pulse: Pulse

    @property
    def largest(self) -> float:
        return max(self.zero - self.low, self.high - self.zero) * self.unit


def step_device(board: Board) -> StepSettings:
    """The device of a board's profile, which moves in steps.

    Raises:
        UnsupportedError: it has no step in units of weight.
    """
    device = board.profile.device
    if not isinstance(device, StepSettings):
        raise UnsupportedError(
            f"The board '{board.profile.name}' lacks what this algorithm needs: device.step, the "
            f"change of a weight by one pulse; its device is '{device.model}'",
            left="Nothing was done",
            next="Take a --board whose device moves in steps, or another algorithm",
        )
    return device


class InMemoryLayer(AnalogLayer):
    """Base of the layers whose weights live on the chip only.

    Attributes:
        weight: W as it was last programmed or read; products and updates do not use it.
        scale: (outputs,) alpha, fixed.
        reference: (weights,) 16-bit conductances of the reference cells.
        tape: inputs and descent directions of the products since the last update, in units of W;
            images are unrolled when they are used, since a batch of vectors is many times larger.
        on_chip: which of the products ``wa`` (forward) and ``wtd`` (backward) are the chip's; the
            others are digital, with weights that are read from the chip after each update.
    """

    reference: Tensor
    rule: SingleSided

    def __init__(self, source: nn.Conv2d | nn.Linear, name: str) -> None:
        super().__init__(source, name)
        ones = torch.ones(self.weight.shape[0])
        self.scale = nn.Parameter(ones, requires_grad=False)
        self.register_buffer("reference", torch.zeros(self.weight.numel(), dtype=torch.float64))
        self.tape: list[tuple[Tensor, np.ndarray[Any, Any]]] = []
        self.on_chip = frozenset({"wa", "wtd"})
        self._known: Tensor | None = None
        #: vectors of the inputs that are on the tape, by where those lie; who is kept stays there
        self._seen: dict[_Place, tuple[Tensor, Windows]] = {}

    def attach(
        self,
        board: Board,
        matrix: Matrix,
        slots: tuple[int, int],
        rule: WeightRule,
        compensations: Compensations | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        assert isinstance(rule, SingleSided) and compensations is not None
        super().attach(board, matrix, slots, rule, compensations, calibration)
        self.reference.fill_(rule.zero)
        #: A and R, where the algorithm has them
        self.fast: FastArray | None = None
        #: the cells of W
        self.array = PulsedArray(board, matrix, rule.pulse, rule.low, rule.high)

    # ------------------------------------------------------------------ weights

    def fit_window(self) -> None:
        """Weight scaling: W becomes W / alpha, ``alpha = max|W| / omega``."""
        if self.rule.scaling == "off":
            return
        largest = self.weight.data.flatten(1).abs().amax(1)
        if self.rule.scaling == "tensor":
            largest = largest.amax().expand_as(largest)
        alpha = torch.where(largest > 0, largest / self.rule.omega, torch.ones(()))
        self.weight.data.div_(alpha.reshape((-1,) + (1,) * (self.weight.dim() - 1)))
        self.scale.data.mul_(alpha)

    def put(self, cycles: int | None = None) -> None:
        """Programs the weights, and before that the references."""
        if self.rule.zero_shift:
            self._shift_zero()
        super().put(cycles)
        self.forget()

    def forget(self) -> None:
        """The cells have changed: digital products read them again; a batch is over."""
        self._known = None
        self._seen.clear()

    def train(self, mode: bool = True) -> Self:
        # A run that goes on from a checkpoint reads the cells anew; so does one that never stopped.
        self.forget()
        return super().train(mode)

    def _matrix_read(self) -> Tensor:
        """(outputs, inputs) weights as the chip holds them, read once for each state of it."""
        if self._known is None:
            self._known = self.read_weights().flatten(1).to(self.weight.device)
        return self._known

    def _shift_zero(self) -> None:
        """Brings each cell to its symmetry point and notes the conductance for its reference."""
        ones = np.ones(self.array.shape, dtype=np.int32)
        for number in range(self.rule.zero_shift):
            self.array.send(ones if number % 2 == 0 else -ones)
        found = self.array.readings(_REFERENCE_SAMPLES)[..., 0]
        self.reference.copy_(torch.from_numpy(found.reshape(-1).astype(np.float64)))

    def _targets(
        self, index: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], ...]:
        # A board takes no target beyond the nominal bounds.
        rule = self.rule
        reference = np.clip(self.reference.cpu().numpy()[index], rule.low, rule.high)
        return np.clip(np.rint(reference + weights / rule.unit), rule.low, rule.high), reference

    # ------------------------------------------------------------------ pulses

    def pulse(self, up: Counts, down: Counts) -> int:
        """Sends pulses: all that go up, then all that go down.

        Args:
            up, down: (outputs, inputs) pulses of each cell, not negative.

        Returns:
            How many there were.

        Raises:
            SafetyRefusal: a limit of the cell's life, or of the pulse, would be passed.
        """
        return self.array.send(up) + self.array.send(-down)

    # ------------------------------------------------------------------ products

    def windows(self, inputs: Tensor) -> Windows:
        """The vectors of inputs that are padded already, where they lie."""
        seen = self._seen.get(_place(inputs))
        return self._found(inputs) if seen is None else seen[1]

    def _found(self, inputs: Tensor) -> Windows:
        return Windows.of(inputs.cpu().numpy())

    def _gradient(self, products: Floats, inputs: Tensor) -> Tensor:
        """(vectors, inputs) as the gradient of the inputs."""
        return torch.from_numpy(products).to(inputs.device)

    def _product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = InMemoryProduct.apply(inputs, self.weight, self)  # type: ignore[no-untyped-call]
        return result if bias is None else result + along(bias, result)

    def multiply(self, inputs: Tensor) -> Tensor:
        """The layer's outputs without bias."""
        assert self.chip is not None
        if "wa" in self.on_chip:
            lines = self.windows(inputs)
            if self.training and len(self._seen) < _MOST_SEEN:
                self._seen[_place(inputs)] = inputs, lines
            found = self.chip.forward(lines, learning=self.training)
            products = torch.from_numpy(found).to(inputs.device)
        else:
            products = self.vectors(inputs) @ self._matrix_read().T
        return self._arranged(products.mul_(self.scale.data), inputs)

    def multiply_back(self, inputs: Tensor, outer: Tensor, *, wanted: bool) -> Tensor | None:
        """Notes a gradient for the update; returns the one of the inputs where it is wanted.

        Args:
            inputs: of the forward product.
            outer: gradient of the outputs.
            wanted: whether the gradient of the inputs is.
        """
        assert self.chip is not None
        lines = outer.movedim(1, -1).reshape(-1, outer.shape[1])
        # The weight on the chip is W / alpha: its learning rate is divided by alpha, its gradient
        # by d has alpha as a factor.
        self.tape.append((inputs, (-lines / self.scale.data).cpu().numpy()))
        if not wanted:
            return None
        errors = lines * self.scale.data
        if "wtd" not in self.on_chip:
            return self._images(errors @ self._matrix_read(), inputs.shape)
        back = self.chip.backward(errors.cpu().numpy(), learning=self.training)
        return self._gradient(back, inputs)


def _place(values: Tensor) -> _Place:
    return values.data_ptr(), values.shape, values.stride()


class InMemoryLinear(InMemoryLayer, AnalogLinear):
    """A linear layer; inputs (batch, inputs), outputs (batch, outputs)."""


class InMemoryConv2d(InMemoryLayer, AnalogConv2d):
    """A convolution, unrolled here: each of its places is a vector."""

    def _found(self, inputs: Tensor) -> Windows:
        g = self._geometry
        (top, left), kernel = g.padding, (self.weight.shape[2], self.weight.shape[3])
        padded = nn.functional.pad(inputs, (left, left, top, top)) if any(g.padding) else inputs
        return Windows.of_images(padded.cpu().numpy(), kernel, g.stride, g.dilation)

    def _gradient(self, products: Floats, inputs: Tensor) -> Tensor:
        (top, left), (*count, height, width) = self._geometry.padding, inputs.shape
        flat = torch.from_numpy(self.windows(inputs).folded(products))
        images = flat.reshape(*count, height + 2 * top, width + 2 * left)
        inner = images[..., top : top + height, left : left + width]
        return inner.contiguous().to(inputs.device)


class InMemoryProduct(torch.autograd.Function):
    """Forward and backward products on the chip; the weight's gradient goes to the layer's tape."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: InMemoryLayer) -> Tensor:
        """
        Args:
            inputs: (batch, ...) input of the layer.
            weight: has backward called also where no input has a gradient.
            layer: makes the products.
        """
        ctx.layer = layer
        ctx.save_for_backward(inputs)
        return layer.multiply(inputs.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (outer,) = gradients
        (inputs,) = ctx.saved_tensors
        wanted = bool(ctx.needs_input_grad[0])
        return ctx.layer.multiply_back(inputs.detach(), outer, wanted=wanted), None, None
