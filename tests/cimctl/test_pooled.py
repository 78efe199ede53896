"""ReLU and pooling on codes, and gradients at the winners, beside torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from boards.board import Board
from cimctl.analog import layers
from cimctl.analog.layers import Chain
from cimctl.analog.pooled import Answer, PooledProduct, poolable
from cimctl.analog.product import ChipProduct, Geometry, Steps
from cimctl.connect import BoardOptions, connect
from cimctl.conversion import convert, program_weights


@st.composite
def cases(draw: st.DrawFn) -> tuple[Answer, tuple[int, int], int]:
    """Codes that a chip could have answered, the kernel, and a seed for what else is drawn."""
    pad, stride = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    channels, outputs, batch = (draw(st.integers(1, 3)) for _ in range(3))
    size = [draw(st.integers(max(1, k - 2 * pad) + 2 * stride, k + 7)) for k in kernel]
    seed = draw(st.integers(0, 999))
    random = np.random.default_rng(seed)
    kind = draw(st.sampled_from([np.int8, np.uint8]))
    inputs = random.integers(0, 127, (batch, channels, *size)).astype(kind)
    places = [(n + 2 * pad - k) // stride + 1 for n, k in zip(size, kernel, strict=True)]
    # Few different codes, so that several of a window are equal.
    wide = draw(st.sampled_from([np.int8, np.int16]))
    codes = random.integers(-3, 4, (batch, outputs, *places)).astype(wide)
    steps = Steps(0.5, draw(st.sampled_from([0.25, 1.0])))
    return Answer(codes, inputs, steps, Geometry((stride, stride), (pad, pad))), kernel, seed


@settings(max_examples=80, deadline=None, derandomize=True)
@given(case=cases(), factor=st.sampled_from([1.5, -0.7]), has_bias=st.booleans())
def test_the_same_as_product_relu_and_pooling_one_after_the_other(
    case: tuple[Answer, tuple[int, int], int], factor: float, has_bias: bool
) -> None:
    answer, kernel, seed = case
    outputs, channels = answer.codes.shape[1], answer.inputs.shape[1]

    def parameters() -> list[torch.Tensor | None]:
        torch.manual_seed(seed)
        made = [
            torch.rand(answer.inputs.shape),
            torch.randn(outputs, channels, *kernel),
            torch.tensor(factor),
            torch.randn(outputs) if has_bias else None,
        ]
        return [None if each is None else each.requires_grad_() for each in made]

    one, other = parameters(), parameters()
    fused = PooledProduct.apply(*one, answer)
    codes, sent = torch.from_numpy(answer.codes).float(), torch.from_numpy(answer.inputs)
    plain = ChipProduct.apply(*other, codes, sent, answer.steps, answer.geometry)
    plain = nn.functional.max_pool2d(nn.functional.relu(plain), 2)
    assert torch.equal(fused, plain)
    outer = torch.randn(fused.shape)
    fused.backward(outer)
    plain.backward(outer)
    for mine, theirs in zip(one, other, strict=True):
        if mine is not None and theirs is not None:
            assert mine.grad is not None and theirs.grad is not None
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def lenet_like() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(75, 5)
    )


@pytest.fixture(scope="module")
def board() -> Board:
    with connect(BoardOptions("emu")) as opened:
        opened.power_up()
        yield opened


def test_a_converted_network_keeps_its_modules_and_their_names(board: Board) -> None:
    model = lenet_like()
    converted = convert(model, board)
    assert isinstance(converted, Chain)
    assert [type(each) for each in converted[1:4]] == [nn.ReLU, nn.MaxPool2d, nn.Flatten]
    assert set(model.state_dict()) <= set(converted.state_dict())


def test_a_hook_sees_the_activations_that_a_pass_in_one_would_skip(board: Board) -> None:
    converted = convert(lenet_like(), board)
    program_weights(converted)
    seen: list[torch.Size] = []
    inputs = torch.rand(2, 1, 12, 12)
    converted(inputs)
    converted[1].register_forward_hook(lambda *args: seen.append(args[2].shape))
    converted(inputs)
    assert seen == [(2, 3, 10, 10)]


def test_training_takes_the_pass_in_one(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = convert(lenet_like(), board)
    program_weights(converted)
    calls: list[int] = []
    pooled = layers.AnalogConv2d.pooled

    def counted(self: layers.AnalogConv2d, inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return pooled(self, inputs)

    monkeypatch.setattr(layers.AnalogConv2d, "pooled", counted)
    converted(torch.rand(2, 1, 12, 12)).sum().backward()
    assert calls == [2]
    assert converted[0].weight.grad is not None and converted[0].weight.grad.any()


@pytest.mark.parametrize(
    "other",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, 1),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(2),
    ],
)
def test_other_poolings_are_left_to_torch(other: nn.Module) -> None:
    assert not poolable(other)
    assert poolable(nn.MaxPool2d(2)) and poolable(nn.MaxPool2d((2, 2), (2, 2)))
