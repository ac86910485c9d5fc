"""HTTP probes straight on asyncio's transports, parsed by h11, which takes for an answer what httpx, curl and
Go's client do: HTTP/1.0, chunks, a body that ends with the connection, answers announced by a 1xx.

A probe through a full HTTP client costs 2 to 5 ms of processor time, one through this 0.3 to 0.5: at the
rates that are needed the prober must not become the load it measures.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from functools import cache
from typing import NamedTuple

import h11

from scenarios.address import HttpUrl, http_url, place, redirected
from scenarios.prober.messages import HttpSeries, Outcome, Probed

_BODY_LIMIT_BYTES = 1 << 20
_HEAD_LIMIT_BYTES = 1 << 20
_MOST_REQUESTS = 10
"""Requests for one probe: Go's client, and so a kubelet, gives up at the tenth redirect."""

_REDIRECTS = (301, 302, 303, 307, 308)
_METHOD_KEPT = (307, 308)
_SWITCHED = 101
_BROKEN = ConnectionResetError("closed before its answer was whole")


class HttpAnswer(NamedTuple):
    """What a server answered. Of a body only the first MiB is kept."""

    status: int
    body: bytes
    location: str | None = None


class _Request(NamedTuple):
    """One request, as h11 has it."""

    head: h11.Request
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self.heard = False
        self._transport: asyncio.Transport | None = None
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT_BYTES)
        self._answered: asyncio.Future[HttpAnswer] | None = None
        self._response: h11.Response | h11.InformationalResponse | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: _Request) -> asyncio.Future[HttpAnswer]:
        """Send one request; the future is its answer. `heard` says whether anything has come back."""
        assert self._transport is not None
        if self._answered is not None:
            self._http.start_next_cycle()
        self._body.clear()
        self.heard, self._response = False, None
        self._answered = asyncio.get_running_loop().create_future()
        data = self._http.send(request.head) or b""
        if request.body:
            data += self._http.send(h11.Data(data=request.body)) or b""
        self._transport.write(data + (self._http.send(h11.EndOfMessage()) or b""))
        return self._answered

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            self.close()  # nobody asked: what comes next would be taken for the next answer
            return
        self.heard = True
        self._read(data, h11.RemoteProtocolError)

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._end()  # over TLS some servers just close, which asyncio does not tell as an end of file
        self._fail(error or _BROKEN)

    def close(self) -> None:
        """Drop the connection at once, even during a request."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        """Nothing more will come: that ends a body without a length, and breaks off any other answer."""
        self.reusable = False
        if self._answered is not None and not self._answered.done():
            self._read(b"", ConnectionResetError)
            self._fail(_BROKEN)

    def _read(self, data: bytes, broken: type[Exception]) -> None:
        try:
            self._http.receive_data(data)
            while self._take(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(error if broken is h11.RemoteProtocolError else broken(str(error)))
            self.close()

    def _take(self, event: object) -> bool:
        """Take one event of the answer; whether there may be more of them now."""
        match event:
            case h11.Response():
                self._response = event
            case h11.InformationalResponse():
                if event.status_code == _SWITCHED:
                    self._response = event
                    self._answer(whole=False)
            case h11.Data():
                self._body += event.data
                if len(self._body) >= _BODY_LIMIT_BYTES:
                    self._answer(whole=False)
            case h11.EndOfMessage():
                self._answer(whole=True)
            case _:
                return False
        return self._answered is not None and not self._answered.done()

    def _answer(self, *, whole: bool) -> None:
        assert self._response is not None
        location = next((v.decode("latin-1") for n, v in self._response.headers if n == b"location"), None)
        answer = HttpAnswer(self._response.status_code, bytes(self._body[:_BODY_LIMIT_BYTES]), location)
        clean = whole and self._http.our_state is self._http.their_state is h11.DONE
        if not clean or self._http.trailing_data[0]:
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)


class HttpProber:
    """Probes one series. Kept: all probes share one connection, in turn, and wait for it."""

    def __init__(self, number: int, series: HttpSeries) -> None:
        self._number, self._series = number, series
        self._url = http_url(series.url)
        if series.address is not None:
            self._url = self._url._replace(place=place(series.address))
        self._request = self._made(self._url, series.method, series.content)
        self._body = re.compile(series.body.encode()) if series.body else None
        self._turn = asyncio.Lock()
        self._held: dict[tuple[bool, object], _Connection] = {}

    async def probe(self, at_s: float) -> Probed:
        """Probe once. Never raises but for cancellation."""
        sent: list[float] = []
        outcome: Outcome
        status = 0
        try:
            async with asyncio.timeout_at(at_s + self._series.give_up_s):
                status, body, _ = await self._asked(sent)
            good = status in self._series.status and (self._body is None or self._body.search(body))
            outcome = "ok" if good else "wrong"
        except TimeoutError:
            outcome = "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except ConnectionError:
            outcome = "reset"
        except (OSError, h11.ProtocolError):
            outcome = "error"
        return Probed(self._number, at_s, sent[0] if sent else None, time.monotonic(), outcome, status)

    async def answer(self) -> HttpAnswer:
        """Ask once, and wait for the answer. Raises `OSError` and `h11.ProtocolError`."""
        return await self._asked([])

    async def _asked(self, sent: list[float]) -> HttpAnswer:
        """The answer, after the redirects that are followed. `sent` is told when the first request left."""
        if not self._series.kept:
            return await self._followed(sent)
        async with self._turn:
            return await self._followed(sent)

    async def _followed(self, sent: list[float]) -> HttpAnswer:
        url, request, method = self._url, self._request, self._series.method
        for _ in range(_MOST_REQUESTS):
            answer = await self._exchanged(url, request, sent)
            status = answer.status
            if status not in _REDIRECTS or status in self._series.status or answer.location is None:
                return answer
            onward = redirected(url, answer.location)
            if onward is None:
                return answer
            if status not in _METHOD_KEPT and method != "HEAD":
                method = "GET"
            url = onward
            request = self._made(url, method, self._series.content if method == self._series.method else b"")
        raise h11.RemoteProtocolError("redirects without end")

    async def _exchanged(self, url: HttpUrl, request: _Request, sent: list[float]) -> HttpAnswer:
        """One request and its answer. A kept connection that the server had closed meanwhile is made again,
        as clients do."""
        key = (url.tls, url.place)
        while True:
            connection = self._held.get(key)
            used = connection is not None and connection.reusable
            if connection is None or not used:
                connection = await self._connect(url)
            if self._series.kept:
                self._held[key] = connection
            if not sent:
                sent.append(time.monotonic())
            try:
                return await connection.ask(request)
            except ConnectionError:
                if not used or connection.heard:
                    raise
            except BaseException:
                connection.close()  # a late answer must not be taken for the next probe's
                raise
            finally:
                if not self._series.kept:
                    connection.close()

    async def _connect(self, url: HttpUrl) -> _Connection:
        loop = asyncio.get_running_loop()
        tls = _unverified() if url.tls else None
        name = url.host if url.tls else None
        host, port, path = url.place
        if path:
            return (await loop.create_unix_connection(_Connection, path, ssl=tls, server_hostname=name))[1]
        return (await loop.create_connection(_Connection, host, port, ssl=tls, server_hostname=name))[1]

    def _made(self, url: HttpUrl, method: str, body: bytes) -> _Request:
        """What the series says of headers goes before what is sent otherwise."""
        said = {name.lower() for name in self._series.headers}
        headers = [("Host", url.authority), ("User-Agent", "wedge-prober"), ("Accept", "*/*")]
        if not self._series.kept:
            headers.append(("Connection", "close"))
        if body and self._series.json:
            headers.append(("Content-Type", "application/json"))
        if body or method in ("POST", "PUT", "PATCH"):
            headers.append(("Content-Length", str(len(body))))
        own = [(name, value) for name, value in headers if name.lower() not in said]
        made = h11.Request(method=method, target=url.target, headers=[*own, *self._series.headers.items()])
        return _Request(made, body)

    async def close(self) -> None:
        """Close what is held. Probes under way must have been cancelled before."""
        for connection in self._held.values():
            connection.close()


@cache
def _unverified() -> ssl.SSLContext:
    """A probe asks whether the server answers, not who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
