"""One gRPC stream: opened, read from, held open, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from scenarios.traffic.failure import CallFailed

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs have forgotten it
_STATUS_WITHIN_S = 0.05
"""A refusal comes as headers that are also the end; grpc tells of the two one after the other."""


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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
