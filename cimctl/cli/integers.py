"""Integer weights on the command line: as bits over the columns of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boards.board import Board
    from firmware_protocol.messages import Region


def targets_of(board: Board, weights: Any) -> Any:
    """Conductances, in microsiemens, of the bits of integer weights.

    Raises:
        UsageError: the board adds no groups, or they hold no such weight.
    """
    from boards.bits import bits_of

    low, high = (board.profile.microsiemens(g) for g in
                 (board.description.target_low, board.description.target_high))  # fmt: skip
    return low + (high - low) * bits_of(weights, _column_weights(board))


def weights_of_cells(board: Board, conductances: Any) -> Any:
    """Integer weights of the bits that cells hold."""
    from boards.bits import weights_of

    middle = (board.description.target_low + board.description.target_high) / 2
    bits = conductances > board.profile.microsiemens(middle)
    return weights_of(bits, _column_weights(board)).astype(float)


def _column_weights(board: Board) -> tuple[int, ...]:
    from boards.errors import UsageError

    if not board.column_weights:
        raise UsageError(
            f"The board '{board.hello.model}' adds no groups of columns: it holds no integers",
            left="Nothing was programmed",
            next="Give conductances, without --integers",
        )
    return board.column_weights


def check_groups(board: Board, region: Region) -> None:
    """Raises ``UsageError`` unless whole groups of columns fill a region."""
    from boards.errors import UsageError

    size = len(_column_weights(board))
    if region.columns % size or region.column % size:
        raise UsageError(
            f"{region.columns} columns from {region.column} are no groups of {size}",
            next=f"Give multiples of {size}",
        )
