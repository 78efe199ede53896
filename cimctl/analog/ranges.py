"""The ranges of the converters of a layer: DAC scale of its inputs, ADC gain of its products.

Both rules are ours; the paper prints none.  The input scale follows the largest activation with a
slow decay.  The ADC range follows the share of conversions that saturate: a range too wide wastes
codes and lets in more converter noise, one too narrow clips.
"""

from __future__ import annotations

from dataclasses import dataclass

#: the largest activation is forgotten by this factor a batch
INPUT_DECAY = 0.99
#: the ADC range widens by this factor after a batch with too many saturated conversions ...
WIDEN = 1.05
#: ... and narrows by this one after any other
NARROW = 0.995
#: the gain in use follows when the wanted one is off by more than this
TOLERANCE = 0.02


@dataclass
class Ranges:
    """State of a layer's converters, kept in checkpoints.

    Attributes:
        largest: running maximum of the inputs' magnitude.
        signed: whether inputs have been negative.
        gain: wanted ADC codes for each unit of the integer sum; 0 before the first batch.
        configured: gain in use; follows the wanted one when that has moved far enough.
    """

    largest: float = 0.0
    signed: bool = False
    gain: float = 0.0
    configured: float = 0.0

    def see_inputs(self, low: float, high: float) -> None:
        """Follows the inputs of a training batch."""
        self.largest = max(INPUT_DECAY * self.largest, high, -low)
        self.signed = self.signed or low < 0

    def input_step(self, bits: int) -> float:
        """Input value of one code step."""
        top = (1 << (bits - self.signed)) - 1
        return (self.largest or 1.0) / top

    def see_products(self, saturated: int, conversions: int, allowed: float) -> None:
        """Follows the saturated conversions of a training batch."""
        self.gain *= 1 / WIDEN if saturated > allowed * conversions else 1 / NARROW

    def is_stale(self) -> bool:
        """Whether the gain in use has to follow."""
        return abs(self.gain - self.configured) > TOLERANCE * self.gain
