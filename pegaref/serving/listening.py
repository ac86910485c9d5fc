"""The two listeners: uvicorn on a socket of ours, and grpc.aio, in one event loop, with or without TLS.

Sockets are made here, so that a port in use is one clear error before anything else has started. With an
authority for clients configured, gRPC refuses clients without a certificate from it. HTTP asks for a
certificate but admits everybody, since a kubelet has none; only requests that change things need one
(pegaref.serving.access).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvicorn
from starlette.types import ASGIApp

from pegaref.config import Address, ConfigError, Limits, Tls
from pegaref.serving.connections import Connections
from pegaref.serving.rpc import GenericHandler

_BACKLOG = 2048
_KEEP_ALIVE_S = 75  # idle connections give way when room is needed, so patience costs nothing
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


def check_free(address: Address, flag: str) -> None:
    """Raises ConfigError, naming `flag`, if the address is not free to listen on.

    gRPC itself reports a port in use only after everything else is set up, and in a paragraph of its log.
    """
    open_socket(address, flag).close()


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
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSE_WITHIN_S,
        )
        super().__init__(config)
        self._connections = connections
        self._before_accept = before_accept
        self._tls = tls
        self._handshake_s = limits.header_timeout_s
        self._listening = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Answers on the socket inside the block, and finishes answers for up to a second after it."""
        task = asyncio.create_task(self.serve(sockets=[listener]))
        loop = asyncio.get_running_loop()
        with listener.dup() as duplicate:
            try:
                await self._listening.wait()
                # The duplicate is polled after the listener and reported first: epoll wakes the latest
                # waiter.
                loop.add_reader(duplicate.fileno(), self._before_accept)
                yield
            finally:
                loop.remove_reader(duplicate.fileno())
                self.should_exit = True
                await task

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
            await loop.create_server(make, sock=listener, backlog=_BACKLOG, **handshake)
            for listener in sockets or []
        ]
        self.started = True
        self._listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals, which the caller handles."""
        yield


MOST_PENDING_REQUESTS: Final = 1_000_000


def make_grpc_server(handlers: Sequence[GenericHandler], limits: Limits) -> grpc.aio.Server:
    """A server with limits on messages, metadata and idle or silent connections, but none on streams or
    calls.

    A shared limit on calls would let stuck registers keep out health checks.
    """
    silence_ms = int(limits.header_timeout_s * 1000)
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # otherwise a second server would silently share the port
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_metadata_size", limits.header_bytes),
            ("grpc.absolute_max_metadata_size", limits.header_bytes),
            ("grpc.server_handshake_timeout_ms", silence_ms),
            # Pings find a peer whose machine is gone; a peer that is only stopped keeps its session.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # By default grpc cancels calls, health checks included, once a thousand wait to be accepted.
            ("grpc.server.max_pending_requests", MOST_PENDING_REQUESTS),
            ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING_REQUESTS),
        ]
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    return server


def bind_grpc(
    server: grpc.aio.Server, address: Address, flag: str, credentials: grpc.ServerCredentials | None
) -> Address:
    """Binds the server and returns the address with its port. Raises ConfigError, naming `flag`."""
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise ConfigError(
            f"{flag} {address}: gRPC cannot listen there ({error}): choose another address"
        ) from None
    return Address(address.host, port)


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


def grpc_credentials(tls: Tls) -> grpc.ServerCredentials:
    """The TLS credentials for gRPC. Raises ConfigError for files that cannot be read."""
    authority = None if tls.client_authority is None else _read(tls.client_authority)
    return grpc.ssl_server_credentials(
        [(_read(tls.key), _read(tls.certificate))],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error}): name a readable PEM file") from None
