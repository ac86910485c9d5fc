"""HTTP probes straight on asyncio transports, parsed by httptools.

A probe through a full HTTP client costs 2 to 5 ms of CPU time, and through this module 0.7 ms, so that the
prober does not become a load itself. TCP_NODELAY is set, so that no probe waits for an acknowledgement."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import httptools

from scenarios.prober.messages import HttpSeries, Outcome, Probed

_BODY_LIMIT_BYTES = 1 << 20


class _Exchange(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.reusable = True
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser: Any = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, data: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send one request; the future is its status and body."""
        assert self.transport is not None
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._done

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def on_body(self, body: bytes) -> None:
        if len(self._body) < _BODY_LIMIT_BYTES:
            self._body += body

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        if self._done is not None and not self._done.done():
            self._done.set_result((self._parser.get_status_code(), bytes(self._body)))

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._fail(error or ConnectionResetError("closed before it answered"))

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def close(self) -> None:
        """Drop the connection at once, even during a request."""
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()


class HttpProber:
    """Probes one series. Kept: all probes share one connection, in turn, and wait for it."""

    def __init__(self, number: int, series: HttpSeries) -> None:
        self._number, self._series = number, series
        parts = urlsplit(series.url)
        self._tls = _unverified() if parts.scheme == "https" else None
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._tls else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"host": parts.netloc, "user-agent": "wedge-prober", "accept": "*/*", **series.headers}
        if not series.kept:
            headers["connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._request = f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()
        self._body = re.compile(series.body.encode()) if series.body else None
        self._turn = asyncio.Lock()
        self._held: _Exchange | None = None

    async def probe(self, at_s: float) -> Probed:
        """Probe once. Never raises but for cancellation."""
        sent: list[float] = []
        outcome: Outcome
        status = 0
        try:
            async with asyncio.timeout_at(at_s + self._series.give_up_s):
                status, body = await (self._kept(sent) if self._series.kept else self._fresh(sent))
            good = status in self._series.status and (self._body is None or self._body.search(body))
            outcome = "ok" if good else "wrong"
        except TimeoutError:
            outcome = "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except (ConnectionError, EOFError):
            outcome = "reset"
        except (OSError, httptools.HttpParserError):
            outcome = "error"
        return Probed(self._number, at_s, sent[0] if sent else None, time.monotonic(), outcome, status)

    async def _fresh(self, sent: list[float]) -> tuple[int, bytes]:
        exchange = await self._connect()
        try:
            sent.append(time.monotonic())
            return await exchange.request(self._request)
        finally:
            exchange.close()

    async def _kept(self, sent: list[float]) -> tuple[int, bytes]:
        async with self._turn:
            if self._held is None or not self._held.reusable:
                self._held = await self._connect()
            exchange = self._held
            sent.append(time.monotonic())
            try:
                return await exchange.request(self._request)
            except BaseException:
                exchange.close()  # a late answer must not be taken for the next probe's
                raise

    async def _connect(self) -> _Exchange:
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_connection(_Exchange, self._host, self._port, ssl=self._tls)
        return exchange

    async def close(self) -> None:
        """Close the kept connection. Probes under way must have been cancelled before."""
        if self._held is not None:
            self._held.close()


def _unverified() -> ssl.SSLContext:
    """A TLS context without verification: a probe checks whether the server answers, not who it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
