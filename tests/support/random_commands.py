"""Random commands, right ones and wrong ones, for comparing two boards answer by answer."""

from __future__ import annotations

import numpy as np

from firmware_protocol import messages as m
from firmware_protocol.codec import Message
from firmware_protocol.geometry import unrolled_size
from firmware_protocol.packing import packed_size


class RandomCommands:
    """Draws requests for a board from its description; about one in five is refused.

    Args:
        description: what the board says of itself.
        seed: one seed gives one sequence.
    """

    def __init__(self, description: m.Description, seed: int) -> None:
        self._d = description
        self._rng = np.random.default_rng(seed)

    def draw(self) -> tuple[int, bytes]:
        """An opcode and a payload."""
        kinds = (
            self._configure, self._read, self._program, self._pulse, self._vmm, self._images,
            self._load, self._wear, self._status, self._ping, self._rare, self._outer,
        )  # fmt: skip
        weights = np.array([8, 12, 16, 16, 20, 10, 3, 4, 4, 2, 5, 10], dtype=float)
        request = kinds[self._rng.choice(len(kinds), p=weights / weights.sum())]()
        payload = request.encode()
        if self._chance(0.02):
            payload = payload[: self._int(0, len(payload))]
        return int(request.OPCODE), payload[: self._d.max_payload]

    # ------------------------------------------------------------------ dice

    def _int(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _one(self, *values: int) -> int:
        return int(self._rng.choice(values))

    def _region(self, most: int = 12, pairs: bool = False) -> m.Region:
        d = self._d
        rows, columns = self._int(1, min(most, d.rows)), self._int(1, min(most, d.columns))
        if pairs:
            columns = 2 * max(1, columns // 2)
        column = self._int(0, d.columns - columns)
        column -= column % 2 if pairs else 0
        region = [self._int(0, d.tiles - 1), self._int(0, d.rows - rows), rows, column, columns]
        if self._chance(0.03):
            region[self._int(0, 4)] = self._one(0, 1, d.rows, d.tiles, 65535)
        return m.Region(*region)

    def _slot(self) -> int:
        return self._int(0, 3) if self._chance(0.97) else self._int(0, 255)

    # ------------------------------------------------------------------ commands

    def _configure(self) -> Message:
        d = self._d
        gain = np.exp(self._rng.uniform(np.log(d.gain_low), np.log(d.gain_high))) / 2.0**40
        multiplier = self._int(1, 65535)
        shift = int(min(48, max(1, round(np.log2(multiplier / gain)))))
        voltage = self._int(0, d.read_voltage_limit + (20 if self._chance(0.1) else 0))
        if self._chance(0.05):
            multiplier, shift = self._one(0, 1, 65535, 65536), self._one(0, 1, 48, 49)
        return m.ConfigureRequest(self._slot(), voltage, self._int(0, 1023), multiplier, shift)

    def _read(self) -> Message:
        return m.ReadRequest(self._slot(), self._int(0, 9), self._int(0, 1), self._region())

    def _cells(self) -> tuple[m.Region, list[int], int]:
        region = self._region(6)
        size = region.rows * region.columns
        if self._chance(0.5) or not 0 < size < 1000:
            return region, [], min(size, 500)
        count = self._int(1, size)
        indices = self._rng.permutation(size)[:count].tolist()
        if self._chance(0.05):
            indices[0] = self._one(size, indices[-1], 65535)
        return region, indices, count

    def _program(self) -> Message:
        region, indices, count = self._cells()
        low, high = self._d.target_low, self._d.target_high
        targets = self._rng.integers(low, high + 1, count)
        if self._chance(0.04) and count:
            targets[-1] = self._one(low - 1, low, high, 0)
        if self._chance(0.02):
            targets = targets[:-1]
        cycles = self._int(1, 5) if self._chance(0.97) else self._one(0, self._d.cycles_limit + 1)
        return m.ProgramRequest(
            self._slot(), cycles, self._int(0, 200), self._int(0, 1), region, indices, targets
        )

    def _pulse(self) -> Message:
        region, indices, count = self._cells()
        d = self._d
        counts = self._rng.integers(-20, 21, count)
        if self._chance(0.05) and count:
            counts[0] = self._one(-32768, d.pulses_per_command + 1, d.pulses_per_command, -1)
        amplitudes = [self._int(d.amplitude_low, d.amplitude_high) for _ in range(2)]
        width = self._int(d.width_low, d.width_high)
        if self._chance(0.04):
            amplitudes[self._int(0, 1)] = self._one(0, d.amplitude_low - 1, d.amplitude_high + 1)
        if self._chance(0.03):
            width = self._one(0, d.width_high + 1)
        return m.PulseRequest(*amplitudes, width, region, indices, counts)

    def _outer(self) -> Message:
        region, d = self._region(6), self._d
        flags, length, count = self._int(0, 3), self._int(1, 31), self._int(1, 5)
        if self._chance(0.03):
            length, count = self._one(0, 32, length), self._one(0, count)
        sizes = (count * region.rows, count * (region.columns // (2 if flags & 2 else 1)))
        # Sparse trains, as those of an update are.
        dense = self._rng.random() < 0.3
        words = [
            self._rng.bytes(packed_size(n, length + 1)) if dense else bytes(
                a & b & c for a, b, c in zip(
                    *(self._rng.bytes(packed_size(n, length + 1)) for _ in range(3)), strict=True
                )
            )
            for n in sizes
        ]  # fmt: skip
        amplitudes = [self._int(d.amplitude_low, d.amplitude_high) for _ in range(2)]
        if self._chance(0.04):
            amplitudes[self._int(0, 1)] = self._one(0, d.amplitude_low - 1, d.amplitude_high + 1)
        width = self._int(d.width_low, d.width_high)
        blob = b"".join(words) + (b"x" if self._chance(0.02) else b"")
        return m.OuterRequest(*amplitudes, width, region, flags, length, count, blob)

    def _grid(self, rows: list[int], columns: list[int], pairs: bool) -> list[m.Region]:
        d = self._d
        regions = []
        for height in rows:
            for width in columns:
                column = self._int(0, d.columns - width)
                column -= column % 2 if pairs else 0
                row = self._int(0, d.rows - height)
                regions.append(m.Region(self._int(0, d.tiles - 1), row, height, column, width))
        if self._chance(0.03):
            regions[-1] = self._region(12, pairs)
        return regions

    def _shape(self, pairs: bool, most: int) -> tuple[list[int], list[int]]:
        d = self._d
        rows = [self._int(1, min(most, d.rows)) for _ in range(self._int(1, 3))]
        columns = [self._int(1, min(most, d.columns) // 2) for _ in range(self._int(1, 3))]
        return rows, [2 * c if pairs else c for c in columns]

    def _vmm(self) -> Message:
        flags = self._int(0, 7) + (8 * self._int(0, 3) if self._chance(0.1) else 0)
        pairs = bool(flags & 2)
        rows, columns = self._shape(pairs, 64 if self._chance(0.2) else 12)
        regions = self._grid(rows, columns, pairs)
        inputs = sum(columns) // (2 if pairs else 1) if flags & 1 else sum(rows)
        count, bits = self._int(1, 6), self._int(1, self._d.input_bits)
        codes = self._rng.bytes(packed_size(count * inputs, bits))
        if self._chance(0.03):
            bits, count = self._one(0, bits, 9), self._one(0, count, count + 1)
        return m.VmmRequest(self._slot(), flags, bits, len(rows), count, m.Window(), regions, codes)

    def _images(self) -> Message:
        flags = self._int(0, 3) * 2
        pairs = bool(flags & 2)
        window = m.Window(
            self._int(1, 3), self._int(1, 9), self._int(1, 9), self._int(1, 3), self._int(1, 3),
            self._int(1, 2), self._int(1, 2), self._int(1, 2), self._int(1, 2),
            self._int(0, 2), self._int(0, 2), self._int(0, 2), self._int(0, 2),
        )  # fmt: skip
        inputs = unrolled_size(window)
        tall = min(inputs, self._d.rows, self._int(1, inputs))
        rows = [tall] * (inputs // tall) + [inputs % tall] * (inputs % tall > 0)
        columns = [self._int(1, 6) * (2 if pairs else 1) for _ in range(self._int(1, 2))]
        regions = self._grid(rows, columns, pairs)
        count, bits = self._int(1, 3), self._int(1, self._d.input_bits)
        size = count * window.channels * window.height * window.width
        codes = self._rng.bytes(packed_size(size, bits))
        return m.VmmRequest(self._slot(), flags, bits, len(rows), count, window, regions, codes)

    def _load(self) -> Message:
        region = self._region(6)
        count = min(region.rows * region.columns, 500)
        values = self._rng.integers(self._d.target_low, self._d.target_high + 1, count)
        return m.LoadRequest(region, values)

    def _wear(self) -> Message:
        return m.WearRequest(self._region())

    def _status(self) -> Message:
        return m.StatusRequest()

    def _ping(self) -> Message:
        return m.PingRequest(self._rng.bytes(self._int(0, 600)))

    def _rare(self) -> Message:
        if self._chance(0.2):
            return m.SafeRequest()
        odd = (m.SnapshotRequest(0, 10), m.RestoreRequest(0, 4, b"\0" * 4), m.PingRequest(b""),
               m.WaitRequest(self._int(0, 1000)))  # fmt: skip
        return odd[self._int(0, len(odd) - 1)]
