"""The controller: knows the target's processes, arms faults in them, and gives everything back when it
closes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from faults import agentless, directory, keeper, procfs
from faults.agents import AgentLink, peer
from faults.armed import Fault
from faults.catalogue import definition
from faults.errors import LeaseTooLong, NoSuchProcess, NotOpen
from faults.launch import Launched, Stream, launch
from faults.model import DEFAULT_LEASE_S, LEASE_LIMIT_S, FaultStatus, Newcomers, ProcessInfo, Selector
from faults.parameters import check, check_trigger
from faults.processes import Processes

log = logging.getLogger(__name__)

_HELLO_WITHIN_S = 5.0
_KEEPER_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.02
_BACKLOG = 512
_STATUSES_KEPT = 100


class Controller:
    """Breaks the processes that are started with its environment, for as long as it is open.

    `processes` names selectors, `sites` names call sites; faults and commands may use the names. Inside
    `async with` it has a private directory (0700) with the socket (0600) that agents connect to. Leaving
    gives every fault back and ends what was launched; a controller that dies does the same, through the
    kernel closing its sockets.
    """

    def __init__(
        self, processes: Mapping[str, Selector] | None = None, sites: Mapping[str, str] | None = None
    ) -> None:
        self._sites = dict(sites or {})
        self._processes = Processes(processes or {})
        self._armed: dict[str, Fault] = {}
        self._ended: list[FaultStatus] = []
        self._numbers = itertools.count(1)
        self._launched: list[Launched] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._directory: Path | None = None
        self._listener: socket.socket | None = None
        self._keeper: AgentLink | None = None
        self._keeper_process: asyncio.subprocess.Process | None = None
        self._keeper_starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._directory = directory.create()
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            path = self._directory / directory.AGENT_SOCKET
            self._listener.bind(str(path))
            path.chmod(0o600)
            self._listener.listen(_BACKLOG)
        except BaseException:
            await self.close()
            raise
        self._spawn(self._accept(self._listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release every fault, end everything launched, remove the directory. Doing it again does nothing."""
        if self._directory is None:
            return
        try:
            await self.release_all()
            await asyncio.gather(*(launched.close() for launched in self._launched))
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._listener is not None:
                self._listener.close()
            if self._keeper_process is not None:
                await keeper.ended(self._keeper_process)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    @property
    def path(self) -> Path:
        """The private directory. Raises NotOpen."""
        if self._directory is None:
            raise NotOpen
        return self._directory

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with what makes every Python interpreter below it report to this controller. Raises
        NotOpen.
        """
        before = environ.get("PYTHONPATH")
        path = str(keeper.AGENT_DIRECTORY) + (os.pathsep + before if before else "")
        return {**environ, "PYTHONPATH": path, "WEDGE_AGENT": str(self.path / directory.AGENT_SOCKET)}

    async def launch(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: Stream = asyncio.subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> Launched:
        """Run a command under a guard that ends it, and all below it, when this process is gone.

        `env` is used as it is given, and is `environment(os.environ)` when it is not. The streams are those
        of `asyncio.create_subprocess_exec`; stdin is empty unless it is asked for. Raises LaunchFailed.
        """
        chosen = self.environment(os.environ) if env is None else dict(env)
        launched = await launch(
            command, env=chosen, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, private=self.path
        )
        self._launched.append(launched)
        return launched

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The processes whose agents are connected, in the order in which they came."""
        return tuple(link.info for link in self._processes.links)

    async def process(self, selector: str | Selector, *, timeout_s: float = 10.0) -> ProcessInfo:
        """The first process that matches, waited for. Raises NoSuchProcess, UnknownSelector."""
        return (await self.matching(self._processes.selector(selector), within_s=timeout_s))[0].info

    async def matching(self, selector: Selector, *, within_s: float) -> list[AgentLink]:
        """Every agent whose process matches, at least one. Raises NoSuchProcess."""
        if self._directory is None:
            raise NotOpen
        give_up = time.monotonic() + within_s
        while not (found := await self._processes.matching(selector)):
            if time.monotonic() >= give_up:
                seen = [str(info) for info in self.processes()]
                raise NoSuchProcess(str(selector), seen, self._without_agent(), within_s)
            await asyncio.sleep(_LOOK_EVERY_S)
        return found

    def _without_agent(self) -> list[str]:
        known = {info.pid for info in self.processes()}
        below = [pid for launched in self._launched for pid in launched.pids() if pid not in known]
        return [
            f"{pid} ({' '.join(procfs.argv(pid))[:80]}): {agentless.reason(pid)}"
            for pid in below
            if procfs.runs_python(pid)
        ]

    def take_in(self, link: AgentLink) -> None:
        """Have a process be one of the controller's, as one that an agent has reported from."""
        self._processes.add(link)

    def part_with(self, link: AgentLink) -> None:
        """Have it be so no more."""
        self._processes.remove(link)

    def arm(
        self,
        name: str,
        *,
        process: str | int | Selector | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        params: Mapping[str, Any] | None = None,
        trigger: Mapping[str, Any] | None = None,
        newcomers: Newcomers = "tell",
    ) -> Fault:
        """A fault for `async with`, armed in every process that matches when it is entered.

        `process` is a selector, its name, or a pid; none means the main process. Processes that match but
        appear later are told of in the evidence, or, with `newcomers="cover"`, armed too (faults inside the
        target only).

        Raises UnknownFault, UnknownParameter, BadParameter, UnknownSite, BadTrigger, UnknownSelector,
        LeaseTooLong, at once; entering it raises what only the target can know.
        """
        chosen = definition(name)
        if not 0 < lease_s <= LEASE_LIMIT_S:
            raise LeaseTooLong(lease_s, LEASE_LIMIT_S)
        return Fault(
            self,
            chosen,
            id=f"f{next(self._numbers)}",
            selector=self._processes.selector(process),
            lease_s=lease_s,
            params=check(chosen.info, params or {}, self._sites),
            trigger=check_trigger(chosen.info, trigger or {}),
            newcomers=newcomers,
        )

    def faults(self) -> tuple[Fault, ...]:
        """The faults that are not over."""
        return tuple(self._armed.values())

    def statuses(self) -> tuple[FaultStatus, ...]:
        """The faults that are not over, and before them the last hundred that are."""
        return (*self._ended, *(fault.status() for fault in self._armed.values()))

    async def release_all(self) -> None:
        """Release every fault."""
        await asyncio.gather(*(fault.release() for fault in self.faults()))

    def remember(self, fault: Fault) -> None:
        """Called by a fault that is being armed."""
        self._armed[fault.id] = fault

    def silenced(self, link: AgentLink, *, but: Fault) -> bool:
        """Whether a fault other than `but` keeps that agent from answering right now."""
        return any(fault.silences(link) for fault in self._armed.values() if fault is not but)

    def forget(self, fault: Fault) -> None:
        """Called by a fault that is over."""
        if self._armed.pop(fault.id, None) is not None:
            self._ended = [*self._ended, fault.status()][-_STATUSES_KEPT:]

    async def keeper(self) -> AgentLink:
        """The process that does what is done from outside the target; started when first needed."""
        async with self._keeper_starting:
            if self._keeper is None or self._keeper.gone.is_set():
                self._keeper_process, sock = await keeper.start(self.path)
                self._keeper = AgentLink(sock, self._heard)
                self._spawn(self._serve(self._keeper))
                await self._keeper.ask({"do": "ping"}, within_s=_KEEPER_WITHIN_S)
            return self._keeper

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            pid, uid = peer(sock)
            if uid not in (os.getuid(), 0):
                log.warning("process %d of user %d was turned away", pid, uid)
                sock.close()
                continue
            self._spawn(self._serve(AgentLink(sock, self._heard), pid))

    async def _serve(self, link: AgentLink, pid: int = 0) -> None:
        link.know(pid, {})
        try:
            await link.messages()
        finally:
            self._processes.remove(link)
            if link is self._keeper:
                for fault in self.faults():
                    await fault.keeper_lost(link)

    def _heard(self, link: AgentLink, message: dict[str, Any]) -> None:
        if "hello" in message:
            if link is self._keeper:
                link.know(int(message["pid"]), message)
            elif link.know(link.info.pid, message):
                self._processes.add(link)
                log.info("process %s has an agent, python %s", link.info, link.info.python)
                for armed in self.faults():
                    self._spawn(self._introduce(link, armed))
        elif fault := self._armed.get(message.get("failed") or message.get("expired") or ""):
            if "failed" in message:
                self._spawn(
                    fault.refused_late(link.info.pid, message["kind"], message["message"], message["near"])
                )
            else:
                self._spawn(fault.expired())

    async def _introduce(self, link: AgentLink, fault: Fault) -> None:
        """Tell a fault of a newcomer, as soon as it matches: what it imports is known only after a while."""
        while not link.gone.is_set() and fault.id in self._armed:
            if link in await self._processes.matching(fault.selector):
                await fault.newcomer(link)
                return
            if fault.selector.imports is None:
                return
            await asyncio.sleep(5 * _LOOK_EVERY_S)
