"""An emulated board on a TCP port or a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import termios
import threading
import time
import tty
from typing import Protocol
from urllib.parse import urlsplit

from boards.errors import LinkError, PortBusyError, UsageError

_CHUNK = 1 << 18
_POLL_SECONDS = 0.2
#: an answer that nobody takes is dropped after this long, as a firmware would
_STALLED_SECONDS = 10.0


class Disconnected(Exception):
    """The board's end of a connection goes away, as a fault that was asked for."""


class Connection(Protocol):
    """One link's end of a board."""

    def receive(self, data: bytes) -> bytes: ...


class Board(Protocol):
    """What is served: a firmware, or one behind faults."""

    def connection(self) -> Connection: ...


class Server(Protocol):
    """Serves a firmware until closed."""

    #: what ``--port`` takes
    address: str

    def serve(self) -> None: ...

    def close(self) -> None: ...


def open_server(listen: str, board: Board) -> Server:
    """Opens ``pty`` or ``tcp://host:port``.

    Raises:
        UsageError: the address makes no sense.
        LinkError: it cannot be listened on.
    """
    if listen == "pty":
        return PtyServer(board)
    try:
        parts = urlsplit(listen)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not listen.startswith("tcp://") or not host or port is None:
        raise UsageError(
            f"'{listen}' cannot be listened on", next="Write tcp://127.0.0.1:0, or pty"
        )
    return TcpServer(host, port, board)


class TcpServer:
    """One thread a connection; the board serves them one request at a time."""

    def __init__(self, host: str, port: int, board: Board) -> None:
        self._board = board
        self._turn = threading.Lock()
        self._closing = False
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            kind = PortBusyError if "in use" in str(error) else LinkError
            raise kind(
                f"tcp://{host}:{port} cannot be listened on: {os.strerror(error.errno or 0)}",
                next="Take another port; 0 takes any free one",
            ) from None
        self._listener.settimeout(_POLL_SECONDS)
        self.address = f"tcp://{host}:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        board = self._board.connection()
        with connection, contextlib.suppress(OSError, Disconnected):
            while data := connection.recv(_CHUNK):
                with self._turn:
                    answers = board.receive(data)
                connection.sendall(answers)

    def close(self) -> None:
        self._closing = True
        self._listener.close()


class PtyServer:
    """The far end of a pseudo-terminal that any serial program can open."""

    def __init__(self, board: Board) -> None:
        self._board = board.connection()
        self._closing = False
        self._in_use = threading.Lock()
        # The near end stays open here too: otherwise reading fails while no program has it open.
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.address = os.ttyname(self._slave)

    def serve(self) -> None:
        with self._in_use:
            self._serve()

    def _serve(self) -> None:
        while not self._closing:
            try:
                ready, _, _ = select.select([self._master], [], [], _POLL_SECONDS)
                if not ready:
                    continue
                data = os.read(self._master, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                return
            # A pseudo-terminal cannot hang up; what would have been a disconnection is silence.
            with contextlib.suppress(Disconnected):
                self._send(self._board.receive(data))

    def _send(self, answers: bytes) -> None:
        view = memoryview(answers)
        limit = time.monotonic() + _STALLED_SECONDS
        while view and not self._closing:
            _, ready, _ = select.select([], [self._master], [], _POLL_SECONDS)
            if ready:
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self._master, view) :]
                    limit = time.monotonic() + _STALLED_SECONDS
            elif time.monotonic() > limit:
                termios.tcflush(self._master, termios.TCIOFLUSH)
                return

    def close(self) -> None:
        """Ends ``serve`` in another thread, and waits for that; may be called twice."""
        self._closing = True
        # Closed under a thread that still reads it, a descriptor may by then be another file's.
        with self._in_use:
            for descriptor in (self._slave, self._master):
                if descriptor >= 0:
                    os.close(descriptor)
            self._slave = self._master = -1
