"""A server that counts what comes: connections, bytes, requests, keys. The standard library alone.

It answers every request with 200 but those to /never, which it leaves unanswered. `POST /keep?key=K` keeps a
key (with `&silently=1` and without an answer), `POST /drop?key=K` drops it, and `GET /counts` tells. With
`--most N` the oldest connection is closed when there are more; with `--no-keep-alive` every one is closed
once it is answered; `--tls` speaks TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import ssl
from urllib.parse import parse_qs, urlsplit


class Counts:
    """What came so far. Requests are counted by path; those to /counts are not."""

    def __init__(self, most: int, *, keep_alive: bool) -> None:
        self.most, self.keep_alive = most, keep_alive
        self.open: dict[Connection, None] = {}
        self.accepted = self.closed_here = self.received_bytes = self.most_waiting = 0
        self.waiting: dict[Connection, None] = {}
        self.requests: dict[str, int] = {}
        self.keys: dict[str, None] = {}

    def told(self) -> dict[str, object]:
        return {
            "open": len(self.open),
            "accepted": self.accepted,
            "closed_here": self.closed_here,
            "received_bytes": self.received_bytes,
            "waiting": len(self.waiting),
            "most_waiting": self.most_waiting,
            "requests": self.requests,
            "keys": list(self.keys),
        }


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.counts.accepted += 1
        self.counts.open[self] = None
        if len(self.counts.open) > self.counts.most:
            self.counts.closed_here += 1
            oldest = next(iter(self.counts.open))
            del self.counts.open[oldest]
            oldest.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.counts.open.pop(self, None)
        self.counts.waiting.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.counts.received_bytes += len(data)
        self.head += data
        while b"\r\n\r\n" in self.head:
            head, _, self.head = self.head.partition(b"\r\n\r\n")
            self.request(head.split()[1].decode())

    def request(self, url: str) -> None:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if path == "/counts":
            self.answer(json.dumps(self.counts.told()))
            return
        self.counts.requests[path] = self.counts.requests.get(path, 0) + 1
        if path == "/never":
            self.counts.waiting[self] = None
            self.counts.most_waiting = max(self.counts.most_waiting, len(self.counts.waiting))
        elif path == "/keep":
            self.counts.keys[query["key"][0]] = None
            if "silently" not in query:
                self.answer("kept")
        elif path == "/drop":
            self.counts.keys.pop(query["key"][0], None)
            self.answer("dropped")
        else:
            self.answer("ok")

    def answer(self, body: str) -> None:
        kept = "keep-alive" if self.counts.keep_alive else "close"
        head = f"HTTP/1.1 200 OK\r\nconnection: {kept}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write((head + body).encode())
        if not self.counts.keep_alive:
            self.transport.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--no-keep-alive", action="store_true")
    parser.add_argument("--tls", metavar="FOLDER", help="with a cert.pem and its key.pem")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = Counts(arguments.most, keep_alive=not arguments.no_keep_alive)
    loop = asyncio.get_running_loop()
    tls = None
    if arguments.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(f"{arguments.tls}/cert.pem", f"{arguments.tls}/key.pem")
    server = await loop.create_server(lambda: Connection(counts), "127.0.0.1", 0, backlog=4096, ssl=tls)
    print(f"counting http=127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
