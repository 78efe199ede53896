"""LSTM cells on the chip: against torch's own, over several time steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from boards import catalogue
from boards.board import Board
from boards.links import InProcessLink
from cimctl import conversion
from cimctl.algorithms import ALGORITHMS, InMemorySgd, MixedPrecision
from cimctl.algorithms.settings import Settings
from cimctl.analog.in_memory import InMemoryLayer
from cimctl.analog.lstm import AnalogLSTMCell, stacked
from sim_backend.chip import Chip
from sim_backend.firmware import Firmware

INPUTS, HIDDEN, BATCH, STEPS = 10, 6, 16, 5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Sequence(nn.Module):
    """Runs a cell over a sequence; (steps, batch, inputs) to (batch, hidden)."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(INPUTS, HIDDEN, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        state = None
        for x in inputs:
            state = self.cell(x, state)
        assert state is not None
        return state[0]


Made = tuple[Any, Board]
Make = Callable[..., Made]


@pytest.fixture
def made() -> Iterator[Make]:
    boards: list[Board] = []

    def make(
        source: nn.Module, name: str, board: str, *, quiet: bool = False, **changed: Any
    ) -> Made:
        profile = catalogue.load(board)
        if quiet:
            faults = msgspec.structs.replace(profile.imperfections, adc_noise_lsb=0.0)
            profile = msgspec.structs.replace(profile, imperfections=faults)
        opened = Board(profile, InProcessLink(Firmware(Chip(profile, 3))))
        boards.append(opened)
        opened.power_up()
        kind, settings = ALGORITHMS[name], Settings(**changed)
        model = conversion.convert(
            source, opened, settings, in_memory=kind.IN_MEMORY, arrays=kind.ARRAYS
        )
        conversion.program_weights(model, 20)
        return kind(model, opened, settings, 1), opened

    yield make
    for opened in boards:
        opened.close()


def sequence(scale: float = 1.0) -> Tensor:
    torch.manual_seed(1)
    return (torch.rand(STEPS, BATCH, INPUTS) * 2 - 1) * scale


WAYS = [("sgd", "rpu-large"), ("mixed-precision", "emu")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "board"), WAYS)
def test_a_cell_on_the_chip_follows_torchs_own_and_its_gradients(
    made: Make, name: str, board: str, bias: bool
) -> None:
    torch.manual_seed(0)
    source = Sequence(bias)
    algorithm, _ = made(source, name, board, quiet=True)
    (layer,) = conversion.analog_layers(algorithm.model)
    assert isinstance(algorithm.model.cell, AnalogLSTMCell)
    assert layer.weight.shape == (4 * HIDDEN, INPUTS + HIDDEN)
    assert (layer.bias is not None) == bias
    x, digital = (sequence().requires_grad_(True) for _ in range(2))
    found, wanted = algorithm.model(x), source(digital)
    outer = torch.randn_like(wanted)
    found.backward(outer)
    wanted.backward(outer)
    # Programming's tolerance and the converters' steps, gathered over the sequence.
    assert float((found - wanted).detach().std()) < 0.2 * float(wanted.detach().std())
    assert x.grad is not None and digital.grad is not None
    # Step by step, so that the first one's gradient came through all the later ones.
    for mine, torchs in zip(x.grad, digital.grad, strict=True):
        alike = nn.functional.cosine_similarity(mine.flatten(), torchs.flatten(), 0)
        assert float(alike) > 0.98
    if bias:
        torch.testing.assert_close(layer.bias.grad, source.cell.bias_ih.grad, rtol=0.2, atol=0.1)


def test_one_backward_notes_every_use_and_a_step_uses_them_up(made: Make) -> None:
    torch.manual_seed(0)
    algorithm, _ = made(Sequence(), "sgd", "rpu-large", lr=0.01)
    (layer,) = conversion.analog_layers(algorithm.model)
    assert isinstance(layer, InMemoryLayer)
    algorithm.model(sequence()).sum().backward()
    assert [x.shape for x, _ in layer.tape] == [(BATCH, INPUTS + HIDDEN)] * STEPS
    assert [d.shape for _, d in layer.tape] == [(BATCH, 4 * HIDDEN)] * STEPS
    # Backward begins with the last step; the first one's h is zero.
    assert layer.tape[0][0][:, INPUTS:].any() and not layer.tape[-1][0][:, INPUTS:].any()
    algorithm.step()
    assert not layer.tape and algorithm.pulses > 0


