"""The gRPC port: connections are accepted here, and their bytes passed on to grpc.aio on a private socket.

grpc.aio takes in whatever a peer sends, and knows no share that one peer may have: 100,000 streams that are
opened and reset cost 11 KiB each, and wait in front of everybody's health check. What reaches it is bounded
here, by the 9-byte headers of frames (pegaref.serving.frames), while each connection that asks for more waits
in its own socket:

- Streams are handed on only as fast as grpc.aio takes their calls up, connection by connection in turn.
- Frames that bring no call on (PING, SETTINGS, empty DATA, …) have a rate, and so have bytes of long heads.
- What was sent of unfinished messages, and of one head, is limited. Beyond that a connection is closed.
- Connections are limited in number. Beyond that one gives way to the new one, as on the HTTP port.

TLS ends here too, since frames are read behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

from pegaref.clock import Clock
from pegaref.config import Limits
from pegaref.serving.descriptors import Reserve
from pegaref.serving.frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
    Answers,
)
from pegaref.serving.listening import accepting
from pegaref.serving.metrics import RelayCounters
from pegaref.serving.refusal import TooMany
from pegaref.serving.shares import FRAMES_AT_ONCE, FRAMES_PER_STREAM, TINY_BYTES, Share, Shares

logger = logging.getLogger(__name__)

MOST_STREAMS: Final = 1100  # open on one connection; grpc refuses more of them
_SHORT_HEAD_BYTES: Final = 512  # what is more counts as frames that bring no call on
_HEAD_BYTES_PER_FRAME: Final = 8

_HEAD_BYTES: Final = 8  # times the limit on metadata: so much of a head is passed on, for grpc to refuse

_DESCRIPTORS: Final = 3  # of a connection that speaks HTTP/2: its own, and both ends of the one to grpc
_SPARES: Final = 4  # connections to grpc that wait for a client

_READ_BYTES: Final = 64 * 1024
_SETTLED_S: Final = 1.0  # a connection with open streams gives way if it is older, the youngest first


class Relay:
    """Every connection to the gRPC port."""

    def __init__(
        self,
        limits: Limits,
        most: int,
        most_descriptors: int,
        clock: Clock,
        counters: RelayCounters,
        reserve: Reserve,
    ) -> None:
        self._header_timeout_s = limits.header_timeout_s
        self._most = most
        self._most_descriptors = most_descriptors
        self._clock = clock
        self._reserve = reserve
        self._places: dict[str, RelayedConnection] = {}  # by the name that grpc has for the peer
        # From the first to give way to the last: those that said nothing, have no open stream, and have some.
        self._silent: dict[RelayedConnection, float] = {}
        self._idle: dict[RelayedConnection, float] = {}
        self._busy: dict[RelayedConnection, float] = {}
        self._evicted = 0  # since the last sweep
        self._spares: deque[tuple[socket.socket, float]] = deque()  # connections to grpc, and since when
        self._most_spares = _SPARES
        self._target = -1  # the descriptor of grpc's socket
        self._server: asyncio.Server | None = None
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.shares = Shares(limits.message_bytes, counters)
        self.counters = counters
        self.buffer = memoryview(bytearray(_READ_BYTES))  # what any connection reads, it deals with at once

    def __len__(self) -> int:
        return len(self._silent) + len(self._idle) + len(self._busy)

    @property
    def is_accepting(self) -> bool:
        """Whether new connections are accepted."""
        return self._server is not None and self._server.is_serving()

    @contextlib.contextmanager
    def behind(self, bind: Callable[[str], object]) -> Iterator[None]:
        """Has grpc.aio bind a socket that nobody else can reach: its file is gone before anyone comes."""
        with tempfile.TemporaryDirectory(prefix="pegaref-") as folder:
            path = Path(folder, "grpc")
            bind(f"unix:{path}")
            self._target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            yield
        finally:
            os.close(self._target)

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
        """Accepts inside the block. At its end every connection is closed."""
        handshake: dict[str, Any] = {}
        if tls is not None:
            handshake = {"ssl": tls, "ssl_handshake_timeout": self._header_timeout_s}
        self._server = await self.loop.create_server(
            lambda: RelayedConnection(self), sock=listener, backlog=2048, **handshake
        )
        try:
            with accepting(listener, lambda: self._reserve.check(1)):
                yield
        finally:
            self._server.close()
            for connection in (*self._silent, *self._idle, *self._busy):
                connection.abort()
            while self._spares:
                self._spares.pop()[0].close()

    # ---- connections

    def add(self, connection: RelayedConnection) -> None:
        """Take in a connection that was accepted; another gives way to it if there are too many."""
        self._fit(1)
        self._silent[connection] = self._clock.now()
        self.counters.connections = len(self)

    def remove(self, connection: RelayedConnection) -> None:
        """Take out a connection that was closed. What it handed on is still waited for."""
        for group in (self._silent, self._idle, self._busy):
            group.pop(connection, None)
        self.shares.count_partial(connection, -connection.partial_bytes)
        self.counters.connections = len(self)

    def connect(self, connection: RelayedConnection) -> socket.socket:
        """A connection to grpc for one that has begun to speak HTTP/2. Raises OSError."""
        self._silent.pop(connection, None)
        self._fit(_DESCRIPTORS)
        backend = self._spares.popleft()[0] if self._spares else self._open()
        self.loop.call_soon(self._open_spares)
        place = f"unix-abstract:{backend.getsockname()[1:].decode()}"
        if (former := self._places.get(place)) is not None:
            self.shares.drop_untaken(former, former.untaken)
        self._places[place] = connection
        self.mark_idle(connection)
        return backend

    def _open(self) -> socket.socket:
        self._reserve.check(2)  # grpc needs one too
        backend = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            backend.bind("")  # the kernel's choice of a name, by which a call's peer is known
            backend.connect(f"/proc/self/fd/{self._target}")
        except OSError:
            backend.close()
            raise
        return backend

    def close_spares(self) -> None:
        """Keep no connections to grpc that nobody uses: its server waits for them when it stops."""
        self._most_spares = 0
        self._open_spares()

    def _open_spares(self) -> None:
        """Have connections that grpc has accepted before they are needed, and that are not too old."""
        now_s = self._clock.now()
        wanted = self._most_spares if self.is_accepting and self._reserve.is_held else 0
        while self._spares and (not wanted or self._spares[0][1] < now_s - self._header_timeout_s / 2):
            self._spares.popleft()[0].close()
        with contextlib.suppress(OSError):
            while len(self._spares) < wanted:
                self._spares.append((self._open(), now_s))

    def mark_idle(self, connection: RelayedConnection) -> None:
        """Note that the connection has no open stream from now on."""
        self._busy.pop(connection, None)
        self._idle[connection] = self._clock.now()

    def mark_busy(self, connection: RelayedConnection) -> None:
        """Note that the connection has open streams from now on."""
        if self._idle.pop(connection, None) is not None:
            self._busy[connection] = self._clock.now()

    def make_room(self, count: int) -> None:
        """Close `count` connections, or as many as may give way."""
        for _ in range(count):
            self._evict()

    def sweep(self) -> None:
        """Close connections that say nothing or read nothing for too long. Called four times a second."""
        now_s = self._clock.now()
        if self._evicted:
            logger.warning("%d gRPC connections gave way to new ones: %d are open", self._evicted, len(self))
            self._evicted = 0
        for connection, since_s in tuple(self._silent.items()):
            if since_s > now_s - self._header_timeout_s:
                break
            connection.abort()
        for connection in (*self._idle, *self._busy):
            if connection.unread_s is not None and connection.unread_s < now_s - self._header_timeout_s:
                connection.abort()
        for name, connection in tuple(self._places.items()):
            self.shares.give_up(connection)
            if connection.closed and not connection.untaken and not connection.calls:
                del self._places[name]
        self.shares.grant()
        self._open_spares()

    def _fit(self, more: int) -> None:
        """Make room for a connection with so many descriptors."""
        for _ in range(more):
            speaking = len(self._idle) + len(self._busy)
            descriptors = len(self._silent) + _DESCRIPTORS * speaking
            if descriptors + more <= self._most_descriptors and len(self) < self._most:
                return
            self._evict()

    def _evict(self) -> None:
        victim = next(iter(self._silent), None) or next(iter(self._idle), None)
        if victim is None:
            settled_s = self._clock.now() - _SETTLED_S
            young = (busy for busy, since_s in reversed(self._busy.items()) if since_s < settled_s)
            victim = next(young, None) or next(iter(self._busy), None)
        if victim is not None:
            self._evicted += 1
            self.counters.evicted += 1
            victim.abort()

    # ---- calls, by the name that grpc has for their peer

    def note_call(self, peer: str) -> RelayedConnection | None:
        """Note that grpc.aio took up a call of the peer."""
        connection = self._places.get(peer)
        if connection is not None:
            self.shares.take_up(connection)
        return connection

    def take_up(self, peer: str) -> RelayedConnection:
        """The same for a call that may last, until `end_call`. Raises TooMany."""
        connection = self.note_call(peer)
        if connection is None or connection.closed:
            raise TooMany("the connection is gone")
        self.shares.open_call(connection)
        return connection

    def end_call(self, connection: RelayedConnection) -> None:
        """Note that a call that was taken up has ended."""
        self.shares.end_call(connection)

    def client(self, peer: str) -> RelayedConnection | None:
        """Whose call it is; None once the connection is gone."""
        return self._places.get(peer)


class RelayedConnection(Share, asyncio.BufferedProtocol):
    """One client's connection, and the one to grpc that goes with it."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay
        self._shares = relay.shares
        self._loop = relay.loop
        self._transport: asyncio.Transport
        self._backend: socket.socket | None = None
        self._rest = bytearray()  # what was read and may not go on yet
        self._unsent = bytearray()  # what grpc did not take yet
        self._held = False
        self._reading = True
        self._left = 0  # bytes of the current frame that are still to come
        self._head_bytes = 0  # of the head that is coming
        self._paid = False  # the head that comes next has been counted, and waits for something else
        self._last_stream = 0
        self._answers = Answers(self._on_stream_end)
        self.unread_s: float | None = None  # since when the client reads no answers
        self.closed = False
        self.host = ""  # the client's address; '' where it has none
        self.address = ""

    # ---- from the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take in the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none in name
        peer = transport.get_extra_info("peername")
        if peer:
            self.host, self.address = peer[0].partition("%")[0], f"{peer[0]}:{peer[1]}"
        self._relay.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read into: what one connection has read is dealt with before another one reads."""
        return self._relay.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what has come, as far as it may."""
        data: memoryview | bytes = self._relay.buffer[:nbytes]
        if self._rest:
            self._rest += data
            if self._held:
                return
            data = bytes(self._rest)
            self._rest.clear()
        self._pass_on(data)

    def eof_received(self) -> bool:
        """Close: a client that sends no more wants no answers either, as grpc has it."""
        return False

    def pause_writing(self) -> None:
        """Read no more answers from grpc: the client does not read those that there are."""
        self.unread_s = self._loop.time()
        if self._backend is not None:
            self._loop.remove_reader(self._backend.fileno())

    def resume_writing(self) -> None:
        """Go on."""
        self.unread_s = None
        if self._backend is not None:
            self._loop.add_reader(self._backend.fileno(), self._on_answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave grpc, which ends the connection's calls."""
        if self.closed:
            return
        self.closed = True
        if self._backend is not None:
            self._loop.remove_reader(self._backend.fileno())
            self._loop.remove_writer(self._backend.fileno())
            self._backend.close()
            self._backend = None
        self._relay.remove(self)

    def abort(self) -> None:
        """Close at once, whatever is on its way."""
        self._transport.abort()
        self.connection_lost(None)

    def refuse(self) -> None:
        """Close a connection that has sent more than it may."""
        self._relay.counters.closed += 1
        self.abort()

    def resume(self) -> None:
        """Go on with what was held."""
        self._held = False
        if not self.closed:
            data = bytes(self._rest)
            self._rest.clear()
            self._pass_on(data)
            self._set_reading()

    def _pass_on(self, data: memoryview | bytes) -> None:
        passed = self._police(data)
        if self.closed:
            return
        if passed:
            self._send(data[:passed])
        if passed < len(data):
            self._rest += data[passed:]
        if self._held:
            self._set_reading()

    def _police(self, data: memoryview | bytes) -> int:
        """How many bytes may go on. What is a part of a frame's header waits for the rest of it."""
        at, end = 0, len(data)
        if not self._last_stream and self._backend is None and not self._begin(data):
            return 0
        if not self._backend:
            return 0
        while True:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
            if end - at < HEADER_BYTES:
                return at
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            if not self._may_pass(data[at + 3], data[at + 4], stream, length) or self.closed:
                return at
            self._left = length
            at += HEADER_BYTES
            if at == end:
                return at

    def _begin(self, data: memoryview | bytes) -> bool:
        """Connect to grpc once the client has said that it speaks HTTP/2."""
        said = bytes(data[: len(PREFACE)])
        if said != PREFACE:
            if not PREFACE.startswith(said):
                self.refuse()
            return False
        try:
            self._backend = self._relay.connect(self)
        except OSError as error:
            logger.error("a gRPC connection is closed, since there is none to be had behind it: %s", error)
            self.abort()
            return False
        self._loop.add_reader(self._backend.fileno(), self._on_answer)
        self._left = len(PREFACE)
        return True

    def _may_pass(self, kind: int, flags: int, stream: int, length: int) -> bool:
        relay = self._relay
        if kind == DATA and stream in self.streams:
            if flags & END_STREAM:
                self._count_partial(stream, -self.streams[stream])
                return True
            if length >= TINY_BYTES:
                self._count_partial(stream, length)
                return True
        elif kind == HEADERS:
            self._head_bytes = 0
            if stream > self._last_stream:
                if not self._is_head_small(length) or not self._may_send_head(length - _SHORT_HEAD_BYTES):
                    return False
                if not self._shares.may_open(self):
                    self._held = True
                    return False
                self._paid = False
                self._last_stream = stream
                if not self.streams:
                    relay.mark_busy(self)
                self.streams[stream] = 0
                self.frames.give(FRAMES_PER_STREAM)
                return True
        elif kind == RST_STREAM:
            if self.untaken and stream in self.streams:
                self.resets += 1
            self._forget(stream)
        if kind in (HEADERS, CONTINUATION):
            may_pass = self._may_send_head(length) and self._is_head_small(length)
            self._paid = False
            return may_pass
        self._held = not self._shares.may_send(self, 1)
        return not self._held

    def _may_send_head(self, long_bytes: int) -> bool:
        """Whether a long head, or more of one, may pass: a byte of it may be four thousand for grpc."""
        if long_bytes > 0 and not self._paid:
            self._paid = self._shares.may_send(
                self, min(FRAMES_AT_ONCE, 1 + long_bytes // _HEAD_BYTES_PER_FRAME)
            )
            self._held = not self._paid
        return not self._held

    def _is_head_small(self, more_bytes: int) -> bool:
        self._head_bytes += more_bytes + HEADER_BYTES
        if self._head_bytes > _HEAD_BYTES * self._relay.limits.header_bytes:
            self.refuse()
            return False
        return True

    def _count_partial(self, stream: int, more_bytes: int) -> None:
        if more_bytes:
            self.streams[stream] += more_bytes
            self._shares.count_partial(self, more_bytes)

    def _forget(self, stream: int) -> bool:
        partial_bytes = self.streams.pop(stream, None)
        if partial_bytes is None:
            return False
        if partial_bytes:
            self._shares.count_partial(self, -partial_bytes)
        if not self.streams:
            self._relay.mark_idle(self)
        return True

    # ---- to grpc, and back

    def _send(self, data: memoryview | bytes) -> None:
        assert self._backend is not None
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._backend.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # grpc has closed its end
            self._transport.close()
            return
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._backend.fileno(), self._send_more)
            self._set_reading()

    def _send_more(self) -> None:
        assert self._backend is not None
        try:
            del self._unsent[: self._backend.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._transport.close()
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._backend.fileno())
            self._set_reading()

    def _set_reading(self) -> None:
        reading = not self._held and not self._unsent
        if reading is not self._reading and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _on_answer(self) -> None:
        assert self._backend is not None
        try:
            data = self._backend.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._backend.fileno())
            self.unread_s = self._loop.time()
            self._transport.close()
            return
        self._answers.follow(data)
        if self._answers.refused:
            self._relay.counters.streams_refused += self._answers.refused
            self._answers.refused = 0
        self._transport.write(data)

    def _on_stream_end(self, stream: int) -> None:
        if self._forget(stream) and self.untaken:
            self._shares.settle(self)
