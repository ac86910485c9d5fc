"""The hold that a fault has on one process: what was asked of whoever acts there, its line, and its page."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from faults import errors, procfs
from faults.agent.wedge_agent.page import LET_GO, SIZE_BYTES, WORDS, Page
from faults.agents import AgentLink
from faults.catalogue import Definition
from faults.evidence import Place
from faults.model import ProcessInfo, Thread

_ARM_WITHIN_S = 10.0
_RELEASE_WITHIN_S = 2.0
_SILENT_WITHIN_S = 0.1  # for an agent that another fault keeps from answering: it does what it is asked later
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of every process of one fault. `until_ns` is the end of the lease, monotonic."""

    id: str
    definition: Definition
    params: Mapping[str, Any]
    trigger: Mapping[str, Any]
    until_ns: int

    @property
    def outside(self) -> bool:
        """Whether the keeper does it, who can always answer."""
        return self.definition.info.runs == "outside"

    def left_s(self) -> float:
        """How much is left of the lease, in seconds."""
        return max(0.0, self.until_ns / 1e9 - time.monotonic())

    async def arm(
        self, link: AgentLink, processes: tuple[ProcessInfo, ...], fds: tuple[int, int], *, beside: str = ""
    ) -> dict[str, Any]:
        """The answer of the one who is to do it; with `beside`, under that name, what the keeper does for it.

        Raises UnknownSite, BadTrigger, ArmFailed, NotAnswered, ProcessGone.
        """
        request = {
            "do": "arm",
            "fault": beside or self.id,
            "beside": bool(beside),
            "name": self.definition.info.name,
            "params": self.params,
            "trigger": self.trigger,
            "source": self.definition.source,
            "origin": self.definition.info.origin,
            "until_ns": self.until_ns,
            "targets": [(process.pid, process.started) for process in processes],
        }
        return self.granted(link, await link.ask(request, within_s=_ARM_WITHIN_S, fds=fds))

    def granted(self, link: AgentLink, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, if it is not a refusal."""
        if "refused" in answer:
            raise self.refusal(link.info.pid, answer["refused"], answer["message"], answer["near"])
        return answer

    def refusal(self, pid: int, kind: str, message: str, near: list[str]) -> errors.FaultsError:
        """The error that an agent's refusal stands for."""
        name = self.definition.info.name
        if kind == "UnknownSite":
            return errors.UnknownSite(str(self.params.get("site")), message, near)
        if kind == "BadTrigger":
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            return errors.BadTrigger(name, message + hint)
        return errors.ArmFailed(name, pid, message)


class Hold:
    """A fault in one process, or, done by the keeper, on several. `line` and page end with `close`."""

    def __init__(self, order: Order, link: AgentLink, processes: tuple[ProcessInfo, ...]) -> None:
        self.order = order
        self._line, theirs = socket.socketpair()
        page_fd = os.memfd_create(f"wedge-{order.id}", os.MFD_CLOEXEC)
        os.truncate(page_fd, SIZE_BYTES)
        limit = procfs.descriptor_limit(link.info.pid)
        self.place = Place(link, Page(page_fd), processes, order.params, limit)
        self._theirs = theirs.detach(), page_fd
        self._shared_fd = os.dup(page_fd) if order.definition.beside else None
        self._beside: tuple[AgentLink, socket.socket] | None = None

    async def arm(self) -> dict[str, Any]:
        """Install it there; nothing happens yet. Returns notes and details, raises as `Order.arm`."""
        return await self.order.arm(self.place.link, self.place.processes, self._theirs)

    async def arm_beside(self, keeper: AgentLink) -> dict[str, Any]:
        """Have the keeper free, when this controller dies, what waits in the target for memory to change."""
        assert self._shared_fd is not None
        ours, theirs = socket.socketpair()
        self._beside = keeper, ours
        fds = theirs.detach(), os.dup(self._shared_fd)
        return await self.order.arm(keeper, self.place.processes, fds, beside=self._beside_id())

    def _beside_id(self) -> str:
        return f"{self.order.id}/beside-{self.place.link.info.pid}"

    async def go(self, over: Callable[[], bool]) -> None:
        """Return once the fault acts there: whoever does it says so, or it has acted and its agent cannot.

        The keeper can always answer, and answers when all is done: a relay that has changed, processes that
        are stopped. Raises as `arm`.
        """
        order = {"do": "go", "fault": self.order.id, "when_done": self.order.outside}
        asking = asyncio.create_task(self.place.link.ask(order, within_s=_ARM_WITHIN_S))
        asking.add_done_callback(
            lambda asked: asked.cancelled() or asked.exception()
        )  # seen, if it comes late
        if self.order.outside:
            self.order.granted(self.place.link, await asking)
            return
        while not asking.done() and not over() and not self.place.page.read()["hits"]:
            await asyncio.wait([asking], timeout=_LOOK_EVERY_S)
        if asking.done() and isinstance(asking.exception(), errors.NotAnswered):
            await asking

    def words(self) -> dict[str, int]:
        """The words of the page."""
        read = self.place.page.read()
        if (
            self.place.link.gone.is_set()
        ):  # it died inside, perhaps; nobody is inside a process that is no more
            read.update(inside=0, gil_held=0, since_ns=0)
        return read

    def threads(self) -> tuple[Thread, ...]:
        """The threads of the target that are in the fault right now."""
        if self.order.outside or self.place.link.gone.is_set():
            return ()
        pid = self.place.link.info.pid
        return tuple(Thread(pid, tid) for tid in self.place.page.threads())

    def let_go(self) -> None:
        """Wake all that waits in it."""
        self.place.page.words[LET_GO] = 1
        with suppress(OSError):  # the other end is gone with its process
            self._line.shutdown(socket.SHUT_RDWR)

    async def release(self, *, silenced: bool) -> dict[str, Any]:
        """Take it out, and wait until nobody is in it any more; `silenced`: its agent cannot answer now.

        Returns notes: what could not be undone, or confirmed.
        """
        within_s = (
            _SILENT_WITHIN_S if silenced else _ARM_WITHIN_S if self.order.outside else _RELEASE_WITHIN_S
        )
        try:
            answer = await self.place.link.ask({"do": "release", "fault": self.order.id}, within_s=within_s)
        except errors.ProcessGone:
            return {}
        except errors.NotAnswered as silence:
            return {"notes": [f"released, and not confirmed yet: {silence}"]}
        give_up = time.monotonic() + _RELEASE_WITHIN_S
        while self.words()["inside"]:
            if time.monotonic() >= give_up:
                left = f"released, and process {self.place.link.info.pid} has not come out of the fault yet"
                return {**answer, "notes": [*answer["notes"], left]}
            await asyncio.sleep(_LOOK_EVERY_S)
        return answer

    async def close(self) -> None:
        """Give back the page and the line, and what the keeper has of them. Doing it again does nothing."""
        self.place.page.close()
        self._line.close()
        if self._shared_fd is not None:
            os.close(self._shared_fd)
            self._shared_fd = None
        if self._beside is not None:
            keeper, line = self._beside
            self._beside = None
            line.close()
            with suppress(errors.ProcessGone, errors.NotAnswered):
                await keeper.ask({"do": "release", "fault": self._beside_id()}, within_s=_RELEASE_WITHIN_S)


def total(words: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The words of several processes as one: what is counted is added, of times the first, of lengths the
    longest.
    """
    joined = dict.fromkeys(WORDS, 0)
    for one in words:
        for name, value in one.items():
            joined[name] = _joined(name, joined[name], value)
    return joined


def _joined(name: str, one: int, other: int) -> int:
    if name in ("calls", "hits", "inside", "gil_held"):
        return one + other
    if name == "held_ns":
        return max(one, other)
    return min(filter(None, (one, other)), default=0)
