"""One request, from a client that adds as little as it can: blocking sockets, no HTTP library."""

from __future__ import annotations

import socket

from benchmarks.figures import Shot


def _request(path: str, *, keep: bool, method: str = "GET") -> bytes:
    connection = "keep-alive" if keep else "close"
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: {connection}\r\n\r\n".encode()


def _answer(connection: socket.socket) -> bytes:
    """Read one whole answer; its head."""
    return _head_and_body(connection)[0]


def _head_and_body(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read one whole answer by its Content-Length."""
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError(f"the connection ended inside the head: {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    marker = head.lower().index(b"content-length:") + len(b"content-length:")
    length = int(head[marker:].split(b"\r\n", 1)[0])
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the connection ended inside the body")
        body += more
    return head, body


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _expect_ok(head: bytes) -> None:
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"expected 200, got {head[:60]!r}")


def status(port: int, path: str) -> int:
    """The status code of one GET over a fresh connection."""
    with _connect(port) as connection:
        connection.sendall(_request(path, keep=False))
        return int(_answer(connection).split(b" ", 2)[1])


def text(port: int, path: str, *, method: str = "GET") -> str:
    """The body of one answer over a fresh connection, whatever its status."""
    with _connect(port) as connection:
        connection.sendall(_request(path, keep=False, method=method))
        return _head_and_body(connection)[1].decode()


def fresh(port: int, path: str) -> Shot:
    """GET over a new connection each time, connecting included."""
    request = _request(path, keep=False)

    def shot() -> None:
        with _connect(port) as connection:
            connection.sendall(request)
            _expect_ok(_answer(connection))

    return shot


def kept(port: int, path: str) -> Shot:
    """GET over one kept-alive connection."""
    request = _request(path, keep=True)
    connection = _connect(port)

    def shot() -> None:
        connection.sendall(request)
        _expect_ok(_answer(connection))

    return shot


def grpc_health(address: str) -> Shot:
    """`grpc.health.v1.Health/Check` of the empty service over one channel."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
    request = health_pb2.HealthCheckRequest()

    def shot() -> None:
        answer = stub.Check(request, timeout=30)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"expected SERVING, got {answer.status}")

    return shot
