"""gRPC calls: unary, and streams of requests, of answers, or of both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from scenarios.errors import CallFailed, CouldNotRun
from scenarios.spec import GrpcCall
from scenarios.spec.placeholders import fill, parse_bytes
from scenarios.traffic import proto

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_SLACK_S = 1.0
"""The deadline that the server sees is this much later than ours: ours ends the stream, and can report how
far it came.
"""

AnyMethod = proto.Method | proto.RawMethod
_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs have forgotten it
_STATUS_WITHIN_S = 0.05
"""A refusal comes as headers that are also the end; grpc tells of the two one after the other."""


class GrpcCalls:
    """Makes gRPC calls over one channel per address, kept until `close`. A `.proto` is sought in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._methods: dict[str, AnyMethod] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def make(self, call: GrpcCall, names: Mapping[str, str], deadline_s: float) -> str:
        """Make one call; what answered, in a few words. Raises `CallFailed`, and `CouldNotRun` for what the
        method does not take."""
        address = fill(call.address, names)
        method = await self._method(call, address)
        requests = _requests(call, method, names)
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        channel = self._channels[address]
        if isinstance(method, proto.Method) and not (method.takes_many or method.gives_many):
            return await _unary(channel, method, call, requests[0], deadline_s)
        return await _stream(channel, method, call, requests, deadline_s)

    async def close(self) -> None:
        """Close every channel; the next call opens new ones."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)

    async def _method(self, call: GrpcCall, address: str) -> AnyMethod:
        if call.name not in self._methods:
            if call.raw is not None:
                found: AnyMethod = proto.RawMethod(f"/{call.method.strip('/')}")
            elif call.proto is not None:
                found = proto.method(proto.compiled((self._folder / call.proto).resolve()), call.method)
            else:
                found = await asyncio.to_thread(proto.reflected, address, call.method)
            _check(call, found)
            self._methods[call.name] = found
        return self._methods[call.name]


def _check(call: GrpcCall, method: AnyMethod) -> None:
    """What only the method can tell. Raises `CouldNotRun`."""
    if call.messages and not method.takes_many:
        raise CouldNotRun(
            f"call {call.name!r}: {method.path} takes one request; give `message` and no `messages`"
        )
    if (call.until not in (None, "end") or call.hold_s) and not method.gives_many:
        raise CouldNotRun(
            f"call {call.name!r}: {method.path} gives one answer; `until` and `hold_s` are for streams"
        )


def _requests(call: GrpcCall, method: AnyMethod, names: Mapping[str, str]) -> list[Any]:
    if isinstance(method, proto.RawMethod):
        return [parse_bytes(fill(call.raw, names))]
    return [proto.build(method.request, fill(table, names)) for table in call.messages or (call.message,)]


async def _unary(
    channel: grpc.aio.Channel, method: proto.Method, call: GrpcCall, request: Message, deadline_s: float
) -> str:
    invoke = channel.unary_unary(method.path, method.serialize, method.parse)
    try:
        response = await invoke(request, timeout=deadline_s)
    except grpc.aio.AioRpcError as error:
        raise CallFailed(f"{error.code().name}: {(error.details() or '')[:200]}") from error
    _judged(call, response)
    return "OK"


async def _stream(
    channel: grpc.aio.Channel,
    method: AnyMethod,
    call: GrpcCall,
    requests: Sequence[Any],
    deadline_s: float,
) -> str:
    """All kinds of streams look the same on the wire, and one answer like a stream of one."""
    until = call.until or ("message" if isinstance(method, proto.Method) and method.gives_many else "end")
    invoke = channel.stream_stream(method.path, method.serialize, method.parse)
    async with Stream(invoke(None, timeout=deadline_s + call.hold_s + _SLACK_S)) as stream:
        try:
            async with asyncio.timeout(deadline_s):
                await stream.send(requests, more=call.hold_s > 0)
                await stream.opened(alone=until == "headers")
                if until != "headers":
                    await stream.receive(1 if until == "message" else None)
        except TimeoutError:
            raise CallFailed(
                f"DEADLINE_EXCEEDED: {stream.missing} within {deadline_s:g} s{stream.so_far}"
            ) from None
        if until == "message" and stream.first is None:
            raise CallFailed("the stream ended without a message")
        if call.answer:
            _judged(call, stream.first)
        if call.hold_s > 0:
            await stream.hold(call.hold_s)
        return stream.word(call.hold_s)


def _judged(call: GrpcCall, response: Any) -> None:
    if call.answer and not (isinstance(response, Message) and proto.contains(response, call.answer)):
        said = "nothing" if response is None else repr(str(response).strip()[:200])
        raise CallFailed(f"answered {said}")


class Stream:
    """A stream under way; cancelled on the way out. What it raises is `CallFailed`."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call
        self._opened = False
        self._ended = False
        self._count = 0
        self.first: Any = None

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()

    @property
    def missing(self) -> str:
        """What was being waited for, for the message that it did not come."""
        return "no end" if self._count else "no message" if self._opened else "not opened"

    @property
    def so_far(self) -> str:
        """What had come before it went wrong."""
        return f" after {self._messages()}" if self._count else " after it opened" if self._opened else ""

    def word(self, held_s: float) -> str:
        """How it went: `OK, 3 messages` for one that ended, or `open for 2 s, 3 messages`."""
        state = "OK" if self._ended else f"open for {held_s:g} s" if held_s else "open"
        return f"{state}, {self._messages()}"

    async def send(self, requests: Sequence[Any], *, more: bool) -> None:
        """Send these requests; with `more` the stream of requests is left open behind them."""
        try:
            for request in requests:
                await self._call.write(request)
            if not more:
                await self._call.done_writing()
        except grpc.aio.AioRpcError as error:
            raise self._failed(error.code(), error.details()) from error
        except asyncio.InvalidStateError:
            pass  # the server has ended the stream: reading says how

    async def opened(self, *, alone: bool) -> None:
        """Wait for the headers; where they stand alone, also for whether they were a refusal."""
        await self._call.initial_metadata()
        if alone:
            status = asyncio.ensure_future(self._call.code())
            done, _ = await asyncio.wait({status}, timeout=_STATUS_WITHIN_S)
            if not done:
                status.cancel()
            elif status.result() is not grpc.StatusCode.OK:
                raise self._failed(status.result(), await self._call.details())
        self._opened = True

    async def receive(self, most: int | None) -> None:
        """Receive so many messages, or (None) all there are until the stream ends well."""
        while not self._ended and (most is None or self._count < most):
            try:
                message = await self._call.read()
            except grpc.aio.AioRpcError as error:
                raise self._failed(error.code(), error.details()) from error
            if message is _EOF:
                self._ended = True
            else:
                self._count += 1
                self.first = message if self.first is None else self.first

    async def hold(self, for_s: float) -> None:
        """Receive for so long, or until the stream ends well."""
        try:
            async with asyncio.timeout(for_s):
                await self.receive(None)
        except TimeoutError:
            return

    def _messages(self) -> str:
        return f"{self._count} message{'' if self._count == 1 else 's'}"

    def _failed(self, code: grpc.StatusCode, details: str | None) -> CallFailed:
        return CallFailed(f"{code.name}: {(details or '')[:200]}{self.so_far}")
