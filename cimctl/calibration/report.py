"""What a calibration brought: a table, JSON, and a plot of each line's error before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cimctl.calibration.measure import Measured
from cimctl.files import write_atomically

_HEAD = (
    "                        | a product, rms LSB |  % of range | without noise, LSB | worst, LSB\n"
    "tile kind  lines span uA|before after  noise |before after | before after ratio |before after"
)


def table(found: Sequence[Measured], adc_bits: int) -> str:
    """One line for each tile and kind."""
    share = 100 / 2**adc_bits
    rows = [_HEAD]
    for m in found:
        a, b = m.before, m.after
        cells = (
            f"{m.lines.tile:>4} {m.lines.kind:<5} {len(m.lines.gain):>5} {m.lines.span_uA:>7.4g}",
            f"{a.rms:>6.2f}{b.rms:>6.2f} {m.noise:>6.2f} ",
            f"{a.rms * share:>6.2f}{b.rms * share:>6.2f} ",
            f" {a.lasting:>6.2f}{b.lasting:>6.2f} {m.ratio:>5.1f} ",
            f"{a.worst:>6.2f}{b.worst:>6.2f}",
        )
        rows.append("|".join(cells))
    return "\n".join(rows)


def verdict(found: Sequence[Measured]) -> str:
    """One sentence."""
    least = min(m.ratio for m in found)
    if all(m.ratio >= 10.0 for m in found):
        return f"The error that is no noise fell by a factor of {least:.1f} at least"
    if all(m.reached for m in found):
        return "Products are at the noise floor, or their error fell tenfold"
    return (
        "Some lines keep more error than a tenth and than the noise: what is left is not of their "
        "converters"
    )


def plain(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "tile": m.lines.tile,
            "kind": m.lines.kind,
            "lines": len(m.lines.gain),
            "span_uA": m.lines.span_uA,
            "bows": sum(1 for bow in m.lines.bow if bow),
            "before": asdict(m.before),
            "after": asdict(m.after),
            "noise_lsb": m.noise,
            "reading_lsb": m.reading,
            "ratio": m.ratio,
            "reached": m.reached,
        }
        for m in found
    ]


def plot(path: Path, found: Sequence[Measured], title: str) -> None:
    """Writes a PNG: rms of what repeating does not average away, line by line.

    Raises:
        StorageError: no space or no permission.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = sorted({m.lines.kind for m in found})
    tiles = sorted({m.lines.tile for m in found})
    size = (5.5 * len(kinds), 2.2 * len(tiles) + 1.0)
    figure, axes = pyplot.subplots(
        len(tiles), len(kinds), figsize=size, layout="constrained", squeeze=False, sharey=True
    )
    for m in found:
        axis = axes[tiles.index(m.lines.tile)][kinds.index(m.lines.kind)]
        # A logarithm needs something: lines without any error to see stand at the resolution.
        for name, errors in (("before", m.before), ("after", m.after)):
            shown = [max(e, m.resolution) for e in errors.by_line]
            axis.plot(shown, ".", label=name)
        axis.axhline(m.noise, color="grey", linestyle=":", label="noise of one product")
        axis.set(
            yscale="log",
            title=f"tile {m.lines.tile}, {m.lines.kind}: "
            f"{m.before.lasting:.2f} to {m.after.lasting:.2f} LSB rms",
            xlabel="line",
            ylabel="error without noise, LSB",
        )
    figure.suptitle(title)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    pyplot.close(figure)
    write_atomically(path, image.getvalue(), advice="Free some space or name another file")
