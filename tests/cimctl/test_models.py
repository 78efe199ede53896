"""The networks that have names are those of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cimctl.models import MODELS, build

#: weights on the chip, by the papers' layers
WEIGHTS = {
    "lenet": 100 + 1200 + 1920,
    "lenet-large": 400 + 12800 + 512 * 128 + 1280,
    "mlp": 784 * 256 + 256 * 128 + 1280,
    "lstm": (28 + 64) * 256 + 640,
    "vgg8": 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 2048 * 128 + 1280,
    "resnet18": 9 * (3 * 64 + 4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2)
    + 9 * (256 * 512 + 3 * 512**2)
    + (64 * 128 + 128 * 256 + 256 * 512)
    + 5120,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_named_network_takes_its_images_and_tells_ten_classes(name: str) -> None:
    torch.manual_seed(0)
    model = build(name)
    with torch.no_grad():
        assert model(torch.rand(2, *MODELS[name].input_shape)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_network_has_the_weights_of_its_paper(name: str) -> None:
    found = 0
    for module in build(name).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found += module.weight.numel()
        if isinstance(module, nn.LSTMCell):
            found += module.weight_ih.numel() + module.weight_hh.numel()
    assert found == WEIGHTS[name]


def test_resnet_shortcuts_are_one_by_one() -> None:
    shortcuts = [
        module
        for name, module in build("resnet18").named_modules()
        if "shortcut" in name and isinstance(module, nn.Conv2d)
    ]
    assert [module.kernel_size for module in shortcuts] == [(1, 1)] * 3


def test_an_lstm_reads_every_row() -> None:
    torch.manual_seed(0)
    model = build("lstm").eval()
    images = torch.rand(1, 1, 28, 28, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum(3).flatten().min() > 0
