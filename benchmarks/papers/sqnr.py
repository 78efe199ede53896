"""Signal to quantisation noise of products whose planes are converted each by itself.

Inputs and weights are uniform in two's complement; every bit plane of the inputs and every bit
column of the weights is a popcount of its own, which an ADC of b bits digitises (arXiv 2203.04821;
the model is ours).  With a step of D counts and errors uniform within it,

    noise  = D^2 / 12 * sum_k 4^k * sum_c 4^c = D^2 / 12 * (4^bx - 1) / 3 * (4^bw - 1) / 3
    signal = rows * (E[x^2] E[w^2] - E[x]^2 E[w]^2),  E[x] = -1/2, E[x^2] = (4^bx + 2) / 12

D is rows / (2^b - 1) where the range covers every popcount, and less where it ends 4.5 standard
deviations above the mean popcount, rows / 4.  Products are made by the profile cap-imc-16nm without
its analog errors.

    python benchmarks/papers/sqnr.py [--vectors 400] [--seed 0]

Writes benchmarks/results/sqnr.json and .png, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "sqnr.json"
ROWS = (288, 432, 576, 864, 1152)
INPUT_BITS = (1, 2, 3, 4, 6, 8)
RANGES = ("full", "fitted")
OUTPUTS, WEIGHT_BITS = 64, 4
_SIGMAS = 4.5


def span_of(rows: int, kind: str) -> float:
    """The converter's range in cells."""
    if kind == "full":
        return float(rows)
    return rows / 4 + _SIGMAS * math.sqrt(rows * 3 / 16)


def predicted_dB(rows: int, input_bits: int, step: float, weight_bits: int = WEIGHT_BITS) -> float:
    """The formula above, for a step of so many counts."""

    def squares(bits: int) -> float:
        return (4**bits + 2) / 12

    def planes(bits: int) -> float:
        return (4**bits - 1) / 3

    signal = rows * (squares(input_bits) * squares(weight_bits) - 1 / 16)
    noise = step**2 / 12 * planes(input_bits) * planes(weight_bits)
    return 10 * math.log10(signal / noise)


def board_without_errors() -> Any:
    """The chip, its converters ideal but for their bits."""
    from boards.board import Board
    from boards.catalogue import load
    from boards.links import InProcessLink
    from sim_backend.chip import Chip
    from sim_backend.firmware import Firmware

    base = load("cap-imc-16nm")
    faults = msgspec.structs.replace(
        base.imperfections, adc_noise_lsb=0.0, cell_mismatch=0.0, column_noise_uS=0.0,
        adc_inl_lsb=0.0,
    )  # fmt: skip
    profile = msgspec.structs.replace(base, imperfections=faults)
    return Board(profile, InProcessLink(Firmware(Chip(profile))))


def measured_dB(
    board: Any, rows: int, input_bits: int, kind: str, *, vectors: int, seed: int
) -> float:
    """Variance of the integer product over the mean square of what the chip's is off."""
    from boards.multiply import Matrix
    from firmware_protocol.messages import Region

    rng = np.random.default_rng((seed, rows, input_bits))
    half = 1 << (input_bits - 1)
    codes = rng.integers(-half, half, (vectors, rows))
    weights = rng.integers(-8, 8, (rows, OUTPUTS))
    region = Region(0, 0, rows, 0, OUTPUTS * len(board.column_weights))
    matrix = Matrix((region,), differential=False, group=len(board.column_weights))
    board.program_integers(matrix, weights)
    board.configure(1, board.profile.gain(span_of(rows, kind)))
    step = span_of(rows, kind) / ((1 << board.description.adc_bits) - 1)
    products = board.multiply(matrix, codes, slot=1, bits=input_bits, signed=True).codes * step
    exact = codes @ weights
    return float(10 * np.log10(exact.var() / ((products - exact) ** 2).mean()))


def measure(vectors: int, seed: int) -> list[dict[str, Any]]:
    """One entry for each range, number of rows and of input bits."""
    found = []
    with board_without_errors() as board:
        board.power_up()
        top = (1 << board.description.adc_bits) - 1
        for kind in RANGES:
            for rows in ROWS:
                for bits in INPUT_BITS:
                    step = span_of(rows, kind) / top
                    measured = measured_dB(board, rows, bits, kind, vectors=vectors, seed=seed)
                    found.append({
                        "range": kind, "rows": rows, "input_bits": bits, "step": step,
                        "predicted_dB": predicted_dB(rows, bits, step), "measured_dB": measured,
                    })  # fmt: skip
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| range | rows | step, counts | " + " | ".join(f"{b} bits" for b in INPUT_BITS) + " |"
    ]
    lines.append("|---" * (3 + len(INPUT_BITS)) + "|")
    for kind in RANGES:
        for rows in ROWS:
            mine = [f for f in found if (f["range"], f["rows"]) == (kind, rows)]
            cells = " | ".join(f"{f['measured_dB']:.1f} ({f['predicted_dB']:.1f})" for f in mine)
            lines.append(f"| {kind} | {rows} | {mine[0]['step']:.2f} | {cells} |")
    return "\n".join(lines)


def plot(found: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for side, kind in zip(axes, RANGES, strict=True):
        for number, bits in enumerate(INPUT_BITS):
            mine = [f for f in found if (f["range"], f["input_bits"]) == (kind, bits)]
            rows = [f["rows"] for f in mine]
            side.plot(rows, [f["predicted_dB"] for f in mine], color=f"C{number}")
            label = f"{bits} input bit{'s' if bits > 1 else ''}"
            side.plot(rows, [f["measured_dB"] for f in mine], "o", color=f"C{number}", label=label)
        side.set(xlabel="rows", title=f"{kind} range, 8-bit ADC; lines: formula")
    axes[0].set(ylabel="signal to quantisation noise, dB")
    axes[1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = measure(options.vectors, options.seed)
    said = {"vectors": options.vectors, "seed": options.seed, "outputs": OUTPUTS, "points": found}
    options.out.write_text(json.dumps(said, indent=1) + "\n")
    plot(found, options.out.with_suffix(".png"))
    print(table(found))
    worst = max(abs(f["measured_dB"] - f["predicted_dB"]) for f in found)
    print(f"largest difference {worst:.2f} dB")


if __name__ == "__main__":
    main()
