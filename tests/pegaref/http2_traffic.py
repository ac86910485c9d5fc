"""HTTP/2 frames as no well-behaved client sends them: what a test floods the gRPC port with."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from scenarios.traffic.attack import frame, header_block
from tests.pegaref.crowds import connect

CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
REGISTER = b"/pegaflow.Engine/RegisterContextBatch"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = b"\0\0\0\0\0"


def call(stream: int, path: bytes, message: bytes = EMPTY_MESSAGE) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, header_block(path)) + frame(DATA, END_STREAM, stream, message)


def reset_call(stream: int) -> bytes:
    return call(stream, CHECK) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def begin(address: str) -> socket.socket:
    """A connection that has said that it speaks HTTP/2."""
    connection = connect(address)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    connection.settimeout(0.1)
    return connection


@contextlib.contextmanager
def flood(address: str, piece: Callable[[int], bytes], *, connections: int = 2) -> Iterator[None]:
    """Connections that send one piece after another, and read what they are answered, inside the block."""
    over = threading.Event()

    def send(connection: socket.socket) -> None:
        for stream in itertools.count(1, 2):
            rest = piece(stream)
            while rest:
                if over.is_set():
                    return
                try:
                    rest = rest[connection.send(rest) :]
                except TimeoutError:
                    continue
                except OSError:
                    return

    def read(connection: socket.socket) -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                try:
                    if not connection.recv(65536):
                        return
                except ConnectionError:
                    return

    with contextlib.ExitStack() as stack:
        threads = []
        for _ in range(connections):
            connection = stack.enter_context(begin(address))
            threads += [threading.Thread(target=do, args=(connection,)) for do in (send, read)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def received(connection: socket.socket, within_s: float) -> bytes:
    """What comes until the peer closes or the time is up."""
    data = b""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        if not piece:
            break
        data += piece
    return data
