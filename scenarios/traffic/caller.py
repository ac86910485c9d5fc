"""Makes a target's calls: what the suite piles up under a fault, and what it sets up and cleans away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import httpx

from scenarios.errors import ScenariosError
from scenarios.target import Call, GrpcCall, HttpCall, LoadedTarget
from scenarios.target.placeholders import fill
from scenarios.traffic import proto

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class CallFailed(ScenariosError):
    """The call ended without the answer it should have had; the message is what the server said."""


class Caller:
    """Makes the calls of one running target. Connections are opened when needed and kept until `close`."""

    def __init__(self, target: LoadedTarget, names: Mapping[str, str]) -> None:
        self._target, self._names = target, names
        self._calls = {call.name: call for call in target.target.call}
        self._methods: dict[str, proto.Method] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._http: httpx.AsyncClient | None = None

    async def make(self, call: Call, n: int, deadline_s: float | None = None) -> str:
        """Make one call and return what answered, in a word. Raises `CallFailed`."""
        filled = {**self._names, "n": str(n)}
        deadline_s = call.deadline_s if deadline_s is None else deadline_s
        if isinstance(call, GrpcCall):
            return await self._grpc(call, filled, deadline_s)
        return await self._over_http(call, filled, deadline_s)

    def chain(self, call: Call) -> tuple[Call, ...]:
        """What must have succeeded before `call`, first things first; `call` itself is not in it."""
        before: list[Call] = []
        needed = call.needs
        while needed is not None:
            before.insert(0, self._calls[needed])
            needed = self._calls[needed].needs
        return tuple(before)

    async def undo(self, call: Call, n: int, deadline_s: float) -> None:
        """Clean up after `call` and all that it needed, as far as the server lets us. Never raises for
        what the server says: what is left behind is found by the leak check, not here."""
        for done in (call, *reversed(self.chain(call))):
            if done.undo is not None:
                try:
                    await self.make(self._calls[done.undo], n, deadline_s)
                except CallFailed:
                    continue

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        channels, self._channels = self._channels, {}
        http, self._http = self._http, None
        for channel in channels.values():
            await channel.close(None)
        if http is not None:
            await http.aclose()

    async def _over_http(self, call: HttpCall, names: Mapping[str, str], deadline_s: float) -> str:
        if self._http is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            self._http = httpx.AsyncClient(trust_env=False, verify=False, limits=limits)
        try:
            async with asyncio.timeout(deadline_s):
                response = await self._http.request(
                    call.method,
                    fill(call.url, names),
                    headers=fill(call.headers, names),
                    timeout=None,
                    **_body(call, names),
                )
        except TimeoutError:
            raise CallFailed(f"no answer within {deadline_s:g} s") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"{type(error).__name__}: {error}") from error
        good = response.status_code in call.status if call.status else response.status_code < 400
        if not good:
            raise CallFailed(f"HTTP {response.status_code}: {response.text[:200].strip()}")
        return f"HTTP {response.status_code}"

    async def _grpc(self, call: GrpcCall, names: Mapping[str, str], deadline_s: float) -> str:
        address = fill(call.address, names)
        method = await self._method(call, address)
        request = proto.build(method.request, fill(call.message, names))
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        invoke = self._channels[address].unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            response = await invoke(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(f"{error.code().name}: {(error.details() or '')[:200]}") from error
        if not proto.contains(response, call.answer):
            raise CallFailed(f"answered {str(response).strip()[:200]!r}")
        return "OK"

    async def _method(self, call: GrpcCall, address: str) -> proto.Method:
        if call.name not in self._methods:
            if call.proto is not None:
                pool = proto.compiled((self._target.path.parent / call.proto).resolve())
                self._methods[call.name] = proto.method(pool, call.method)
            else:
                self._methods[call.name] = await asyncio.to_thread(proto.reflected, address, call.method)
        return self._methods[call.name]


def _body(call: HttpCall, names: Mapping[str, str]) -> dict[str, Any]:
    if call.json is not None:
        return {"json": fill(call.json, names)}
    return {"content": fill(call.body, names)} if call.body is not None else {}
