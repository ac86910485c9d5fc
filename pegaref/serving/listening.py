"""The sockets that are listened on, with or without TLS, and uvicorn on one of them.

Sockets are made here, so that a port in use is one clear error before anything else has started. With an
authority for clients configured, gRPC refuses clients without a certificate from it. HTTP asks for a
certificate but admits everybody, since a kubelet has none; only requests that change things need one
(pegaref.serving.access).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from pegaref.config import Address, ConfigError, Limits, Tls
from pegaref.serving.connections import Connections

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_ACCEPTS_PER_TURN = 4  # uvloop takes up one connection a turn, and a probe may stand behind hundreds
# The kernel's part of a connection: requests are short, and a client that does not read has answers waiting.
_RECEIVE_BYTES = 64 * 1024
_SEND_BYTES = 256 * 1024
_CLOSE_WITHIN_S = 1  # for answers in progress when the server stops


def open_socket(address: Address, flag: str) -> socket.socket:
    """A listening TCP socket. Raises ConfigError, naming `flag`, if the address or port is not available.

    It is made as IPPROTO_TCP with TCP_NODELAY, which accepted connections inherit on Linux. Otherwise asyncio
    leaves Nagle's algorithm on, and a kept-alive request takes 44 ms.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )[0]
    except socket.gaierror as error:
        raise ConfigError(
            f"{flag} {address}: there is no such host ({error.strerror}): give this machine's"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{flag} {address}: cannot listen there ({error.strerror}): "
            "stop what does, or choose another port; 0 picks a free one"
        ) from None
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def accepting(listener: socket.socket, before_accept: Callable[[], object]) -> Iterator[None]:
    """Has `before_accept` called, inside the block, before a connection is accepted that the loop accepts."""
    loop = asyncio.get_running_loop()
    with listener.dup() as duplicate:
        # The duplicate is polled after the listener and told of first: epoll wakes who came last.
        loop.add_reader(duplicate.fileno(), before_accept)
        try:
            yield
        finally:
            loop.remove_reader(duplicate.fileno())


def bound_address(listener: socket.socket, asked: Address) -> Address:
    """The address with the port that the kernel chose."""
    return Address(asked.host, listener.getsockname()[1])


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers and listeners, which the caller provides."""

    def __init__(
        self,
        app: ASGIApp,
        connections: Connections,
        tls: ssl.SSLContext | None,
        limits: Limits,
        before_accept: Callable[[], object],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=connections.protocol,  # type: ignore[arg-type]  # called like a class
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # a header must not make a caller look like a loopback one
            server_header=False,
            timeout_graceful_shutdown=_CLOSE_WITHIN_S,
        )
        super().__init__(config)
        self.servers = []  # until `startup`
        self._connections = connections
        self._before_accept = before_accept
        self._tls = tls
        self._handshake_s = limits.header_timeout_s
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Answers on the socket inside the block, and up to a second longer what was asked before its end."""
        self._task = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            await self._listening.wait()
            with accepting(listener, self._before_accept):
                yield
        finally:
            self.should_exit = True
            await asyncio.wait([self._task])
            if not self._task.cancelled() and (error := self._task.exception()):
                logger.error("uvicorn's task has died", exc_info=error)
            for server in self.servers:  # if the task died, it has closed none of them
                server.close()

    @property
    def is_accepting(self) -> bool:
        """Whether new connections are accepted, and the task that keeps uvicorn's time lives."""
        alive = self._task is not None and not self._task.done()
        return alive and all(server.is_serving() for server in self.servers)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets given."""
        loop = asyncio.get_running_loop()
        for listener in sockets or []:  # which hands it down to its connections
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        make = functools.partial(self._connections.protocol, self.config, self.server_state, {}, loop)
        handshake: dict[str, Any] = {}
        if self._tls is not None:
            handshake = {"ssl": self._tls, "ssl_handshake_timeout": self._handshake_s}
        self.servers = [
            await loop.create_server(make, sock=again, backlog=_BACKLOG, **handshake)
            for listener in sockets or []
            for again in (listener, *(listener.dup() for _ in range(_ACCEPTS_PER_TURN - 1)))
        ]
        self.started = True
        self._listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals, which the caller handles."""
        yield


def http_context(tls: Tls) -> ssl.SSLContext:
    """The TLS context for HTTP. Raises ConfigError for files that are missing or do not match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificate {tls.certificate} with the key {tls.key} cannot be used ({error}): "
            "name two PEM files that belong together"
        ) from None
    if tls.client_authority is not None:
        try:
            context.load_verify_locations(tls.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the clients' authority {tls.client_authority} cannot be used ({error}): name a PEM file"
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def grpc_context(tls: Tls) -> ssl.SSLContext:
    """The same for gRPC, which speaks HTTP/2 and, with an authority for clients, lets in none without a
    certificate of it."""
    context = http_context(tls)
    context.set_alpn_protocols(["h2"])
    if tls.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
