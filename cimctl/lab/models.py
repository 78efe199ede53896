"""The models that can be fitted, and the response of a device to one pulse.

A downward pulse is an upward one of the mirrored device: with u = w upwards and u = -w downwards,
both are ``u += a F(u)``, up to the bound ``ahead``.  F is that of ``sim_backend.steps``:

    constant-step      1
    linear-step        1 - b u                           b = slope / bound of the profile
    soft-bounds        1 - u / ahead
    exponential-step   max(0, 1 - L exp(gamma (z - 1)))  z = 2 u / (ahead + behind), L = A e^gamma
    power-step         ((ahead - u) / (ahead + behind)) ^ p

``behind`` is the distance from weight 0 to the other bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boards.errors import UsageError

Floats = npt.NDArray[np.float64]
#: what every device has of its own; steps are fitted as logarithms
OWN = ("up", "down", "low", "high")
#: what all devices share, fitted as logarithms
SHARED = ("read_noise", "cycle_variation")
#: factor of a step: (state u, bound ahead, bound behind, first shape, second shape)
Factor = Callable[[Floats, Floats, Floats, Floats, Floats], Floats]


@dataclass(frozen=True)
class Model:
    """A model that can be fitted.

    Attributes:
        name: that of ``device.model`` in a profile.
        factor: F.
        straight: whether F is linear in the state, so that its mean is F of the mean.
        clipped: whether the bounds are nothing but the ends of the way: a device that never met
            them says nothing about them.
        own: parameters of a device beyond ``OWN``: upwards, downwards.
        logarithmic: whether those are fitted as logarithms.
        shared: parameters of all devices beyond ``SHARED``, as logarithms: shapes upwards and
            downwards.
    """

    name: str
    factor: Factor
    straight: bool
    clipped: bool = False
    own: tuple[str, ...] = ()
    logarithmic: bool = False
    shared: tuple[str, ...] = ()


def _constant(u: Floats, ahead: Floats, behind: Floats, first: Floats, second: Floats) -> Floats:
    return np.ones_like(u)


def _linear(u: Floats, ahead: Floats, behind: Floats, first: Floats, second: Floats) -> Floats:
    return 1.0 - first * u


def _soft(u: Floats, ahead: Floats, behind: Floats, first: Floats, second: Floats) -> Floats:
    return 1.0 - u / ahead


def _exponential(u: Floats, ahead: Floats, behind: Floats, first: Floats, second: Floats) -> Floats:
    z = 2.0 * u / (ahead + behind)
    grown = np.exp(np.minimum(second * (z - 1.0), 50.0))
    share: Floats = np.maximum(0.0, 1.0 - first * grown)
    return share


def _power(u: Floats, ahead: Floats, behind: Floats, first: Floats, second: Floats) -> Floats:
    share: Floats = np.maximum(1e-9, (ahead - u) / (ahead + behind)) ** first
    return share


MODELS = {
    model.name: model
    for model in (
        Model("constant-step", _constant, straight=True, clipped=True),
        Model("linear-step", _linear, straight=True, clipped=True, own=("slope_up", "slope_down")),
        Model("soft-bounds", _soft, straight=True),
        Model(
            "exponential-step",
            _exponential,
            straight=False,
            shared=("loss_up", "loss_down", "exponent_up", "exponent_down"),
        ),
        Model(
            "power-step",
            _power,
            straight=False,
            own=("exponent_up", "exponent_down"),
            logarithmic=True,
        ),
    )
}


def model_of(name: str) -> Model:
    """The model of that name.

    Raises:
        UsageError: it is none that can be fitted.
    """
    if name not in MODELS:
        raise UsageError(
            f"The model '{name}' cannot be fitted",
            left="Nothing was written",
            next=f"Models that can: {', '.join(MODELS)}",
        )
    return MODELS[name]


def sides(model: Model, own: Floats, shared: Floats) -> tuple[Floats, Floats]:
    """What a pulse upwards and one downwards needs to know of a device.

    Args:
        model: which model.
        own: (..., parameters) as they are fitted.
        shared: (..., parameters), likewise; broadcasts against ``own``.

    Returns:
        Twice (5, ...): step, bound ahead, bound behind, two shapes.
    """
    up, down = np.exp(own[..., 0]), np.exp(own[..., 1])
    low, high = -own[..., 2], own[..., 3] + 0.0
    none = np.zeros_like(up)
    shapes = [[none, none], [none, none]]
    if model.own:
        extra = np.exp(own[..., 4:]) if model.logarithmic else own[..., 4:]
        shapes = [[extra[..., side], none] for side in range(2)]
    if model.shared:
        rest = np.exp(shared[..., 2:])
        shapes = [[rest[..., side] + none, rest[..., 2 + side] + none] for side in range(2)]
    return np.stack([up, high, low, *shapes[0]]), np.stack([down, low, high, *shapes[1]])


def natural(model: Model, own: Floats) -> tuple[Floats, Floats]:
    """(devices, m) what is Gaussian from device to device, and its derivatives (devices, m, p).

    Pairs (up, down) become their mean and half their difference, which the model draws apart.
    """
    values, turned = own.copy(), np.tile(np.eye(own.shape[1]), (len(own), 1, 1))
    pairs = [0] + ([len(OWN)] if model.logarithmic else [])
    for at in pairs:
        up, down = np.exp(own[:, at]), np.exp(own[:, at + 1])
        values[:, at], values[:, at + 1] = (up + down) / 2, (up - down) / 2
        turned[:, at, at], turned[:, at, at + 1] = up / 2, down / 2
        turned[:, at + 1, at], turned[:, at + 1, at + 1] = up / 2, -down / 2
    return values, turned
