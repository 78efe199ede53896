"""Building the C reference firmware for a profile.

The profile becomes a header, so that geometry and limits have one source; what was built is kept in
the user's cache under a digest of everything that went into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import platformdirs

from boards.description import describe
from boards.errors import CimError, ProfileError, StorageError, UsageError
from boards.profile import Profile

_HOME = Path(__file__).parents[1] / "firmware_protocol"
SOURCES = _HOME / "firmware"
_INCLUDES = (_HOME / "include", SOURCES / "core", SOURCES / "model")
_COMMON = ("-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion",
           "-Wno-type-limits", "-Werror")  # fmt: skip
_BUILD_SECONDS = 120
#: builds of some hundred kilobytes each
_BUILDS_KEPT = 40


@dataclass(frozen=True)
class Target:
    """One way to build the same sources.

    Attributes:
        compilers: first one that is there is taken.
        package: Debian package of the first of them.
        flags: on top of the common ones.
        port: folder of the port's own sources.
    """

    compilers: tuple[str, ...]
    package: str
    flags: tuple[str, ...]
    port: str


NATIVE = Target(("gcc", "cc", "clang"), "gcc", ("-O2",), "native")
RV32 = Target(
    ("riscv64-unknown-elf-gcc",),
    "gcc-riscv64-unknown-elf",
    (
        "-O2", "-march=rv32imac", "-mabi=ilp32", "-mcmodel=medany", "-ffreestanding",
        "-ffunction-sections", "-fdata-sections", "-nostdlib", "-static", "-Wl,--gc-sections",
        "-fno-builtin", "-T", str(SOURCES / "qemu" / "virt.ld"),
    ),
    "qemu",
)  # fmt: skip
#: the port that is no program but feeds the firmware from a fuzzer (tests/firmware/test_fuzz.py)
FUZZ = Target(
    ("clang", "clang-14"),
    "clang-14 libclang-rt-14-dev",
    (
        "-O2", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all",
        # Reporting each comparison costs more than it finds: the corpus knows the numbers.
        "-fno-sanitize-coverage=trace-cmp",
        "-DBOARD_UNROLLED_LIMIT=4096u", "-Wl,--wrap=hal_nv_write", "-Wl,--wrap=cim_execute",
    ),
    "fuzz",
)  # fmt: skip
_LAST = {"qemu": ("-lgcc",)}


class MissingToolError(UsageError):
    """A program that a board needs is not installed."""

    def __init__(self, program: str, package: str, what: str) -> None:
        super().__init__(
            f"{what} needs {program}, which is not installed",
            next=f"Install the Debian package {package}, or train on --board emu",
        )
        self.package = package


def compiler(target: Target) -> str:
    """The compiler's path; raises ``MissingToolError``."""
    for name in target.compilers:
        found = shutil.which(name)
        if found:
            return found
    what = "The C reference firmware"
    raise MissingToolError(target.compilers[0], target.package, what)


def header(profile: Profile) -> str:
    """``cim_board.h``: what a profile says, for the preprocessor.

    Raises:
        ProfileError: the firmware's integer arithmetic cannot hold the profile.
    """
    _check_kind(profile)
    description = describe(profile)
    data = ", ".join(f"0x{byte:02x}" for byte in description.encode())
    low, high = (profile.units(g) for g in profile.device.initial_uS)
    values = {f.name: getattr(description, f.name) for f in fields(description)} | {
        "columns_per_adc": profile.chip.columns_per_adc,
        "step_ns": _whole(profile, "costs.cycle_ns", profile.step_ns),
        "pulse_ns": _whole(profile, "costs.pulse_ns", profile.costs.pulse_ns),
        "pulse_pJ": _whole(profile, "costs.pulse_pJ", profile.costs.pulse_pJ),
        "tile_operation_pJ": _whole(
            profile, "costs.tile_operation_nJ", profile.costs.tile_operation_nJ * 1000
        ),
        "program_width_ns": profile.programming.width_ns,
        "initial_low": low,
        "initial_high": high,
    }
    lines = [f"/* Profile {profile.name}, as the firmware is built for it. */", "#pragma once"]
    lines += [f"#define BOARD_{k.upper()} {_literal(v)}" for k, v in values.items()]
    lines += [f'#define BOARD_MODEL "{profile.name}"', f"#define BOARD_DESCRIPTION {{{data}}}", ""]
    return "\n".join(lines)


