"""Add a running process to a controller without an agent or gdb, for the faults that act from outside."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from faults import procfs
from faults.agent.wedge_agent.protocol import Request
from faults.agent_link import A, AgentLink
from faults.attach.refusals import AlreadyAttached, NoAgent, NoProcess, NotAllowed, NotAttachable
from faults.controller import Controller
from faults.model import ProcessInfo

log = logging.getLogger(__name__)


class Bystander(AgentLink):
    """Takes the place of an agent's connection for a process without an agent; it refuses every request."""

    def __init__(self, pid: int) -> None:
        nobody, other = socket.socketpair()
        other.close()
        super().__init__(nobody, lambda link, message: None)
        self.identify(pid)

    async def ask(
        self, request: Request, expected: type[A], *, within_s: float, fds: Sequence[int] = ()
    ) -> A:
        """Raises NoAgent, at once."""
        for fd in fds:
            os.close(fd)
        raise NoAgent(self.info.pid, request.NAME)


@asynccontextmanager
async def outside(controller: Controller, pid: int) -> AsyncIterator[ProcessInfo]:
    """Inside the block, process `pid` is one of the controller's processes, whatever program it runs:
    process.stop, process.kill and process.starve can be armed on it. Faults inside it raise NoAgent.

    Raises NoProcess, NotAllowed, AlreadyAttached, NotAttachable.
    """
    if any(info.pid == pid for info in controller.processes()):
        raise AlreadyAttached(pid, "this controller has it already", "arm faults in it right away")
    handle = _handle(pid)
    link = Bystander(pid)
    loop = asyncio.get_running_loop()

    def part() -> None:
        loop.remove_reader(handle)
        controller.remove_process(link)
        link.close()

    loop.add_reader(handle, part)  # readable once the process has ended (pidfd_open(2))
    controller.add_process(link)
    log.info("process %s is taken in without an agent", link.info)
    try:
        yield link.info
    finally:
        part()
        os.close(handle)


def _handle(pid: int) -> int:
    """A pidfd of a process that this user may signal and that is not one of the controller's own
    ancestors."""
    if pid == os.getpid() or pid in procfs.ancestors(os.getpid()):
        raise NotAttachable(
            pid, "this very process runs in it, or below it, and would stop with it", "name another one"
        )
    found = procfs.stat(pid)
    if found is None or found.state in "ZX":
        raise NoProcess(pid, "there is no such process" if found is None else "it has ended")
    try:
        os.kill(pid, 0)
        return os.pidfd_open(pid)
    except PermissionError:
        raise NotAllowed(
            pid,
            "it is another user's and may not be signalled",
            "run `wedge attach` as that user, or as root",
        ) from None
    except ProcessLookupError:
        raise NoProcess(pid, "it has ended") from None
