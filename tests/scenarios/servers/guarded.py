"""A server with what keeps a crowd from taking all its descriptors, each of which can be taken away.

It listens on two ports, as a server of HTTP and gRPC does, and answers every request with `ok`. Of the first
port's connections the longest open gives way when there are more than a third of the descriptors
(`--without eviction`); one that has not sent the head of a request in time is closed (`--patience S`, or
`--without timeout`); and a few descriptors are kept for when no other is left (`--without reserve`). The
standard library alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket

_KEPT = 32
_LOOK_AGAIN_S = 0.02
_SPARE = 96


class Guards:
    """What is kept, and who is connected."""

    def __init__(self, without: str, patience_s: float) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = 1_000_000 if without == "eviction" else (limit - _SPARE) // 3
        self.patience_s = None if without == "timeout" else patience_s
        held = 0 if without == "reserve" else _KEPT
        self.reserve = [os.open(os.devnull, os.O_RDONLY) for _ in range(held)]
        self.room = asyncio.Semaphore(limit - _SPARE)

    async def accept(self, listener: socket.socket, *, gives_way: bool) -> None:
        """Take connections for ever, as long as they leave some descriptors to the server itself."""
        loop = asyncio.get_running_loop()
        connections: dict[Connection, None] = {}
        while True:
            await self.room.acquire()
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptor is left
                while self.reserve:
                    os.close(self.reserve.pop())
                self.room.release()
                await asyncio.sleep(_LOOK_AGAIN_S)  # there is no event for a descriptor that is free again
                continue
            if gives_way and len(connections) >= self.most:
                next(iter(connections)).end()
            await loop.connect_accepted_socket(lambda: Connection(self, connections), accepted)


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, guards: Guards, connections: dict[Connection, None]) -> None:
        self.guards, self.connections = guards, connections
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections[self] = None
        self.late: asyncio.TimerHandle | None = None
        if self.guards.patience_s is not None:
            self.late = asyncio.get_running_loop().call_later(self.guards.patience_s, self.end)

    def connection_lost(self, error: Exception | None) -> None:
        self.connections.pop(self, None)
        self.guards.room.release()
        if self.late is not None:
            self.late.cancel()

    def data_received(self, data: bytes) -> None:
        self.head += data
        while b"\r\n\r\n" in self.head and self.head.startswith(b"GET "):
            self.head = self.head.partition(b"\r\n\r\n")[2]
            if self.late is not None:
                self.late.cancel()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    def end(self) -> None:
        """It gives way, or was too slow."""
        self.connections.pop(self, None)
        self.transport.abort()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", choices=("nothing", "eviction", "timeout", "reserve"), default="nothing")
    parser.add_argument("--patience", type=float, default=60)
    arguments = parser.parse_args()
    guards = Guards(arguments.without, arguments.patience)
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
    for listener in listeners:
        listener.setblocking(False)
    http, other = (listener.getsockname()[1] for listener in listeners)
    print(f"guarded http=127.0.0.1:{http} other=127.0.0.1:{other}", flush=True)  # noqa: T201
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(guards.accept(listeners[0], gives_way=True))
        tasks.create_task(guards.accept(listeners[1], gives_way=False))


if __name__ == "__main__":
    asyncio.run(main())
