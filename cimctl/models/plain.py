"""Networks whose layers follow each other: of arXiv 2305.14547 and 2303.04721.

Torch is imported when one is made, since their names are wanted without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def lenet() -> nn.Module:
    """The LeNet of arXiv 2305.14547: 3,220 weights, 28 x 28 images, 10 classes."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 12, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


def mlp() -> nn.Module:
    """The fully connected 784-256-128-10 of arXiv 2303.04721; ReLU [ours]."""
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def lenet_large() -> nn.Module:
    """The LeNet of arXiv 2303.04721, conv 16, conv 32, 512-128-10: 79,184 weights; ReLU [ours]."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def vgg8() -> nn.Module:
    """The VGG-8 of arXiv 2305.14547: 549,984 weights, 32 x 32 images of 3 channels.

    Batch norm, which the paper names among what is digital, follows each convolution [ours].
    """
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, 32, 32, 64, 64, 128, 128)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        if inputs == outputs:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)
