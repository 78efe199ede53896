"""The pulses of a cell's life, through the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import ServeEmulator


def test_wear_counts_the_pulses_of_each_cell_exactly_and_without_power(
    command: list[str], serve_emulator: ServeEmulator, tmp_path: Path
) -> None:
    port, _ = serve_emulator("--board", "emu")
    counts = tmp_path / "counts.csv"
    counts.write_text("3,-2\n0,1000\n")
    board = ["--board", "emu", "--port", port, "--tile", "1"]

    def ran(*arguments: str) -> str:
        outcome = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        return outcome.stdout

    for _ in range(2):
        ran("pulse", *board, "--row", "5", "--column", "7", "--input", str(counts))
    region = ["--row", "5", "--column", "7", "--rows", "2", "--columns", "2"]
    said = json.loads(ran("wear", *board, *region, "--json"))
    assert said["pulses"] == [[6, 4], [0, 2000]]
    assert (said["most"], said["worn"]) == (2000, 0)
    assert ran("wear", *board, *region) == "6,4\n0,2000\n"