def build(profile: Profile, target: Target) -> Path:
    """Compiles the firmware for a profile, or finds it built already.

    Raises:
        MissingToolError: no compiler, with the package that has one.
        ProfileError: the profile cannot be built for.
        StorageError: no space or no permission in the cache.
    """
    program = compiler(target)
    board = header(profile)
    sources = [
        *sorted((SOURCES / "core").glob("*.c")),
        *sorted((SOURCES / "model").glob("*.c")),
        *sorted((SOURCES / target.port).glob("*.[cS]")),
    ]
    if "-nostdlib" in target.flags:
        sources.append(SOURCES / "freestanding.c")
    digest = _digest(board, program, target)
    folder = Path(platformdirs.user_cache_dir("cimctl")) / "firmware"
    built = folder / f"{target.port}-{profile.name}-{digest}"
    if built.exists():
        return built
    try:
        _forget_old(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            Path(scratch, "cim_board.h").write_text(board)
            output = Path(scratch, "firmware")
            includes = [f"-I{path}" for path in (scratch, *_INCLUDES)]
            arguments = [program, *_COMMON, *target.flags, *includes, *map(str, sources)]
            _run([*arguments, "-o", str(output), *_LAST.get(target.port, ())])
            # Another process may be building the same: each moves a whole file into place.
            os.replace(output, built)
    except OSError as error:
        raise StorageError(
            f"The firmware cannot be built in '{folder}': {error.strerror or error}",
            next="Free some space, or set XDG_CACHE_HOME to a folder that you may write to",
        ) from None
    return built


def export(profile: Profile, folder: Path) -> list[Path]:
    """Writes the sources that a board team starts from into a folder that is new or empty.

    Raises:
        UsageError: the folder holds something.
        ProfileError: the profile cannot be built for.
        StorageError: it cannot be written.
    """
    board = header(profile)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(
                f"The folder '{folder}' is not empty",
                left="Nothing was written",
                next="Name a new one",
            )
        folder.mkdir(parents=True, exist_ok=True)
        sources = [*(SOURCES / "core").iterdir(), *(_HOME / "include").glob("*.h")]
        for path in (*sources, SOURCES / "hal_template.c", SOURCES / "freestanding.c"):
            shutil.copyfile(path, folder / path.name)
        (folder / "cim_board.h").write_text(board)
    except OSError as error:
        raise StorageError(
            f"The folder '{folder}' cannot be written: {error.strerror or error}",
            next="Name another one",
        ) from None
    return sorted(folder.iterdir())


def sizes(built: Path) -> dict[str, int]:
    """Bytes of code and of static memory of an RV32 build, by section.

    Returns:
        ``text`` (code and constants), ``ram`` (the firmware's own), ``model`` (the array model,
        which stands for the analog cells and their non-volatile counters).
    """
    tool = shutil.which("riscv64-unknown-elf-size")
    if tool is None:
        raise MissingToolError("riscv64-unknown-elf-size", RV32.package, "Measuring the firmware")
    listed = subprocess.run(
        [tool, "-A", str(built)], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    found = {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[1].isdigit()}
    ram = sum(found.get(name, 0) for name in (".data", ".bss", ".stack"))
    return {
        "text": found.get(".text", 0) + found.get(".rodata", 0),
        "ram": ram,
        "model": found.get(".model", 0),
    }


def _forget_old(folder: Path) -> None:
    """Removes the oldest builds: every profile and every change of the sources makes one."""
    # Another process may do the same beside us.
    with contextlib.suppress(OSError):
        builds = [path for path in folder.iterdir() if path.is_file()]
        builds.sort(key=lambda path: path.stat().st_mtime)
        for path in builds[: 1 - _BUILDS_KEPT]:
            path.unlink()


def _digest(board: str, program: str, target: Target) -> str:
    content = hashlib.sha256(board.encode())
    content.update(repr((program, os.stat(program).st_mtime_ns, _COMMON, target)).encode())
    for path in sorted((_HOME / "include").glob("*.h")) + sorted(SOURCES.rglob("*.*")):
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def _run(arguments: list[str]) -> None:
    try:
        outcome = subprocess.run(
            arguments, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CimError(f"{arguments[0]} did not end within {_BUILD_SECONDS} s") from None
    if outcome.returncode:
        raise UsageError(
            f"{arguments[0]} cannot compile the firmware: {outcome.stderr.strip()[-600:]}",
            next="Report this with the compiler's version",
        )


def _check_kind(profile: Profile) -> None:
    """Refuses a profile of what the firmware's dispatcher does not do."""
    costs = profile.costs
    wrong = {
        "chip.input_coding": profile.plane_conversions,
        "chip.column_weights": bool(profile.chip.column_weights),
        "device.model": bool(profile.device.LEVELS) or not profile.device.PULSED,
        "costs.conversion_pJ": costs.conversion_pJ + costs.column_charge_pJ + costs.shift_add_pJ,
    }
    for key, there in wrong.items():
        if there:
            raise ProfileError(
                f"Profile '{profile.name}': key '{key}' says what the C firmware does not do: it "
                "converts whole sums of cells that pulses move",
                next="Take the emulator of this profile (cimctl emu serve)",
            )


def _whole(profile: Profile, key: str, value: float) -> int:
    if abs(value - round(value)) > 1e-9:
        raise ProfileError(
            f"Profile '{profile.name}': {key} is no whole number of ns or pJ, which the C "
            "firmware counts in",
            next="Round it",
        )
    return round(value)


def _literal(value: int) -> str:
    return f"{value}u" if value < 1 << 32 else f"{value}ull"
