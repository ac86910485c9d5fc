"""`/health`, `/livez` and `/metrics`: what is asked for more than all else, and waits for nothing.

The connection's protocol writes these answers, without an application and a task, which saves two thirds of
the work. For all that they have handlers like any other: the placement's dispatch says when they run, which
is at once, or in `pool` when a worker is free.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pegaref.placement import Dispatch
from pegaref.serving.exposition import METRICS_TYPE, Exposition
from pegaref.serving.metrics import Metrics, RouteCounters

_OK: Final = b"ok"
_TEXT: Final = "text/plain; charset=utf-8"

_Headers = Sequence[tuple[bytes, bytes]]

_NO_WAITER: Final = asyncio.Event()  # what uvicorn sets for a handler that waits; none of these does


@dataclass(frozen=True, eq=False, slots=True)
class DirectRoute:
    """A route whose answer is made without waiting."""

    counters: RouteCounters
    is_scrape: bool
    content_type: str
    body: Callable[[], bytes]


class DirectAnswers:
    """The routes, and the heads of their answers as bytes."""

    def __init__(self, dispatch: Dispatch, metrics: Metrics) -> None:
        self.dispatch = dispatch
        self._metrics = metrics
        self._routes: dict[bytes, DirectRoute] = {}
        self._made_with: _Headers | None = None
        self._heads: dict[tuple[DirectRoute, int, bool], bytes] = {}
        self._add("/health", _TEXT, lambda: _OK)
        self._add("/livez", _TEXT, lambda: _OK)
        self._add("/metrics", METRICS_TYPE, Exposition(metrics).text)

    @property
    def paths(self) -> tuple[str, ...]:
        """The routes' paths. GET and HEAD are answered, other methods are refused with 405."""
        return tuple(path.decode() for path in self._routes)

    def route(self, target: bytes) -> DirectRoute | None:
        """The route for a request's target, such as `/health?verbose=1`; None for any other target."""
        return self._routes.get(target) or self._routes.get(_path(target))

    def encoded(
        self, route: DirectRoute, method: bytes, headers: _Headers, *, keep_alive: bool
    ) -> tuple[int, bytes]:
        """The status and the answer. `headers`: the server's own, a new list each second."""
        if headers is not self._made_with:
            self._made_with = headers
            self._heads.clear()
        status = 200 if method in (b"GET", b"HEAD") else 405
        key = (route, status, keep_alive)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = _head(route, status, headers, keep_alive=keep_alive)
        body = b"" if status == 405 else route.body()
        return status, b"%b%d\r\n\r\n%b" % (head, len(body), body if method == b"GET" else b"")

    def _add(self, path: str, content_type: str, body: Callable[[], bytes]) -> None:
        self._routes[path.encode()] = DirectRoute(
            self._metrics.http.route(path), path == "/metrics", content_type, body
        )


class DirectCycle(RequestResponseCycle):
    """One request for such a route: what a protocol uses of uvicorn's cycle, in whose place it is."""

    def __init__(
        self,
        answers: DirectAnswers,
        route: DirectRoute,
        method: bytes,
        *,
        transport: asyncio.Transport,
        headers: _Headers,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        # Nothing of uvicorn's own __init__ is needed, which is for running an application.
        self._answers = answers
        self._route = route
        self._method = method
        self._headers = headers
        self._began = 0.0
        self.transport = transport
        self.keep_alive = keep_alive
        self.on_response = on_response
        self.message_event = _NO_WAITER
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    def start(self) -> None:
        """Have the answer written when the placement's dispatch says so."""
        self._began = self._route.counters.begin()  # not before: a queued request may never come to its turn
        self._answers.dispatch.call(self._write)

    async def run_asgi(self, app: object) -> None:
        """Start. uvicorn calls this for a request that had to wait for the answer to the one before it."""
        self.start()

    def _write(self) -> None:
        self.response_complete = True
        if self.disconnected or self.transport.is_closing():
            self._route.counters.end(self._began, "499")  # its caller left before the answer
            return
        status, answer = self._answers.encoded(
            self._route, self._method, self._headers, keep_alive=self.keep_alive
        )
        self.transport.write(answer)
        self._route.counters.end(self._began, str(status))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _head(route: DirectRoute, status: int, headers: _Headers, *, keep_alive: bool) -> bytes:
    """The answer's head as far as the number of its body's bytes."""
    content = f"content-type: {route.content_type}\r\n" if status == 200 else "allow: GET, HEAD\r\n"
    last = "" if keep_alive else "connection: close\r\n"
    own = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
    return line + own + f"{content}{last}content-length: ".encode()


def _path(target: bytes) -> bytes:
    path: bytes = httptools.parse_url(target).path
    return unquote_to_bytes(path) if b"%" in path else path
