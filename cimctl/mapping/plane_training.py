"""Energy of a training step whose products are made on planes of bits, or digitally.

Chip energies come from ``boards.costs`` and the profile alone.  The digital reference is an
accelerator of the same precision, ``DigitalMac``; what arXiv 2203.04821 compares with is unknown to
us, so its factors (over 400 with all three products on the chip, 3 with two) are no target here.

Leaving a product digital bounds what can be saved, whatever the chip: total MACs over MACs of what
stays digital.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from boards import costs
from boards.costs import Counts
from boards.errors import UnsupportedError, UsageError
from boards.multiply import Matrix
from boards.profile import Profile
from cimctl.formats.integers import BITS
from cimctl.formats.powers import MAGNITUDES
from cimctl.mapping.choose import mapped
from cimctl.mapping.demand import Arrays, Avoid, Demand, Geometry
from cimctl.mapping.network import Layer
from cimctl.mapping.plan import Placed
from cimctl.mapping.scratch import Scratch

#: products of training in the order in which they go to the chip
ORDER = ("wa", "wtd", "dat")
#: share of the bits that change where cells are written anew [D]
_CHANGED = 0.5


@dataclass(frozen=True, slots=True)
class DigitalMac:
    """Energy of a digital multiply-accumulate of two 4-bit operands at 16 nm, in picojoules.

    From the figures at 45 nm of Horowitz, "Computing's energy problem", ISSCC 2014.

    Attributes:
        multiply_pJ: 8 x 8 bits take 0.2 pJ; 4 x 4 bits a quarter, the partial products [D].
        add_pJ: 32 bits take 0.1 pJ; 20 bits in proportion [D].
        bit_pJ: 64 bits from an SRAM of 8 kB take 10 pJ.
        reuse: MACs that an operand serves once it is read: an array of 16 x 16 [D].
        node: energy at 16 nm over that at 45 nm [D].
    """

    multiply_pJ: float = 0.2 / 4
    add_pJ: float = 0.1 * 20 / 32
    bit_pJ: float = 10.0 / 64
    reuse: float = 16.0
    node: float = 0.25

    @property
    def energy_pJ(self) -> float:
        """Of one MAC, two operands of 4 bits with it."""
        moved = 2 * BITS * self.bit_pJ / self.reuse
        return self.node * (self.multiply_pJ + self.add_pJ + moved)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A training step with some products on the chip and the others digital.

    Attributes:
        products: those on the chip.
        chip_pJ, digital_pJ: energies of the two parts.
        factor: energy of all of it digital over this.
        bound: total MACs over digital MACs, which no chip gets beyond; None where none is digital.
    """

    products: tuple[str, ...]
    chip_pJ: float
    digital_pJ: float
    factor: float
    bound: float | None


@dataclass(frozen=True, slots=True)
class PlaneTraining:
    """A training step.

    Attributes:
        tiles: of the chip that holds it, the profile's where that suffices.
        macs: multiplications of each product.
        counts: what each product takes of the chip, all planes occupied.
        reference_pJ: energy of all of it digital.
        cases: with three, two and one of the products on the chip.
    """

    tiles: int
    macs: dict[str, int]
    counts: dict[str, Counts]
    reference_pJ: float
    cases: tuple[Mapped, ...]


