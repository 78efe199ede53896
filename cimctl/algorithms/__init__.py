"""Training algorithms: what happens to a layer's weights after each batch."""

from __future__ import annotations

from cimctl.algorithms.base import Algorithm
from cimctl.algorithms.fp32 import Fp32
from cimctl.algorithms.in_memory import InMemory, InMemorySgd
from cimctl.algorithms.mixed_precision import MixedPrecision
from cimctl.algorithms.quantised import QuantisationAware
from cimctl.algorithms.radix4 import Radix4
from cimctl.algorithms.transfer import Agad, ChoppedTikiTaka, TikiTaka, TikiTaka1

ALGORITHMS: dict[str, type[Algorithm]] = {
    "mixed-precision": MixedPrecision,
    "sgd": InMemorySgd,
    "ttv1": TikiTaka1,
    "ttv2": TikiTaka,
    "c-ttv2": ChoppedTikiTaka,
    "agad": Agad,
    "radix4": Radix4,
    "fp32": Fp32,
    "qat": QuantisationAware,
}
__all__ = [
    "ALGORITHMS",
    "Agad",
    "Algorithm",
    "ChoppedTikiTaka",
    "Fp32",
    "InMemory",
    "InMemorySgd",
    "MixedPrecision",
    "QuantisationAware",
    "Radix4",
    "TikiTaka",
    "TikiTaka1",
]
