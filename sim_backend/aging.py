"""What time does to cells: drift, retention, diffusion.

    drift:      g(t) = g_w * (max(t - t_w, t_0) / t_0) ^ -nu     nu = max(0, mean + spread * z)
    retention:  g += (g_rest - g) * (1 - exp(-dt / tau))
    diffusion:  g += sigma * sqrt(dt / 1 s) * z'

t_w is when the cell was written, z belongs to the cell, z' is drawn at each WAIT.  The drift of
phase-change memory is the field's power law; that all three take effect when WAIT is executed, and
not little by little while other commands take their microseconds, is ours: time spent in commands
counts towards a cell's age all the same.  Stuck cells keep their state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boards.profile import Profile
from firmware_protocol import constants as c
from sim_backend import noise
from sim_backend.cells import Cells

Floats = npt.NDArray[np.float64]


def pass_time(
    cells: Cells, profile: Profile, seed: int, tile: int, before_ns: int, after_ns: int
) -> None:
    """Ages the cells of a tile from one moment of chip time to a later one, in place."""
    aging = profile.device.aging
    unit = 65535 / profile.chip.conductance_full_scale_uS
    seconds = (after_ns - before_ns) * 1e-9
    index = np.arange(cells.conductances.shape[1], dtype=np.uint64)
    state = cells.conductances[tile] + cells.hidden[tile]
    # The converters see the state and write noise; what lies within half a unit is rounding.
    apart = np.where(np.abs(cells.hidden[tile]) > 0.5, cells.hidden[tile], 0.0)
    share = np.ones_like(state)
    if aging.drift_exponent or aging.drift_variation:
        z = noise.normal(noise.key(seed, tile, c.STREAM_AGING), np.zeros_like(index), index)
        nu = np.maximum(0.0, aging.drift_exponent + aging.drift_variation * z)
        young = _age(cells.written[tile], before_ns, aging.drift_start_s)
        share = (_age(cells.written[tile], after_ns, aging.drift_start_s) / young) ** -nu
    step = np.zeros_like(state)
    if aging.retention_s:
        share = share * np.exp(-seconds / aging.retention_s)
        step += aging.rest_uS * unit * -np.expm1(-seconds / aging.retention_s)
    if aging.diffusion_uS:
        place = np.full_like(index, cells.count("waited_ns"))
        z = noise.normal(noise.key(seed, tile, c.STREAM_DIFFUSION), place, index)
        step += aging.diffusion_uS * unit * np.sqrt(seconds) * z
    alive = cells.stuck[tile] == 0
    aged = np.where(alive, np.clip(state * share + step, 0.0, 65535.0), state)
    seen = np.clip(aged - np.where(alive, apart * share, apart), 0.0, 65535.0)
    cells.conductances[tile] = np.rint(seen).astype(np.uint16)
    cells.hidden[tile] = aged - cells.conductances[tile]


def _age(written_ns: npt.NDArray[np.uint64], now_ns: int, start_s: float) -> Floats:
    """Seconds since each cell was written, as far as they count for drift."""
    return np.maximum((np.float64(now_ns) - written_ns.astype(np.float64)) * 1e-9, start_s)
