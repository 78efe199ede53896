"""What a training run is, before it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from cimctl.algorithms.settings import Settings, from_values

#: epochs, batches an epoch and batch size for each data set; MNIST's are the paper's, and so are
#: epochs and batch size of CIFAR-10, whose epoch is a pass over all images
SCHEDULES = {
    "digits": (20, 50, 64),
    "mnist": (13, 400, 64),
    "fashion-mnist": (13, 400, 64),
    "cifar10": (100, 782, 64),
}
#: those of images of one's own
OWN_SCHEDULE = (20, 100, 64)


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Attributes:
        model, board, dataset, algorithm: names, or paths of the user's own.
        epochs, batches_per_epoch, batch_size: the schedule.
        seed: of the initial digital parameters, the order of images, and an emulated chip.
        initial: ``read`` starts from the chip as it is found, ``program`` from programmed weights.
        settings: hyper-parameters.
    """

    model: str
    board: str
    dataset: str
    algorithm: str
    epochs: int
    batches_per_epoch: int
    batch_size: int
    seed: int
    initial: str
    settings: Settings

    def plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**asdict(self), "settings": msgspec.to_builtins(self.settings)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> RunConfig:
        # A run from before there was a choice is packed.
        settings = from_values({"mapping": "packed"} | values["settings"])
        return cls(**{**values, "settings": settings})

    @property
    def batches(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.batches_per_epoch
