"""`/health` and `/livez`, which only say that the control process runs.

The answer is short, always the same, and requested more often than any other. So the connection's protocol
writes it without an application or a task, which saves two thirds of the work. It is still a handler like any
other: the placement's dispatch decides when it runs, which is at once or, in `pool`, when a worker is free.
"""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pegaref.placement import Dispatch
from pegaref.serving.metrics import Metrics, RouteCounters

PATHS: Final = (b"/health", b"/livez")

_Headers = Sequence[tuple[bytes, bytes]]

_NO_WAITER: Final = asyncio.Event()  # uvicorn sets it for a handler that waits; liveness never waits


class _Answer(NamedTuple):
    status: int
    headers: bytes
    body: bytes


_TEXT: Final = b"content-type: text/plain; charset=utf-8\r\ncontent-length: 2\r\n"
_ANSWERS: Final = {
    b"GET": _Answer(200, _TEXT, b"ok"),
    b"HEAD": _Answer(200, _TEXT, b""),
}
_OTHER_METHOD: Final = _Answer(405, b"allow: GET, HEAD\r\ncontent-length: 0\r\n", b"")


class Liveness:
    """Makes a cycle for each liveness request, and keeps the answers as encoded bytes."""

    def __init__(self, dispatch: Dispatch, metrics: Metrics) -> None:
        self.dispatch = dispatch
        self._routes = {path: metrics.http.route(path.decode()) for path in PATHS}
        self._made_with: _Headers | None = None
        self._encoded: dict[tuple[_Answer, bool], bytes] = {}

    def route(self, target: bytes) -> RouteCounters | None:
        """The counters for a request target such as `/health?verbose=1`; None if it is not a liveness
        path."""
        return self._routes.get(target) or self._routes.get(_path(target))

    def encoded(self, answer: _Answer, headers: _Headers, *, keep_alive: bool) -> bytes:
        """An answer with the server's own headers; uvicorn makes a new list of these each second."""
        if headers is not self._made_with:
            self._made_with = headers
            self._encoded.clear()
        known = self._encoded.get((answer, keep_alive))
        if known is None:
            known = self._encoded[answer, keep_alive] = _encode(answer, headers, keep_alive=keep_alive)
        return known


class LivenessCycle(RequestResponseCycle):
    """One liveness request. It replaces uvicorn's cycle and has the part of its interface that a protocol
    uses."""

    def __init__(
        self,
        liveness: Liveness,
        route: RouteCounters,
        method: bytes,
        *,
        transport: asyncio.Transport,
        headers: _Headers,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        # uvicorn's own __init__ prepares to run an application, which is not needed here.
        self._liveness = liveness
        self._route = route
        self._answer = _ANSWERS.get(method, _OTHER_METHOD)
        self._headers = headers
        self._began = 0.0
        self.transport = transport
        self.keep_alive = keep_alive
        self.on_response = on_response
        self.message_event = _NO_WAITER
        self.body = bytearray()  # of the request: received and ignored
        self.disconnected = False
        self.response_complete = False

    def start(self) -> None:
        """Let the placement's dispatch write the answer when it is due."""
        self._began = self._route.begin()  # not earlier: a queued request may never get its turn
        self._liveness.dispatch.call(self._write)

    async def run_asgi(self, app: object) -> None:
        """Start; uvicorn calls this for a request that had to wait for the answer to the previous one."""
        self.start()

    def _write(self) -> None:
        self.response_complete = True
        if self.disconnected or self.transport.is_closing():
            self._route.end(self._began, "499")  # the caller left before the answer
            return
        answer = self._answer
        self.transport.write(self._liveness.encoded(answer, self._headers, keep_alive=self.keep_alive))
        self._route.end(self._began, str(answer.status))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _encode(answer: _Answer, headers: _Headers, *, keep_alive: bool) -> bytes:
    status = HTTPStatus(answer.status)
    own = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    last = b"" if keep_alive else b"connection: close\r\n"
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return line + own + answer.headers + last + b"\r\n" + answer.body


def _path(target: bytes) -> bytes:
    path: bytes = httptools.parse_url(target).path
    return unquote_to_bytes(path) if b"%" in path else path
