"""What a board of a profile says of itself in HELLO."""

from __future__ import annotations

from boards.profile import Profile
from firmware_protocol import messages as m
from firmware_protocol.constants import Capability, Opcode
from firmware_protocol.geometry import packed_column_weights

#: how much wider than the profile's the range of gains is, so that rounding to 16 bits stays inside
GAIN_MARGIN = 2.0**-15
#: commands that a board without the capability does not list
_NEEDS = {
    Opcode.SNAPSHOT: Capability.SNAPSHOT,
    Opcode.RESTORE: Capability.SNAPSHOT,
    Opcode.LOAD: Capability.LOAD,
    Opcode.WAIT: Capability.WAIT,
    Opcode.OUTER: Capability.OUTER,
}


def capabilities(profile: Profile) -> Capability:
    """The capability bits of a profile."""
    offered = Capability(0)
    for name in profile.chip.capabilities:
        offered |= Capability[name]
    return offered


def describe(profile: Profile) -> m.Description:
    """The description that the emulator sends and that a firmware is built with."""
    chip, limits, units = profile.chip, profile.limits, profile.units
    offered = capabilities(profile)
    opcodes = {o for o in m.REQUESTS if _NEEDS.get(Opcode(o), Capability(0)) in offered}
    if not profile.device.PULSED:
        opcodes -= {Opcode.PULSE}
    low, high = (profile.gain(span) for span in reversed(profile.adc_span))
    low, high = low * (1 - GAIN_MARGIN), high * (1 + GAIN_MARGIN)
    return m.Description(
        capabilities=int(offered),
        opcodes=sum(1 << opcode for opcode in opcodes),
        tiles=chip.tiles,
        rows=chip.rows,
        columns=chip.columns,
        input_bits=chip.input_bits,
        adc_bits=chip.adc_bits,
        pair_conversions=chip.pair_conversions,
        slots=chip.slots,
        window=profile.link.window,
        max_payload=profile.link.max_payload,
        conductance_full_scale=round(chip.conductance_full_scale_uS * 1e6),
        target_low=units(profile.device.low_uS),
        target_high=units(profile.device.high_uS),
        gain_low=int(low * 2**40),
        gain_high=int(high * 2**40) + 1,
        read_voltage_limit=limits.read_voltage_mV,
        amplitude_low=limits.amplitude_mV[0],
        amplitude_high=limits.amplitude_mV[1],
        width_low=limits.width_ns[0],
        width_high=limits.width_ns[1],
        pulses_per_command=limits.pulses_per_command,
        cycles_limit=limits.cycles,
        lifetime_soft=limits.lifetime_soft,
        lifetime_pulses=limits.lifetime_pulses,
        lease=limits.lease_ms,
        answer_bits=profile.answer_bits,
        plane_conversions=int(profile.plane_conversions),
        levels=profile.device.LEVELS,
        column_weights=packed_column_weights(chip.column_weights),
    )
