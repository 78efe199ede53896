"""Grouped convolutions and paddings of every kind, against torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.errors import UsageError
from boards.links import InProcessLink
from cimctl import conversion
from cimctl.algorithms.mixed_precision import MixedPrecision
from cimctl.algorithms.settings import Settings
from cimctl.analog import layers
from cimctl.analog.in_memory import InMemoryConv2d
from cimctl.analog.layers import AnalogConv2d, GroupedConv2d, paddings, ungrouped
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

LAYERS: dict[str, tuple[Callable[[], nn.Conv2d], tuple[int, ...]]] = {
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 8, 8)),
    "two groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 2, 7, 8)),
    "same, even kernel": (lambda: nn.Conv2d(2, 3, (4, 2), padding="same"), (2, 2, 7, 8)),
    "same, dilated": (lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=3), (2, 2, 7, 8)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 2, 7, 8)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 2, 7, 8)),
    "circular": (
        lambda: nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular", groups=2),
        (2, 2, 7, 8),
    ),
}


def opened(profile: str, *, ideal: bool = False) -> Board:
    chosen = catalogue.load(profile)
    if ideal:
        faults = msgspec.structs.replace(
            chosen.imperfections, read_noise_uS=0, programming_error_uS=0, adc_noise_lsb=0
        )
        chosen = msgspec.structs.replace(chosen, imperfections=faults)
    board = Board(chosen, InProcessLink(Firmware(Chip(chosen, 2))))
    board.power_up()
    return board


@pytest.fixture
def quiet() -> Iterator[Board]:
    with opened("emu", ideal=True) as board:
        yield board


def trained_by(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The loss of one pass, with its gradients in the parameters."""
    loss: torch.Tensor = model(inputs).square().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", LAYERS)
def test_without_noise_products_and_gradients_are_torchs_own(quiet: Board, name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    source = make()
    model = conversion.convert(nn.Sequential(source), quiet)
    conversion.program_weights(model, 5)
    for layer in conversion.analog_layers(model):
        layer.weight.data.copy_(layer.read_weights())
    own = [layer.weight.data * layer.scale.data for layer in conversion.analog_layers(model)]
    source.weight.data.copy_(torch.cat(own))
    inputs, plain = (torch.rand(shape).requires_grad_(True) for _ in range(2))
    plain.data.copy_(inputs.data)
    wanted = source(plain)
    model.train()
    for _ in range(60):
        found = model(inputs)  # the converters' range settles
    assert found.shape == wanted.shape
    # Steps of the converter and of the inputs, no more: a wrong place would be of the size of 1.
    assert float((found - wanted).detach().std() / wanted.detach().std()) < 0.06
    outer = torch.rand_like(wanted)
    found.backward(outer)
    wanted.backward(outer)
    torch.testing.assert_close(inputs.grad, plain.grad, rtol=1e-4, atol=1e-5)
    scaled = [layer.weight.grad / layer.scale.data for layer in conversion.analog_layers(model)]
    torch.testing.assert_close(torch.cat(scaled), source.weight.grad, rtol=0.05, atol=0.15)


def test_a_depthwise_convolution_takes_one_slot(quiet: Board) -> None:
    model = nn.Sequential(nn.Conv2d(20, 20, 3, groups=20), nn.Conv2d(20, 4, 1))
    analog = conversion.convert(model, quiet)
    assert isinstance(analog[0], GroupedConv2d)  # type: ignore[index]
    found = conversion.analog_layers(analog)
    assert [layer._slot for layer in found] == [1] * 20 + [2]
    assert len({id(layer.ranges) for layer in found}) == 2


def test_groups_that_share_a_range_are_all_told_of_a_change(quiet: Board) -> None:
    model = conversion.convert(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)), quiet).eval()
    conversion.read_weights(model, 1.0)
    first, second = conversion.analog_layers(model)
    inputs = torch.rand(2, 2, 6, 6)
    model(inputs)
    alone = second(inputs[:, 1:]).detach()
    first.ranges.gain *= 0.5
    first(inputs[:, :1])
    # Half the gain is half the codes, and each stands for twice as much.
    again = second(inputs[:, 1:]).detach()
    assert second.ranges.configured == first._told == second._told
    assert float((again - alone).abs().max()) < 0.1 * float(alone.abs().max())


