"""A process in aihwkit's environment that measures one thing after the other when told to.

One JSON object a line on standard input, one on standard output; processor seconds of one thread.

    {"do": "updates", "rate": 10.0, "batch": 64, "side": 512}
    {"do": "train", "algorithm": "ttv2", "every": 1, "batch": 64, "data": "digits.npz",
     "images": [4, 0, 8], "network": "lenet-5"}

A training's answer has ``pulses``, too, those that A can expect: aihwkit does not count them on a
processor.
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


class ExpectedPulses:
    """Pulses that a layer's A gets in the mean, from what its updates are given.

    A vector of inputs x and errors d gets trains of ``BL = min(31, ceil(k max|x| max|d|))`` slots,
    with ``k = fast_lr 31 / (m_x m_d)`` and m the running means of max|x| and max|d|, in which lines
    fire with min(1, sqrt(k / BL) |x| m) and min(1, sqrt(k / BL) |d| / m), m^2 = max|d| / max|x|.
    """

    def __init__(self, tile: Any, fast_lr: float) -> None:
        self._rate, self._means = fast_lr * 31, [0.0, 0.0]
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        update = tile.update

        def noted(x: torch.Tensor, d: torch.Tensor) -> Any:
            self._seen.append((x, d))
            return update(x, d)

        tile.update = noted

    def since(self) -> float:
        """Those of the updates since the last call."""
        total = 0.0
        for pair in self._seen:
            x, d = (each.reshape(-1, each.shape[-1]).abs().double() for each in pair)
            most = [each.amax(1) for each in (x, d)]
            for n, each in enumerate(most):
                if (each > 0).any():
                    now = float(each[each > 0].mean())
                    self._means[n] += (0.01 if self._means[n] else 1.0) * (now - self._means[n])
            alive = (most[0] > 0) & (most[1] > 0)
            x, d, x_most, d_most = (each[alive] for each in (x, d, *most))
            k = self._rate / (self._means[0] * self._means[1])
            slots = (k * x_most * d_most).ceil().clamp(max=31)
            common, ratio = (k / slots).sqrt(), (d_most / x_most).sqrt()
            fire_x = (x * (common * ratio)[:, None]).clamp(max=1).sum(1)
            fire_d = (d * (common / ratio)[:, None]).clamp(max=1).sum(1)
            total += float((slots * fire_x * fire_d).sum())
        self._seen.clear()
        return total


class Training:
    """A network for images of 28 x 28, by one of the presets.

    Args:
        algorithm: of ``PRESETS``.
        batch: images.
        every: vectors after which a line of A is read; None: the preset's.
        network: of ``NETWORKS``.
    """

    def __init__(self, algorithm: str, batch: int, every: int | None, network: str) -> None:
        def make() -> Any:
            config = PRESETS[algorithm]()
            if every is not None:
                config.device.transfer_every = every
            return config

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
        fast_lr = getattr(PRESETS[algorithm]().device, "fast_lr", None)
        analog = [layer for layer in self._model if hasattr(layer, "analog_tiles")]
        self._expected = [
            ExpectedPulses(tile, fast_lr)
            for layer in analog
            for tile in layer.analog_tiles()
            if fast_lr is not None  # none of mixed precision, which has no A
        ]

    def pulses(self) -> float:
        """Pulses that all A can expect of the updates since the last call."""
        return sum(each.since() for each in self._expected)

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
    trainings: dict[Any, Training] = {}
    for line in sys.stdin:
        task = json.loads(line)
        answer: dict[str, float] = {}
        if task["do"] == "updates":
            shape = task["side"], task["batch"]
            if shape not in updates:
                updates[shape] = Updates(*shape)
            answer["seconds"] = updates[shape].seconds(task["rate"])
        else:
            which = (
                task["algorithm"], task["batch"], task.get("every"),
                task.get("network", "lenet-5"),
            )  # fmt: skip
            if which not in trainings:
                trainings[which] = Training(*which)
            with np.load(task["data"]) as data:
                chosen = np.array(task["images"])
                images = torch.from_numpy(data["images"][chosen].astype(np.float32) / 255)
                labels = torch.from_numpy(data["labels"][chosen])
            answer["seconds"] = trainings[which].seconds(images, labels)
            answer["pulses"] = trainings[which].pulses()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
