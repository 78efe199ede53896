"""Wiring: a profile, a link, and an emulator behind it where no port is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boards import capture, catalogue, links, locks
from boards.board import Board
from boards.errors import NoBoardError
from boards.profile import Profile
from firmware_protocol.constants import SPEC_DIGEST


@dataclass(frozen=True)
class BoardOptions:
    """Which board, and how to talk to it.

    Attributes:
        board: profile name or file.
        port: device path, ``tcp://host:port`` or pyserial URL; None for an emulator in process.
        seed: seed of an emulated chip in process.
        window: requests in flight at most; None takes the profile's.
        max_payload: largest payload in bytes; None takes the board's.
        capture: file that takes every byte of the session.
    """

    board: str
    port: str | None = None
    seed: int = 0
    window: int | None = None
    max_payload: int | None = None
    capture: Path | None = None


def connect(options: BoardOptions, profile: Profile | None = None) -> Board:
    """Opens a board.

    Raises:
        UsageError: unknown board, or an address that makes no sense.
        NoBoardError: nothing is there, or it is no board.
        LinkError: it is there and cannot be opened, or is in use.
    """
    profile = profile or catalogue.load(options.board)
    lock = locks.acquire(options.port) if options.port else None
    try:
        link = _open(profile, options)
        try:
            recorder = _recorder(profile, options)
        except BaseException:
            link.close()
            raise
        return Board(
            profile,
            link,
            window=options.window,
            max_payload=options.max_payload,
            recorder=recorder,
            lock=lock,
        )
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def open_link(options: BoardOptions) -> links.Link:
    """The bare link to a board, for who speaks frames himself."""
    return _open(catalogue.load(options.board), options)


def _open(profile: Profile, options: BoardOptions) -> links.Link:
    if options.port:
        return links.open_port(options.port, profile.link.baud)
    if profile.link.kind == "in-process":
        # Imported here: the emulator brings torch and compiled kernels.
        from sim_backend.chip import Chip
        from sim_backend.firmware import Firmware

        return links.InProcessLink(Firmware(Chip(profile, options.seed)), profile.name)
    if profile.link.kind in ("native", "qemu"):
        from boards import launch

        return launch.start(profile, options.seed)
    raise NoBoardError(
        f"Board '{profile.name}' is hardware, and no port was given",
        next=f"Name it with --port, or emulate it: cimctl emu serve --board {profile.name} "
        "--listen pty",
    )


def _recorder(profile: Profile, options: BoardOptions) -> capture.CaptureWriter | None:
    if options.capture is None:
        return None
    return capture.CaptureWriter(
        options.capture, {"board": profile.name, "seed": options.seed, "spec": SPEC_DIGEST}
    )
