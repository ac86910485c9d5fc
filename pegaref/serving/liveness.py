"""`/health` and `/livez`: that the control process runs, and nothing else. In front of everything.

There are two ways to the same answer. `Liveness` is an application like any other, whose body the placement
dispatches. Where dispatching is no more than an await, `Shortcut` answers in the connection's protocol,
without an application and a task: that saves two thirds of the work of what is asked more than all else.
"""

from collections.abc import Sequence
from time import perf_counter

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pegaref.placement import Dispatch
from pegaref.serving.metrics import Metrics

PATHS = ("/health", "/livez")

_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")],
}
_BODY = b"ok"
_OK: Message = {"type": "http.response.body", "body": _BODY}


class Liveness:
    """Answers `/health` and `/livez` with 200 `ok`, and hands every other request on."""

    def __init__(self, inner: ASGIApp, dispatch: Dispatch, metrics: Metrics) -> None:
        self._inner = inner
        self._run = dispatch.run
        self._routes = {path: metrics.http.route(path) for path in PATHS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        route = self._routes.get(scope["path"])
        if route is None:
            await self._inner(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            route.end(route.begin(), "405")
            await Response(status_code=405, headers={"allow": "GET, HEAD"})(scope, receive, send)
            return
        began = route.begin()
        status = "499"  # its caller left before the answer
        try:
            answer = await self._run(self._alive)
            await send(_START)
            await send(answer)
            status = "200"
        finally:
            route.end(began, status)

    async def _alive(self) -> Message:
        return _OK


class Shortcut:
    """The whole of the answer, as bytes, for a connection to write."""

    def __init__(self, metrics: Metrics) -> None:
        self._routes = {path.encode(): metrics.http.route(path) for path in PATHS}
        self._made_of: Sequence[tuple[bytes, bytes]] | None = None
        self._answers = (b"", b"")

    def answer(
        self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], *, keep_alive: bool
    ) -> bytes | None:
        """The answer, with the server's own headers (a new list each second); None to any other request."""
        began = perf_counter()
        route = self._routes.get(target)
        if route is None or method != b"GET":
            return None
        if headers is not self._made_of:
            self._made_of = headers
            self._answers = (_answer(headers, b"connection: close\r\n"), _answer(headers, b""))
        route.count(began, "200")
        return self._answers[keep_alive]


def _answer(headers: Sequence[tuple[bytes, bytes]], last: bytes) -> bytes:
    lines = b"".join(b"%s: %s\r\n" % pair for pair in (*headers, *_START["headers"]))
    return b"HTTP/1.1 200 OK\r\n" + lines + last + b"\r\n" + _BODY
