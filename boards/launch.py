"""Boards that this computer starts itself: the C firmware as a process, or booted in QEMU.

The process belongs to the link: it ends when the link is closed, and with this program, also where
that is killed.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from boards.errors import LinkError
from boards.firmware_build import NATIVE, RV32, MissingToolError, build
from boards.links import SocketLink, TcpLink
from boards.profile import Profile

#: where the firmware looks for its chip's seed (firmware_protocol/firmware/qemu/main.c)
_SEED_ADDRESS = 0x80F00000
_QEMU, _QEMU_PACKAGE = "qemu-system-riscv32", "qemu-system-misc"
_START_SECONDS = 20.0


class ProcessLink:
    """A link to a board that runs as a process of ours."""

    rate: float | None = None

    def __init__(
        self, link: SocketLink, process: subprocess.Popen[str], folder: Path | None = None
    ) -> None:
        self.name = link.name
        self.process = process
        self._link = link
        self._folder = folder

    def write(self, data: bytes) -> None:
        self._link.write(data)

    def read(self, timeout: float) -> bytes:
        return self._link.read(timeout)

    def close(self) -> None:
        self._link.close()
        _end(self.process, self._folder)


def start(profile: Profile, seed: int = 0) -> ProcessLink:
    """Builds the firmware for a profile of kind ``native`` or ``qemu``, and starts it.

    Args:
        profile: which board.
        seed: which chip of its kind.

    Raises:
        MissingToolError: a compiler or QEMU is missing; names the Debian package.
        LinkError: the board does not come up.
    """
    return _native(profile, seed) if profile.link.kind == "native" else _qemu(profile, seed)


def _native(profile: Profile, seed: int) -> ProcessLink:
    process = _started([str(build(profile, NATIVE)), "--seed", str(seed)])
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    address = process.stdout.readline().strip() if ready else ""
    parts = urlsplit(address)
    if parts.hostname is None or parts.port is None:
        raise _failed(process, "The C firmware does not start")
    try:
        return ProcessLink(TcpLink(parts.hostname, parts.port), process)
    except BaseException:
        _end(process, None)
        raise


def _qemu(profile: Profile, seed: int) -> ProcessLink:
    if shutil.which(_QEMU) is None:
        raise MissingToolError(_QEMU, _QEMU_PACKAGE, f"Board '{profile.name}'")
    firmware = build(profile, RV32)
    # A socket file of our own: nobody else can talk to the board, and no port has to be found.
    folder = Path(tempfile.mkdtemp(prefix="cimctl-qemu-"))
    path = folder / "uart"
    process = _started(
        [
            _QEMU, "-M", "virt", "-m", "16M", "-bios", "none", "-kernel", str(firmware),
            "-display", "none", "-monitor", "none", "-serial", "chardev:uart",
            "-chardev", f"socket,id=uart,path={path},server=on,wait=off",
            "-device", f"loader,addr={_SEED_ADDRESS:#x},data={seed},data-len=8",
        ]
    )  # fmt: skip
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        uart = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            uart.connect(str(path))
        except OSError:
            uart.close()
            time.sleep(0.05)
            continue
        return ProcessLink(SocketLink("qemu", uart), process, folder)
    raise _failed(process, "QEMU does not start", folder)


def _started(arguments: list[str]) -> subprocess.Popen[str]:
    # The kernel ends the process with this one; nothing else does where we are killed.
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    # A session of its own: Ctrl-C is for us, who then make the board safe and end it.
    return subprocess.Popen(
        [*guard, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _failed(process: subprocess.Popen[str], what: str, folder: Path | None = None) -> LinkError:
    process.kill()
    said = process.communicate()[1].strip()
    _end(process, folder)
    return LinkError(f"{what}: {said[-300:] or 'it says nothing'}", next="Try it once more")


def _end(process: subprocess.Popen[str], folder: Path | None) -> None:
    """Ends the process, which has nothing to lose: its chip is gone with it."""
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if folder is not None:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
