"""Analog layers against torch's own, on a chip without noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
import torch
from torch import nn

from boards import catalogue
from boards.board import Board
from boards.links import InProcessLink
from boards.multiply import Matrix
from cimctl import conversion
from cimctl.analog.layers import AnalogConv2d, AnalogLayer, AnalogLinear
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

EMU = catalogue.load("emu")
IDEAL = msgspec.structs.replace(
    EMU, imperfections=msgspec.structs.replace(
        EMU.imperfections, read_noise_uS=0, programming_error_uS=0, adc_noise_lsb=0
    )
)  # fmt: skip

#: layers, and a batch of inputs for each
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(40, 12), (16, 40)),
    "linear of three blocks": (lambda: nn.Linear(150, 8, bias=False), (16, 150)),
    "convolution": (lambda: nn.Conv2d(1, 4, 5), (3, 1, 12, 12)),
    "convolution of two blocks": (lambda: nn.Conv2d(4, 6, 5, padding=2), (2, 4, 9, 11)),
    "strides": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 2, 11, 10)),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=(2, 1), bias=False), (2, 2, 9, 8)),
}


@pytest.fixture
def board() -> Iterator[Board]:
    chip = Chip(IDEAL, 2)
    with Board(IDEAL, InProcessLink(Firmware(chip))) as opened:
        opened.power_up()
        opened.chip = chip  # type: ignore[attr-defined]
        yield opened


def conductances(board: Board, matrix: Matrix) -> torch.Tensor:
    """(outputs, inputs): differences of the pairs of a matrix, as the chip holds them."""
    columns = len(matrix.regions) // matrix.row_blocks
    lines = []
    for i in range(0, len(matrix.regions), columns):
        parts = []
        for r in matrix.regions[i : i + columns]:
            tile = board.chip.cells.conductances[r.tile].reshape(64, 64)  # type: ignore[attr-defined]
            g = torch.from_numpy(tile.astype("int64"))
            g = g[r.row : r.row + r.rows, r.column : r.column + r.columns]
            parts.append((g[:, 0::2] - g[:, 1::2]).T)
        lines.append(torch.cat(parts, dim=0))
    return torch.cat(lines, dim=1)


def converted(board: Board, name: str, seed: int = 0) -> tuple[AnalogLayer, torch.Tensor]:
    """A layer on the chip whose digital copy is exactly what the chip holds, and inputs."""
    torch.manual_seed(seed)
    make, shape = LAYERS[name]
    layer = conversion.analog_layers(conversion.convert(nn.Sequential(make()), board))[0]
    exact = conductances(board, layer._matrix).double() * layer.rule.unit
    layer.weight.data = exact.float().reshape(layer.weight.shape)
    layer.scale.data.fill_(1.7)
    return layer, torch.rand(shape)


def digital(layer: AnalogLayer, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What torch's own layer makes of inputs, times scale, plus bias."""
    if isinstance(layer, AnalogLinear):
        product = nn.functional.linear(inputs, weight)
    else:
        assert isinstance(layer, AnalogConv2d)
        g = layer._geometry
        assert g is not None
        product = nn.functional.conv2d(inputs, weight, None, g.stride, g.padding, g.dilation)
    shape = (1, -1) + (1,) * (product.dim() - 2)
    bias = 0 if layer.bias is None else layer.bias.reshape(shape)
    return product * layer.scale + bias


def open_ranges(layer: AnalogLayer, inputs: torch.Tensor) -> None:
    """An ADC range that nothing saturates: a tenth beyond the largest block sum."""
    layer.ranges.see_inputs(float(inputs.min()), float(inputs.max()))
    step = layer.ranges.input_step(8)
    largest = float(digital(layer, inputs.abs(), layer.weight.abs()).detach().abs().max())
    largest /= float(layer.scale.detach()) * step * layer.rule.unit
    low, high = layer._board.gain_range
    layer.ranges.gain = min(max(127 / (1.1 * largest), low), high)


