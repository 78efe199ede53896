"""cimctl estimate --algorithm radix4: energy of a training step on a chip of bit planes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cimctl.cli.map import aligned, question
from cimctl.cli.options import show

if TYPE_CHECKING:
    from cimctl.mapping.plane_training import DigitalMac, Mapped, PlaneTraining

#: factors that arXiv 2203.04821 prints, by how many products are on the chip
_PAPER = {3: "over 400", 2: "3"}
_CONSTANTS = (
    "tile_operation_nJ", "conversion_pJ", "column_charge_pJ", "shift_add_pJ", "pulse_pJ",
)  # fmt: skip


def planes_training(model: str, json: bool, values: dict[str, Any]) -> None:
    """Shows the energy of a step, beside that of digital arithmetic of the same precision."""
    from cimctl.mapping.asked import network
    from cimctl.mapping.plane_training import DigitalMac, plane_training
    from cimctl.mapping.runs import PAPER

    found = network(question(model, values))
    batch, mac = values["batch"] or PAPER.batch, DigitalMac()
    step = plane_training(found.profile, found.layers, batch, mac)
    out = {
        "model": model,
        "board": found.profile.name,
        "input_shape": list(found.input_shape),
        "algorithm": "radix4",
        "batch": batch,
        "tiles": step.tiles,
        "fits": step.tiles == found.profile.chip.tiles,
        "macs": step.macs,
        "counts": {name: asdict(counts) for name, counts in step.counts.items()},
        "chip_constants": {
            "source": "estimates of ours, each with its reason in the profile",
            **{name: getattr(found.profile.costs, name) for name in _CONSTANTS},
        },
        "digital_mac_source": "Horowitz, ISSCC 2014, at 45 nm; shares, reuse and node are ours",
        "digital_mac_pJ": mac.energy_pJ,
        "digital_mac": asdict(mac),
        "reference_mJ": step.reference_pJ / 1e9,
        "cases": [_case(case) for case in step.cases],
    }
    show(json, "cimctl.estimate.radix4/1", out, _text(out, step, mac))


def _case(case: Mapped) -> dict[str, Any]:
    return {
        "products": list(case.products),
        "chip_mJ": case.chip_pJ / 1e9,
        "digital_mJ": case.digital_pJ / 1e9,
        "factor": case.factor,
        "bound": case.bound,
        "paper": _PAPER.get(len(case.products)),
    }


def _text(out: dict[str, Any], step: PlaneTraining, mac: DigitalMac) -> str:
    rows = [
        ("on the chip", "chip, mJ", "digital, mJ", "all digital over this", "at most", "the paper")
    ]
    for case in step.cases:
        rows.append(
            (
                ", ".join(case.products),
                f"{case.chip_pJ / 1e9:#.3g}",
                f"{case.digital_pJ / 1e9:#.3g}",
                f"{case.factor:.2f}",
                "-" if case.bound is None else f"{case.bound:.2f}",
                _PAPER.get(len(case.products), "-"),
            )
        )
    return "\n".join(
        [
            f"{out['model']} on {out['board']}, {out['tiles']} tiles, a radix4 training step of "
            f"{out['batch']} images: {sum(step.macs.values()):,} MACs",
            f"all digital: {step.reference_pJ / 1e9:#.3g} mJ, {mac.energy_pJ:.3f} pJ a MAC of 4 x "
            "4 bits (Horowitz, ISSCC 2014, and shares of ours: docs/training.md; the paper's "
            "reference is unknown)",
            "the chip, all estimates of ours: "
            + ", ".join(f"{k} {v:g}" for k, v in out["chip_constants"].items() if k in _CONSTANTS),
            *_larger(out),
            "",
            *aligned(rows),
        ]
    )


def _larger(out: dict[str, Any]) -> list[str]:
    if out["fits"]:
        return []
    return [
        f"Note: the board is too small; counted as if it had {out['tiles']} tiles, its own doubled "
        "until all fits."
    ]