def test_an_update_moves_weights_down_the_gradient_in_the_mean(made: Make) -> None:
    torch.manual_seed(0)
    source = Sequence()
    algorithm, _ = made(source, "sgd", "rpu-large", quiet=True, lr=0.1, weight_scaling_omega=0.2)
    assert isinstance(algorithm, InMemorySgd)
    (layer,) = conversion.analog_layers(algorithm.model)
    before = layer.read_weights()
    # Of one sign, so that the pulses of a cell do not cancel and leave their noise.
    x, outer = sequence().abs(), 0.3 * torch.randn(1, HIDDEN).repeat(BATCH, 1)
    algorithm.model(x).backward(outer)
    algorithm.step()
    moved = (layer.read_weights() - before) * layer.scale.detach()[:, None]
    source(x).backward(outer)
    gradient = stacked_gradient(source)
    alike = nn.functional.cosine_similarity(moved.flatten(), -gradient.flatten(), 0)
    share = float((moved * -gradient).sum() / (0.1 * gradient.square().sum()))
    # Steps spread by 0.3 from device to device: 1 / sqrt(1.09) at best.
    assert float(alike) > 0.92
    assert share == pytest.approx(1, abs=0.1)


def stacked_gradient(source: Sequence) -> Tensor:
    cell = source.cell
    assert cell.weight_ih.grad is not None and cell.weight_hh.grad is not None
    return torch.cat([cell.weight_ih.grad, cell.weight_hh.grad], 1)


def test_mixed_precision_gathers_the_gradient_of_all_uses(made: Make) -> None:
    torch.manual_seed(0)
    source = Sequence()
    algorithm, _ = made(source, "mixed-precision", "emu", quiet=True)
    assert isinstance(algorithm, MixedPrecision)
    (layer,) = conversion.analog_layers(algorithm.model)
    x, outer = sequence(), torch.randn(BATCH, HIDDEN)
    algorithm.model(x).backward(outer)
    source(x).backward(outer)
    assert layer.weight.grad is not None
    found, wanted = layer.weight.grad * layer.scale.detach(), stacked_gradient(source)
    alike = nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), 0)
    assert float(alike) > 0.98
    before = layer.weight.detach().clone()
    for _ in range(10):
        algorithm.step()
    assert layer.writes > 0 and (layer.weight != before).any()


@pytest.mark.parametrize(("name", "board"), [*WAYS, ("agad", "softbounds-20")])
def test_the_state_of_a_cell_goes_round(made: Make, name: str, board: str) -> None:
    torch.manual_seed(0)
    algorithm, _ = made(Sequence(), name, board)
    state = copy.deepcopy(algorithm.model.state_dict())
    other, _ = made(Sequence(), name, board)
    other.model.load_state_dict(state)
    for key, value in other.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert "cell.gates.weight" in state and "cell.gates.bias" in state


def test_agad_trains_a_cell_over_a_sequence(made: Make) -> None:
    torch.manual_seed(0)
    algorithm, _ = made(Sequence(), "agad", "softbounds-20", read_every=1, symmetry_pulses=10)
    algorithm.prepare()
    for _ in range(3):
        algorithm.model(sequence()).sum().backward()
        algorithm.step()
    assert algorithm.pulses > 0 and algorithm._state[0].reads == 3 * STEPS * BATCH


def test_a_cell_stacks_into_one_layer() -> None:
    torch.manual_seed(0)
    cell = nn.LSTMCell(INPUTS, HIDDEN)
    x, h, c = torch.randn(4, INPUTS), torch.randn(4, HIDDEN), torch.randn(4, HIDDEN)
    plain = AnalogLSTMCell(stacked(cell))  # type: ignore[arg-type]
    for found, wanted in zip(plain(x, (h, c)), cell(x, (h, c)), strict=True):
        torch.testing.assert_close(found, wanted)
    for found, wanted in zip(plain(x), cell(x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_weights_are_drawn_over_all_inputs_of_a_cell() -> None:
    model = Sequence()
    conversion.draw_weights(model, 2.0)
    most = 2.0 / (INPUTS + HIDDEN) ** 0.5
    for weight in (model.cell.weight_ih, model.cell.weight_hh):
        assert 0.9 * most < float(weight.detach().abs().max()) <= most
