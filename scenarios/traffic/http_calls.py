"""HTTP calls, answered by the whole of a response or by the beginning of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import httpx

from scenarios.errors import CallFailed
from scenarios.spec import HttpCall
from scenarios.spec.placeholders import fill

_SAID_CHARACTERS = 200


class HttpCalls:
    """Makes HTTP calls over as many connections as there are calls at once, kept until `close`."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def make(self, call: HttpCall, names: Mapping[str, str], deadline_s: float) -> str:
        """Make one call; what answered, in a few words. Raises `CallFailed`."""
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            self._client = httpx.AsyncClient(trust_env=False, verify=False, limits=limits, timeout=None)
        request = self._client.build_request(
            call.method, fill(call.url, names), headers=fill(call.headers, names), **_body(call, names)
        )
        exchange = _OpenResponse(self._client, request)
        try:
            async with asyncio.timeout(deadline_s):
                await exchange.answered(call)
            return exchange.word if call.until == "end" else await exchange.held(call.hold_s)
        except TimeoutError:
            raise CallFailed(f"no answer within {deadline_s:g} s{exchange.so_far}") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"{type(error).__name__}: {error}{exchange.so_far}") from error
        finally:
            await exchange.close()

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class _OpenResponse:
    """One request and as much of its response as has come."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        self._client, self._request = client, request
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._came_bytes = 0
        self._ended = False

    @property
    def word(self) -> str:
        """`HTTP 200`."""
        return "" if self._response is None else f"HTTP {self._response.status_code}"

    @property
    def so_far(self) -> str:
        """What had arrived of the answer, for an error message."""
        return f" after {self.word} and {self._came_bytes} B" if self._response is not None else ""

    async def answered(self, call: HttpCall) -> None:
        """Wait for what answers the call. Raises `CallFailed` for a status that is not good."""
        self._response = response = await self._client.send(self._request, stream=True)
        self._chunks = response.aiter_raw()
        good = response.status_code in call.status if call.status else response.status_code < 400
        if not good:
            text = (await _beginning(response, self._chunks)).strip()
            raise CallFailed(f"{self.word}: {text[:_SAID_CHARACTERS]}")
        while not self._ended and not (
            call.until == "headers" or (call.until == "message" and self._came_bytes)
        ):
            await self._read()

    async def held(self, for_s: float) -> str:
        """Read for `for_s` seconds, or until the server ends the response normally; returns what came, in
        words."""
        if for_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(for_s):
                    while not self._ended:
                        await self._read()
        state = "ended" if self._ended else f"open for {for_s:g} s" if for_s else "open"
        return f"{self.word}, {state}, {self._came_bytes} B"

    async def close(self) -> None:
        """Return the connection to the pool, or close it if the response has not ended."""
        if self._response is not None:
            await self._response.aclose()

    async def _read(self) -> None:
        assert self._chunks is not None
        chunk = await anext(self._chunks, None)
        self._ended = chunk is None
        self._came_bytes += len(chunk or b"")


async def _beginning(response: httpx.Response, chunks: AsyncIterator[bytes]) -> str:
    """As much of the body as is worth showing."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) >= 4 * _SAID_CHARACTERS:
            break
    return body.decode(response.encoding or "utf-8", errors="replace")


def _body(call: HttpCall, names: Mapping[str, str]) -> dict[str, Any]:
    if call.json is not None:
        return {"json": fill(call.json, names)}
    return {"content": fill(call.body, names)} if call.body is not None else {}
