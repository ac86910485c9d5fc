"""grpc.aio's server as it has to be behind the relay: it lives on whatever a client names its method.

grpc.aio decodes the path of a call that no handler is registered for, and a path that is no UTF-8 ends the
task that takes up calls, for good. So every method is registered, which has grpc's core compare the paths;
what is left over is taken up under a name of ours, and answered without its own being read.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server as grpc_aio

from pegaref.config import Limits
from pegaref.serving.refusal import TooMany
from pegaref.serving.relay import MOST_STREAMS, Relay
from pegaref.serving.rpc import CallContext, Service, refuse


class _Calls(cygrpc.AioServer):  # type: ignore[misc]  # it has no stubs
    """Takes up calls. Those of unknown methods are taken up as `others`."""

    others = b""
    ended = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._requests: set[asyncio.Task[Any]] = set()

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is None:  # the path of what this took up would be decoded
            return asyncio.get_running_loop().create_future()
        request = super()._make_request_call_future(None if method == self.others else method)
        # It has memory that grpc's core writes to when a call comes. If the loop below dies, it must not go.
        self._requests.add(request)
        request.add_done_callback(self._forget)
        return asyncio.shield(request)

    def _forget(self, request: asyncio.Task[Any]) -> None:
        self._requests.discard(request)
        if not request.cancelled():
            request.exception()  # at the end of the server it fails, and then nobody else asks why

    async def _server_main_loop(self, started: Any) -> None:
        try:
            await super()._server_main_loop(started)
        finally:
            self.ended = True


class CallServer(grpc_aio.Server):
    """A grpc.aio server with limits on messages, metadata, and what one connection has open.

    A limit on all calls together would let stuck registers keep health checks out: the relay has fairer ones.
    """

    def __init__(self, limits: Limits, relay: Relay) -> None:
        options = (
            ("grpc.max_concurrent_streams", MOST_STREAMS),
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_metadata_size", limits.header_bytes),
            ("grpc.absolute_max_metadata_size", limits.header_bytes),
            ("grpc.server_handshake_timeout_ms", int(limits.header_timeout_s * 1000)),
            # A peer whose machine is gone is found by pings; one that is merely stopped keeps its session.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        )
        # In the place of the parent's own: it makes an AioServer, and has no say in which.
        self._loop = asyncio.get_running_loop()
        self._server = _Calls(self._loop, None, (), (), options, None)
        self._relay = relay
        # Named for its function, which waits for what grpc's core has to tell.
        self._threads = [thread for thread in threading.enumerate() if "_poll_wrapper" in thread.name]
        # Nobody can know this name and call it.
        others = f"/{secrets.token_hex(16)}"
        self._server.others = others.encode()
        handler = grpc.stream_stream_rpc_method_handler(self._answer_unknown)
        self._server.add_registered_method_handlers({others: handler})

    @property
    def is_taking_up_calls(self) -> bool:
        """Whether the task and the threads that take up calls live."""
        return not self._server.ended and all(thread.is_alive() for thread in self._threads)

    def add(self, service: Service) -> None:
        """Serve it."""
        super().add_registered_method_handlers(service.name, dict(service.handlers))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Does nothing: each method is registered, and others are not looked for."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serve a service of somebody else's making, whose methods all stream both ways."""
        counted = {
            name: grpc.stream_stream_rpc_method_handler(
                self._counted(handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
            for name, handler in method_handlers.items()
        }
        super().add_registered_method_handlers(service_name, counted)

    async def stop(self, grace: float | None) -> None:
        """Stop, and give calls in progress so many seconds."""
        try:
            await super().stop(grace)
        except (asyncio.CancelledError, Exception):
            if not self._server.ended:
                raise
            # It has raised what the task that takes up calls has died of, and goes on here.
            await super().stop(0)

    def _counted(self, stream: Callable[[Any, CallContext], AsyncIterator[Any]]) -> Any:
        async def answer(requests: Any, context: CallContext) -> AsyncIterator[Any]:
            try:
                connection = self._relay.take_up(context.peer())
            except TooMany as error:
                refuse(context, error)
                return
            try:
                async for response in stream(requests, context):
                    yield response
            finally:
                self._relay.end_call(connection)

        return answer

    async def _answer_unknown(self, requests: object, context: CallContext) -> None:
        self._relay.note_call(context.peer())
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("there is no such method here")
