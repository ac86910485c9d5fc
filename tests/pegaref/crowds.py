"""Connections that crowd a server: many of them, silent or half-way through a request."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.pegaref.running import DEADLINE_S


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


@contextlib.contextmanager
def crowd(address: str, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Many connections that say something, or nothing, and then are silent."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            connection = stack.enter_context(connect(address))
            with contextlib.suppress(OSError):
                connection.sendall(say)
            sockets.append(connection)
        yield sockets


def closed(connection: socket.socket) -> bool:
    """Whether this end knows that the peer has closed the connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