@pytest.mark.parametrize("signed", [False, True], ids=["rectified", "signed"])
@pytest.mark.parametrize("name", LAYERS)
def test_without_noise_a_layer_is_torchs_own_within_the_converters_resolution(
    board: Board, name: str, signed: bool
) -> None:
    layer, inputs = converted(board, name)
    inputs = inputs * 2 - 1 if signed else inputs
    open_ranges(layer, inputs)
    layer.eval()
    with torch.no_grad():
        found = layer(inputs)
        wanted = digital(layer, inputs, layer.weight)
        # Every input is off by half a DAC step at most, every block's sum by half an ADC code.
        step = layer.ranges.input_step(8)
        weights = layer.weight.abs().flatten(1).sum(1)
        dac = weights * step / 2
        code = layer.rule.unit * step / layer.ranges.configured
        # The gain travels as 16 bits: 127 codes times 2^-16 are lost at most; and float32.
        adc = layer._matrix.blocks * (0.5 + 128 * 2.0**-15) * code
        limit = float(layer.scale) * (dac + adc) + 1e-4 * wanted.abs().max()
    assert found.shape == wanted.shape
    off = (found - wanted).abs().transpose(0, 1).flatten(1).max(1).values
    assert (off <= limit).all()
    # The bound is one of resolution: it must be far below what the layer computes.
    assert float(limit.max()) < 0.35 * float(wanted.abs().max())


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_torchs_own_on_the_quantised_inputs(board: Board, name: str) -> None:
    layer, inputs = converted(board, name)
    open_ranges(layer, inputs)
    layer.train()
    inputs.requires_grad_(True)
    outputs = layer(inputs)
    torch.manual_seed(1)
    outer = torch.randn_like(outputs)
    outputs.backward(outer)
    scale_gradient = float(layer.scale.grad)  # type: ignore[arg-type]
    bias_gradient = None if layer.bias is None else layer.bias.grad.clone()

    step = layer.ranges.input_step(8)
    quantised = ((inputs.detach() * (1 / step)).round() * step).requires_grad_(True)
    weight = layer.weight.detach().clone().requires_grad_(True)
    digital(layer, quantised, weight).backward(outer)
    assert quantised.grad is not None and weight.grad is not None and inputs.grad is not None
    assert layer.weight.grad is not None
    assert torch.allclose(inputs.grad, quantised.grad, rtol=1e-4, atol=1e-5)
    assert torch.allclose(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)
    # The scale's gradient knows the chip's product, not the digital one.
    bias = 0 if layer.bias is None else layer.bias.reshape((1, -1) + (1,) * (outer.dim() - 2))
    product = (outputs.detach() - bias) / layer.scale
    own = float((outer * product).sum().detach())
    assert scale_gradient == pytest.approx(own, rel=1e-3, abs=1e-2)
    if bias_gradient is not None:
        sums = outer.sum([d for d in range(outer.dim()) if d != 1])
        assert torch.allclose(bias_gradient, sums, rtol=1e-4, atol=1e-4)


def test_the_first_layer_computes_no_gradient_of_its_inputs(board: Board) -> None:
    layer, inputs = converted(board, "convolution")
    layer.train()
    layer(inputs).sum().backward()
    assert inputs.grad is None
    assert layer.weight.grad is not None


def test_eval_mode_does_not_move_the_ranges(board: Board) -> None:
    layer, inputs = converted(board, "linear")
    layer.train()
    layer(inputs)
    layer.eval()
    wanted = replace(layer.ranges)
    layer(inputs)
    # The gain in use may follow the wanted one once, as it would in the next training batch.
    followed = replace(layer.ranges)
    assert replace(followed, configured=wanted.configured) == wanted
    for factor in (30.0, -30.0, 0.01):
        layer(inputs * factor)
    assert layer.ranges == followed


def test_training_moves_the_ranges(board: Board) -> None:
    layer, inputs = converted(board, "linear")
    layer.train()
    layer(inputs)
    before = replace(layer.ranges)
    layer(-2 * inputs)
    assert layer.ranges.signed
    assert not before.signed
    assert layer.ranges.largest == pytest.approx(2 * float(inputs.max()))
    assert layer.ranges.gain != before.gain


def test_inputs_beyond_the_range_are_clipped_in_eval_mode(board: Board) -> None:
    layer, inputs = converted(board, "linear")
    open_ranges(layer, inputs)
    layer.eval()
    with torch.no_grad():
        at_the_end = layer(torch.full_like(inputs, layer.ranges.largest))
        beyond = layer(torch.full_like(inputs, 5 * layer.ranges.largest))
    assert torch.equal(at_the_end, beyond)


@pytest.mark.parametrize("batches", [1, 50])
def test_a_layer_of_small_sums_keeps_its_scale_at_the_end_of_the_adc_range(
    board: Board, batches: int
) -> None:
    model = conversion.convert(nn.Sequential(nn.Linear(1, 1, bias=False)), board)
    (layer,) = conversion.analog_layers(model)
    layer.weight.data.fill_(0.02)
    layer.put(5)
    exact = conductances(board, layer._matrix).double() * layer.rule.unit
    layer.weight.data = exact.float()
    inputs = torch.rand(64, 1) + 1
    layer.train()
    for _ in range(batches):
        found = layer(inputs)
    # At the largest settable gain the sum is about 25 codes: no layer may be off by a fifth.
    ratio = float((found.sum() / digital(layer, inputs, layer.weight).sum()).detach())
    assert ratio == pytest.approx(1, abs=0.2)
