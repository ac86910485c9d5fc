"""The runner's side of the prober."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Self

import msgspec

from scenarios import child
from scenarios.errors import ProberFailed
from scenarios.prober.messages import (
    Batch,
    Pause,
    Paused,
    ProbedSeries,
    ProberCommand,
    ProberReport,
    StartWatch,
)

log = logging.getLogger(__name__)

_SILENT_AFTER_S = 5.0


class ProberHandle:
    """One prober process, for as long as the context lasts. `on_batch` is called with every batch, in
    order.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._paused: asyncio.Future[Paused] | None = None
        self._news = asyncio.Event()
        self._gone = False
        self.on_batch: Callable[[Batch], None] | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    @property
    def pid(self) -> int:
        """The prober's process id."""
        assert self._process is not None
        return self._process.pid

    async def watch(self, series: tuple[ProbedSeries, ...], start_s: float) -> None:
        """Start probing; what was watched before is stopped."""
        await self._send(StartWatch(series, start_s))

    async def pause(self) -> None:
        """Stop probing, with every connection closed and every probe reported once this returns.

        A prober that cannot close its connections (grpc keeps one that it was still making when its channel
        was closed) is replaced: the kernel closes them. Raises `ProberFailed`.
        """
        self._paused = asyncio.get_running_loop().create_future()
        await self._send(Pause())
        try:
            async with asyncio.timeout(_SILENT_AFTER_S):
                paused = await self._paused
        except TimeoutError:
            raise ProberFailed(f"the prober did not pause within {_SILENT_AFTER_S:g} s") from None
        if paused.open_connections:
            log.info("prober %d kept %d connections and is replaced", self.pid, paused.open_connections)
            await self._end()
            await self._start()

    async def news(self) -> None:
        """Wait for the next batch. Raises `ProberFailed` when the prober is silent or gone."""
        self._news.clear()
        try:
            async with asyncio.timeout(_SILENT_AFTER_S):
                self._alive()
                await self._news.wait()
        except TimeoutError:
            raise ProberFailed(f"the prober said nothing for {_SILENT_AFTER_S:g} s") from None
        self._alive()

    def _alive(self) -> None:
        if self._gone:
            code = self._process.returncode if self._process is not None else None
            raise ProberFailed(f"the prober's process ended (exit code {code})")

    async def _send(self, command: ProberCommand) -> None:
        self._alive()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise ProberFailed("the prober's process ended") from error

    async def _start(self) -> None:
        self._gone = False
        self._process = await child.start_process("scenarios.prober")
        self._reader = asyncio.create_task(self._read(self._process))

    async def _end(self) -> None:
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        self._process = None
        await child.end_process(process)
        await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        decoder = msgspec.json.Decoder(ProberReport)
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                report = decoder.decode(line)
                if isinstance(report, Paused):
                    if self._paused is not None and not self._paused.done():
                        self._paused.set_result(report)
                else:
                    if self.on_batch is not None:
                        self.on_batch(report)
                    self._news.set()
        finally:
            self._gone = True
            self._news.set()
            if self._paused is not None and not self._paused.done():
                self._paused.set_exception(ProberFailed("the prober's process ended"))
                self._paused.exception()  # whoever waits for it is told; with nobody waiting it is no error


def soon() -> float:
    """A start time that the prober can still meet: a little from now."""
    return time.monotonic() + 0.02
