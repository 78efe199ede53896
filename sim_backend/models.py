"""The device model of a profile: built in, or from another package."""

from __future__ import annotations

import importlib.metadata

from boards import device_settings as settings
from boards.profile import Profile
from sim_backend.bit_cells import BitCells
from sim_backend.bulk_rram import BulkRram
from sim_backend.device import Device
from sim_backend.ideal_steps import IdealSteps
from sim_backend.steps import Steps


def build(profile: Profile, seed: int) -> Device:
    """The devices of one chip.

    Args:
        profile: model and parameters.
        seed: which chip of its kind.
    """
    device = profile.device
    if isinstance(device, settings.BulkRram):
        return BulkRram(profile, seed)
    if isinstance(device, settings.BitCells):
        return BitCells(profile, seed)
    if isinstance(device, settings.IdealSteps):
        return IdealSteps(profile, seed)
    if isinstance(device, settings.StepSettings) and type(device) in settings.BUILT_IN:
        return Steps(profile, seed)
    (entry,) = importlib.metadata.entry_points(
        group=settings.ENTRY_POINTS, name=profile.device.model
    )
    built: Device = entry.load().build(profile, seed)
    return built
