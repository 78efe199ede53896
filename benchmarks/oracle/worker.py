"""A process in aihwkit's environment that measures one thing after the other when told to.

One JSON object a line on standard input, one on standard output; processor seconds of one thread.

    {"do": "updates", "rate": 10.0, "batch": 64, "side": 512}
    {"do": "train", "algorithm": "ttv2", "batch": 64, "data": "digits.npz", "images": [4, 0, 8],
     "network": "lenet-5"}
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from aihwkit.nn import AnalogConv2d, AnalogLinear
from aihwkit.optim import AnalogSGD
from aihwkit.simulator import presets
from aihwkit.simulator.configs import SingleRPUConfig
from aihwkit.simulator.configs.devices import SoftBoundsDevice
from aihwkit.simulator.parameters.training import UpdateParameters
from aihwkit.simulator.tiles import AnalogTile

_STEP = 0.001


class Updates:
    """Pulsed rank-one updates of one tile of soft-bounds devices, inputs and errors N(0, 1)."""

    def __init__(self, side: int, batch: int) -> None:
        config = SingleRPUConfig(
            device=SoftBoundsDevice(dw_min=_STEP), update=UpdateParameters(desired_bl=31)
        )
        self._tile = AnalogTile(side, side, config)
        self._x, self._d = torch.randn(batch, side), torch.randn(batch, side)

    def seconds(self, rate: float) -> float:
        """A batch of updates that move a device by ``rate`` steps times x d."""
        self._tile.tile.set_learning_rate(rate * _STEP)
        start = time.process_time()
        self._tile.tile.update(self._x, self._d, False)
        return time.process_time() - start


#: its authors' own settings of these algorithms on their ReRAM device with soft bounds
PRESETS = {
    "ttv2": presets.TTv2ReRamSBPreset,
    "c-ttv2": presets.ChoppedTTv2ReRamSBPreset,
    "agad": presets.AGADReRamSBPreset,
    "mixed-precision": presets.MixedPrecisionReRamSBPreset,
}
#: channels of both convolutions, and outputs of the linear layers
NETWORKS = {"lenet-5": ((6, 16), (120, 84, 10)), "lenet": ((4, 12), (10,))}


class Training:
    """A network for 28 x 28 images, by one of the presets."""

    def __init__(self, algorithm: str, batch: int, network: str) -> None:
        make = PRESETS[algorithm]
        (first, second), outputs = NETWORKS[network]
        layers: list[torch.nn.Module] = [
            AnalogConv2d(1, first, 5, rpu_config=make()),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            AnalogConv2d(first, second, 5, rpu_config=make()),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
        ]
        for before, after in pairwise((16 * second, *outputs)):
            layers += [AnalogLinear(before, after, rpu_config=make()), torch.nn.ReLU()]
        self._model = torch.nn.Sequential(*layers[:-1])
        self._optimizer = AnalogSGD(self._model.parameters(), lr=0.05)
        self._optimizer.regroup_param_groups(self._model)
        self._batch = batch

    def seconds(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Trains on (batches * batch, 1, 28, 28) images."""
        start = time.process_time()
        for x, y in zip(images.split(self._batch), labels.split(self._batch), strict=True):
            self._optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self._model(x), y).backward()
            self._optimizer.step()
        return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    updates: dict[Any, Updates] = {}
    trainings: dict[str, Training] = {}
    for line in sys.stdin:
        task = json.loads(line)
        if task["do"] == "updates":
            shape = task["side"], task["batch"]
            if shape not in updates:
                updates[shape] = Updates(*shape)
            seconds = updates[shape].seconds(task["rate"])
        else:
            name, batch = task["algorithm"], task["batch"]
            if name not in trainings:
                trainings[name] = Training(name, batch, task.get("network", "lenet-5"))
            with np.load(task["data"]) as data:
                chosen = np.array(task["images"])
                images = torch.from_numpy(data["images"][chosen].astype(np.float32) / 255)
                labels = torch.from_numpy(data["labels"][chosen])
            seconds = trainings[name].seconds(images, labels)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
