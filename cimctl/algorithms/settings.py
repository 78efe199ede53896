"""Settings of training, as ``--set key=value`` takes them."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from boards.errors import UsageError

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optimizer, schedule, and the rules of the mixed-precision update.

    The paper is arXiv 2305.14547; where it is silent the choice is ours, and said so.
    """

    #: any optimizer of ``torch.optim``; the paper's is Adam with decoupled weight decay
    optimizer: str = "AdamW"
    #: learning rate, the paper's
    lr: Positive = 0.004
    #: decoupled weight decay [ours; the paper prints none]
    weight_decay: NonNegative = 0.01
    #: further arguments of the optimizer, as optimizer.NAME=VALUE
    optimizer_arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    #: constant: the paper's; tail: falls to a fiftieth over the last 30 % of the batches [ours]
    lr_schedule: Literal["constant", "tail"] = "tail"
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


def parse(pairs: tuple[str, ...]) -> Settings:
    """Settings from ``key=value`` texts, values read as YAML.

    Raises:
        UsageError: names the key, what was given and what is allowed.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"'--set {pair}' has no value", next="Write it as key=value")
        value = _value(text)
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
        ) from None


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
