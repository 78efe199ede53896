"""Layers on the chip: weights in conductances, everything else digital.

Units.  A weight of ``weight_range`` is the whole conductance window of a device, so that a pair
holds weights from minus to plus that.  The layer computes ``scale * (x * W) + bias``; ``x * W`` is
made on the chip, ``scale`` (one a layer, trainable; the paper has one a crossbar) and ``bias`` are
digital.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boards.board import Board
from boards.multiply import Matrix
from cimctl.analog.chip_matrix import ChipMatrix, ChipUnits
from cimctl.analog.compensation import Compensations, RunningNorm
from cimctl.analog.pooled import Answer, PooledProduct, poolable
from cimctl.analog.product import ChipProduct, Geometry, Steps
from cimctl.analog.quantiser import rounded
from cimctl.analog.ranges import Ranges
from cimctl.analog.writes import Writes, write_verify
from cimctl.calibration.record import Calibration
from cimctl.mapping.demand import Demand
from firmware_protocol.constants import Capability
from firmware_protocol.messages import Region, Window

Codes = np.ndarray[Any, Any]
#: readings averaged when the weights are first read from the chip [ours]
INITIAL_SAMPLES = 4
#: share of the largest digital products that the first ADC range leaves out [ours]
_FIRST_RANGE_QUANTILE = 0.99
#: numbers that images are unfolded to at a time, one image at the least
_UNFOLDED = 1 << 22


@dataclass(frozen=True, slots=True)
class WeightRule:
    """How weights lie in conductances.

    Attributes:
        weight_range: weight that the whole conductance window stands for.
        low, high: the window, 16-bit conductances.
        cycles, tolerance: write-verify of a training update.
        split: whether a weight is split evenly over its pair; otherwise the device that its sign
            names carries it and the other rests at the low end of the window.
        saturation: share of conversions that may saturate.
    """

    weight_range: float
    low: int
    high: int
    cycles: int
    tolerance: int
    split: bool
    saturation: float

    @property
    def unit(self) -> float:
        """Weight of one 16-bit conductance step."""
        return self.weight_range / (self.high - self.low)

    @property
    def largest(self) -> float:
        """The largest magnitude of a weight."""
        return self.weight_range

    def pair(self, weights: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
        """Targets of the positive and of the negative device, 16-bit conductances."""
        steps = np.clip(weights / self.unit, self.low - self.high, self.high - self.low)
        if self.split:
            middle = (self.low + self.high) / 2
            return np.rint(middle + steps / 2), np.rint(middle - steps / 2)
        return np.rint(self.low + np.maximum(steps, 0)), np.rint(self.low + np.maximum(-steps, 0))


class AnalogLayer(nn.Module):
    """Base of the layers on the chip.

    Attributes:
        weight: the digital copy W_FP, in weight units, in the shape of the digital layer.
        scale: () factor of the layer.
        bias: (outputs,) or None.
        ranges: converters of the layer, where the chip takes its inputs as they are.
        writes: pairs programmed during training.
        chip: the layer's compensated products; None where the chip takes its inputs as they are.
        input_norm, output_norm: running normalisations, or None.
    """

    def __init__(self, source: nn.Conv2d | nn.Linear, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(source.weight.detach().clone())
        self.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
        self.scale = nn.Parameter(torch.ones(()))
        self.ranges = Ranges()
        self.writes = 0
        self.chip: ChipMatrix | None = None
        self.input_norm: RunningNorm | None = None
        self.output_norm: RunningNorm | None = None
        self._geometry: Geometry | None = None

    def normalise(self, *, inputs: bool, outputs: bool) -> None:
        """Adds running normalisations of the layer's inputs and outputs."""
        if inputs:
            self.input_norm = RunningNorm(self.weight.shape[1])
        if outputs:
            self.output_norm = RunningNorm(self.weight.shape[0])

    # ------------------------------------------------------------------ the chip

    def demand(self) -> Demand:
        """Rows and columns that the layer needs."""
        outputs, inputs = self.weight.shape[0], self.weight[0].numel()
        channel = self.weight[0, 0].numel()
        return Demand(self.name, inputs, outputs, channel)

    def attach(
        self,
        board: Board,
        matrix: Matrix,
        slots: tuple[int, int],
        rule: WeightRule,
        compensations: Compensations | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Puts the layer on a board; a slot is configured with the first batch that needs it.

        Args:
            board: an open board.
            matrix: the layer's place.
            slots: of the forward and of the transposed product.
            rule: how weights lie in conductances.
            compensations: of the products; None leaves inputs to ``Ranges`` alone.
            calibration: takes the converters' errors out of every product; None leaves them in.
        """
        if compensations is not None:
            units = ChipUnits(rule.unit, rule.largest)
            self.chip = ChipMatrix(
                board, matrix, slots, units, compensations, calibration=calibration
            )
        self._calibration = calibration
        self._board, self._matrix, self._slot, self.rule = board, matrix, slots[0], rule
        #: gain that this board was last told for the layer's slot
        self._told = 0.0
        # Tile, row and positive column of each weight, in the order of the flat weights.
        self._places = _joined(self._lines())

    def share_converters(self, other: AnalogLayer) -> None:
        """Takes over the ranges of a layer whose configuration slots this one was attached to."""
        self.ranges = other.ranges
        if self.chip is not None and other.chip is not None:
            self.chip.share_converters(other.chip)

    def read_weights(self) -> Tensor:
        """The weights as the chip holds them, in the shape of ``weight``."""
        g = self._readings(INITIAL_SAMPLES)
        weights = torch.from_numpy((g[..., 0] - g[..., 1]) * self.rule.unit).to(self.weight.dtype)
        return weights.reshape(self.weight.shape)

    def adopt(self, initial_gain: float) -> None:
        """Takes the weights as the chip holds them, and scales the layer to a useful size.

        With weights of spread s and n inputs the factor is ``initial_gain / (s sqrt(n))`` [ours].
        """
        weights = self.read_weights()
        self.weight.data.copy_(weights)
        spread = float(weights.std()) or 1.0
        self.scale.data.fill_(initial_gain / (spread * weights[0].numel() ** 0.5))

    def _readings(self, samples: int) -> np.ndarray[Any, Any]:
        """(outputs, inputs, 2) conductances of each pair, the mean of so many readings each."""
        found = np.empty((self.weight.shape[0], self.weight[0].numel(), 2), dtype=np.int64)
        row = 0
        for line in self._lines():
            column = 0
            for region in line:
                g = self._board.tiles[region.tile].read(region, samples)
                pairs = g.reshape(region.rows, -1, 2).transpose(1, 0, 2)
                found[column : column + len(pairs), row : row + region.rows] = pairs
                column += len(pairs)
            row += line[0].rows
        return found

    def _lines(self) -> list[tuple[Region, ...]]:
        regions = self._matrix.regions
        columns = len(regions) // self._matrix.row_blocks
        return [regions[i : i + columns] for i in range(0, len(regions), columns)]

    def program(
        self, index: Tensor, values: Tensor, *, cycles: int | None = None, read_back: bool = False
    ) -> Tensor | None:
        """Write-verifies single weights.

        Args:
            index: flat indices into ``weight``.
            values: the weights that they shall be, in weight units.
            cycles: SET-RESET cycles; None takes those of training.
            read_back: whether to read the pairs afterwards.

        Returns:
            The weights read back, or None.
        """
        writes = self.writes_of(index.cpu().numpy(), values.detach().cpu().double().numpy())
        pairs = write_verify(
            self._board,
            writes,
            cycles or self.rule.cycles,
            self.rule.tolerance,
            read_back=read_back,
        )
        self.writes += len(index)
        return None if pairs is None else self.weights_of(pairs)

    def writes_of(self, index: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> Writes:
        """Where those weights are, and what their pairs shall be (``program``)."""
        targets = self._targets(index, weights)
        return Writes(self._places[index], np.stack(targets, 1).astype(np.uint16))

    def weights_of(self, pairs: np.ndarray[Any, Any]) -> Tensor:
        """(weights,) of (weights, 2) conductances."""
        steps = pairs[:, 0].astype(np.int64) - pairs[:, 1]
        return torch.from_numpy(steps * self.rule.unit).to(self.weight.dtype)

    def _targets(
        self, index: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], ...]:
        """Targets of both devices of each weight, 16-bit conductances."""
        return self.rule.pair(weights)

    def fit_window(self) -> None:
        """Scales the digital weights so that the largest is at the end of the window."""
        factor = self.rule.weight_range / (float(self.weight.data.abs().max()) or 1.0)
        self.weight.data.mul_(factor)
        self.scale.data.div_(factor)

    def put(self, cycles: int | None = None) -> None:
        """Programs the digital weights as they are."""
        flat = self.weight.detach().flatten()
        self.program(torch.arange(flat.numel()), flat, cycles=cycles)

    # ------------------------------------------------------------------ forward

    def forward(self, inputs: Tensor) -> Tensor:
        if self.input_norm is not None:
            inputs = self.input_norm(inputs)
        inputs = self._padded(inputs)
        if self.output_norm is None:
            return self._product(inputs, self.bias)
        outputs: Tensor = self.output_norm(self._product(inputs, None))
        return outputs if self.bias is None else outputs + along(self.bias, outputs)

    def _product(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """``scale * (x * W) + bias``, differentiated on the digital copy."""
        if self.chip is None:
            answered, sent, steps = self._plain(inputs)
            codes = torch.from_numpy(sent).to(inputs.device)
            answer = torch.from_numpy(answered).to(inputs.device, torch.float32)
        else:
            answer, codes, steps = self._compensated(self.chip, inputs)
        result: Tensor = ChipProduct.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.scale, bias, answer, codes, steps, self._geometry
        )
        return result

    def _compensated(self, chip: ChipMatrix, inputs: Tensor) -> tuple[Tensor, Tensor, Steps]:
        """The chip's product of vectors unrolled here, with the layer's compensations."""
        plain = inputs.detach()
        products = chip.forward(self.vectors(plain).cpu().numpy(), learning=self.training)
        answer = torch.from_numpy(products).to(plain.device)
        return self._arranged(answer, plain), plain, Steps(1.0, 1.0)

    def _plain(self, inputs: Tensor) -> tuple[Codes, Codes, Steps]:
        """The chip's answer codes, its input codes, and what a step of each stands for."""
        bits = self._board.description.input_bits
        if self.training or not self.ranges.largest:
            smallest, largest = torch.aminmax(inputs.detach())
            self.ranges.see_inputs(float(smallest), float(largest))
        step = self.ranges.input_step(bits)
        plain = inputs.detach()
        sent = rounded(plain.cpu().float().numpy(), step, bits, signed=self.ranges.signed)
        if not self.ranges.gain:
            self._first_range(torch.from_numpy(sent).to(plain))
        low, high = self._board.gain_range
        self.ranges.gain = min(max(self.ranges.gain, low), high)
        if self.ranges.is_stale():
            self.ranges.configured = self.ranges.gain
        if self._told != self.ranges.configured:
            self._board.configure(self._slot, self.ranges.configured)
            self._told = self.ranges.configured
        products = self._board.multiply(
            self._matrix,
            sent,
            slot=self._slot,
            window=self._window(plain),
            signed=self.ranges.signed,
        )
        steps = Steps(step, step * self.rule.unit / self.ranges.configured)
        answer = self._corrected(products.codes)
        if self.training:
            conversions = products.codes.size * self._matrix.blocks
            self.ranges.see_products(products.saturated, conversions, self.rule.saturation)
        return answer, sent, steps

    def _corrected(self, codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self._calibration is None:
            return codes
        offered = Capability.SIGNED_INPUTS in self._board.capabilities
        by_sign = self.ranges.signed and not offered
        return self._calibration.corrected(codes, self._matrix, by_sign=by_sign)

    def _first_range(self, codes: Tensor) -> None:
        """Takes the first ADC range from the digital copy's products of this batch."""
        units = (self.weight.detach() / self.rule.unit).to(torch.float32)
        sums = self._digital(codes, units).abs().flatten()
        place = max(1, int(_FIRST_RANGE_QUANTILE * sums.numel()))
        largest = float(sums.kthvalue(place).values) or 1.0
        top = (1 << (self._board.description.adc_bits - 1)) - 1
        self.ranges.gain = top / largest

    def _digital(self, codes: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _padded(self, inputs: Tensor) -> Tensor:
        """The inputs with such padding as is not part of the product."""
        return inputs

    def _window(self, codes: Tensor) -> Window | None:
        return None

    def vectors(self, inputs: Tensor) -> Tensor:
        """(vectors, inputs): the inputs, padded already, as vectors."""
        return inputs

    def _images(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """Gradients of the vectors as those of the inputs."""
        return vectors

    def _arranged(self, products: Tensor, inputs: Tensor) -> Tensor:
        """(vectors, outputs) products as the layer's outputs."""
        return products


class AnalogLinear(AnalogLayer):
    """A linear layer on the chip; inputs (batch, inputs), outputs (batch, outputs)."""

    def __init__(self, source: nn.Linear, name: str) -> None:
        super().__init__(source, name)

    def _digital(self, codes: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.linear(codes, weight)


class AnalogConv2d(AnalogLayer):
    """A convolution on the chip; the board unrolls the images.

    Zeros that are padded evenly are part of the product; any other padding is made here before it.
    """

    def __init__(self, source: nn.Conv2d, name: str) -> None:
        super().__init__(source, name)
        left, right, top, bottom = paddings(source)
        even = (min(top, bottom), min(left, right)) if source.padding_mode == "zeros" else (0, 0)
        self._before = (left - even[1], right - even[1], top - even[0], bottom - even[0])
        self._mode = "constant" if source.padding_mode == "zeros" else source.padding_mode
        self._geometry: Geometry = Geometry(_pair(source.stride), even, _pair(source.dilation))

    def _padded(self, inputs: Tensor) -> Tensor:
        return nn.functional.pad(inputs, self._before, self._mode) if any(self._before) else inputs

    def pooled(self, inputs: Tensor) -> Tensor:
        """``max_pool2d(relu(self(inputs)), 2)``, in one pass where that is possible."""
        plain = self.chip is None and self.input_norm is None and self.output_norm is None
        if not plain or inputs.device.type != "cpu" or self._geometry.dilation != (1, 1):
            return nn.functional.max_pool2d(nn.functional.relu(self(inputs)), 2)
        inputs = self._padded(inputs)
        codes, sent, steps = self._plain(inputs)
        result: Tensor = PooledProduct.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.scale, self.bias, Answer(codes, sent, steps, self._geometry)
        )
        return result

    def _digital(self, codes: Tensor, weight: Tensor) -> Tensor:
        g = self._geometry
        return nn.functional.conv2d(codes, weight, None, g.stride, g.padding, g.dilation)

    def vectors(self, inputs: Tensor) -> Tensor:
        g = self._geometry
        kernel, size = _pair(self.weight.shape[2:]), self.weight[0].numel()
        places = int(np.prod(self._places_of(inputs)))
        lines = inputs.new_empty(len(inputs), places, size)
        # A few images at a time: unfolding makes another copy of all vectors.
        step = max(1, _UNFOLDED // (places * size))
        for some, images in zip(torch.split(lines, step), torch.split(inputs, step), strict=True):
            unfolded = nn.functional.unfold(images, kernel, g.dilation, g.padding, g.stride)
            some.copy_(unfolded.transpose(1, 2))
        return lines.reshape(-1, size)

    def _images(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        g = self._geometry
        kernel, size = _pair(self.weight.shape[2:]), _pair(shape[2:])
        lines = vectors.reshape(shape[0], -1, vectors.shape[1])
        images = vectors.new_empty(shape)
        step = max(1, _UNFOLDED // lines[0].numel())
        for some, each in zip(torch.split(images, step), torch.split(lines, step), strict=True):
            columns = each.transpose(1, 2)
            some.copy_(nn.functional.fold(columns, size, kernel, g.dilation, g.padding, g.stride))
        return images

    def _places_of(self, inputs: Tensor) -> list[int]:
        """Height and width of the outputs."""
        g = self._geometry
        return [
            (inputs.shape[2 + i] + 2 * g.padding[i] - g.dilation[i] * (self.weight.shape[2 + i] - 1)
             - 1) // g.stride[i] + 1
            for i in range(2)
        ]  # fmt: skip

    def _arranged(self, products: Tensor, inputs: Tensor) -> Tensor:
        size = self._places_of(inputs)
        return products.reshape(len(inputs), *size, -1).permute(0, 3, 1, 2).contiguous()

    def _window(self, codes: Tensor) -> Window:
        g = self._geometry
        _, channels, height, width = codes.shape
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return Window(
            channels, height, width, *kernel, *g.stride, *g.dilation,
            g.padding[0], g.padding[0], g.padding[1], g.padding[1],
        )  # fmt: skip


class Chain(nn.Sequential):
    """Modules that follow each other; convolution, ReLU and max pooling of 2 x 2 in one pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        modules, at = list(self), 0
        while at < len(modules):
            first, followers = modules[at], modules[at + 1 : at + 3]
            if type(first) is AnalogConv2d and _pool(followers) and not _watched(first, *followers):
                inputs = first.pooled(inputs)
                at += 3
            else:
                inputs = first(inputs)
                at += 1
        return inputs


def _pool(modules: list[nn.Module]) -> bool:
    """Whether these are ReLU and the max pooling that can be made with it."""
    return len(modules) == 2 and isinstance(modules[0], nn.ReLU) and poolable(modules[1])


def _watched(*modules: nn.Module) -> bool:
    """Whether someone looks at what goes in or out, who shall see it as it is elsewhere."""
    return any(each._forward_hooks or each._forward_pre_hooks for each in modules)


class GroupedConv2d(nn.Module):
    """A convolution in groups: each has a matrix and a factor of its own [ours].

    They follow each other, with one configuration slot and one range of the converters, so that a
    depthwise convolution takes no more of a board's slots than any other.

    Attributes:
        parts: the convolutions of the groups, in order.
    """

    def __init__(self, parts: Sequence[AnalogConv2d]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        each = inputs.chunk(len(self.parts), 1)
        return torch.cat([part(x) for part, x in zip(self.parts, each, strict=True)], 1)


def ungrouped(source: nn.Conv2d) -> list[nn.Conv2d]:
    """The convolutions that a grouped one is made of; copies."""
    parts = []
    for weight, bias in zip(
        source.weight.detach().chunk(source.groups),
        [None] * source.groups
        if source.bias is None
        else source.bias.detach().chunk(source.groups),
        strict=True,
    ):
        # Nothing is drawn: a model's first weights do not depend on what becomes of its layers.
        part: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d, weight.shape[1], len(weight), _pair(source.kernel_size),
            _pair(source.stride), source.padding, _pair(source.dilation),
            bias=bias is not None, padding_mode=source.padding_mode,
        )  # fmt: skip
        part.weight.data.copy_(weight)
        if part.bias is not None and bias is not None:
            part.bias.data.copy_(bias)
        parts.append(part)
    return parts


def paddings(source: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom padding, also of one that is named 'same' or 'valid'."""
    if source.padding == "valid":
        return (0, 0, 0, 0)
    if source.padding == "same":
        total = [d * (k - 1) for d, k in zip(source.dilation, source.kernel_size, strict=True)]
        # As torch does: the odd one is at the right and at the bottom.
        top, left = (each // 2 for each in total)
        return (left, total[1] - left, top, total[0] - top)
    height, width = _pair(source.padding)
    return (width, width, height, height)


def along(values: Tensor, outputs: Tensor) -> Tensor:
    """(outputs,) values, to meet (batch, outputs, ...)."""
    return values.reshape((1, -1) + (1,) * (outputs.dim() - 2))


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1]))


def _joined(lines: list[tuple[Region, ...]]) -> np.ndarray[Any, Any]:
    """(outputs * inputs, 3): tile, row and positive column of each weight."""
    blocks = [np.concatenate([_places(region) for region in line], axis=0) for line in lines]
    return np.concatenate(blocks, axis=1).reshape(-1, 3)


def _places(region: Region) -> np.ndarray[Any, Any]:
    """(outputs, rows, 3): tile, row and positive column of each pair of a region."""
    outputs = np.arange(region.columns // 2)[:, None]
    rows = np.arange(region.rows)[None, :]
    shape = (len(outputs), region.rows)
    parts = (
        np.full(shape, region.tile),
        np.broadcast_to(region.row + rows, shape),
        np.broadcast_to(region.column + 2 * outputs, shape),
    )
    return np.stack(parts, axis=2)
