"""Real client processes that come with a scenario, and are killed in its window."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Collection
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil

from faults import Controller
from scenarios.errors import TargetFailed
from scenarios.spec import LoadedTarget
from scenarios.spec.loads import Clients
from scenarios.traffic.client import ClientProcess, client_process
from scenarios.traffic.load.facts import LoadFacts

_LOOK_EVERY_S = 0.05
_CONNECTED_WITHIN_S = 5.0
_SHARED = 3

Memory = tuple[str, str]
"""A shared mapping's device and inode, and its path for people."""


class ServerHandle(Protocol):
    """A running server, as a load needs it."""

    controller: Controller
    target: LoadedTarget
    names: dict[str, str]

    def pids(self) -> tuple[int, ...]: ...


class _Process:
    """One client and its outcome."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.process: ClientProcess | None = None
        self.trouble = ""
        self.shares: frozenset[Memory] = frozenset()
        self.killed_s: float | None = None
        self.gone_after_s: float | None = None


class ClientLoad:
    """A `client` load."""

    def __init__(self, load: Clients, server: ServerHandle) -> None:
        self._load, self._server = load, server
        client = next(c for c in server.target.spec.client if c.name == load.client)
        self._client = msgspec.structs.replace(client, command=(*client.command, *load.args))
        self._all = [_Process(n) for n in range(1, load.count + 1)]
        self._stack = AsyncExitStack()
        self._work: asyncio.Task[None] | None = None
        self._looking: list[asyncio.Task[None]] = []
        self._mapped_before: frozenset[Memory] = frozenset()
        self._open_at_end = 0
        self._left: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether the window has to stay open for what the clients have yet to do."""
        return self._work is not None and not self._work.done()

    async def wait_done(self) -> None:
        """Wait until the clients have done what keeps the window open."""
        if self._work is not None:
            await asyncio.wait([self._work])

    async def begin(self) -> None:
        """Before the fault: start the clients with `start = "before"`."""
        self._mapped_before = await asyncio.to_thread(_shared, self._server.pids())
        if self._load.start == "before":
            await self._start()

    def watch(self) -> None:
        """The window opens: start the clients that start under the fault, and kill those with `kill`."""
        self._work = asyncio.create_task(self._in_the_window())

    async def stop(self) -> None:
        """The window closes: end the clients that still live."""
        work = [self._work] if self._work is not None else []
        for task in (*work, *self._looking):
            task.cancel()
        for ended in await asyncio.gather(*work, *self._looking, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        self._open_at_end = sum(_lives(one) for one in self._all)
        await self._stack.aclose()

    async def clean_up(self) -> None:
        """After the release: check that the server unmaps the memory of the killed clients."""
        due_s = time.monotonic() + self._load.released_within_s
        await asyncio.gather(*(self._let_go(one, due_s) for one in self._all if one.killed_s is not None))
        self._left = tuple(
            f"{_names(one.shares)} of {self._load.client} {one.n} is still in the server's memory "
            f"{self._load.released_within_s:g} s later"
            for one in self._all
            if one.killed_s is not None and one.gone_after_s is None
        )

    def facts(self) -> LoadFacts:
        """The facts about the clients."""
        load = self._load
        ready = [one for one in self._all if one.process is not None]
        killed = [one for one in self._all if one.killed_s is not None]
        missing = [f"{load.client} {one.n}: {one.trouble}" for one in self._all if one.trouble]
        done = f"{len(ready)} of {load.count} ready"
        if load.kill:
            done += f", {len(killed)} killed in the window"
            if len(killed) < load.count and not missing:
                missing.append("the window closed before all were killed")
            if load.stuck and killed:
                done += " before they had come to an end of what they had begun"
        else:
            done += f", {self._open_at_end} alive at its end"
            if self._open_at_end < load.count and not missing:
                missing.append("not all were alive when the window closed")
        took = [one.gone_after_s for one in killed if one.gone_after_s is not None]
        shared = len({memory for one in killed for memory in one.shares})
        return LoadFacts(
            kind="client",
            name=load.client,
            started=len(self._all) if ready or missing else 0,
            answered=len(ready),
            errors=sum(bool(one.trouble) for one in self._all),
            open=self._open_at_end,
            closed=len(killed),
            sustained=not missing,
            detail="; ".join([*missing, done]),
            left=self._left,
            left_detail=f"{shared} shared memories of killed clients, out of the server's at most "
            f"{max(took):.2f} s after their kill"
            if took and shared
            else "",
        )

    async def _start(self) -> None:
        await asyncio.gather(*(self._start_one(one) for one in self._all))

    async def _start_one(self, one: _Process) -> None:
        server = self._server
        names = {**server.names, "n": str(one.n)}
        try:
            one.process = await self._stack.enter_async_context(
                client_process(server.controller, server.target, self._client, names)
            )
        except TargetFailed as error:
            one.trouble = str(error)

    async def _in_the_window(self) -> None:
        if self._load.start == "biting":
            await self._start()
        if self._load.kill:
            await asyncio.gather(*(self._kill(one) for one in self._all if one.process is not None))

    async def _kill(self, one: _Process) -> None:
        process = one.process
        assert process is not None
        if self._load.connected and not await self._connected(process.pid):
            one.trouble = f"not connected to the server within {_CONNECTED_WITHIN_S:g} s"
            return
        await asyncio.sleep(self._load.for_s)
        if process.returncode is not None:
            one.trouble = f"ended by itself with exit code {process.returncode}: {' '.join(process.log)}"
            return
        if self._load.stuck and process.lines:
            one.trouble = f"it was not stuck, and said {process.lines[0][:80]}"
            return
        ours = await asyncio.to_thread(_shared, (process.pid,))
        one.shares = ours - self._mapped_before
        code = await process.kill()
        if code != -signal.SIGKILL:
            one.trouble = f"ended with exit code {code} and not by the kill"
            return
        one.killed_s = time.monotonic()
        # Under a wedge it takes until the release: the window need not stay open for it.
        let_go = self._let_go(one, one.killed_s + self._load.released_within_s)
        self._looking.append(asyncio.create_task(let_go))

    async def _let_go(self, one: _Process, due_s: float) -> None:
        """Wait until the server has none of its memory, at most until `due_s`."""
        assert one.killed_s is not None
        while (await asyncio.to_thread(_shared, self._server.pids())) & one.shares:
            one.gone_after_s = None
            if time.monotonic() > due_s:
                return
            await asyncio.sleep(_LOOK_EVERY_S)
        if one.gone_after_s is None:
            one.gone_after_s = time.monotonic() - one.killed_s

    async def _connected(self, pid: int) -> bool:
        give_up_s = time.monotonic() + _CONNECTED_WITHIN_S
        listening = await asyncio.to_thread(_listening, self._server.pids())
        while time.monotonic() < give_up_s:
            to = await asyncio.to_thread(_peers, pid)
            if to & listening if listening else to:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False


def _lives(one: _Process) -> bool:
    return one.process is not None and one.process.returncode is None


def _names(memories: Collection[Memory]) -> str:
    return ", ".join(sorted(path for _, path in memories))


def _shared(pids: Collection[int]) -> frozenset[Memory]:
    """The shared mappings of these processes (/proc/PID/maps, proc(5))."""
    found: set[Memory] = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                fields = line.split(maxsplit=5)
                if fields[1][_SHARED] == "s" and len(fields) > 5:
                    found.add((f"{fields[3]} {fields[4]}", fields[5].removesuffix(" (deleted)")))
    return frozenset(found)


def _listening(pids: Collection[int]) -> frozenset[int]:
    return frozenset(
        connection.laddr.port
        for pid in pids
        for connection in _connections(pid)
        if connection.status == psutil.CONN_LISTEN
    )


def _peers(pid: int) -> frozenset[int]:
    return frozenset(
        connection.raddr.port
        for connection in _connections(pid)
        if connection.status == psutil.CONN_ESTABLISHED and connection.raddr
    )


def _connections(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).net_connections("tcp"))
    except psutil.Error:
        return []
