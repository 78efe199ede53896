"""Settings of training, as ``--set key=value`` takes them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from boards.errors import UsageError
from cimctl.analog.adaptability import Adaptability
from cimctl.analog.coincidence import LONGEST
from cimctl.analog.compensation import BoundManagement, NoiseManagement
from cimctl.analog.in_memory import WeightScaling
from cimctl.analog.int4_layers import GradientScale
from cimctl.analog.pulsed_array import Outer
from cimctl.formats.integers import Clip
from cimctl.mapping.choose import MappingChoice

# The upper bound keeps infinity out.
Positive = Annotated[float, Meta(gt=0, le=1e6)]
NonNegative = Annotated[float, Meta(ge=0, le=1e6)]
#: the products of training, as ``products`` names them
PRODUCTS = ("wa", "wtd", "dat")
_PRODUCTS = "^(auto|none|({0})(,({0}))*)$".format("|".join(PRODUCTS))


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optimizer, schedule, and the rules of the updates.

    The paper is arXiv 2305.14547, for compensations and pulses (from ``noise_management`` on) arXiv
    1906.02698; where they are silent the choice is ours, and said so.
    """

    #: any optimizer of ``torch.optim``; the paper's is Adam with decoupled weight decay. Algorithm
    #: sgd moves what is digital by plain SGD and does not look at these three and scale_lr
    optimizer: str = "AdamW"
    #: learning rate, the paper's
    lr: Positive = 0.004
    #: decoupled weight decay [ours; the paper prints none]
    weight_decay: NonNegative = 0.01
    #: further arguments of the optimizer, as optimizer.NAME=VALUE
    optimizer_arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    #: constant: the paper's; tail: falls to a fiftieth over the last 30 % of the batches [ours];
    #: halved: halved after each epoch; plateau: halved after five epochs whose training loss is not
    #: lower than the lowest before, by 1e-4 of it [ours; the paper says five flat epochs]
    lr_schedule: Literal["constant", "tail", "halved", "plateau"] = "tail"
    #: crop-flip: training images are cut out at random of themselves with 4 zeros around, and half
    #: of them mirrored
    augment: Literal["none", "crop-flip"] = "none"
    #: what pixels become: unit: 0 to 1, so that the first layer's inputs have no sign; standard:
    #: mean 0 and spread 1 in each channel of the training images
    pixels: Literal["unit", "standard"] = "unit"
    #: layers, or blocks of layers, that stay digital, as digital=NAME,NAME
    digital: tuple[str, ...] = ()
    #: learning rate of the layers' scale factors, relative to lr [ours]
    scale_lr: NonNegative = 0.3
    #: whether steps accumulate until they pass the threshold; false drops what stays below it
    accumulate: bool = True
    #: levels of the programming step: threshold = weight_range / (levels - 1); 0 takes the board's
    levels: Annotated[int, Meta(ge=0)] = 0
    #: W_FP after a write: theoretical (the paper's text) or read back (its Figure 4)
    weight_copy: Literal["theoretical", "read-back"] = "theoretical"
    #: one-side: the device that the sign names carries the weight; split: both, evenly [ours]
    weight_rule: Literal["one-side", "split"] = "one-side"
    #: weight that the conductance window stands for, in units of the optimizer [ours]
    weight_range: Positive = 0.25
    #: outputs of a layer start with this share of the inputs' spread [ours]
    initial_gain: Positive = 1.2
    #: accumulators start uniform within the threshold, so that not all weights flip at once [ours]
    dither: bool = True
    #: share of conversions that may saturate before the ADC range widens [ours]
    saturation: Annotated[float, Meta(ge=0, lt=1)] = 0.01

    #: the products made on the chip: wa (W a, forward), wtd (W^T d, backward), dat (d a^T, the
    #: update), with commas between; the others are digital. auto: all that the algorithm can; none
    products: Annotated[str, Meta(pattern=_PRODUCTS)] = "auto"
    #: what an input vector is divided by before its conversion (``analog.compensation``);
    #: auto: max for sgd, the running maximum of the layer for others
    noise_management: Literal["auto", NoiseManagement] = "auto"
    #: divisor of noise_management=constant, and the largest one of =threshold
    noise_constant: Positive = 1.0
    noise_threshold: Positive = 1.0
    #: what is done where a forward product clips; auto: iterative for sgd, off for others
    bound_management: Literal["auto", BoundManagement] = "auto"
    #: on: products are corrected by what ``cimctl calibrate`` keeps for the chip
    calibration: Literal["off", "on"] = "off"
    #: whether input codes are rounded up with the probability of the rest
    stochastic_rounding: bool = False
    #: running mean and standard deviation of each channel, taken out before and after a product
    input_normalisation: bool = False
    output_normalisation: bool = False
    #: sgd: the largest weight, of the layer or of each output, is programmed as omega [ours: 0.6,
    #: the bound of the paper's baseline device]; auto: tensor
    weight_scaling: Literal["auto", WeightScaling] = "auto"
    weight_scaling_omega: Positive = 0.6
    #: sgd: slots of a pulse train at most
    pulse_length: Annotated[int, Meta(ge=1, le=LONGEST)] = 31
    #: sgd: balance the pulse probabilities of inputs and errors
    update_management: bool = True
    #: sgd: trains only as long as the update needs
    update_bit_length_management: bool = True
    #: in-memory algorithms: updates by the board's own OUTER, or as pulses that the host counts
    outer: Outer = "board"
    #: ttv1 to agad (arXiv 2303.04721), its symbols in parentheses: vectors between reads of A (n_s)
    read_every: Annotated[int, Meta(ge=1)] = 5
    #: learning rate of A relative to its longest train (eta_0), and whether it follows the inputs
    #: and errors (the paper's formula) or stands for lambda_A itself
    fast_rate: Positive = 1.0
    fast_rate_rule: Literal["formula", "literal"] = "formula"
    #: what H divides by (gamma_0); lambda is lr
    transfer_damping: Positive = 200.0
    #: share of a read that enters the past (beta) of agad
    baseline_rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    #: c-ttv2 and agad: probability that a read line flips (rho), or its reads between two flips
    chop_probability: Annotated[float, Meta(ge=0, le=1)] = 0.1
    chop_period: Annotated[int, Meta(ge=0)] = 0
    #: pulses that find the symmetry points of A before a training; 0: R is where A was found
    symmetry_pulses: Annotated[int, Meta(ge=0, le=100_000)] = 200
    #: by which R misses them on purpose, in weights: mean (mu_R) and spread (sigma_R)
    reference_offset: float = 0.0
    reference_spread: NonNegative = 0.0
    #: sgd: pulses that find a cell's symmetry point, where its reference is put; 0: at weight 0
    zero_shift: Annotated[int, Meta(ge=0, le=10_000)] = 0
    #: radix4 (arXiv 2203.04821): gradients as powers of 4 or 2, or not rounded; grids of the two
    #: products of a gradient; what its scale follows: the running maximum, that of the batch, or
    #: the smallest mean-square error
    gradients: Literal["radix-4", "radix-2", "fp32"] = "radix-4"
    gradient_phases: Annotated[int, Meta(ge=1, le=2)] = 2
    gradient_scale: GradientScale = "running"
    #: what the scale of 4-bit weights is taken from
    weight_clip: Clip = "max"
    #: ranges of the converters: that of each product's own popcounts; one of two, in cells; or no
    #: converter, where all products are digital
    adaptability: Adaptability = "full"
    two_level: tuple[Positive, Positive] = (255.0, 510.0)
    #: where layers lie (docs/mapping.md); auto: by the paper's rule where that fits, else packed
    mapping: MappingChoice = "auto"
    #: file with the cells that stay free: tile, row and column in each line; none by default
    avoid: str = ""
    #: first weights are uniform up to this over the root of a layer's inputs; 0: torch's own, and
    #: for sgd the paper's recipe, 2.45
    initial_bound: NonNegative = 0.0


