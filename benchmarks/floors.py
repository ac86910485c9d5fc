"""The floors: the least that any server in this language could do for the same request.

Each runs in a process of its own, as the subject does: `python -m benchmarks.floors raw|grpc` prints its
port and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


def serve_raw() -> None:
    """A blocking socket that answers any request with 200 `ok`, one thread, no parsing at all."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)


async def serve_grpc() -> None:
    """grpc.aio with nothing but the stock health service on it."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_health.v1._async import HealthServicer

    servicer = HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def end_with_stdin() -> None:
    """End this process when the one that started it goes away."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve the floor named by the first argument."""
    threading.Thread(target=end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[1] == "raw":
            serve_raw()
        else:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve_grpc())


if __name__ == "__main__":
    main()
