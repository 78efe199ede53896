"""The C firmware under sanitizers: a corpus, a short run of the fuzzer, a sanitized process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_commands import RandomCommands

from boards import catalogue, firmware_build
from boards.board import gain_integers
from boards.description import describe
from boards.firmware_build import FUZZ, NATIVE, SOURCES, MissingToolError, Target, build
from boards.links import TcpLink
from firmware_protocol import frames
from firmware_protocol import messages as m
from firmware_protocol.constants import SPEC_HASH, Opcode, Status
from firmware_protocol.packing import packed_size

CORPUS = Path(__file__).parent / "corpus"
GOLDEN = firmware_build.SOURCES.parent / "golden" / "vectors.json"
PROFILE = SOURCES / "fuzz" / "fuzz.yaml"
LONGEST = 1024
SHORT_RUN = 100_000
COMMANDS = 2000
#: the first byte of an input that holds bytes of the line
RAW = b"\x01"
#: kinds of a record: a frame, a greeting, and that the power fails within the next frame
NEXT, HELLO, CUT = 0, 9, 12


def require(target: Target, folder: Path, program: str) -> None:
    """Skips where a compiler, or its run-time of the sanitizers, is missing."""
    source = folder / "probe.c"
    source.write_text(program)
    sanitizers = [flag for flag in target.flags if flag.startswith("-fsanitize=")]
    try:
        command = [firmware_build.compiler(target), *sanitizers, str(source), "-o"]
    except MissingToolError as error:
        pytest.skip(f"needs the Debian packages {error.package}")
    linked = subprocess.run([*command, str(folder / "probe")], capture_output=True, check=False)
    if linked.returncode:
        pytest.skip(f"needs the Debian packages {target.package}")


@pytest.fixture(scope="module")
def clang(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = "int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n < 0; }\n"
    require(FUZZ, tmp_path_factory.mktemp("clang"), program)


def fuzz(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), f"-max_len={LONGEST}", "-seed=1", "-timeout=10", *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=8"},
        check=False,
    )


def assert_clean(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 0, outcome.stderr[-3000:]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden frames and updates as inputs: they follow the specification, as kept files do not."""
    folder = tmp_path_factory.mktemp("golden")
    for number, vector in enumerate(json.loads(GOLDEN.read_text())["vectors"]):
        (folder / str(number)).write_bytes(RAW + bytes.fromhex(vector["frame"]))
    for seed in range(40):
        (folder / f"outer-{seed}").write_bytes(updates(seed))
    return folder


def updates(seed: int) -> bytes:
    """An input of records: OUTER, most as it should be, the power failing within some."""
    rng = np.random.default_rng(seed)
    described = describe(catalogue.load(str(PROFILE)))
    gain = gain_integers(described.gain_low * 1.01 / 2**40)
    configure = record(NEXT, Opcode.CONFIGURE, m.ConfigureRequest(0, 0, 0, *gain).encode())
    records = b""
    for _ in range(int(rng.integers(2, 6))):
        cut = rng.random() < 0.5
        if cut:
            records += record(CUT, int(rng.integers(60)))
        records += record(NEXT, Opcode.OUTER, update(rng, described).encode())
        if cut:
            records += record(HELLO) + configure
    return b"\0" + records


def record(kind: int, opcode: int = 0, payload: bytes = b"") -> bytes:
    return bytes([kind, opcode]) + len(payload).to_bytes(2, "little") + payload


