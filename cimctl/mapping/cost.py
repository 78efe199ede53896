"""What a mapped network costs: an inference, a step of training, the wear of its cells.

Counts, times and energies are those of ``boards.costs``, so that a chip's counters agree; where
products are repeated for what is in them (bound management) they show more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from boards import costs
from boards.costs import Counts
from boards.device_settings import StepSettings
from boards.errors import UnsupportedError
from boards.multiply import Matrix
from boards.profile import Profile
from cimctl.mapping.network import Layer
from cimctl.mapping.plan import Placed, Plan


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer of one inference.

    Attributes:
        name, vectors: which, and how many vectors it multiplies.
        counts: what that takes, one copy doing it all.
        one: steps of a single vector.
        copied: steps with all copies at work.
    """

    name: str
    vectors: int
    counts: Counts
    one: int
    copied: int


@dataclass(frozen=True, slots=True)
class Inference:
    """One image, layer by layer.

    Attributes:
        devices: cells that hold weights, two a weight.
        flops: digital operations that it stands for.
        crossbars, crossbars_with_copies: arrays in use.
        counts: operations, one layer after the other.
        latency_ns: the same in time.
        pipelined_ns: layers at work at the same time, each on what the one before has ready: the
            slowest, and one vector of each other; None where layers share a tile.
        pipelined_with_copies_ns: the same with copies.
        energy_pJ: of all tile operations.
        layers: each for itself.
    """

    devices: int
    flops: int
    crossbars: int
    crossbars_with_copies: int
    counts: Counts
    latency_ns: int
    pipelined_ns: int | None
    pipelined_with_copies_ns: int | None
    energy_pJ: int
    layers: tuple[LayerCost, ...]


def inference(profile: Profile, layers: Sequence[Layer], plan: Plan) -> Inference:
    """What one image costs on a plan's arrays."""
    parts = [_layer(profile, *pair) for pair in zip(layers, plan.layers, strict=True)]
    total = sum((part.counts for part in parts), Counts())
    return Inference(
        devices=2 * sum(layer.weights for layer in layers),
        flops=sum(layer.flops for layer in layers),
        crossbars=len(set().union(*(layer.tiles(1) for layer in plan.layers))),
        crossbars_with_copies=len(plan.tiles()),
        counts=total,
        latency_ns=costs.time_ns(profile, total),
        pipelined_ns=_pipelined(profile, plan, parts, [p.counts.steps for p in parts]),
        pipelined_with_copies_ns=_pipelined(profile, plan, parts, [p.copied for p in parts]),
        energy_pJ=costs.energy_pJ(profile, total),
        layers=tuple(parts),
    )


def _layer(profile: Profile, layer: Layer, placed: Placed) -> LayerCost:
    matrix = placed.matrix()
    one = products(profile, matrix, 1, signed=layer.signed)
    each = math.ceil(layer.vectors / placed.copies)
    return LayerCost(
        layer.demand.name, layer.vectors, one.times(layer.vectors), one.steps, one.steps * each
    )


def _pipelined(
    profile: Profile, plan: Plan, parts: Sequence[LayerCost], steps: Sequence[int]
) -> int | None:
    """The first vector passes all layers; from then on the slowest one has the say."""
    if plan.shared:
        return None
    slowest = max(range(len(steps)), key=lambda i: steps[i])
    others = sum(part.one for i, part in enumerate(parts) if i != slowest and part.vectors)
    return costs.time_ns(profile, Counts(steps=steps[slowest] + others))


def products(
    profile: Profile, matrix: Matrix, vectors: int, *, signed: bool, transposed: bool = False
) -> Counts:
    """What products take, with those that the driver makes for what the board does not do itself.

    Args:
        profile: of the board.
        matrix: where the weights lie, inputs at the rows.
        vectors: how many there are.
        signed: whether inputs may be negative.
        transposed: of the transposed matrix.
    """
    offers = profile.chip.capabilities
    grid = Matrix(matrix.regions, matrix.row_blocks, transposed=transposed).grid
    sums = [grid] if "ROW_BLOCK_SUMS" in offers else [[line] for line in grid]
    found = [costs.product(profile, part, vectors, transposed=transposed) for part in sums]
    total = sum(found, Counts())
    return total.times(2) if signed and "SIGNED_INPUTS" not in offers else total


