"""aihwkit in a process of its own that measures when it is its turn (``worker.py``)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cimctl" / "oracle"


class Oracle:
    """
    Args:
        environment: where ``install.sh`` put aihwkit.
    """

    def __init__(self, environment: Path) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [environment / "bin" / "python", HERE / "worker.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | one_thread,
        )  # fmt: skip

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def answer(self, **task: Any) -> dict[str, float]:
        """What one task gave."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def seconds(self, **task: Any) -> float:
        """Processor seconds of one task."""
        return self.answer(**task)["seconds"]
