"""Links: the narrow interface to a stream of bytes, and what implements it.

A link moves bytes and knows nothing of frames.  ``read`` is called by one thread only, ``write`` by
one at a time; ``close`` may be called twice, and from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import select
import socket
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import serial

from boards.errors import LinkError, NoBoardError, PortBusyError, UsageError

_CHUNK = 1 << 18
_CONNECT_SECONDS = 5.0


class Link(Protocol):
    """A stream of bytes to and from a board."""

    #: where it goes, for messages
    name: str
    #: bytes a second that the line carries, None where it does not matter
    rate: float | None

    def write(self, data: bytes) -> None:
        """Sends all of it; raises ``LinkError``."""

    def read(self, timeout: float) -> bytes:
        """What has arrived, waiting at most ``timeout`` seconds for it; empty when nothing has."""

    def close(self) -> None:
        """Ends the link; a waiting ``read`` returns or raises ``LinkError``."""


class Device(Protocol):
    """Something that takes bytes and gives the answering bytes at once."""

    def receive(self, data: bytes) -> bytes: ...


class InProcessLink:
    """A device in this process; it works, and answers, in the thread that writes.

    A reader thread would only pass on what is there already, and the hand-over between threads
    costs as much as a small command: ``deliver_to`` names who takes the answers instead.
    """

    rate: float | None = None

    def __init__(self, device: Device, name: str = "in-process") -> None:
        self.name = name
        self._device = device
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._sink: Callable[[bytes], None] = self._answers.put

    def deliver_to(self, sink: Callable[[bytes], None]) -> None:
        """Hands answers to ``sink`` within ``write``; ``read`` then never has any."""
        self._sink = sink

    def write(self, data: bytes) -> None:
        answers = self._device.receive(data)
        if answers:
            self._sink(answers)

    def read(self, timeout: float) -> bytes:
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return b""

    def close(self) -> None:
        self._answers.put(b"")


class SocketLink:
    """A connected stream socket.

    Args:
        name: what messages call it.
        connected: the socket, which belongs to the link from now on.
    """

    rate: float | None = None

    def __init__(self, name: str, connected: socket.socket) -> None:
        self.name = name
        self._socket = connected
        self._socket.settimeout(None)

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _gone(self.name, error) from None

    def read(self, timeout: float) -> bytes:
        try:
            ready, _, _ = select.select([self._socket], [], [], timeout)
            if not ready:
                return b""
            data = self._socket.recv(_CHUNK)
        except (OSError, ValueError) as error:
            raise _gone(self.name, error) from None
        if not data:
            raise _gone(self.name, "the other side closed the connection")
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class TcpLink(SocketLink):
    """A TCP connection, the algorithm that delays small packets switched off."""

    def __init__(self, host: str, port: int) -> None:
        name = f"tcp://{host}:{port}"
        try:
            connected = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        except (OSError, UnicodeError) as error:
            # A name with an empty or too long label does not get as far as the resolver.
            raise NoBoardError(
                f"Nothing answers at {name}: {getattr(error, 'strerror', None) or error}",
                next="Start the board or 'cimctl emu serve', and check the address",
            ) from None
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(name, connected)


class SerialLink:
    """A serial port, or whatever else ``serial.serial_for_url`` opens."""

    def __init__(self, url: str, baud: int) -> None:
        self.name = url
        self.rate: float | None = baud / 10
        try:
            self._port = serial.serial_for_url(
                url, baudrate=baud, timeout=0.1, write_timeout=60, do_not_open=True
            )
            with contextlib.suppress(AttributeError, ValueError):
                self._port.exclusive = True
            self._port.open()
        except (serial.SerialException, OSError) as error:
            raise _not_opened(url, error) from None
        except ValueError as error:
            raise UsageError(
                f"'{url}' is no port: {error}",
                next="Give a device path, tcp://host:port, or a URL that pyserial knows",
            ) from None

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise _gone(self.name, error) from None

    def read(self, timeout: float) -> bytes:
        try:
            first: bytes = self._port.read(1)
            waiting = self._port.in_waiting if first else 0
            return first + self._port.read(waiting) if waiting else first
        except (serial.SerialException, OSError, TypeError) as error:
            # A port that another thread closes hands a None descriptor to the system call.
            raise _gone(self.name, error) from None

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self._port.cancel_read()
        with contextlib.suppress(serial.SerialException, OSError):
            self._port.close()


def open_port(port: str, baud: int) -> Link:
    """Opens ``tcp://host:port``, ``socket://host:port``, a device path or a pyserial URL.

    Raises:
        UsageError: the address makes no sense.
        NoBoardError: nothing is there.
        LinkError: it is there and cannot be opened.
    """
    if port.startswith(("tcp://", "socket://")):
        try:
            parts = urlsplit(port)
            number = parts.port
        except ValueError:
            number = None
        if not number or not parts.hostname:
            raise UsageError(f"'{port}' is no address", next="Write it like tcp://127.0.0.1:5000")
        return TcpLink(parts.hostname, number)
    return SerialLink(port, baud)


def _gone(name: str, error: object) -> LinkError:
    return LinkError(
        f"The link {name} is gone: {error}",
        next="Check cable and power; 'cimctl board info' tells when it is back",
    )


def _not_opened(url: str, error: Exception) -> Exception:
    number = getattr(error, "errno", None)
    text = str(error)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "No such file" in text:
        return NoBoardError(f"There is no port {url}", next="Plug the board in, or check --port")
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        return PortBusyError(
            f"The port {url} is busy: another program holds it",
            left="The board was not touched",
            next="Close the other program",
        )
    if number == errno.ENOTTY or "Inappropriate ioctl" in text:
        return NoBoardError(f"{url} is no serial port", next="Check --port")
    if number in (errno.EACCES, errno.EPERM):
        return LinkError(
            f"The port {url} may not be opened by this user",
            next="Join the group that owns it (often 'dialout') and log in again",
        )
    return LinkError(f"The port {url} cannot be opened: {text}", next="Check the port")