def parse(pairs: tuple[str, ...], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Settings from ``key=value`` texts, values read as YAML.

    Args:
        pairs: what the user set.
        defaults: of an algorithm, where they differ from those of ``Settings``.

    Raises:
        UsageError: names the key, what was given and what is allowed.
    """
    values: dict[str, Any] = dict(defaults or {})
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"'--set {pair}' has no value", next="Write it as key=value")
        # Names stay as they are: YAML takes "off" for false, and a layer's "0" for a number.
        value = text if _names(key) else _value(text)
        if key == "digital":
            value = tuple(name.strip() for name in text.split(",") if name.strip())
        if key.startswith("optimizer."):
            values.setdefault("optimizer_arguments", {})[key.partition(".")[2]] = value
        else:
            _known(key)
            values[key] = value
    return from_values(values)


def from_values(values: dict[str, Any]) -> Settings:
    """Settings from plain values, as a checkpoint holds them."""
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        key = str(error).rpartition("`$.")[2].rstrip("`") or "settings"
        given = f" '{values[key]}'" if key in values else ""
        reason = str(error).partition(" - at")[0]
        raise UsageError(
            f"Setting '{key}'{given} is not allowed: {reason[0].lower() + reason[1:]}",
            left="Nothing was trained",
            next=f"Allowed: {', '.join(_names(key))}" if _names(key) else "",
        ) from None


def _names(key: str) -> tuple[str, ...]:
    """The names that a setting takes; none for a setting of another kind."""
    kind = get_type_hints(Settings).get(key)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value(text: str) -> Any:
    """A value as YAML reads it, and also 1e-3, which YAML takes for a text."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


def _known(key: str) -> None:
    known = [name for name in Settings.__struct_fields__ if name != "optimizer_arguments"]
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        raise UsageError(
            f"There is no setting '{key}'",
            left="Nothing was trained",
            next=f"{hint}Known: {', '.join(known)}, optimizer.ARGUMENT",
        )