def update(rng: np.random.Generator, d: m.Description) -> m.OuterRequest:
    flags = 2 * int(rng.integers(2))
    rows, columns = int(rng.integers(1, 5)), 2 * int(rng.integers(1, 4))
    column = 2 * int(rng.integers(0, (d.columns - columns) // 2 + 1))
    region = m.Region(
        int(rng.integers(d.tiles)), int(rng.integers(d.rows - rows + 1)), rows, column, columns
    )
    length, count = int(rng.integers(1, 32)), int(rng.integers(1, 5))
    lines = (rows, columns // (2 if flags else 1))
    words = b"".join(rng.bytes(packed_size(count * n, length + 1)) for n in lines)
    words = words[: len(words) - int(rng.integers(5) == 0)]
    most = d.amplitude_high + int(rng.integers(10) == 0)
    return m.OuterRequest(most, most, d.width_low, region, flags, length, count, words)


# --- the fuzzer ----------------------------------------------------------------------------------


def test_the_corpus_breaks_no_promise(clang: None, seeds: Path, tmp_path: Path) -> None:
    program = build(catalogue.load(str(PROFILE)), FUZZ)
    files = [*sorted(CORPUS.iterdir()), *sorted(seeds.iterdir())]
    assert len(files) > 100
    outcome = fuzz(program, f"-artifact_prefix={tmp_path}/", *map(str, files))
    assert_clean(outcome)
    assert outcome.stderr.count("Executed ") == len(files)


def test_a_short_run_of_the_fuzzer_finds_nothing(clang: None, seeds: Path, tmp_path: Path) -> None:
    program = build(catalogue.load(str(PROFILE)), FUZZ)
    grown = tmp_path / "grown"
    grown.mkdir()
    outcome = fuzz(
        program, f"-runs={SHORT_RUN}", "-max_total_time=60", "-print_final_stats=1",
        f"-artifact_prefix={tmp_path}/", str(grown), str(CORPUS), str(seeds),
    )  # fmt: skip
    assert_clean(outcome)
    executed = re.search(r"number_of_executed_units: (\d+)", outcome.stderr)
    assert executed and int(executed.group(1)) > SHORT_RUN // 20


#: a fault in the firmware: its file, what stands there, what stands there instead, and who sees it
FAULTS = {
    "a read past the payload": (
        "core/cim_bytes.h",
        "r->short_of || size > r->size - r->at",
        "r->short_of",
        "AddressSanitizer: global-buffer-overflow",
    ),
    "a region that leaves the tile": (
        "core/cim_commands.c",
        "r->row + r->rows > BOARD_ROWS",
        "r->row + r->rows > BOARD_ROWS + 1",
        "runtime error: index",
    ),
    "a lifetime budget passed by one": (
        "core/cim_commands.c",
        "> BOARD_LIFETIME_PULSES)",
        "> BOARD_LIFETIME_PULSES + 1)",
        "broken promise: chip.pulses",
    ),
    "a journal that runs ahead of the cells": (
        "core/cim_commands.c",
        "cim_journal_progress(i)",
        "cim_journal_progress(i + 1)",
        "broken promise:",
    ),
    "an update that ignores the signs of columns": (
        "core/cim_outer.c",
        "(row ^ column) >> o->length",
        "row >> o->length",
        "broken promise:",
    ),
    "an update of the cells beside pairs": (
        "core/cim_outer.c",
        "+ j * o->step",
        "+ j",
        "broken promise:",
    ),
    "words of an update past the payload": (
        "core/cim_outer.c",
        "!= size)",
        "< size)",
        "AddressSanitizer: global-buffer-overflow",
    ),
    "an update whose journal runs ahead of the cells": (
        "core/cim_outer.c",
        "cim_journal_progress(i * o.columns + j)",
        "cim_journal_progress(i * o.columns + j + 1)",
        "broken promise:",
    ),
    "a duplicate that is executed": (
        "core/cim_firmware.c",
        "slot->header.sequence == request->sequence",
        "!request->sequence",
        "broken promise:",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_corpus_finds_a_fault_put_into_the_firmware(
    clang: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    name, right, wrong, sign = FAULTS[fault]
    shutil.copytree(SOURCES, tmp_path / "firmware")
    source = tmp_path / "firmware" / name
    text = source.read_text()
    assert right in text
    source.write_text(text.replace(right, wrong))
    monkeypatch.setattr(firmware_build, "SOURCES", tmp_path / "firmware")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = build(catalogue.load(str(PROFILE)), FUZZ)
    files = map(str, sorted(CORPUS.iterdir()))
    outcome = fuzz(program, f"-artifact_prefix={tmp_path}/", *files)
    assert outcome.returncode != 0
    assert sign in outcome.stderr, outcome.stderr[-3000:]


# --- a sanitized process -------------------------------------------------------------------------

SANITIZED = dataclasses.replace(
    NATIVE,
    flags=("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    require(SANITIZED, tmp_path, "int main(void) { return 0; }\n")
    program = build(catalogue.load("native"), SANITIZED)
    started = subprocess.Popen(
        [str(program), "--seed", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


class Line:
    """Frames to and from the process, and damaged ones in between."""

    def __init__(self, address: str) -> None:
        host, port = address.strip().removeprefix("tcp://").split(":")
        self._link = TcpLink(host, int(port))
        self._decoder = frames.Decoder()

    def close(self) -> None:
        self._link.close()

    def send(self, opcode: int, sequence: int, payload: bytes) -> bytes:
        data = frames.encode(opcode, 7, sequence, (payload,))
        self._link.write(data)
        return data

    def write(self, data: bytes) -> None:
        self._link.write(data)

    def answer(self) -> frames.Frame:
        for _ in range(20):
            found = list(self._decoder.feed(self._link.read(1.0)))
            if found:
                (frame,) = found
                assert isinstance(frame, frames.Frame)
                return frame
        raise AssertionError("no answer")


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """A frame with a bit turned, cut off, or of pure noise; it ends with a delimiter."""
    body = bytearray(data[:-1])
    kind = int(rng.integers(3))
    if kind == 0:
        at = int(rng.integers(len(body)))
        # A byte that became a delimiter would make two frames of one.
        body[at] = (body[at] ^ 1 << int(rng.integers(8))) or 0xFF
    elif kind == 1:
        del body[int(rng.integers(1, len(body))) :]
    else:
        body = bytearray(rng.bytes(int(rng.integers(1, 300))).replace(b"\0", b"\1"))
    return bytes(body) + b"\0"


def test_a_sanitized_process_serves_thousands_of_commands_and_garbage(
    process: subprocess.Popen[str],
) -> None:
    assert process.stdout is not None and process.stderr is not None
    line = Line(process.stdout.readline())
    commands = RandomCommands(describe(catalogue.load("native")), seed=11)
    rng = np.random.default_rng(11)
    with contextlib.closing(line):
        line.send(Opcode.HELLO, 0, m.HelloRequest(1, SPEC_HASH, 1).encode())
        assert line.answer().status == Status.OK
        done = garbage = duplicates = 0
        for sequence in range(1, COMMANDS + 1):
            opcode, payload = commands.draw()
            if rng.random() < 0.3:
                line.write(damaged(rng, frames.encode(opcode, 7, sequence, (payload,))))
                garbage += 1
            sent = line.send(opcode, sequence, payload)
            answer = line.answer()
            assert (answer.opcode, answer.sequence) == (opcode, sequence)
            done += answer.status == Status.OK
            if rng.random() < 0.05:
                line.write(sent)
                duplicates += 1
                again = line.answer()
                assert (again.status, bytes(again.payload)) == (
                    answer.status,
                    bytes(answer.payload),
                )
        line.send(Opcode.STATUS, COMMANDS + 1, b"")
        status = m.StatusResponse.decode(line.answer().payload)
    assert done > COMMANDS // 2
    assert status.corrupt_frames == garbage > COMMANDS // 5
    assert status.duplicates == duplicates > COMMANDS // 40
    assert process.poll() is None
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert said == ""
