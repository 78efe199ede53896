"""Training algorithms: what happens to a layer's weights after each batch."""

from __future__ import annotations

from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.fp32 import Fp32
from cimctl.algorithms.in_memory_sgd import InMemorySgd
from cimctl.algorithms.mixed_precision import MixedPrecision

ALGORITHMS: dict[str, type[Algorithm]] = {
    "mixed-precision": MixedPrecision,
    "sgd": InMemorySgd,
    "fp32": Fp32,
}
__all__ = ["ALGORITHMS", "Algorithm", "Fp32", "InMemorySgd", "MixedPrecision"]
