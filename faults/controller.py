"""The controller: it knows the target's processes, arms faults in them, and releases everything when it
closes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import socket
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from faults import directory
from faults.agent import AGENT_DIRECTORY, AGENT_VARIABLE
from faults.agent.wedge_agent import protocol
from faults.agent_link import AgentLink, peer
from faults.catalogue import definition
from faults.errors import LeaseTooLong, NoSuchProcess, NotOpen
from faults.fault import Fault, FaultRegistry
from faults.launch import Launched, Stream, launch
from faults.model import (
    DEFAULT_LEASE_S,
    LEASE_LIMIT_S,
    Definition,
    FaultStatus,
    Newcomers,
    ProcessInfo,
    Selector,
)
from faults.parameters import check, check_trigger
from faults.processes import Processes
from faults.sidecar import Sidecar

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
_BACKLOG = 512


class Controller:
    """Breaks the processes that were started with its environment, while it is open.

    `processes` names selectors and `sites` names call sites; faults and commands may use the names. Inside
    `async with` it has a private directory (0700) with the socket (0600) that agents connect to. Leaving the
    block releases every fault and ends what was launched. If the controller dies, the same happens, because
    the kernel closes its sockets.
    """

    def __init__(
        self, processes: Mapping[str, Selector] | None = None, sites: Mapping[str, str] | None = None
    ) -> None:
        self._sites = dict(sites or {})
        self._processes = Processes(processes or {}, self._launched_pids, self._launched_commands)
        self._registry = FaultRegistry()
        self._sidecar = Sidecar(lambda: self.path, on_event=self._on_event, on_lost=self._on_sidecar_lost)
        self._numbers = itertools.count(1)
        self._launched: list[Launched] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._directory: Path | None = None
        self._listener: socket.socket | None = None

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
        self._processes.is_open = True
        self._spawn(self._accept(self._listener))
        return self

    async def __aexit__(self, *_: object) -> None:
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
            await self._sidecar.stop()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            self._processes.is_open = False

    @property
    def path(self) -> Path:
        """The private directory. Raises NotOpen."""
        if self._directory is None:
            raise NotOpen
        return self._directory

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ`, extended so that every Python interpreter that gets it reports to this controller.
        Raises NotOpen.
        """
        before = environ.get("PYTHONPATH")
        path = str(AGENT_DIRECTORY) + (os.pathsep + before if before else "")
        return {**environ, "PYTHONPATH": path, AGENT_VARIABLE: str(self.path / directory.AGENT_SOCKET)}

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
        """Run a command under a guard that ends it and all its descendants when this process is gone.

        `env` defaults to `environment(os.environ)`. The streams are those of
        `asyncio.create_subprocess_exec`; stdin is empty by default. Raises LaunchFailed.
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

    async def wait_process(self, selector: str | Selector, *, timeout_s: float = 10.0) -> ProcessInfo:
        """Wait for a process that matches; the first that does. Raises NoSuchProcess, UnknownSelector,
        NotOpen.
        """
        wanted = self._processes.selector(selector)
        return (await self._processes.wait_matching(wanted, timeout_s=timeout_s))[0].info

    process = wait_process
    """Its former name."""

    async def find_processes(
        self, selector: str | int | Selector, *, timeout_s: float = 0.0, agents: bool = True
    ) -> tuple[ProcessInfo, ...]:
        """All matching processes, as soon as there is one; empty if there is none in time. Those without an
        agent are left out unless `agents` is false, and then come only where none with an agent matches.

        Raises UnknownSelector, NotOpen.
        """
        wanted = self._processes.selector(selector)
        try:
            if not agents:
                return tuple(await self._processes.wait_processes(wanted, timeout_s=timeout_s))
            return tuple(
                link.info for link in await self._processes.wait_matching(wanted, timeout_s=timeout_s)
            )
        except NoSuchProcess:
            return ()

    def _launched_pids(self) -> list[int]:
        return [pid for launched in self._launched for pid in launched.pids()]

    def _launched_commands(self) -> list[int]:
        return [launched.pid for launched in self._launched]

    def name_processes(self, named: Mapping[str, Selector]) -> None:
        """Give further selectors their names, or change what a name means. Raises FaultsError,
        UnknownSelector.
        """
        self._processes.name(named)

    async def sidecar(self) -> ProcessInfo:
        """The sidecar, which acts on processes from outside; it is started if necessary."""
        return (await self._sidecar.link()).info

    def add_process(self, link: AgentLink) -> None:
        """Count a process as one of the controller's, as if its agent had reported from it."""
        self._processes.add(link)

    def remove_process(self, link: AgentLink) -> None:
        """Forget a process that `add_process` brought in."""
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

        `process` is a selector, its name, or a pid; None means the main process. Matching processes that
        appear later are named in the evidence or, with `newcomers="cover"`, armed too (only for faults inside
        the target).

        Raises UnknownFault, UnknownParameter, BadParameter, UnknownSite, BadTrigger, UnknownSelector,
        LeaseTooLong, at once; entering it raises what only the target can know.
        """
        chosen, checked_params, checked_trigger = _check(name, lease_s, params, trigger, self._sites)
        return Fault(
            chosen,
            id=f"f{next(self._numbers)}",
            selector=self._processes.selector(process),
            lease_s=lease_s,
            params=checked_params,
            trigger=checked_trigger,
            newcomers=newcomers,
            processes=self._processes,
            sidecar=self._sidecar,
            registry=self._registry,
        )

    def faults(self) -> tuple[Fault, ...]:
        """The faults that are not over."""
        return self._registry.armed

    def statuses(self) -> tuple[FaultStatus, ...]:
        """The statuses of the last hundred faults that are over, then of those that are not."""
        return self._registry.statuses()

    async def release_all(self) -> None:
        """Release every fault."""
        await asyncio.gather(*(fault.release() for fault in self.faults()))

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
            self._spawn(self._serve(AgentLink(sock, self._on_event), pid))

    async def _serve(self, link: AgentLink, pid: int) -> None:
        link.identify(pid)
        try:
            await link.serve()
        finally:
            self._processes.remove(link)

    async def _on_sidecar_lost(self, link: AgentLink) -> None:
        for fault in self.faults():
            await fault.on_sidecar_lost(link)

    def _on_event(self, link: AgentLink, event: protocol.Event) -> None:
        if isinstance(event, protocol.Hello):
            self._on_hello(link, event)
        elif isinstance(event, protocol.Failed):
            if fault := self._registry.find(event.fault):
                refused = protocol.Refused(event.kind, event.message, event.near)
                self._spawn(fault.fail_refused(link.info.pid, refused))
        elif isinstance(event, protocol.Expired) and (fault := self._registry.find(event.fault)):
            self._spawn(fault.expire())

    def _on_hello(self, link: AgentLink, hello: protocol.Hello) -> None:
        if hello.version != protocol.VERSION:
            log.warning(
                "the agent of process %s speaks version %d of the protocol, not %d, and is left alone",
                link.info,
                hello.version,
                protocol.VERSION,
            )
            link.close()
        elif link.identify(link.info.pid, hello.python, hello.own_fds):
            self._processes.add(link)
            log.info("process %s has an agent, python %s", link.info, link.info.python)
            for fault in self.faults():
                self._spawn(self._introduce(link, fault))

    async def _introduce(self, link: AgentLink, fault: Fault) -> None:
        """Report a new process to a fault once it matches; its imports are known only after a while."""
        while not link.gone.is_set() and self._registry.find(fault.id):
            if link in await self._processes.matching(fault.selector):
                await fault.on_new_process(link)
                return
            if fault.selector.imports is None:
                return
            await asyncio.sleep(_LOOK_EVERY_S)


def _check(
    name: str,
    lease_s: float,
    params: Mapping[str, Any] | None,
    trigger: Mapping[str, Any] | None,
    sites: Mapping[str, str],
) -> tuple[Definition, dict[str, Any], dict[str, Any]]:
    """The fault, its parameters and its trigger, complete. Raises what `Controller.arm` does."""
    found = definition(name)
    if not 0 < lease_s <= LEASE_LIMIT_S:
        raise LeaseTooLong(lease_s, LEASE_LIMIT_S)
    return found, check(found.info, params or {}, sites), check_trigger(found.info, trigger or {})


def validate(
    name: str,
    *,
    process: str | int | Selector | None = None,
    lease_s: float = DEFAULT_LEASE_S,
    params: Mapping[str, Any] | None = None,
    trigger: Mapping[str, Any] | None = None,
    processes: Mapping[str, Selector] | None = None,
    sites: Mapping[str, str] | None = None,
) -> None:
    """Check what `Controller(processes, sites).arm(…)` would check, with neither a controller nor a target.

    Raises UnknownFault, UnknownParameter, BadParameter, UnknownSite, BadTrigger, UnknownSelector,
    LeaseTooLong.
    """
    _check(name, lease_s, params, trigger, sites or {})
    Processes(processes or {}).selector(process)
