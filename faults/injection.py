"""One fault in one process: its lifeline, its page, and the messages to its agent."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from faults import errors, procfs
from faults.agent.wedge_agent import protocol
from faults.agent.wedge_agent.page import RELEASED, SIZE_BYTES, WORDS, Page
from faults.agent_link import AgentLink
from faults.model import Definition, ProcessInfo, Thread

_ARM_WITHIN_S = 10.0
_RELEASE_WITHIN_S = 2.0
_BLOCKED_WITHIN_S = 0.1  # for an agent that another fault keeps from answering: it carries out requests later
_LOOK_EVERY_S = 0.005


class Injection:
    """A fault in one process (`link` is its agent); or, where the sidecar does it from outside, on several.

    `processes` are the affected processes, `page` has the counters, and `limit_before` is the process's
    descriptor limit before the fault (0: no limit). The lease ends at `until_ns` on the monotonic clock. The
    lifeline and the page end with `close`.
    """

    def __init__(
        self,
        fault_id: str,
        definition: Definition,
        *,
        params: Mapping[str, Any],
        trigger: Mapping[str, Any],
        until_ns: int,
        link: AgentLink,
        processes: Sequence[ProcessInfo],
    ) -> None:
        self.params, self.link, self.processes = params, link, tuple(processes)
        self.limit_before = procfs.descriptor_limit(link.info.pid)
        self._id, self._definition, self._trigger, self._until_ns = fault_id, definition, trigger, until_ns
        self._lifeline, theirs = socket.socketpair()
        page_fd = os.memfd_create(f"faults-{fault_id}", os.MFD_CLOEXEC)
        os.truncate(page_fd, SIZE_BYTES)
        self.page = Page(page_fd)
        self._theirs = theirs.detach(), page_fd
        self._page_for_sidecar = os.dup(page_fd) if definition.sidecar_function else None
        self._in_sidecar: tuple[AgentLink, socket.socket] | None = None

    @property
    def outside(self) -> bool:
        """Whether the fault runs in the sidecar, which can always answer."""
        return self._definition.info.runs == "outside"

    async def arm(self) -> protocol.Armed:
        """Install it; nothing happens yet. Raises UnknownSite, BadTrigger, ArmFailed, NotAnswered,
        ProcessGone.
        """
        return await self._arm(self.link, self._id, "arm", self._theirs)

    async def arm_sidecar(self, sidecar: AgentLink) -> protocol.Armed:
        """Make the sidecar free, when this controller dies, whatever waits in the target for memory to
        change.

        Raises as `arm`.
        """
        assert self._page_for_sidecar is not None
        ours, theirs = socket.socketpair()
        self._in_sidecar = sidecar, ours
        fds = theirs.detach(), os.dup(self._page_for_sidecar)
        return await self._arm(sidecar, self._sidecar_id, self._definition.sidecar_function, fds)

    @property
    def _sidecar_id(self) -> str:
        return f"{self._id}/sidecar-{self.link.info.pid}"

    async def _arm(
        self, link: AgentLink, fault_id: str, function: str, fds: tuple[int, int]
    ) -> protocol.Armed:
        request = protocol.Arm(
            fault=fault_id,
            name=self._definition.info.name,
            params=dict(self.params),
            trigger=dict(self._trigger),
            source=self._definition.source,
            origin=self._definition.info.origin,
            function=function,
            targets=[(process.pid, process.started) for process in self.processes],
            until_ns=self._until_ns,
        )
        try:
            return await link.ask(request, protocol.Armed, within_s=_ARM_WITHIN_S, fds=fds)
        except protocol.Refused as refused:
            raise self._error(link, refused) from None

    def _error(self, link: AgentLink, refused: protocol.Refused) -> errors.FaultsError:
        return refusal_error(self._definition.info.name, self.params, link.info.pid, refused)

    async def start(self, is_over: Callable[[], bool]) -> None:
        """Return once the fault acts: its agent says so, or it has acted and its agent cannot, or `is_over`.

        The sidecar answers when all is done: a relay that has changed, processes that are stopped. Raises as
        `arm`.
        """
        request = protocol.Start(fault=self._id, when_done=self.outside)
        asking = asyncio.create_task(self.link.ask(request, protocol.Done, within_s=_ARM_WITHIN_S))
        asking.add_done_callback(
            lambda asked: asked.cancelled() or asked.exception()
        )  # seen, if it comes late
        if self.outside:
            try:
                await asking
            except protocol.Refused as refused:
                raise self._error(self.link, refused) from None
            return
        while not asking.done() and not is_over() and not self.page.read()["hits"]:
            await asyncio.wait([asking], timeout=_LOOK_EVERY_S)
        if asking.done() and isinstance(asking.exception(), errors.NotAnswered):
            await asking

    def counters(self) -> dict[str, int]:
        """The page's counters. A process that has ended has nobody inside, even if it died in the fault."""
        read = self.page.read()
        if self.link.gone.is_set():
            read.update(inside=0, gil_held=0, since_ns=0)
        return read

    def threads(self) -> tuple[Thread, ...]:
        """The threads of the target that are in the fault right now."""
        if self.outside or self.link.gone.is_set():
            return ()
        pid = self.link.info.pid
        return tuple(Thread(pid, tid) for tid in self.page.threads())

    def set_released(self) -> None:
        """Wake everything that waits in the fault."""
        self.page.words[RELEASED] = 1
        with suppress(OSError):  # the process, and with it the other end, is gone
            self._lifeline.shutdown(socket.SHUT_RDWR)

    async def release(self, *, blocked: bool) -> list[str]:
        """Remove the fault and wait until nobody is inside. `blocked`: its agent cannot answer now.

        Returns notes: the fault's findings, and what could not be undone or confirmed.
        """
        within_s = _BLOCKED_WITHIN_S if blocked else _ARM_WITHIN_S if self.outside else _RELEASE_WITHIN_S
        try:
            request = protocol.Release(fault=self._id)
            notes = (await self.link.ask(request, protocol.Released, within_s=within_s)).notes
        except errors.ProcessGone:
            return []
        except (errors.NotAnswered, protocol.Refused) as unconfirmed:
            return [f"released, and not confirmed yet: {unconfirmed}"]
        give_up = time.monotonic() + _RELEASE_WITHIN_S
        while self.counters()["inside"]:
            if time.monotonic() >= give_up:
                pid = self.link.info.pid
                return [*notes, f"released, and process {pid} has not come out of the fault yet"]
            await asyncio.sleep(_LOOK_EVERY_S)
        return notes

    async def close(self) -> None:
        """Give back the page and the lifeline, and what the sidecar has of them. Doing it again does
        nothing.
        """
        self.page.close()
        self._lifeline.close()
        if self._page_for_sidecar is not None:
            os.close(self._page_for_sidecar)
            self._page_for_sidecar = None
        if self._in_sidecar is not None:
            sidecar, lifeline = self._in_sidecar
            self._in_sidecar = None
            lifeline.close()
            request = protocol.Release(fault=self._sidecar_id)
            with suppress(errors.ProcessGone, errors.NotAnswered, protocol.Refused):
                await sidecar.ask(request, protocol.Released, within_s=_RELEASE_WITHIN_S)


def refusal_error(
    fault: str, params: Mapping[str, Any], pid: int, refused: protocol.Refused
) -> errors.FaultsError:
    """The error that the refusal of a fault by the agent of process `pid` stands for."""
    if refused.kind == protocol.UNKNOWN_SITE:
        return errors.UnknownSite(str(params.get("site")), refused.message, refused.near)
    if refused.kind == protocol.BAD_TRIGGER:
        hint = f"; did you mean {' or '.join(refused.near)}?" if refused.near else ""
        return errors.BadTrigger(fault, refused.message + hint)
    return errors.ArmFailed(fault, pid, refused.message)


def total(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The combined counters of several processes: the sum of counts, the earliest time, the longest
    duration."""
    joined = dict.fromkeys(WORDS, 0)
    for one in counters:
        for name, value in one.items():
            joined[name] = _joined(name, joined[name], value)
    return joined


def _joined(name: str, one: int, other: int) -> int:
    if name in ("calls", "hits", "inside", "gil_held"):
        return one + other
    if name == "held_ns":
        return max(one, other)
    return min(filter(None, (one, other)), default=0)
