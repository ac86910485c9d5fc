"""HTTP connections that cannot crowd liveness out: bounded in number, in memory, and in time.

At the limit, the connection that has waited longest without a request in progress is closed for the new one.
So no number of idle connections or half-sent requests keeps a probe out.
"""

import asyncio
import logging
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pegaref.clock import Clock
from pegaref.config import Limits
from pegaref.serving.direct import DirectAnswers, DirectCycle, DirectRoute
from pegaref.serving.metrics import RouteCounters
from pegaref.serving.turns import ENDPOINT_S, Turns

logger = logging.getLogger(__name__)

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 26\r\nconnection: close\r\n\r\n"
    b"request head is too large\n"
)

KEEP_ALIVE_S: Final = 75  # idle connections give way when room is needed, so patience costs nothing
_MOST_HEADERS: Final = 128  # of a request: the shortest weigh thirty times their bytes as objects

# What a connection may have unparsed and unsent: a peer that sends on, or does not read, waits for its turn.
_READ_BYTES = 4096
_UNSENT_BYTES = 4096
_HEAD_END = b"\r\n\r\n"
_READ = memoryview(bytearray(_READ_BYTES))  # filled and emptied within one call: all connections share it


class Connections:
    """All connections, and which of them may be closed for a new one."""

    def __init__(
        self, limits: Limits, clock: Clock, answers: DirectAnswers, malformed: RouteCounters, turns: Turns
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._answers = answers
        self._malformed = malformed
        self._turns = turns
        # Since when each waits for a request or the rest of one, or works on one; the oldest first.
        self._waiting: dict[BoundedHttpProtocol, float] = {}
        self._working: dict[BoundedHttpProtocol, float] = {}
        self._evicted = 0  # since the last sweep

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def protocol(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> "BoundedReads":
        """Makes the protocol of a new connection; the signature is uvicorn's."""
        http = BoundedHttpProtocol(
            config,
            server_state,
            app_state,
            _loop,
            connections=self,
            limits=self._limits,
            answers=self._answers,
            malformed=self._malformed,
            turns=self._turns,
        )
        return BoundedReads(http)

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

    def mark_begun(self, connection: "BoundedHttpProtocol") -> None:
        """Note that a request has begun to come, unless it is in progress already."""
        if connection in self._waiting:
            self.mark_waiting(connection)

    def mark_working(self, connection: "BoundedHttpProtocol") -> None:
        """Record that a request is in progress; such a connection is closed only if its peer reads no
        answer."""
        self.remove(connection)
        self._working[connection] = self._clock.now()

    def sweep(self) -> None:
        """Close connections that have sent half a request, or nothing, or read no answer, for too long, and
        those that nobody has used for KEEP_ALIVE_S."""
        now = self._clock.now()
        if self._evicted:
            logger.warning("%d idle connections gave way to new ones: %d are open", self._evicted, len(self))
            self._evicted = 0
        for connection, since in tuple(self._waiting.items()):
            if since > now - self._limits.header_timeout_s:
                break
            if not connection.between_requests or since <= now - KEEP_ALIVE_S:
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


class BoundedReads(asyncio.BufferedProtocol):
    """Reads no more than 4 KiB at a time for a protocol, which has no say in that itself.

    uvloop and asyncio read 256 KiB at once unless a protocol brings the buffer, and uvicorn's cannot be of
    that kind too.
    """

    def __init__(self, protocol: "BoundedHttpProtocol") -> None:
        self._received = protocol.data_received
        for name in ("connection_made", "connection_lost", "eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the transport puts what it reads."""
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        self._received(bytes(_READ[:nbytes]))


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits.

    It parses one request a turn, and none while the answer to the one before it is to come or is not read.
    What it has not parsed is 4 KiB at most, since it reads no more until then; how much it has not sent is
    bounded, too.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
        *,
        connections: Connections,
        limits: Limits,
        answers: DirectAnswers,
        malformed: RouteCounters,
        turns: Turns,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._answers = answers
        self._malformed = malformed
        self._turns = turns
        self._most_head_bytes = limits.header_bytes
        self._head_bytes = 0  # of the head that is being received; 0 if none is
        self._too_large = False
        self._unparsed = b""
        self._in_turn = False  # its turn is due, or has come
        self._answered = False  # the last request was answered, and no byte of the next has come

    @property
    def unread(self) -> bool:
        """Whether the peer has left so much unread that writing is paused."""
        return self.flow.write_paused

    @property
    def between_requests(self) -> bool:
        """Whether all that came was answered, and the answers were taken."""
        return self._answered and not self._unparsed and not self.unread

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        # With a client authority configured, TLS verified whatever certificate the peer showed.
        if transport.get_extra_info("peercert"):
            self.app_state = {**self.app_state, "certified": True}
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, now or in a later turn."""
        answered, self._answered = self._answered, False
        self._unparsed += data
        if not self._in_turn:
            self._in_turn = True
            self._turns.run(self._parse)
        if self._unparsed:
            self.flow.pause_reading()
        if answered and not self._answered:
            self._connections.mark_begun(self)

    def resume_writing(self) -> None:
        """Go on with what came, since the peer reads again."""
        super().resume_writing()
        self._go_on()

    def on_response_complete(self) -> None:
        """Go on with the next request, as uvicorn does, but with no timer for each answer: `sweep` closes."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._answered = True
            self._connections.mark_waiting(self)
        if self._unparsed:
            self._go_on()

    @property
    def _blocked(self) -> bool:
        """Whether the next request has to wait for the answer to the one before it, or for the peer."""
        cycle = self.cycle
        return self.flow.write_paused or not (cycle is None or cycle.response_complete or cycle.more_body)

    def _go_on(self) -> None:
        if self._unparsed:
            self.flow.pause_reading()  # which an answer has resumed
            if not self._in_turn:
                self._in_turn = True
                self._turns.run_later(self._parse)

    def _parse(self) -> None:
        """Parse as far as the end of the next head, and have the rest wait for another turn."""
        if self._unparsed and not self._blocked and not self.transport.is_closing():
            end = self._unparsed.find(_HEAD_END) + len(_HEAD_END)
            if end < len(_HEAD_END) or end == len(self._unparsed):
                piece, self._unparsed = self._unparsed, b""
            else:
                piece, self._unparsed = self._unparsed[:end], self._unparsed[end:]
            self._head_bytes += len(piece)
            super().data_received(piece)
            if self._head_bytes > self._most_head_bytes and not self.transport.is_closing():
                self._refuse_head()
        self._in_turn = False
        if self.transport.is_closing():
            self._unparsed = b""
        elif not self._unparsed:
            self.flow.resume_reading()
        elif not self._blocked:
            self._in_turn = True
            self._turns.run_later(self._parse)

    def on_message_begin(self) -> None:
        """Begin a request. uvicorn would make a scope for it, which only an application needs."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == _MOST_HEADERS:
            self._too_large = True
            raise ValueError("the request has too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # The parser tells a head's end, not where in the data it was: what is counted is what came by then.
        came, self._head_bytes = self._head_bytes, 0
        if came > self._most_head_bytes and self._bytes_of_head() > self._most_head_bytes:
            self._too_large = True
            raise ValueError("the request's head is too large")
        route = self._answers.route(self.url)
        if route is not None:
            self._answer_directly(route)
            return
        self._connections.mark_working(self)
        self._turns.charge(ENDPOINT_S)
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and forgets what came
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _bytes_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _answer_directly(self, route: DirectRoute) -> None:
        is_behind_another = self.cycle is not None and not self.cycle.response_complete
        cycle = DirectCycle(
            self._answers,
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
        elif route.is_scrape:
            self._turns.run_scrape(cycle.start)
        else:
            cycle.start()
        if not cycle.response_complete:
            self._connections.mark_working(self)

    def on_body(self, body: bytes) -> None:
        """Let go of it: no endpoint reads a body, and so nobody can have the server keep one."""
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse_head()
            return
        self._malformed.end(self._malformed.begin(), "400")
        super().send_400_response(msg)

    def _refuse_head(self) -> None:
        self.transport.write(_TOO_LARGE)
        self.transport.close()