@pytest.mark.parametrize("name", ["depthwise", "same, even kernel", "circular"])
def test_weights_in_memory_multiply_both_ways(name: str) -> None:
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    source = make()
    inputs, plain = (torch.randn(shape).requires_grad_(True) for _ in range(2))
    plain.data.copy_(inputs.data)
    rules = Settings(noise_management="max", bound_management="iterative")
    with opened("rpu-large") as board:
        model = conversion.convert(nn.Sequential(source), board, rules, in_memory=True)
        conversion.program_weights(model, 10)
        found, wanted = model(inputs), source(plain)
        outer = torch.randn_like(wanted) * 0.01
        found.backward(outer)
        wanted.backward(outer)
        parts = conversion.analog_layers(model)
    assert all(isinstance(part, InMemoryConv2d) and len(part.tape) == 1 for part in parts)
    assert float((found - wanted).detach().std()) < 0.4 * float(wanted.detach().std())
    assert inputs.grad is not None and plain.grad is not None
    both = torch.stack([inputs.grad.flatten(), plain.grad.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.8


def test_a_grouped_layer_is_written_to_where_it_multiplies(quiet: Board) -> None:
    torch.manual_seed(2)
    model = conversion.convert(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), quiet)
    conversion.program_weights(model, 5)
    rules = Settings(lr=0.05, levels=16, optimizer="SGD", dither=False)
    algorithm = MixedPrecision(model, quiet, rules, seed=0)
    inputs = torch.rand(8, 4, 6, 6)
    before = trained_by(model.train(), inputs)
    for _ in range(40):
        algorithm.optimizer.zero_grad()
        after = trained_by(model, inputs)
        algorithm.step()
    assert all(layer.writes for layer in conversion.analog_layers(model))
    assert float(after) < 0.5 * float(before)


def test_named_layers_and_blocks_stay_digital(quiet: Board) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)),
        nn.Conv2d(2, 1, 1),
    )
    found = conversion.convert(model, quiet, Settings(digital=("0", "1")))
    assert [layer.name for layer in conversion.analog_layers(found)] == ["2"]
    with pytest.raises(UsageError, match="no layer '7'"):
        conversion.convert(model, quiet, Settings(digital=("7",)))


# --- pieces --------------------------------------------------------------------------------------


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_padding_same_keeps_the_size_and_parts_make_up_the_whole(
    kernel: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    source = nn.Conv2d(2, 4, kernel, padding="same", dilation=dilation, groups=groups)
    inputs = torch.rand(1, 2, 9, 8)
    wanted = source(inputs)
    padded = nn.functional.pad(inputs, paddings(source))
    plain = nn.functional.conv2d(padded, source.weight, source.bias, 1, 0, dilation, groups)
    torch.testing.assert_close(plain, wanted)
    parts = [p(x) for p, x in zip(ungrouped(source), inputs.chunk(groups, 1), strict=True)]
    torch.testing.assert_close(torch.cat(parts, 1), wanted)


def test_taking_a_convolution_apart_draws_nothing() -> None:
    source = nn.Conv2d(4, 4, 3, groups=4)
    before = torch.get_rng_state()
    ungrouped(source)
    assert torch.equal(torch.get_rng_state(), before)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    at_once=st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_images_unfolded_a_few_at_a_time_are_those_unfolded_at_once(
    shape: tuple[int, ...], stride: int, padding: int, dilation: int, at_once: int
) -> None:
    assume(min(shape[2:]) + 2 * padding > 2 * dilation)
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = AnalogConv2d(nn.Conv2d(shape[1], 2, 3, **geometry), "any")
    inputs = torch.from_numpy(np.random.default_rng(shape[0]).random(shape, dtype=np.float32))
    whole = nn.functional.unfold(inputs, 3, dilation, padding, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_UNFOLDED", at_once)
        vectors = layer.vectors(inputs)
        back = layer._images(vectors, inputs.shape)
    assert torch.equal(vectors, whole.transpose(1, 2).reshape(-1, whole.shape[1]))
    folded = nn.functional.fold(whole, shape[2:], 3, dilation, padding, stride)
    assert torch.equal(back, folded)
