"""Signal to quantisation noise of products by planes, against the formula of docs/fidelity.md."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PATH = Path(__file__).parents[2] / "benchmarks" / "papers" / "sqnr.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("sqnr", _PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def board(benchmark: Any) -> Iterator[Any]:
    with benchmark.board_without_errors() as opened:
        opened.power_up()
        yield opened


@pytest.mark.parametrize("kind", ["full", "fitted"])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("rows", [288, 1152])
def test_quantisation_noise_follows_the_formula(
    benchmark: Any, board: Any, rows: int, bits: int, kind: str
) -> None:
    step = benchmark.span_of(rows, kind) / 255
    measured = benchmark.measured_dB(board, rows, bits, kind, vectors=200, seed=1)
    # 64 x 200 products, of which 64 weights each: some 0.15 dB of sampling.
    assert measured == pytest.approx(benchmark.predicted_dB(rows, bits, step), abs=0.4)


def test_the_formula_in_numbers(benchmark: Any) -> None:
    # By hand: 1152 (21.5^2 - 1/16) / (1152^2 / 255^2 / 12 * 85^2) = 43.36; 21.5 = (4^4 + 2) / 12
    assert benchmark.predicted_dB(1152, 4, 1152 / 255) == pytest.approx(16.37, abs=0.005)
    # A quarter of the step is 12 dB.
    gained = benchmark.predicted_dB(600, 3, 0.5) - benchmark.predicted_dB(600, 3, 2.0)
    assert gained == pytest.approx(12.04, abs=0.005)