# ---------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class Updates:
    """How much a training moves weights.

    Attributes:
        batch: images of a step.
        steps: steps of the whole training.
        per_weight: writes of a weight in the whole training, or open-loop pulses.
        pulses_per_write: pulses that write-verify gives the pair of a written weight.
        reads_per_write: verifying readings of its cells.
    """

    batch: int
    steps: int
    per_weight: float
    pulses_per_write: float
    reads_per_write: float


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One batch.

    Attributes:
        forward, backward, update: what the chip does; mixed precision goes backward digitally.
        time_ns, energy_pJ: of all three, in sequence.
    """

    forward: Counts
    backward: Counts
    update: Counts
    time_ns: int
    energy_pJ: int


def training_step(
    profile: Profile, layers: Sequence[Layer], plan: Plan, updates: Updates, *, in_memory: bool
) -> TrainingStep:
    """What a step of mixed-precision or of in-memory training takes, in the mean.

    Raises:
        UnsupportedError: the board lacks what in-memory training needs.
    """
    if in_memory and "TRANSPOSED" not in profile.chip.capabilities:
        raise UnsupportedError(
            f"The board '{profile.name}' does not multiply by the transposed array, which "
            "in-memory training needs",
            left="Nothing was estimated",
            next="Take another --board, or --algorithm mixed-precision",
        )
    pairs = [(layer, placed.matrix()) for layer, placed in zip(layers, plan.layers, strict=True)]
    forward = sum(
        (
            products(profile, matrix, layer.vectors, signed=layer.signed or in_memory)
            for layer, matrix in pairs
        ),
        Counts(),
    ).times(updates.batch)
    backward = Counts()
    if in_memory:
        back = (
            products(profile, matrix, layer.backward, signed=True, transposed=True)
            for layer, matrix in pairs
            if layer.backward
        )
        backward = sum(back, Counts()).times(updates.batch)
    update = _update(profile, sum(layer.weights for layer in layers), updates, in_memory)
    total = forward + backward + update
    return TrainingStep(
        forward,
        backward,
        update,
        costs.time_ns(profile, total),
        costs.energy_pJ(profile, total),
    )


def _update(profile: Profile, weights: int, updates: Updates, in_memory: bool) -> Counts:
    moved = weights * updates.per_weight / updates.steps
    if in_memory:
        pulses, reads = round(moved), 0
    else:
        pulses = round(moved * updates.pulses_per_write)
        reads = round(moved * updates.reads_per_write)
    width = profile.programming.width_ns
    if in_memory and isinstance(profile.device, StepSettings):
        width = round(profile.device.pulse.width_ns)
    return Counts(verify_reads=reads, pulses=pulses, pulse_width_ns=pulses * width)


@dataclass(frozen=True, slots=True)
class Endurance:
    """What a training leaves on the cells.

    Attributes:
        per_weight: writes, or open-loop pulses, of a weight in the mean.
        worst: of the weight that gets most: expected where they fall at random [ours].
        pulses_worst_cell: pulses of its cells, if one cell of the pair took them all.
        budget: pulses that a cell takes in its life; 0: unknown.
    """

    per_weight: float
    worst: float
    pulses_worst_cell: float
    budget: int


def endurance(profile: Profile, weights: int, updates: Updates, *, in_memory: bool) -> Endurance:
    """The wear that a training is expected to leave."""
    worst = most_of(updates.per_weight, weights)
    pulses = worst if in_memory else worst * updates.pulses_per_write
    return Endurance(updates.per_weight, worst, pulses, profile.limits.lifetime_pulses)


def most_of(mean: float, number: int) -> float:
    """The largest of so many Poisson counts, roughly: fewer than one is expected above it."""
    if mean <= 0:
        return 0.0
    count = math.floor(mean)
    # The tail beyond the mean, term by term; logarithms keep large means in range.
    while number * _poisson_tail(mean, count) >= 1:
        count += 1
    return float(count)


def _poisson_tail(mean: float, count: int) -> float:
    """Probability of more than ``count``."""
    term = math.exp((count + 1) * math.log(mean) - mean - math.lgamma(count + 2))
    total, k = 0.0, count + 2
    while term > total * 1e-12:
        total += term
        term *= mean / k
        k += 1
    return total
