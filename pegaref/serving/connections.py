"""HTTP connections that cannot crowd out liveness: their number, header bytes and time are limited.

At the limit, the connection that has waited longest without a request in progress is closed for the new one.
So no number of idle connections or half-sent requests keeps a probe out.
"""

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pegaref.clock import Clock
from pegaref.config import Limits
from pegaref.serving.liveness import Liveness, LivenessCycle
from pegaref.serving.metrics import RouteCounters

logger = logging.getLogger(__name__)

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 26\r\nconnection: close\r\n\r\n"
    b"request head is too large\n"
)


class Connections:
    """All connections, and which of them may be closed for a new one."""

    def __init__(self, limits: Limits, clock: Clock, liveness: Liveness) -> None:
        self._limits = limits
        self._clock = clock
        self._liveness = liveness
        # When each began to wait for a request (or the rest of one) or to work on one; oldest first.
        self._waiting: dict[BoundedHttpProtocol, float] = {}
        self._working: dict[BoundedHttpProtocol, float] = {}
        self._evicted = 0  # since the last sweep

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def protocol(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> "BoundedHttpProtocol":
        """Make the protocol of a new connection; the signature is uvicorn's."""
        return BoundedHttpProtocol(
            config,
            server_state,
            app_state,
            _loop,
            connections=self,
            limits=self._limits,
            liveness=self._liveness,
        )

    def add(self, connection: "BoundedHttpProtocol") -> None:
        """Add an accepted connection; if there are too many, close another."""
        if len(self) >= self._limits.connections:
            self._evict()
        self.mark_waiting(connection)

    def remove(self, connection: "BoundedHttpProtocol") -> None:
        """Remove a closed connection; does nothing if it was removed already."""
        self._waiting.pop(connection, None)
        self._working.pop(connection, None)

    def mark_waiting(self, connection: "BoundedHttpProtocol") -> None:
        """Record that the connection now waits for a request or for the rest of one."""
        self.remove(connection)
        self._waiting[connection] = self._clock.now()

    def mark_working(self, connection: "BoundedHttpProtocol") -> None:
        """Record that a request is in progress; such a connection is closed only if its peer reads no
        answer."""
        self.remove(connection)
        self._working[connection] = self._clock.now()

    def sweep(self) -> None:
        """Close connections that for too long have sent nothing, sent half a request, or read no answer."""
        now = self._clock.now()
        if self._evicted:
            logger.warning("%d idle connections gave way to new ones: %d are open", self._evicted, len(self))
            self._evicted = 0
        for connection, since in tuple(self._waiting.items()):
            if since > now - self._limits.header_timeout_s:
                break
            if not connection.between_requests:
                self._abort(connection)
        for connection, since in tuple(self._working.items()):
            if since > now - self._limits.deadline_s - self._limits.header_timeout_s:
                break
            self._abort(connection)

    def make_room(self, count: int) -> None:
        """Close `count` connections, or as many as may be closed."""
        for _ in range(count):
            self._evict()

    def _evict(self) -> None:
        victim = next(iter(self._waiting), None)
        if victim is None:
            victim = next((working for working in self._working if working.unread), None)
        if victim is not None:  # else all have requests in progress, whose number the endpoints limit
            self._evicted += 1
            self._abort(victim)

    def _abort(self, connection: "BoundedHttpProtocol") -> None:
        self.remove(connection)
        connection.transport.abort()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on header bytes and time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
        *,
        connections: Connections,
        limits: Limits,
        liveness: Liveness,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._liveness = liveness
        self._most_head_bytes = limits.header_bytes
        self._head_bytes = 0  # of the head that is being received; 0 if none is
        self._too_large = False
        self.between_requests = False  # the last request was answered and no byte of the next has come

    @property
    def unread(self) -> bool:
        """Whether the peer has left so much unread that writing is paused."""
        return self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        # With a client authority configured, TLS has verified any certificate that the peer sent.
        if transport.get_extra_info("peercert"):
            self.app_state = {**self.app_state, "certified": True}
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.between_requests:
            self.between_requests = False
            self._connections.mark_waiting(self)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self._most_head_bytes and not self.transport.is_closing():
            self._refuse_head()

    def on_headers_complete(self) -> None:
        # The parser reports that a head ended, not where; so all bytes that came by then are counted.
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._head_bytes = 0
        if head_bytes > self._most_head_bytes:
            self._too_large = True
            raise ValueError("the request's head is too large")
        route = self._liveness.route(self.url)
        if route is not None:
            self._answer_liveness(route)
            return
        self._connections.mark_working(self)
        super().on_headers_complete()

    def _answer_liveness(self, route: RouteCounters) -> None:
        is_behind_another = self.cycle is not None and not self.cycle.response_complete
        cycle = LivenessCycle(
            self._liveness,
            route,
            self.parser.get_method(),
            transport=self.transport,
            headers=self.server_state.default_headers,
            keep_alive=self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle = cycle
        if is_behind_another:  # as uvicorn does
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            cycle.start()
        if not cycle.response_complete:
            self._connections.mark_working(self)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self.between_requests = True
            self._connections.mark_waiting(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        self.transport.write(_TOO_LARGE)
        self.transport.close()
