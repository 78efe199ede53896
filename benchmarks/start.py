"""How long a command takes to start: fresh processes in turns, beside a Python that does nothing.

Wall-clock time is what a user waits for; processor time is what a busy neighbour disturbs little,
and what the bars are held against.  The first start of training compiles kernels and keeps them: it
is measured once with an empty cache, and once with that cache full.

    python benchmarks/start.py [--turns 20] [--json benchmarks/results/start.json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from cimctl.bench.turns import Spread

_PYTHON = "python that does nothing"
#: seconds at most
BARS = {"cimctl --help": 0.2, "cimctl board list": 0.3}
_COMMANDS = (*BARS, "cimctl train --help")
_TRAIN = ("train", "lenet", "--board", "emu", "--epochs", "1", "--batches-per-epoch", "1", "--json")


def command() -> list[str]:
    """The installed ``cimctl``, or its entry point where no script is installed."""
    script = Path(sysconfig.get_path("scripts")) / "cimctl"
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "from cimctl.cli import main; main()"]


def spent(arguments: list[str], environment: dict[str, str], folder: str) -> tuple[float, float]:
    """Seconds of the processor and of the clock that a process takes."""
    before, start = _processor(), time.perf_counter()
    subprocess.run(
        arguments, env=environment, cwd=folder, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return _processor() - before, time.perf_counter() - start


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(turns: int) -> dict[str, Any]:
    """Processor and wall-clock seconds of each command, and the two starts of training."""
    works = {_PYTHON: [sys.executable, "-c", "pass"]}
    works |= {name: [*command(), *name.split()[1:]] for name in _COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        # Compiled as an installation is, also where the caller's environment keeps no bytecode.
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
            "NUMBA_CACHE_DIR": f"{folder}/kernels",
            "OMP_NUM_THREADS": "1",
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for turn in range(-1, turns):
            for name, arguments in works.items():
                taken = spent(arguments, environment, folder)
                if turn >= 0:
                    seconds[name].append(taken)
        # Bytecode of what training imports is written by a run that compiles nothing.
        spent([*command(), "train", *_TRAIN[1:4], "--algorithm", "fp32", *_TRAIN[4:]],
              environment, folder)  # fmt: skip
        training = {
            name: spent([*command(), *_TRAIN], environment, folder)
            for name in ("kernels compiled", "kernels kept")
        }
    return {
        "commands": {
            name: {
                "processor_s": vars_of(Spread.of([p for p, _ in found])),
                "wall_s": vars_of(Spread.of([w for _, w in found])),
                "bar_s": BARS.get(name),
            }
            for name, found in seconds.items()
        },
        "training_of_one_batch": {
            name: {"processor_s": p, "wall_s": w} for name, (p, w) in training.items()
        },
        "turns": turns,
    }


def vars_of(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "p10": spread.low, "p90": spread.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    print(f"{'':28}{'processor':>26}{'wall clock':>26}   bar")
    for name, found in result["commands"].items():
        columns = [
            f"{1000 * s['median']:5.0f} ({1000 * s['p10']:.0f} to {1000 * s['p90']:.0f}) ms"
            for s in (found["processor_s"], found["wall_s"])
        ]
        bar = f"{1000 * found['bar_s']:.0f} ms" if found["bar_s"] else ""
        print(f"{name:28}{columns[0]:>26}{columns[1]:>26}   {bar}")
    for name, found in result["training_of_one_batch"].items():
        print(f"one batch of LeNet, {name}: {found['processor_s']:.1f} s of the processor, "
              f"{found['wall_s']:.1f} s in all")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
