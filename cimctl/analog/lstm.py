"""An LSTM cell whose two matrices are one array on the chip; gates and bias are digital.

The array has the inputs ``[x, h]`` and the outputs ``[i, f, g, o]``, four times the hidden size, as
``torch.nn.LSTMCell`` orders them.  Torch's two biases only ever count as their sum, which is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cimctl.analog.layers import AnalogLayer

State = tuple[Tensor, Tensor]


class AnalogLSTMCell(nn.Module):
    """Stands in for ``torch.nn.LSTMCell``, of batches.

    Attributes:
        gates: the analog layer; each time step is one use of it.
    """

    def __init__(self, gates: AnalogLayer) -> None:
        super().__init__()
        self.gates = gates
        self.hidden_size = gates.weight.shape[0] // 4
        self.input_size = gates.weight.shape[1] - self.hidden_size

    def forward(self, inputs: Tensor, state: State | None = None) -> State:
        """
        Args:
            inputs: (batch, inputs).
            state: (batch, hidden) h and c; None stands for zeros.

        Returns:
            The next h and c.
        """
        if state is None:
            zeros = inputs.new_zeros(len(inputs), self.hidden_size)
            state = zeros, zeros
        h, c = state
        i, f, g, o = self.gates(torch.cat([inputs, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


def stacked(cell: nn.LSTMCell) -> nn.Linear:
    """The matrices of a cell as one layer of ``[x, h]``, with the sum of its biases."""
    inputs, outputs = cell.input_size + cell.hidden_size, 4 * cell.hidden_size
    linear = nn.Linear(inputs, outputs, bias=cell.bias)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([cell.weight_ih, cell.weight_hh], 1))
        if cell.bias:
            linear.bias.copy_(cell.bias_ih + cell.bias_hh)
    return linear
