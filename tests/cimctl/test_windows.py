"""Vectors as they lie in images: those that unfolding would copy out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cimctl.analog.windows import Windows

LAYERS = {
    "plain": nn.Conv2d(3, 2, 3),
    "strides": nn.Conv2d(2, 2, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilation": nn.Conv2d(1, 2, (2, 3), dilation=(3, 2), padding=2),
    "one place a row": nn.Conv2d(2, 2, (2, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_vectors_of_images_are_those_of_torchs_unfold(name: str) -> None:
    torch.manual_seed(0)
    layer, images = LAYERS[name], torch.randn(4, LAYERS[name].in_channels, 8, 9)
    (top, left), kernel = layer.padding, layer.kernel_size
    padded = nn.functional.pad(images, (left, left, top, top))
    found = Windows.of_images(padded.numpy(), kernel, layer.stride, layer.dilation)  # type: ignore[arg-type]
    unfolded = nn.functional.unfold(
        images, kernel, layer.dilation, layer.padding, layer.stride
    )  # fmt: skip
    wanted = unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]).numpy()
    assert (len(found), found.lines) == wanted.shape
    assert np.array_equal(found.vectors(), wanted)
    assert np.array_equal(found.largest, np.abs(wanted).max(axis=1))


@pytest.mark.parametrize("name", LAYERS)
def test_windows_fold_back_as_torch_does(name: str) -> None:
    torch.manual_seed(0)
    layer, (height, width) = LAYERS[name], (8, 9)
    (top, left), kernel = layer.padding, layer.kernel_size
    images = np.zeros((4, layer.in_channels, height + 2 * top, width + 2 * left), dtype=np.float32)
    windows = Windows.of_images(images, kernel, layer.stride, layer.dilation)  # type: ignore[arg-type]
    vectors = torch.randn(len(windows), windows.lines)
    wanted = nn.functional.fold(
        vectors.reshape(4, -1, windows.lines).transpose(1, 2), images.shape[2:], kernel,
        layer.dilation, 0, layer.stride,
    )  # fmt: skip
    assert np.array_equal(windows.folded(vectors.numpy()).reshape(images.shape), wanted.numpy())


def test_vectors_are_windows_of_themselves_and_take_signs() -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    found = Windows.of(vectors)
    assert np.array_equal(found.vectors(), vectors)
    assert np.array_equal(found.largest, np.abs(vectors).max(axis=1))
    signs = np.float32([1, -1, -1, 1, -1])
    assert np.array_equal(found.times(signs).vectors(), vectors * signs)
    assert np.array_equal(found.times(signs).largest, found.largest)
