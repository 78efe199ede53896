"""The interface of training algorithms, and the optimizer that they share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from boards.board import Board
from boards.errors import UnsupportedError, UsageError
from cimctl.algorithms.settings import Settings
from cimctl.analog.draws import key_of
from cimctl.analog.layers import AnalogLayer
from firmware_protocol.constants import Capability, Opcode

#: share of the batches over which the learning rate falls, and what it falls to
_TAIL, _TAIL_END = 0.3, 0.02
#: flat epochs after which a plateau lowers the learning rate, and by what factor
_FLAT, _HALF = 5, 0.5


class Algorithm(ABC):
    """Applies what a batch taught.

    Args:
        model: the network; its analog layers are on the board already.
        board: where they are; None for an algorithm that needs none.
        settings: hyper-parameters.
        seed: seeds whatever the algorithm draws.
    """

    #: settings whose default is another one here
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    #: commands without which the algorithm cannot run
    NEEDS: ClassVar[frozenset[Opcode]] = frozenset()
    #: what else a board must be capable of
    CAPABILITIES: ClassVar[Capability] = Capability(0)
    #: whether layers are converted to analog ones
    ANALOG: ClassVar[bool] = True
    #: whether weights live on the chip only
    IN_MEMORY: ClassVar[bool] = False
    #: products that the algorithm can make on the chip, and those that it makes nowhere else
    PRODUCTS: ClassVar[frozenset[str]] = frozenset({"wa"})
    CHIP_ONLY: ClassVar[frozenset[str]] = frozenset({"wa"})
    #: arrays of a layer beside its weights
    ARRAYS: ClassVar[int] = 0
    #: first weights are uniform up to this over the root of a layer's inputs; 0: torch's own
    INITIAL_BOUND: ClassVar[float] = 0.0

    def __init__(
        self, model: nn.Module, board: Board | None, settings: Settings, seed: int
    ) -> None:
        if board is not None:
            self.check(board, settings)
        self.model = model
        self.settings = settings
        self.layers = [m for m in model.modules() if isinstance(m, AnalogLayer)]
        for number, layer in enumerate(self.layers):
            if layer.chip is not None:
                layer.chip.seed(key_of(seed, number))
        self.optimizer = make_optimizer(model, settings)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._plateau = ReduceLROnPlateau(self.optimizer, factor=_HALF, patience=_FLAT - 1)

    @classmethod
    def check(cls, board: Board, settings: Settings) -> None:
        """Raises ``UnsupportedError`` that names what the algorithm needs and the board lacks."""
        cls.products(settings)
        missing = [op.name for op in cls.NEEDS if not board.offers(op)]
        missing += [str(c.name) for c in cls.CAPABILITIES if c not in board.capabilities]
        if missing:
            raise UnsupportedError(
                f"The board '{board.hello.model}' lacks what this algorithm needs: "
                f"{', '.join(sorted(missing))}",
                left="Nothing was trained",
                next="Take another --algorithm or another --board",
            )

    @classmethod
    def products(cls, settings: Settings) -> frozenset[str]:
        """The products that are made on the chip (``Settings.products``).

        Raises:
            UsageError: the algorithm cannot make one of them there, or makes one nowhere else.
        """
        if settings.products == "auto":
            return cls.PRODUCTS
        named = settings.products.replace("none", "")
        asked = frozenset(named.split(",")) - {""}
        for wrong, where in ((asked - cls.PRODUCTS, "not on"), (cls.CHIP_ONLY - asked, "only on")):
            if wrong:
                raise UsageError(
                    f"Setting 'products' is '{settings.products}': this algorithm makes product "
                    f"'{min(wrong)}' {where} the chip",
                    left="Nothing was trained",
                    next=f"It can make {', '.join(sorted(cls.PRODUCTS))} there, and has to make "
                    f"{', '.join(sorted(cls.CHIP_ONLY)) or 'none of them'}",
                )
        return asked

    @classmethod
    def convert(
        cls, model: nn.Module, board: Board, settings: Settings, *, alone: bool = False
    ) -> nn.Module:
        """A copy of a model whose layers are on a board as the algorithm trains them.

        Args:
            model: any module.
            board: an open board.
            settings: rules for weights.
            alone: whether the further arrays of the algorithm are left out.
        """
        # It knows the layers of all algorithms, and their settings.
        from cimctl import conversion

        arrays = 0 if alone else cls.ARRAYS
        return conversion.convert(model, board, settings, in_memory=cls.IN_MEMORY, arrays=arrays)

    @property
    def pulses_per_weight(self) -> float:
        """Open-loop pulses over weights, since the training began."""
        return 0.0

    @property
    def writes_per_weight(self) -> float:
        """Programmed pairs over weights, since the training began."""
        weights = sum(layer.weight.numel() for layer in self.layers)
        return sum(layer.writes for layer in self.layers) / weights if weights else 0.0

    def schedule(self, progress: float, epoch: int = 0) -> None:
        """Sets the learning rate for a point of the training, 0 to 1, and the epoch it is in."""
        if self.settings.lr_schedule == "plateau":
            return
        factor = 0.5**epoch if self.settings.lr_schedule == "halved" else 1.0
        if self.settings.lr_schedule == "tail" and progress > 1 - _TAIL:
            left = (1 - progress) / _TAIL
            factor = _TAIL_END + (1 - _TAIL_END) * left
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def end_epoch(self, loss: float) -> None:
        """Takes the mean training loss of an epoch."""
        if self.settings.lr_schedule == "plateau":
            self._plateau.step(loss)

    @abstractmethod
    def step(self) -> None:
        """Applies the gradients of a batch, which the parameters hold."""

    def prepare(self) -> None:  # noqa: B027 - most algorithms have nothing to prepare
        """Brings further arrays into place, on a chip that does not hold them yet."""

    def read_back(self) -> None:  # noqa: B027 - most algorithms have a digital copy
        """Takes weights that live on the chip only to their digital copy; reads the chip."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs besides the model."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.settings.lr_schedule == "plateau":
            state["plateau"] = self._plateau.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state back."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.settings.lr_schedule == "plateau":
            self._plateau.load_state_dict(state["plateau"])


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of the settings over all parameters, scale factors at a rate of their own.

    Raises:
        UsageError: torch has no such optimizer, or it does not take the arguments.
    """
    kind = getattr(torch.optim, settings.optimizer, None)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise UsageError(
            f"There is no optimizer '{settings.optimizer}' in torch.optim",
            next="Names are as in torch: AdamW, Adam, SGD, ...",
        )
    scales = {id(m.scale) for m in model.modules() if isinstance(m, AnalogLayer)}
    plain = [p for p in model.parameters() if id(p) not in scales]
    groups: list[dict[str, Any]] = [{"params": plain}]
    if scales:
        own = [p for p in model.parameters() if id(p) in scales]
        groups.append({"params": own, "lr": settings.lr * settings.scale_lr, "weight_decay": 0.0})
    takes = inspect.signature(kind).parameters
    if inspect.signature(kind.step).parameters["closure"].default is inspect.Parameter.empty:
        raise UsageError(
            f"Optimizer {settings.optimizer} evaluates the loss several times a step, which a "
            "training on a chip does not offer",
            left="Nothing was trained",
        )
    own_arguments = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    arguments: dict[str, Any] = {k: v for k, v in own_arguments.items() if k in takes}
    if "weight_decay" not in takes:
        for group in groups:
            group.pop("weight_decay", None)
    arguments |= settings.optimizer_arguments
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"Optimizer {settings.optimizer} does not take these arguments: {error}",
            left="Nothing was trained",
        ) from None
    return optimizer