def plane_training(
    profile: Profile, layers: Sequence[Layer], batch: int, mac: DigitalMac
) -> PlaneTraining:
    """What a step of 4-bit training takes.

    Args:
        profile: of a chip of bit planes.
        layers: of the network.
        batch: images of a step.
        mac: the digital reference.

    Raises:
        UnsupportedError: the board adds no groups of columns, or takes no ternary planes.
    """
    lacking = {"GROUPS", "TERNARY"} - set(profile.chip.capabilities)
    if lacking:
        raise UnsupportedError(
            f"The board '{profile.name}' lacks what this algorithm needs: "
            f"{', '.join(sorted(lacking))}",
            left="Nothing was estimated",
            next="Take another --algorithm or another --board",
        )
    if profile.chip.input_bits < BITS:
        raise UnsupportedError(
            f"The board '{profile.name}' takes inputs of {profile.chip.input_bits} bits, "
            f"activations have {BITS}",
            left="Nothing was estimated",
            next="Take another --board",
        )
    macs = {
        "wa": batch * sum(layer.weights * layer.vectors for layer in layers),
        "wtd": batch * sum(layer.weights * layer.backward for layer in layers),
        "dat": batch * sum(layer.weights * layer.vectors for layer in layers),
    }
    arrays, counts = _counts(profile, layers, batch)
    energy = {name: float(costs.energy_pJ(profile, counts[name])) for name in ORDER}
    reference = mac.energy_pJ * sum(macs.values())
    cases = []
    for many in (3, 2, 1):
        rest = sum(macs[name] for name in ORDER[many:])
        chip, digital = sum(energy[name] for name in ORDER[:many]), mac.energy_pJ * rest
        bound = sum(macs.values()) / rest if rest else None
        cases.append(Mapped(ORDER[:many], chip, digital, reference / (chip + digital), bound))
    return PlaneTraining(arrays.tiles, macs, counts, reference, tuple(cases))


def plane_demands(profile: Profile, layers: Sequence[Layer]) -> list[Demand]:
    """What W takes of each layer, then W^T of each: there is room for it whether it is used or not.

    ``algorithms.radix4`` asks for the same.
    """
    group = len(profile.chip.column_weights)
    forward = [replace(layer.demand, group=group) for layer in layers]
    return [*forward, *(transposed_demand(demand) for demand in forward)]


def transposed_demand(demand: Demand) -> Demand:
    """What W^T needs: of a convolution the kernels turned over, outputs as input channels."""
    return replace(
        demand,
        name=f"{demand.name}, W^T",
        inputs=demand.outputs * demand.channel,
        outputs=demand.inputs // demand.channel,
    )


def _counts(
    profile: Profile, layers: Sequence[Layer], batch: int
) -> tuple[Arrays, dict[str, Counts]]:
    group = len(profile.chip.column_weights)
    arrays, placed, scratch = _placed(profile, plane_demands(profile, layers), layers, batch)
    ahead, behind = placed[: len(layers)], placed[len(layers) :]
    rewritten = Counts(pulses=round(_CHANGED * group * sum(layer.weights for layer in layers)))
    wa = wtd = rewritten
    dat = Counts()
    for layer, here, there in zip(layers, ahead, behind, strict=True):
        wa += _product(profile, here.matrix(), batch * layer.vectors, BITS)
        if layer.backward:
            each = layer.places if layer.places > 1 else layer.backward
            wtd += _product(profile, there.matrix(), batch * each, MAGNITUDES)
        lines, size = batch * layer.vectors, layer.demand.inputs
        cut = scratch.cut(lines, size, group)
        written = Counts(pulses=round(_CHANGED * group * lines * size))
        gradients = cut.rounds * cut.parts * layer.demand.outputs
        dat += written + _product(profile, cut.matrix, gradients, MAGNITUDES)
    return arrays, {"wa": wa, "wtd": wtd, "dat": dat}


def _placed(
    profile: Profile, demands: Sequence[Demand], layers: Sequence[Layer], batch: int
) -> tuple[Arrays, list[Placed], Scratch]:
    """Where it all lies, on the profile's tiles or on twice as many until it fits."""
    arrays: Arrays = profile.chip
    group = len(profile.chip.column_weights)
    while True:
        try:
            plan = mapped(demands, arrays, "packed")
            scratch = Scratch(demands, arrays, Avoid())
            for layer in layers:
                scratch.cut(batch * layer.vectors, layer.demand.inputs, group)
            return arrays, list(plan.layers), scratch
        except UsageError:
            arrays = Geometry(2 * arrays.tiles, arrays.rows, arrays.columns)


def _product(profile: Profile, matrix: Matrix, vectors: int, planes: int) -> Counts:
    return costs.product(profile, matrix.grid, vectors, differential=False, planes=planes)
