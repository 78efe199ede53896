"""A process in aihwkit's environment that measures one thing after the other when told to.

One JSON object a line on standard input, one on standard output; processor seconds of one thread.

    {"do": "updates", "rate": 10.0, "batch": 64, "side": 512}
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
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


def main() -> None:
    torch.set_num_threads(1)
    made: dict[Any, Updates] = {}
    for line in sys.stdin:
        task = json.loads(line)
        shape = task["side"], task["batch"]
        updates = made.setdefault(shape, Updates(*shape)) if shape not in made else made[shape]
        print(json.dumps({"seconds": updates.seconds(task["rate"])}), flush=True)


if __name__ == "__main__":
    main()
