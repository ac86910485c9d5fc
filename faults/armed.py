"""A fault of the controller, from arming to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from faults import errors, procfs
from faults.agent.wedge_agent.page import LET_GO, SIZE_BYTES, WORDS, Page
from faults.agents import AgentLink
from faults.catalogue import Definition
from faults.evidence import ALL_MUST_BITE, BITES_WHEN_INSIDE, PROVERS, Place
from faults.model import FaultStatus, Newcomers, ProcessInfo, Selector, State
from faults.stacks import stacks

if TYPE_CHECKING:
    from faults.controller import Controller

log = logging.getLogger(__name__)

_ARM_WITHIN_S = 10.0
_RELEASE_WITHIN_S = 2.0
_SILENT_WITHIN_S = 0.1  # for an agent that another fault keeps from answering: it does what it is asked later
_FIND_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.005


class Fault:
    """What `Controller.arm` returns: armed by `async with`, released at its end, or earlier by `release`."""

    def __init__(
        self,
        controller: Controller,
        definition: Definition,
        *,
        id: str,
        selector: Selector,
        lease_s: float,
        params: Mapping[str, Any],
        trigger: Mapping[str, Any],
        newcomers: Newcomers,
    ) -> None:
        self.id, self.name = id, definition.info.name
        self.selector, self.lease_s, self.params, self.trigger = (
            selector,
            lease_s,
            dict(params),
            dict(trigger),
        )
        self._controller, self._definition, self._newcomers = controller, definition, newcomers
        self._places: list[tuple[Place, socket.socket]] = []
        self._beside: list[tuple[AgentLink, socket.socket]] = []
        self._final: dict[str, int] = dict.fromkeys(WORDS, 0)
        self._evidence: list[str] = []
        self._details: dict[str, Any] = {}
        self._newcomer_pids: list[int] = []
        self._pids: list[int] = []
        self._times: dict[str, float] = {}
        self._until_ns = 0
        self._over: State | None = None
        self._failure: errors.FaultsError | None = None
        self._ending = asyncio.Lock()
        self._lease: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Fault {self.id} {self.name} {self.status().state}>"

    async def __aenter__(self) -> Self:
        await self.arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.release()

    async def arm(self) -> None:
        """Arm it in every process that matches now, or in none. Raises NoSuchProcess, UnknownSite,
        ArmFailed, …
        """
        try:
            await self._arm()
        except BaseException:
            await self._end(State.FAILED)
            raise

    async def _arm(self) -> None:
        links = await self._controller.matching(self.selector, within_s=_FIND_WITHIN_S)
        self._controller.remember(self)
        self._until_ns = time.monotonic_ns() + int(self.lease_s * 1e9)
        if self._definition.info.runs == "outside":
            keeper = await self._controller.keeper()
            arming = [self._arm_in(keeper, tuple(link.info for link in links))]
        else:
            arming = [self._arm_in(link, (link.info,)) for link in links]
        failures = [
            error for error in await asyncio.gather(*arming, return_exceptions=True) if error is not None
        ]
        if failures:
            raise failures[0]
        if self._definition.beside:
            for place, _ in list(self._places):
                await self._arm_beside(place)
        self._times[State.ARMED.value] = time.monotonic()
        self._lease = asyncio.create_task(self._expire())
        await asyncio.gather(*(self._go(place) for place, _ in list(self._places)))
        log.info("fault %s %s armed in %s", self.id, self.name, [link.info.pid for link in links])

    async def _arm_in(self, link: AgentLink, processes: tuple[ProcessInfo, ...]) -> None:
        ours, theirs = socket.socketpair()
        page_fd = os.memfd_create(f"wedge-{self.id}", os.MFD_CLOEXEC)
        os.truncate(page_fd, SIZE_BYTES)
        shared_fd = os.dup(page_fd) if self._definition.beside else None
        place = Place(link, Page(page_fd), processes, self.params, shared_fd)
        self._places.append((place, ours))
        self._pids += [process.pid for process in processes]
        await self._ask_to_arm(link, processes, (theirs.detach(), page_fd))

    async def _arm_beside(self, place: Place) -> None:
        """Have the keeper free, when this controller dies, what waits in the target for memory to change."""
        if place.shared_fd is None:
            return
        keeper = await self._controller.keeper()
        ours, theirs = socket.socketpair()
        self._beside.append((keeper, ours))
        fds = (theirs.detach(), os.dup(place.shared_fd))
        await self._ask_to_arm(keeper, place.processes, fds, key=self._beside_id(len(self._beside) - 1))

    def _beside_id(self, number: int) -> str:
        return f"{self.id}/beside-{number}"

    async def _ask_to_arm(
        self,
        link: AgentLink,
        processes: tuple[ProcessInfo, ...],
        fds: tuple[int, int],
        *,
        key: str | None = None,
    ) -> None:
        request = {
            "do": "arm",
            "fault": key or self.id,
            "beside": key is not None,
            "name": self.name,
            "params": self.params,
            "trigger": self.trigger,
            "source": self._definition.source,
            "origin": self._definition.info.origin,
            "until_ns": self._until_ns,
            "targets": [(process.pid, process.started) for process in processes],
        }
        answer = await link.ask(request, within_s=_ARM_WITHIN_S, fds=fds)
        if "refused" in answer:
            raise self._refusal(link.info.pid, answer["refused"], answer["message"], answer["near"])
        self._heard(answer)

    def _refusal(self, pid: int, kind: str, message: str, near: list[str]) -> errors.FaultsError:
        if kind == "UnknownSite":
            return errors.UnknownSite(str(self.params.get("site")), message, near)
        if kind == "BadTrigger":
            return errors.BadTrigger(
                self.name, message + (f"; did you mean {' or '.join(near)}?" if near else "")
            )
        return errors.ArmFailed(self.name, pid, message)

    async def _go(self, place: Place) -> None:
        """Return once the fault acts there: whoever does it says so, or it has acted and its agent cannot.

        The keeper can always answer, and answers when all is done: a relay that has changed, processes that
        are stopped.
        """
        outside = self._definition.info.runs == "outside"
        order = {"do": "go", "fault": self.id, "when_done": outside}
        asking = asyncio.create_task(place.link.ask(order, within_s=_ARM_WITHIN_S))
        asking.add_done_callback(
            lambda asked: asked.cancelled() or asked.exception()
        )  # seen, if it comes late
        if outside:
            answer = await asking
            if "refused" in answer:
                raise self._refusal(place.link.info.pid, answer["refused"], answer["message"], answer["near"])
            return
        while not asking.done() and self._over is None and not place.page.read()["hits"]:
            await asyncio.wait([asking], timeout=_LOOK_EVERY_S)
        if asking.done() and isinstance(asking.exception(), errors.NotAnswered):
            await asking

    def _heard(self, answer: Mapping[str, Any]) -> None:
        self._details.update(answer.get("details", {}))
        for note in answer.get("notes", ()):
            self._find(note)

    def _find(self, finding: str) -> None:
        if finding not in self._evidence:
            self._evidence.append(finding)

    async def _expire(self) -> None:
        await asyncio.sleep(max(0.0, self._until_ns / 1e9 - time.monotonic()))
        await self.expired()

    async def biting(self, timeout_s: float) -> FaultStatus:
        """Wait until it can be seen from outside that the fault bites.

        Raises NeverHit when it cannot within `timeout_s`, or the error that made the fault fail.
        """
        if not self._places and self._over is None:
            raise errors.NotArmed(self.name, "biting")
        give_up = time.monotonic() + timeout_s
        while True:
            if self._failure is not None:
                raise self._failure
            if self._over is not None:
                raise errors.NeverHit(self.name, timeout_s, [f"it is {self._over} already", *self._evidence])
            if await self._prove():
                return self.status()
            if time.monotonic() >= give_up:
                raise errors.NeverHit(self.name, timeout_s, self._findings_so_far())
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _prove(self) -> bool:
        if self.status().state is not State.BITING:
            return False
        prover, all_must = (
            PROVERS[self._definition.proof],
            self._definition.proof in ALL_MUST_BITE,
        )
        found = [await prover(place) for place, _ in list(self._places)]
        if not (all(found) if all_must else any(found)):
            return False
        for findings in found:
            for finding in findings:
                self._find(finding)
        return True

    async def stacks(self) -> tuple[str, ...]:
        """Where the processes stand right now, one text each; empty where that cannot be had."""
        return tuple([text for place, _ in list(self._places) for text in await stacks(place)])

    def _findings_so_far(self) -> list[str]:
        status = self.status()
        return [
            f"{status.state}: {status.hits} of {status.calls} calls hit, {status.inside} inside",
            *self._evidence,
        ]

    def status(self) -> FaultStatus:
        """How it is right now; reads memory only, and changes nothing."""
        words = self._words()
        now = time.monotonic()
        times = dict(self._times)
        for state, at in ((State.HIT, "first_hit_ns"), (State.BITING, self._bites_at())):
            if words[at]:
                times[state.value] = words[at] / 1e9
        current_s = now - words["since_ns"] / 1e9 if words["since_ns"] else 0.0
        return FaultStatus(
            id=self.id,
            name=self.name,
            state=self._over or self._present_state(words),
            hits=words["hits"],
            inside=words["inside"],
            evidence=tuple(self._evidence),
            held_s=words["held_ns"] / 1e9 + current_s,
            times=times,
            calls=words["calls"],
            pids=tuple(self._pids),
            params=self.params,
            trigger=self.trigger,
            lease_left_s=max(0.0, self._until_ns / 1e9 - now) if self._over is None else 0.0,
            newcomers=tuple(self._newcomer_pids),
            details=dict(self._details),
        )

    def _words(self) -> dict[str, int]:
        words = dict(self._final)
        for place, _ in self._places:
            read = place.page.read()
            if (
                place.link.gone.is_set()
            ):  # it died inside, perhaps; nobody is inside a process that is no more
                read.update(inside=0, gil_held=0, since_ns=0)
            for name, value in read.items():
                words[name] = _joined(name, words[name], value)
        return words

    def _bites_at(self) -> str:
        return "first_inside_ns" if self._definition.proof in BITES_WHEN_INSIDE else "first_hit_ns"

    def _present_state(self, words: Mapping[str, int]) -> State:
        if not self._times:
            return State.NEW
        if words["inside"] if self._definition.proof in BITES_WHEN_INSIDE else words["hits"]:
            return State.BITING
        return State.HIT if words["hits"] else State.ARMED

    def silences(self, link: AgentLink) -> bool:
        """Whether it keeps the agent of that process from answering: its GIL is held, or it is stopped."""
        if self._over is not None:
            return False
        words = [(place, place.page.read()) for place, _ in self._places]
        return any(
            (place.link is link and read["gil_held"])
            or (self._definition.proof == "stopped" and read["inside"] and link.info in place.processes)
            for place, read in words
        )

    async def failed(self, error: errors.FaultsError) -> None:
        """Take it out everywhere because it cannot work in one place; `biting` raises the error."""
        self._failure = error
        self._find(str(error))
        await self._end(State.FAILED)

    async def refused_late(self, pid: int, kind: str, message: str, near: list[str]) -> None:
        """The same, in the words of the agent that found out after arming."""
        await self.failed(self._refusal(pid, kind, message, near))

    async def keeper_lost(self, keeper: AgentLink) -> None:
        """The keeper was killed before it could undo what it did: let what it stopped go on."""
        lost = [place for place, _ in self._places if place.link is keeper]
        for process in (process for place in lost for process in place.processes):
            if self._definition.proof == "stopped" and procfs.alive(process.pid, process.started):
                os.kill(process.pid, signal.SIGCONT)
        if lost:
            await self.failed(errors.ArmFailed(self.name, keeper.info.pid, "the keeper was killed"))

    async def expired(self) -> None:
        """The target's side saw the lease run out first."""
        await self._end(State.EXPIRED)

    async def newcomer(self, link: AgentLink) -> None:
        """A process that matches appeared while the fault is armed: tell of it, or cover it too."""
        if self._over is not None or link.info.pid in self._pids:
            return
        self._newcomer_pids.append(link.info.pid)
        if self._newcomers == "tell":
            self._find(f"process {link.info.pid} appeared later and is not covered")
            return
        try:
            await self._arm_in(link, (link.info,))
            await self._go(self._places[-1][0])
            self._find(f"process {link.info.pid} appeared later and is covered")
        except errors.FaultsError as error:
            self._find(f"process {link.info.pid} appeared later and could not be covered: {error}")

    async def release(self) -> FaultStatus:
        """Give the processes back; all that waits in the fault goes on. Doing it again does nothing."""
        await self._end(State.RELEASED)
        return self.status()

    async def _end(self, state: State) -> None:
        async with self._ending:
            if self._over is not None:
                return
            for place, line in self._places:
                place.page.words[LET_GO] = 1
                with suppress(OSError):  # the other end is gone with its process
                    line.shutdown(socket.SHUT_RDWR)
            await asyncio.gather(*(self._release_in(place) for place, _ in self._places))
            self._final = self._words()
            for place, line in self._places:
                place.page.close()
                line.close()
                if place.shared_fd is not None:
                    os.close(place.shared_fd)
            self._places.clear()
            for number, (keeper, line) in enumerate(self._beside):
                line.close()
                with suppress(errors.ProcessGone, errors.NotAnswered):
                    release = {"do": "release", "fault": self._beside_id(number)}
                    await keeper.ask(release, within_s=_RELEASE_WITHIN_S)
            self._beside.clear()
            if state is not State.FAILED and not self._final["hits"]:
                state = State.NEVER_HIT
            self._over = state
            self._times[state.value] = time.monotonic()
            self._controller.forget(self)
        if self._lease is not None and self._lease is not asyncio.current_task():
            self._lease.cancel()
        log.info("fault %s %s %s", self.id, self.name, state)

    async def _release_in(self, place: Place) -> None:
        try:
            silent = self._controller.silenced(place.link, but=self)
            within_s = _SILENT_WITHIN_S if silent else _RELEASE_WITHIN_S
            if self._definition.info.runs == "outside":
                within_s = _ARM_WITHIN_S
            answer = await place.link.ask({"do": "release", "fault": self.id}, within_s=within_s)
            self._heard(answer)
        except errors.ProcessGone:
            return
        except errors.NotAnswered as silence:
            self._find(f"released, and not confirmed yet: {silence}")
            return
        give_up = time.monotonic() + _RELEASE_WITHIN_S
        while place.page.read()["inside"] and not place.link.gone.is_set():
            if time.monotonic() >= give_up:
                self._find(f"released, and process {place.link.info.pid} has not come out of the fault yet")
                return
            await asyncio.sleep(_LOOK_EVERY_S)


def _joined(name: str, one: int, other: int) -> int:
    """Two processes' words as one: what is counted is added, of times the first, of lengths the longest."""
    if name in ("calls", "hits", "inside", "gil_held"):
        return one + other
    if name == "held_ns":
        return max(one, other)
    return min(filter(None, (one, other)), default=0)
