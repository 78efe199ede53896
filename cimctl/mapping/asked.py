"""The plan that a command asks for: a model by name, a profile, a rule, copies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from boards import catalogue
from boards.errors import UsageError
from boards.profile import Profile
from cimctl import models
from cimctl.mapping.choose import MappingChoice, mapped, without_limit
from cimctl.mapping.demand import read_avoid
from cimctl.mapping.network import Layer, layers_of
from cimctl.mapping.plan import Plan
from cimctl.mapping.plane_training import plane_demands
from cimctl.mapping.rules import ONCE, Copies

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        model, board: names, or paths of the user's own.
        rule: by which rule; ``paper`` takes as many arrays as it needs, others those of the board.
        copies: ``paper``, ``none`` or ``LAYER=N,LAYER=N``; empty: the paper's with its rule.
        input_shape: of one image; None where the model is to tell.
        avoid: file with cells to leave free, or empty.
    """

    model: str
    board: str
    rule: MappingChoice
    copies: str = ""
    input_shape: Shape | None = None
    avoid: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A network, and the profile of a board."""

    profile: Profile
    layers: list[Layer]
    input_shape: Shape


@dataclass(frozen=True, slots=True)
class Answer(Network):
    """A network on the arrays of a profile."""

    plan: Plan


def network(question: Question) -> Network:
    """The model and the board that are named.

    Raises:
        UsageError: there is none, or a shape does not fit.
    """
    profile = catalogue.load(question.board)
    shape, layers = _layers(models.build(question.model), question)
    return Network(profile, layers, shape)


def answered(question: Question) -> Answer:
    """Maps the model; on a board without pairs, W and W^T in groups of columns.

    Raises:
        UsageError: no such model, board, layer or file, a shape that does not fit, or too small a
            board.
    """
    found = network(question)
    profile, layers = found.profile, found.layers
    rule, demands = question.rule, [layer.demand for layer in layers]
    if "DIFFERENTIAL" not in profile.chip.capabilities and profile.chip.column_weights:
        demands = plane_demands(profile, layers)
        rule = "packed" if rule == "auto" else rule
    plan = mapped(
        demands,
        without_limit(profile.chip) if rule == "paper" else profile.chip,
        rule,
        avoid=read_avoid(question.avoid),
        copies=_copies(question, [demand.name for demand in demands]),
    )
    return Answer(profile, layers, found.input_shape, plan)


def parse_shape(text: str) -> Shape:
    """A shape as ``--input-shape`` takes it: ``C,H,W``.

    Raises:
        UsageError: it is none.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"'{text}' is no shape", left="Nothing was done", next="Write it as 3,32,32"
        )
    return tuple(int(part) for part in parts)


def _layers(model: nn.Module, question: Question) -> tuple[Shape, list[Layer]]:
    """The shape of an image, and the layers: of a model of one's own the first shape it takes."""
    known = models.MODELS.get(question.model)
    told = question.input_shape or (known.input_shape if known else None)
    told = told or getattr(model, "input_shape", None)
    if told is not None:
        return tuple(told), layers_of(model, tuple(told))
    for shape in dict.fromkeys(network.input_shape for network in models.MODELS.values()):
        try:
            return shape, layers_of(model, shape)
        except UsageError:
            continue
    raise UsageError(
        f"'{question.model}' takes none of the images known here",
        left="Nothing was done",
        next="Say the shape of its images: --input-shape CHANNELS,HEIGHT,WIDTH",
    )


def _copies(question: Question, layers: list[str]) -> Copies:
    text = question.copies or ("paper" if question.rule == "paper" else "none")
    if text == "none":
        return ONCE
    if text == "paper":
        network = models.MODELS.get(question.model)
        return Copies(network.copies, as_printed=True) if network else ONCE
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.rpartition("=")
        if name not in layers or not count.isdecimal() or not int(count):
            raise UsageError(
                f"'--copies {part}' names no layer and count",
                left="Nothing was done",
                next=f"Write LAYER=N,LAYER=N, or none, or paper; layers: {', '.join(layers)}",
            )
        counts[name] = int(count)
    return Copies(counts)
