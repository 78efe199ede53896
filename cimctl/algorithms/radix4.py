"""4-bit training with radix-4 gradients (arXiv 2203.04821).

Weights and activations are INT4, gradients a sign and a power of four; all three products of
training may be made on a chip of bit planes (``cimctl.analog.plane_products``), or exactly and
digitally from the same operands.  The optimizer moves master weights in full precision, as in the
4-bit training literature [D].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from boards.multiply import Matrix
from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.settings import Settings
from cimctl.analog.adaptability import PlaneConverters, Span
from cimctl.analog.int4_layers import Formats, Int4Conv2d, Int4Layer, Int4Linear, OnChip
from cimctl.analog.plane_products import HeldMatrix, OuterProducts, TransposedMatrix
from cimctl.formats.integers import BITS
from cimctl.formats.powers import Powers
from cimctl.mapping.choose import mapped
from cimctl.mapping.demand import Avoid, Demand, read_avoid
from cimctl.mapping.scratch import Scratch
from firmware_protocol.constants import Capability, Opcode

_POWERS = {"radix-4": Powers(4), "radix-2": Powers(2), "fp32": None}
#: configuration slots of a layer: one for each product
_SLOTS = 3


class Radix4(Algorithm):
    """The optimizer's step on master weights that the network sees as 4-bit integers."""

    NEEDS = frozenset({Opcode.VMM, Opcode.PROGRAM, Opcode.CONFIGURE})
    CAPABILITIES = Capability.GROUPS | Capability.TERNARY | Capability.SIGNED_INPUTS
    PRODUCTS: ClassVar[frozenset[str]] = frozenset({"wa", "wtd", "dat"})
    CHIP_ONLY: ClassVar[frozenset[str]] = frozenset()
    #: ours: with a rate of 0.004 two of ten runs of 400 batches never left the first plateau
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"lr": 0.003, "weight_clip": "mean-square"}

    @classmethod
    def check(cls, board: Board, settings: Settings) -> None:
        super().check(board, settings)
        weights = board.column_weights
        if sum(w for w in weights if w < 0) > -8 or sum(w for w in weights if w > 0) < 7:
            raise UnsupportedError(
                f"The board '{board.hello.model}' holds no weights of 4 bits in its groups",
                left="Nothing was trained",
                next="Take another --board",
            )
        if board.description.input_bits < BITS:
            raise UnsupportedError(
                f"The board '{board.hello.model}' takes inputs of {board.description.input_bits} "
                f"bits, activations have {BITS}",
                left="Nothing was trained",
                next="Take another --board",
            )
        if settings.adaptability == "two-level":
            _check_levels(board, settings.two_level)

    @classmethod
    def products(cls, settings: Settings) -> frozenset[str]:
        alone = settings.adaptability == "none" or settings.gradients == "fp32"
        if settings.products == "auto" and alone:
            return frozenset({"wa"} if settings.adaptability != "none" else ())
        asked = super().products(settings)
        for wrong, why in (
            (asked and settings.adaptability == "none", "adaptability is none: no converters"),
            (asked - {"wa"} and settings.gradients == "fp32", "gradients are fp32: no planes"),
        ):
            if wrong:
                raise UsageError(
                    f"Setting 'products' is '{settings.products}', but {why} for products on the "
                    "chip",
                    left="Nothing was trained",
                    next="Leave 'products' out, or choose another",
                )
        return asked

    @classmethod
    def convert(
        cls, model: nn.Module, board: Board, settings: Settings, *, alone: bool = False
    ) -> nn.Module:
        # It knows the layers of all algorithms, and their settings.
        from cimctl import conversion

        converted = conversion.with_layers(model, (Int4Linear, Int4Conv2d), settings)
        layers = [m for m in converted.modules() if isinstance(m, Int4Layer)]
        _place(layers, board, settings, cls.products(settings))
        return converted

    def step(self) -> None:
        self.optimizer.step()

    def prepare(self) -> None:
        for layer in self._quantised():
            layer.forget()

    def state_dict(self) -> dict[str, Any]:
        layers = self._quantised()
        return {
            **super().state_dict(),
            "converters": [vars(c.span) for layer in layers for c in layer.products.converters()],
            "held": [
                None if matrix.held is None else torch.from_numpy(matrix.held)
                for layer in layers
                for matrix in layer.products.matrices()
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        layers = self._quantised()
        converters = [c for layer in layers for c in layer.products.converters()]
        for each, values in zip(converters, state["converters"], strict=True):
            each.span = Span(**values)
        matrices = [matrix for layer in layers for matrix in layer.products.matrices()]
        for matrix, held in zip(matrices, state["held"], strict=True):
            matrix.held = None if matrix.doubted or held is None else held.numpy()

    def _quantised(self) -> list[Int4Layer]:
        return [layer for layer in self.layers if isinstance(layer, Int4Layer)]


def _check_levels(board: Board, levels: tuple[float, float]) -> None:
    low, high = board.profile.adc_span
    if not low <= levels[0] < levels[1] <= high:
        raise UsageError(
            f"Setting 'two_level' is {list(levels)}: a narrow and a wide range between {low:g} and "
            f"{high:g} cells were expected",
            left="Nothing was trained",
        )


def _mapped(demands: list[Demand], board: Board, avoid: Avoid) -> list[Matrix]:
    try:
        return list(mapped(demands, board.description, "packed", avoid=avoid).matrices)
    except UsageError as error:
        raise UsageError(
            error.what,
            left=error.left,
            next=f"{error.next} W^T takes as much as W: --set products=wa leaves it out.",
        ) from None


def _place(
    layers: list[Int4Layer], board: Board, settings: Settings, products: frozenset[str]
) -> None:
    """Gives layers their formats, and their places on a board."""
    powers = _POWERS[settings.gradients]
    formats = Formats(
        powers,
        settings.gradient_phases,
        settings.gradient_scale,
        settings.weight_clip,
        settings.stochastic_rounding,
    )
    if products and _SLOTS * len(layers) >= board.description.slots:
        raise UsageError(
            f"{len(layers)} layers need {_SLOTS * len(layers)} configuration slots and one more; "
            f"the board has {board.description.slots}",
            left="Nothing was programmed",
            next="Leave layers digital (--set digital=NAME,NAME), or take a board with more slots",
        )
    if settings.mapping == "paper":
        raise UsageError(
            "Setting 'mapping' is 'paper': this algorithm puts matrices side by side",
            left="Nothing was programmed",
            next="Leave the setting out",
        )
    group = len(board.column_weights)
    forward = [layer.demand(group) for layer in layers]
    back = [Demand(f"{layer.name}, W^T", *layer.back_demand(), group) for layer in layers]
    demands = forward * ("wa" in products) + back * ("wtd" in products)
    avoid = read_avoid(settings.avoid)
    matrices = iter(_mapped(demands, board, avoid))
    levels = settings.two_level if settings.adaptability == "two-level" else None
    made: list[dict[str, HeldMatrix]] = [{} for _ in layers]
    for number, name in enumerate(("wa", "wtd")):
        for place, each in enumerate(made if name in products else ()):
            slot = 1 + _SLOTS * place + number
            converters = PlaneConverters(board, slot, ternary=name == "wtd", levels=levels)
            each[name] = HeldMatrix(board, next(matrices), converters)
    scratch = Scratch(demands, board.description, avoid)
    if "dat" in products:
        scratch.cut(1, 1, group)  # refuses now what could not go on later
    for place, (layer, each) in enumerate(zip(layers, made, strict=True)):
        transposed = outer = None
        if powers is not None:
            transposed = TransposedMatrix(each["wtd"], powers) if "wtd" in each else None
            own = PlaneConverters(board, _SLOTS * (place + 1), ternary=True, levels=levels)
            outer = OuterProducts(board, scratch, own, powers) if "dat" in products else None
        layer.formats = formats
        layer.products = OnChip(each.get("wa"), transposed, outer)
