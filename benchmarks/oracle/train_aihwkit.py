"""In-memory training by aihwkit, as ``training.py`` describes it; runs in aihwkit's environment.

python train_aihwkit.py TASKS.json OUTPUT.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from aihwkit.nn import AnalogLinear
from aihwkit.optim import AnalogSGD
from aihwkit.simulator.configs import SingleRPUConfig, UnitCellRPUConfig
from aihwkit.simulator.configs.compounds import ChoppedTransferCompound, DynamicTransferCompound
from aihwkit.simulator.configs.devices import SoftBoundsReferenceDevice
from aihwkit.simulator.parameters.io import IOParameters
from aihwkit.simulator.parameters.training import UpdateParameters


def device(task: dict[str, Any]) -> SoftBoundsReferenceDevice:
    """A fresh one for each array, with the same parameters."""
    return SoftBoundsReferenceDevice(**task["device"])


def config(task: dict[str, Any]) -> Any:
    """Perfect products; updates by coincidence of trains as long as ours."""
    update = UpdateParameters(desired_bl=task["pulse_length"])
    perfect = {"forward": IOParameters(is_perfect=True), "backward": IOParameters(is_perfect=True)}
    if task["algorithm"] == "sgd":
        return SingleRPUConfig(device=device(task), update=update, **perfect)
    kind = DynamicTransferCompound if task["algorithm"] == "agad" else ChoppedTransferCompound
    compound = kind(
        unit_cell_devices=[device(task), device(task)],
        transfer_forward=IOParameters(is_perfect=True),
        transfer_update=UpdateParameters(
            desired_bl=1, update_bl_management=False, update_management=False
        ),
        units_in_mbatch=False,
        transfer_every=task["read_every"],
        # lambda_H = lr n_s n / (gamma_0 delta)
        auto_granularity=task["transfer_damping"],
        in_chop_prob=0.0 if task["algorithm"] == "ttv2" else task["chop_probability"],
        in_chop_random=task["algorithm"] == "c-ttv2",
        # lambda_A = eta_0 l_max delta / (mu_x mu_d)
        auto_scale=True,
        fast_lr=task["fast_rate"],
        scale_fast_lr=False,
        transfer_lr=1.0,
        scale_transfer_lr=True,
    )
    return UnitCellRPUConfig(device=compound, update=update, **perfect)


def accuracy(task: dict[str, Any]) -> float:
    """Share of the test images recognised after a training."""
    torch.manual_seed(task["seed"])
    with np.load(task["data"]) as data:
        x, test = (torch.from_numpy(data[k].reshape(-1, 64).astype(np.float32) / 255)
                   for k in ("train_images", "test_images"))  # fmt: skip
        y, answers = (torch.from_numpy(data[k]) for k in ("train_labels", "test_labels"))
    layers = [AnalogLinear(64, 32, rpu_config=config(task)),
              AnalogLinear(32, 10, rpu_config=config(task))]  # fmt: skip
    with np.load(task["weights"]) as start:
        for number, layer in enumerate(layers):
            layer.set_weights(
                torch.from_numpy(start[f"weight{number}"]), torch.from_numpy(start[f"bias{number}"])
            )
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    optimizer = AnalogSGD(model.parameters(), lr=task["lr"])
    optimizer.regroup_param_groups(model)
    for _ in range(task["epochs"]):
        for chosen in torch.randperm(len(x)).split(task["batch"]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(test).argmax(1) == answers).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    with open(sys.argv[1]) as stream:
        tasks = json.load(stream)
    with open(sys.argv[2], "w") as stream:
        json.dump([accuracy(task) for task in tasks], stream)


if __name__ == "__main__":
    main()
