"""TCP probes: a connection that is accepted, or what comes back over it.

The kernel accepts connections even for a stopped or stuck process until its socket's backlog is full, so only
an answer shows that the process runs.
"""

from __future__ import annotations

import asyncio
import re
import time

from scenarios.address import place
from scenarios.prober.messages import Outcome, Probed, TcpSeries

_ANSWER_LIMIT_BYTES = 1 << 16


class _WrongAnswer(Exception):
    """The connection was closed after an answer other than the expected one."""


class _Conversation(asyncio.Protocol):
    """One connection; one question at a time. Without an `expect` nothing that comes back matters."""

    def __init__(self, expect: re.Pattern[bytes] | None) -> None:
        self._expect = expect
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._came = bytearray()
        self.open = False

    @property
    def came(self) -> bool:
        """Whether anything came back since the last question."""
        return bool(self._came)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def ask(self, question: bytes) -> asyncio.Future[None]:
        """Send the question, if there is one; the future ends when the expected answer has come.

        A server that speaks first may have done so already.
        """
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        if question:
            self._came.clear()
            self._transport.write(question)
        self._look()
        return self._answered

    def data_received(self, data: bytes) -> None:
        if len(self._came) < _ANSWER_LIMIT_BYTES:
            self._came += data
        self._look()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answered is not None and not self._answered.done():
            other = ConnectionResetError("closed before it answered")
            self._answered.set_exception(_WrongAnswer() if self._came else error or other)

    def close(self) -> None:
        """Close the connection normally."""
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection at once, even while an answer is awaited."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def _look(self) -> None:
        if self._answered is None or self._answered.done():
            return
        if self._expect is None or self._expect.search(self._came):
            self._answered.set_result(None)


class TcpProber:
    """Probes one series. Kept: all probes share one connection, in turn, and wait for it."""

    def __init__(self, number: int, series: TcpSeries) -> None:
        self._number, self._series = number, series
        self._place = place(series.address)
        self._expect = re.compile(series.expect.encode()) if series.expect is not None else None
        self._turn = asyncio.Lock()
        self._held: _Conversation | None = None

    async def probe(self, at_s: float) -> Probed:
        """Probe once; it counts as sent once the connection is there. Never raises but for cancellation."""
        sent: list[float] = []
        told: list[_Conversation] = []
        outcome: Outcome = "ok"
        try:
            async with asyncio.timeout_at(at_s + self._series.give_up_s):
                await (self._kept(sent, told) if self._series.kept else self._fresh(sent, told))
        except _WrongAnswer:
            outcome = "wrong"
        except TimeoutError:
            outcome = "wrong" if told and told[0].came else "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except ConnectionError:
            outcome = "reset"
        except OSError:
            outcome = "error"
        return Probed(self._number, at_s, sent[0] if sent else None, time.monotonic(), outcome, 0)

    async def _fresh(self, sent: list[float], told: list[_Conversation]) -> None:
        conversation = await self._connect()
        try:
            sent.append(time.monotonic())
            told.append(conversation)
            await conversation.ask(self._series.send)
            conversation.close()
        finally:
            if conversation.open:
                conversation.abort()

    async def _kept(self, sent: list[float], told: list[_Conversation]) -> None:
        async with self._turn:
            if self._held is None or not self._held.open:
                self._held = await self._connect()
            conversation = self._held
            sent.append(time.monotonic())
            told.append(conversation)
            try:
                await conversation.ask(self._series.send)
            except BaseException:
                conversation.abort()  # a late answer must not be taken for the next probe's
                raise

    async def _connect(self) -> _Conversation:
        loop, (host, port, path) = asyncio.get_running_loop(), self._place
        expect = self._expect
        if path:
            return (await loop.create_unix_connection(lambda: _Conversation(expect), path))[1]
        return (await loop.create_connection(lambda: _Conversation(expect), host, port))[1]

    async def close(self) -> None:
        """Close the kept connection. Probes under way must have been cancelled before."""
        if self._held is not None:
            self._held.abort()
