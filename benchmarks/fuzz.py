"""The C reference firmware under a coverage-guided fuzzer and sanitizers.

Builds the firmware with the harness of firmware_protocol/firmware/fuzz, starts from the corpus of
the tests and runs as many inputs as asked for, on one core.  Prints what came out and writes JSON;
ends with 1 on a finding, whose input is kept.  Needs the Debian packages clang-14 and
libclang-rt-14-dev.

    python benchmarks/fuzz.py [--inputs 10000000] [--seed 1] [--grown FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from boards import catalogue
from boards.firmware_build import FUZZ, SOURCES, build, compiler

_HOME = Path(__file__).parents[1]
CORPUS = _HOME / "tests" / "firmware" / "corpus"
PROFILE = SOURCES / "fuzz" / "fuzz.yaml"
#: longest input: several of the largest frames
LONGEST = 1024
_SECONDS_AN_INPUT = 10


def measure(inputs: int, seed: int, grown: Path, findings: Path) -> tuple[dict[str, object], str]:
    """Runs that many inputs.

    Args:
        inputs: how many.
        seed: of the fuzzer.
        grown: folder that takes the inputs that reach something new.
        findings: folder that takes an input that breaks a promise.

    Returns:
        The results, and what the fuzzer said last.
    """
    program = build(catalogue.load(str(PROFILE)), FUZZ)
    command = [
        str(program), f"-runs={inputs}", f"-seed={seed}", f"-max_len={LONGEST}",
        f"-timeout={_SECONDS_AN_INPUT}", "-print_final_stats=1", f"-artifact_prefix={findings}/",
        str(grown), str(CORPUS),
    ]  # fmt: skip
    # The firmware has no heap: what a quarantine keeps is the fuzzer's own.
    environment = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=8"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.run(command, stderr=log, env=environment, check=False)
        seconds = time.monotonic() - start
        log.seek(0)
        said = log.read()
    found = sorted(path.name for path in findings.iterdir())
    progress = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", said)
    executed = re.search(r"number_of_executed_units: (\d+)", said)
    edges = re.search(r"\((\d+) inline 8-bit counters\)", said)
    version = subprocess.run(
        [compiler(FUZZ), "--version"], capture_output=True, text=True, check=True
    ).stdout
    result: dict[str, object] = {
        "measure": "C reference firmware, array model behind it, under libFuzzer, ASan and UBSan",
        "inputs": int(executed.group(1)) if executed else 0,
        "findings": len(found) or int(process.returncode != 0),
        "seconds": round(seconds),
        "edges_covered": int(progress[-1][0]) if progress else 0,
        "edges": int(edges.group(1)) if edges else 0,
        "features": int(progress[-1][1]) if progress else 0,
        "corpus_start": len(list(CORPUS.iterdir())),
        "corpus_end": int(progress[-1][2]) if progress else 0,
        "seed": seed,
        "compiler": version.splitlines()[0],
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    return result, said[-3000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--grown", type=Path, help="keep here what reached something new")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        grown = options.grown or Path(scratch)
        grown.mkdir(parents=True, exist_ok=True)
        result, said = measure(options.inputs, options.seed, grown, options.findings)
    print(
        f"{result['inputs']} inputs in {result['seconds']} s: {result['findings']} findings, "
        f"{result['edges_covered']} of {result['edges']} edges"
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if result["findings"]:
        sys.exit(f"{said}\nThe input is in '{options.findings}'")
    options.findings.rmdir()


if __name__ == "__main__":
    main()
