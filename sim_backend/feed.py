"""What a multiply request asks for, and its inputs in the form that the products want."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch users know

from firmware_protocol.geometry import output_size
from firmware_protocol.messages import Region, Window
from sim_backend.planes import Coding
from sim_backend.power import window_power
from sim_backend.window_sums import MOST_CHANNELS

Tensor = torch.Tensor
#: small images that many regions multiply are unrolled once, which is faster than convolving each
_MANY_USES, _FEW_PLACES = 4, 64


@dataclass(frozen=True, slots=True)
class Slot:
    """A configuration slot: read voltage (mV), word-line code, gain of the ADC."""

    read_voltage: int
    word_line: int
    multiplier: int
    shift: int


@dataclass(frozen=True, eq=False)
class Product:
    """One vector-matrix multiply, checked already; what follows from it is kept with it.

    Attributes:
        slot: analog settings.
        regions: row blocks times column blocks, row block by row block.
        row_blocks: how many row blocks form one sum.
        transposed, differential: which way, and whether columns are pairs.
        window: how images become vectors; None for vectors.
        group: weights of the columns that form an output; empty: each column, or pair, is one.
        coding: how input codes become planes that are converted each by itself; None: whole codes
            are converted.
    """

    slot: Slot
    regions: tuple[Region, ...]
    row_blocks: int
    transposed: bool
    differential: bool
    window: Window | None
    group: tuple[int, ...] = ()
    coding: Coding | None = None

    @property
    def steps(self) -> int:
        """Operations of the array, one after the other, that one vector takes."""
        return len(self.coding.weights) if self.coding else 1

    @property
    def of_vectors(self) -> bool:
        """Whether it takes vectors of whole codes, a conversion for each output and row block."""
        return self.window is None and self.coding is None and not self.group

    @property
    def columns_each(self) -> int:
        """Columns of an output."""
        return 2 if self.differential else max(1, len(self.group))

    @cached_property
    def grid(self) -> list[tuple[Region, ...]]:
        """Regions by block of inputs, then by block of outputs."""
        columns = len(self.regions) // self.row_blocks
        rows = [self.regions[i * columns : (i + 1) * columns] for i in range(self.row_blocks)]
        return [tuple(r) for r in zip(*rows, strict=True)] if self.transposed else rows

    @cached_property
    def order(self) -> list[tuple[int, int]]:
        """(place of each region among its tile's regions, how many that tile has)."""
        grid = [region for row in self.grid for region in row]
        seen: dict[int, int] = {}
        places = []
        for region in grid:
            places.append(seen.get(region.tile, 0))
            seen[region.tile] = places[-1] + 1
        return [(p, seen[r.tile]) for p, r in zip(places, grid, strict=True)]

    def lines(self, region: Region) -> tuple[int, int]:
        """Inputs and outputs of a region."""
        columns = region.columns // self.columns_each
        return (columns, region.rows) if self.transposed else (region.rows, columns)

    @cached_property
    def outputs(self) -> int:
        """Outputs of all regions together."""
        return sum(self.lines(region)[1] for region in self.grid[0])


class Feed:
    """The inputs of one row block, in the form that the products want.

    Args:
        inputs: (batch, inputs) or (batch, channels, height, width), float32 integers.
        window: how images become vectors.
        first, size: which of the unrolled inputs the block takes.
        uses: how many regions they are multiplied by.
    """

    def __init__(
        self, inputs: Tensor, window: Window | None, first: int, size: int, uses: int = 1
    ) -> None:
        self._window = window
        if window is None:
            self._vectors = inputs[:, first : first + size]
            return
        area = window.kernel_height * window.kernel_width
        self._whole_channels = first % area == 0 and size % area == 0
        pads = (window.pad_left, window.pad_right, window.pad_top, window.pad_bottom)
        padded = F.pad(inputs, pads) if any(pads) else inputs
        if self._whole_channels:
            self._image = padded[:, first // area : (first + size) // area]
            self._unroll = uses >= _MANY_USES and prod(output_size(window)) <= _FEW_PLACES
            if self._unroll:
                self._unrolled = F.unfold(self._image, **_window_arguments(window))
        else:
            self._unroll = True
            self._unrolled = F.unfold(padded, **_window_arguments(window))[:, first : first + size]

    def sums(self, weight: Tensor) -> npt.NDArray[np.float32]:
        """(batch, lines of the weight, places) exact sums; vectors are places of one batch."""
        if self._window is None:
            return (weight @ self._vectors.T).unsqueeze(0).numpy()
        if self._unroll:
            return (weight @ self._unrolled).numpy()
        w = self._window
        kernel = weight.reshape(len(weight), -1, w.kernel_height, w.kernel_width)
        result = F.conv2d(
            self._image,
            kernel,
            stride=(w.stride_y, w.stride_x),
            dilation=(w.dilation_y, w.dilation_x),
        )
        return result.flatten(2).numpy()

    @property
    def few_channels(self) -> npt.NDArray[np.float32] | None:
        """Images whose sums ``convert_windows`` makes faster than ``sums``; else None."""
        if self._window is None or self._unroll or self._image.shape[1] > MOST_CHANNELS:
            return None
        return self._image.numpy()

    def power(self) -> npt.NDArray[np.float32]:
        """(batch, places) sums of squared input codes; vectors are places of one batch."""
        if self._window is None:
            return self._vectors.square().sum(1).unsqueeze(0).numpy()
        if not self._whole_channels:
            return self._unrolled.square().sum(1).numpy()
        return window_power(self._image.numpy(), self._window, *output_size(self._window))


def _window_arguments(window: Window) -> dict[str, tuple[int, int]]:
    w = window
    return {
        "kernel_size": (w.kernel_height, w.kernel_width),
        "stride": (w.stride_y, w.stride_x),
        "dilation": (w.dilation_y, w.dilation_x),
    }
