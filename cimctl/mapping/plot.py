"""Tiles as rectangles, with the parts of each layer in its colour."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from boards.errors import UsageError
from cimctl.files import write_atomically
from cimctl.mapping.plan import Plan

#: gap between tiles, as a share of their width
_GAP = 0.15
#: pictures with more tiles leave out the numbers
_MOST_NUMBERED = 100


def check_matplotlib() -> None:
    """Raises ``UsageError`` where matplotlib is not installed."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib",
            left="Nothing was written",
            next="Install it: pip install 'cimctl[plot]'",
        )


def write(path: Path, plan: Plan, title: str) -> None:
    """Draws the tiles in use, rows downwards; writes a PNG.

    Raises:
        StorageError: no space or no permission.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    _draw(axes, plan)
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.axis("off")
    image = io.BytesIO()
    figure.savefig(image, dpi=150)
    pyplot.close(figure)
    write_atomically(path, image.getvalue())


def _draw(axes: Any, plan: Plan) -> None:
    import matplotlib
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    tiles = sorted(plan.tiles())
    gap = _GAP * plan.columns
    wide, high = plan.columns + gap, plan.rows + 2 * gap
    across = math.ceil(math.sqrt(1.5 * len(tiles) * high / wide))
    corners = {tile: (wide * (i % across), -high * (i // across)) for i, tile in enumerate(tiles)}
    frames = [Rectangle((x, y - plan.rows), plan.columns, plan.rows) for x, y in corners.values()]
    axes.add_collection(PatchCollection(frames, facecolor="0.95", edgecolor="0.4", linewidth=0.4))
    if len(tiles) <= _MOST_NUMBERED:
        for tile, (x, y) in corners.items():
            axes.text(x, y + 0.2 * gap, f"tile {tile}", fontsize=5, va="bottom")
    colours = matplotlib.colormaps["tab20"]
    legend = []
    for number, layer in enumerate(plan.layers):
        rectangles = []
        for part in layer.parts:
            r = part.region
            x, y = corners[r.tile]
            rectangles.append(Rectangle((x + r.column, y - r.row - r.rows), r.columns, r.rows))
        style: dict[str, Any] = {
            "facecolor": colours(number % 20),
            "edgecolor": "black",
            "linewidth": 0.3,
        }
        axes.add_collection(PatchCollection(rectangles, **style))
        legend.append(Patch(label=layer.demand.name, **style))
    axes.legend(handles=legend, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)
    axes.autoscale_view()
