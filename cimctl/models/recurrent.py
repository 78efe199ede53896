"""An LSTM that reads an image row by row [ours; the papers' LSTM writes text]."""

from __future__ import annotations

from torch import Tensor, nn


class RowLSTM(nn.Module):
    """Classifies images by the state after their last row.

    Args:
        width: pixels of a row.
        hidden: size of the state.
        classes: outputs.
    """

    def __init__(self, width: int = 28, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """
        Args:
            images: (batch, 1, height, width).

        Returns:
            (batch, classes).
        """
        state = None
        for row in images[:, 0].unbind(1):
            state = self.cell(row, state)
        if state is None:
            raise ValueError("an image has no row")
        outputs: Tensor = self.head(state[0])
        return outputs
