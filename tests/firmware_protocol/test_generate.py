"""The generated files: they do not drift, drift is found, and C has the numbers of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import firmware_protocol
from firmware_protocol import constants, messages, spec
from firmware_protocol.frames import OVERHEAD

PACKAGE = Path(firmware_protocol.__file__).parent
HEADER = PACKAGE / "include" / "cim_protocol.h"
GENERATED = [
    "firmware_protocol/constants.py",
    "firmware_protocol/messages.py",
    "firmware_protocol/include/cim_protocol.h",
    "firmware_protocol/golden/vectors.json",
    "docs/protocol.md",
]
COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler; Debian package: gcc")
STRICT = ["-std=c11", "-Wall", "-Werror", "-pedantic"]


def generate(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_protocol.generate", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package and its page, to be altered."""
    ignored = shutil.ignore_patterns("__pycache__", "c_firmware")
    shutil.copytree(PACKAGE, tmp_path / "firmware_protocol", ignore=ignored)
    (tmp_path / "docs").mkdir()
    shutil.copy(PACKAGE.parent / "docs" / "protocol.md", tmp_path / "docs")
    return tmp_path


def test_nothing_generated_has_drifted_from_the_specification() -> None:
    result = generate(PACKAGE.parent, "--check")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", GENERATED)
def test_an_altered_generated_file_fails_the_check_and_is_named(tree: Path, name: str) -> None:
    path = tree / name
    path.write_text(path.read_text() + "\n")
    result = generate(tree, "--check")
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if "drifted" in line] == [
        f"drifted from the specification: {path}"
    ]


def test_a_missing_generated_file_fails_the_check(tree: Path) -> None:
    (tree / "firmware_protocol" / "include" / "cim_protocol.h").unlink()
    result = generate(tree, "--check")
    assert result.returncode == 1
    assert "cim_protocol.h" in result.stderr


def test_a_changed_specification_fails_the_check_for_every_file_that_binds_it(tree: Path) -> None:
    path = tree / "firmware_protocol" / "spec.yaml"
    path.write_text(path.read_text().replace("payload_xor: 0x55", "payload_xor: 0x56"))
    result = generate(tree, "--check")
    assert result.returncode == 1
    for name in ("constants.py", "cim_protocol.h", "protocol.md", "vectors.json"):
        assert name in result.stderr


def test_writing_brings_a_changed_tree_back_to_agreement(tree: Path) -> None:
    path = tree / "firmware_protocol" / "spec.yaml"
    path.write_text(path.read_text().replace("payload_xor: 0x55", "payload_xor: 0x56"))
    assert generate(tree).returncode == 0
    assert generate(tree, "--check").returncode == 0
    assert "PAYLOAD_XOR = 0x56" in (tree / "firmware_protocol" / "constants.py").read_text()


def test_a_reworded_explanation_leaves_the_hash_as_it_is(tmp_path: Path) -> None:
    text = spec.SPEC_PATH.read_text()
    reworded = tmp_path / "reworded.yaml"
    reworded.write_text(text.replace('doc: "payload bytes"', 'doc: "bytes of payload"'))
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("max_row_blocks: 255", "max_row_blocks: 254"))
    assert reworded.read_text() != text and changed.read_text() != text
    assert spec.load(reworded).digest == spec.load().digest
    assert spec.load(changed).digest != spec.load().digest


@needs_compiler
def test_the_header_compiles_without_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "twice.c"
    source.write_text(
        '#include "cim_protocol.h"\n#include "cim_protocol.h"\nint main(void) { return 0; }\n'
    )
    result = subprocess.run(
        [str(COMPILER), *STRICT, "-fsyntax-only", f"-I{HEADER.parent}", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def expected_numbers() -> dict[str, int]:
    """C names and the numbers that Python has for them."""
    numbers = {
        "CIM_VERSION": constants.VERSION,
        "CIM_SPEC_HASH": constants.SPEC_HASH,
        "CIM_CRC_SEED": constants.CRC_SEED,
        "CIM_DELIMITER": constants.DELIMITER,
        "CIM_PAYLOAD_XOR": constants.PAYLOAD_XOR,
        "CIM_GOLDEN_GAMMA": constants.GOLDEN_GAMMA,
        "CIM_MIX_1": constants.MIX_1,
        "CIM_MIX_2": constants.MIX_2,
        "CIM_NOISE_TABLE_BITS": constants.NOISE_TABLE_BITS,
        "CIM_NOISE_FRACTION_BITS": constants.NOISE_FRACTION_BITS,
        "CIM_MIN_PAYLOAD": constants.MIN_PAYLOAD,
        "CIM_STREAM_VERIFY": constants.STREAM_VERIFY,
        "CIM_HEADER_FIXED_SIZE + CIM_CRC_SIZE": OVERHEAD,
        "CIM_FLAG_RESPONSE": constants.Flag.RESPONSE,
        "CIM_REGION_FIXED_SIZE": messages.Region.FORMAT.size,
        "CIM_WINDOW_FIXED_SIZE": messages.Window.FORMAT.size,
        "CIM_DESCRIPTION_FIXED_SIZE": messages.Description.FORMAT.size,
        "CIM_VMM_REQUEST_REGIONS": 24,
    }
    enums = {
        "OP": constants.Opcode, "STATUS": constants.Status, "DETAIL": constants.Detail,
        "CAP": constants.Capability,
    }  # fmt: skip
    for prefix, enum in enums.items():
        numbers |= {f"CIM_{prefix}_{member.name}": int(member) for member in enum}
    return numbers


@needs_compiler
def test_the_numbers_of_the_header_are_those_of_python(tmp_path: Path) -> None:
    numbers = expected_numbers()
    prints = "\n".join(f'    printf("%llu\\n", (unsigned long long)({name}));' for name in numbers)
    source = tmp_path / "numbers.c"
    source.write_text(
        f'#include <stdio.h>\n#include "cim_protocol.h"\nint main(void) {{\n{prints}\n'
        "    return 0;\n}\n"
    )
    program = tmp_path / "numbers"
    subprocess.run(
        [str(COMPILER), *STRICT, f"-I{HEADER.parent}", str(source), "-o", str(program)], check=True
    )
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    assert dict(zip(numbers, map(int, printed.split()), strict=True)) == numbers
