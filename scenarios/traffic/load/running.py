"""The loads of one scenario, in processes of their own: begun before the fault, there while the window is
open, gone after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec

from scenarios import child
from scenarios.errors import CouldNotRun, ScenariosError
from scenarios.spec.loads import Clients, Load, problem
from scenarios.traffic.load.clients import ClientLoad, ServerHandle
from scenarios.traffic.load.facts import LoadFacts, absent, facts
from scenarios.traffic.load.messages import (
    UP_WITHIN_S,
    BeginLoads,
    CannotLoad,
    Cleaned,
    CleanUp,
    GeneratedLoad,
    LoadCommand,
    LoadReport,
    LoadsStopped,
    OpenWindow,
    StopLoads,
    Tallied,
    Up,
)

_START_WITHIN_S = 20.0
_ANSWER_WITHIN_S = 10.0
_CLEAN_WITHIN_S = 10.0
R = TypeVar("R")


class RunningLoads:
    """Loads that run. `open_window`, `stop` and `clean_up` are called in this order; what was not called is
    made up for at the context's end. Nothing here raises because of what the server does to a load: `facts`
    tells that it was not there.
    """

    def __init__(self, loads: Sequence[Load], server: ServerHandle) -> None:
        self._server, self._loads = server, tuple(loads)
        self._clients = {
            i: ClientLoad(load, server) for i, load in enumerate(loads) if isinstance(load, Clients)
        }
        self._generated = tuple(load for load in loads if not isinstance(load, Clients))
        self._process: LoadProcess | None = None
        self._opened: Tallied | None = None
        self._closed: Tallied | None = None
        self._left: tuple[str, ...] = ()
        self._trouble = "the window was never opened"
        self._stopped = self._cleaned = False

    @property
    def pending(self) -> bool:
        """Whether the window has to stay open for what a load has yet to do in it: clients to be killed."""
        return any(client.pending for client in self._clients.values())

    async def wait_done(self) -> None:
        """Wait until no load is `pending`; soon, for everything that a client does has a deadline."""
        await asyncio.gather(*(client.wait_done() for client in self._clients.values()))

    async def open_window(self) -> None:
        """The window opens: the fault bites. Clients that start under the fault start now."""
        for client in self._clients.values():
            client.watch()
        try:
            if self._process is not None:
                self._opened = await self._process.ask(OpenWindow(), Tallied, _ANSWER_WITHIN_S)
        except LoadFailed as error:
            self._trouble = str(error)

    async def stop(self) -> None:
        """The window closes: all traffic ends, and every connection is closed once this returns.

        Call it before the fault is released, so that the load was there for as long as the fault was.
        """
        if self._stopped:
            return
        self._stopped = True
        try:
            if self._process is not None:
                self._closed = await self._process.ask(StopLoads(), Tallied, _ANSWER_WITHIN_S)
                await self._process.answer(LoadsStopped, _ANSWER_WITHIN_S)
        except LoadFailed as error:
            self._trouble = str(error)
            await self._end()
        finally:
            for client in self._clients.values():
                await client.stop()

    async def clean_up(self) -> None:
        """The fault is released: undo what calls left behind, and see that the server lets go of the memory
        of clients that were killed. At most the longest `released_within_s` of a load, or 10 s.

        Call it before the server is looked at for leaks.
        """
        if self._cleaned:
            return
        self._cleaned = True
        waits = [client.clean_up() for client in self._clients.values()]
        await asyncio.gather(self._undo(), *waits)

    def facts(self) -> tuple[LoadFacts, ...]:
        """What is known of each load, in the order of the row; complete after `clean_up`."""
        found: list[LoadFacts] = []
        generated = 0
        for i, load in enumerate(self._loads):
            if isinstance(load, Clients):
                found.append(self._clients[i].facts())
            else:
                found.append(self._facts(load, generated))
                generated += 1
        return tuple(found)

    def _facts(self, load: GeneratedLoad, at: int) -> LoadFacts:
        if self._opened is None or self._closed is None:
            return absent(load, self._trouble)
        window_s = self._closed.now_s - self._opened.now_s
        return facts(load, self._opened.tallies[at], self._closed.tallies[at], window_s, self._left)

    async def begin(self) -> None:
        """Begin every load. Raises `CouldNotRun` when one cannot be made on this machine."""
        if self._generated:
            self._process = await LoadProcess.start()
            server = self._server
            begin = BeginLoads(
                str(server.target.folder), server.target.spec, dict(server.names), self._generated
            )
            try:
                await self._process.ask(begin, Up, _START_WITHIN_S + UP_WITHIN_S)
            except LoadUnavailable as error:
                raise CouldNotRun(str(error)) from error
            except LoadFailed as error:
                self._trouble = str(error)
                await self._end()
        for client in self._clients.values():
            await client.begin()

    async def end(self) -> None:
        """End every load, whatever happened before."""
        try:
            await self.stop()
        finally:
            await self._end()

    async def _undo(self) -> None:
        try:
            if self._process is not None:
                cleaned = await self._process.ask(
                    CleanUp(_CLEAN_WITHIN_S), Cleaned, _CLEAN_WITHIN_S + _ANSWER_WITHIN_S
                )
                self._left = cleaned.left
        except LoadFailed as error:
            self._left = (f"nothing of the loads' calls was undone: {error}",)
        finally:
            await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()


@asynccontextmanager
async def loading(loads: Sequence[Load], server: ServerHandle) -> AsyncIterator[RunningLoads]:
    """Run loads in processes of their own for as long as the context; all of them are ended on the way out.

    Raises `CouldNotRun` when one does not fit the target, or cannot be made on this machine.
    """
    for load in loads:
        if wrong := problem(load, server.target.spec):
            raise CouldNotRun(f"load of kind {load.__struct_config__.tag}: {wrong}")
    running = RunningLoads(loads, server)
    try:
        await running.begin()
        yield running
    finally:
        await running.end()


class LoadFailed(ScenariosError):
    """The load's process ended, or did not answer in time: the load counts as not there."""


class LoadUnavailable(ScenariosError):
    """The load cannot be made on this machine; the message names the remedy."""


class LoadProcess:
    """One process. Commands are answered one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._decoder = msgspec.json.Decoder(LoadReport)

    @classmethod
    async def start(cls) -> LoadProcess:
        """Start a process that makes load."""
        return cls(await child.start_process("scenarios.traffic.load"))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, command: LoadCommand, answer: type[R], within_s: float) -> R:
        """Send a command and wait for the answer to it. Raises `LoadFailed`, `LoadUnavailable`."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # its end is seen below
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            await self._process.stdin.drain()
        return await self.answer(answer, within_s)

    async def answer(self, answer: type[R], within_s: float) -> R:
        """Wait for one more answer to the last command. Raises as `ask` does."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
                if not line:
                    code = await self._process.wait()
                    raise LoadFailed(f"the load's process ended (exit code {code})")
        except TimeoutError:
            raise LoadFailed(f"the load's process did not answer within {within_s:g} s") from None
        report = self._decoder.decode(line)
        if isinstance(report, CannotLoad):
            raise LoadUnavailable(report.problem)
        if not isinstance(report, answer):
            raise LoadFailed(f"the load's process answered {type(report).__name__}")
        return report

    async def end(self) -> None:
        """End the process; the kernel closes what it has open."""
        await child.end_process(self._process)
