"""A fault of the controller, from arming to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from faults import errors, procfs
from faults.agents import AgentLink
from faults.catalogue import Definition
from faults.evidence import ALL_MUST_BITE, BITES_WHEN_INSIDE, PROVERS
from faults.hold import Hold, Order, total
from faults.model import FaultStatus, Newcomers, ProcessInfo, Selector, State, ThreadStack
from faults.stacks import as_text, stacks

if TYPE_CHECKING:
    from faults.controller import Controller

log = logging.getLogger(__name__)

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
        self.id, self.name, self.selector, self.lease_s = id, definition.info.name, selector, lease_s
        self.params, self.trigger = dict(params), dict(trigger)
        self._controller, self._definition, self._newcomers = controller, definition, newcomers
        self._order = Order(id, definition, self.params, self.trigger, until_ns=0)
        self._holds: list[Hold] = []
        self._final = total(())
        self._evidence: list[str] = []
        self._details: dict[str, Any] = {}
        self._newcomer_pids: list[int] = []
        self._pids: list[int] = []
        self._times: dict[str, float] = {}
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
        """Arm it in every process that matches, or none. Raises NoSuchProcess, UnknownSite, ArmFailed, …"""
        try:
            await self._arm()
        except BaseException:
            await self._end(State.FAILED)
            raise

    async def _arm(self) -> None:
        links = await self._controller.matching(self.selector, within_s=_FIND_WITHIN_S)
        self._controller.remember(self)
        self._order = replace(self._order, until_ns=time.monotonic_ns() + int(self.lease_s * 1e9))
        if self._order.outside:
            keeper = await self._controller.keeper()
            arming = [self._arm_in(keeper, tuple(link.info for link in links))]
        else:
            arming = [self._arm_in(link, (link.info,)) for link in links]
        for armed in await asyncio.gather(*arming, return_exceptions=True):
            if isinstance(armed, BaseException):
                raise armed
        if self._definition.beside:
            for hold in list(self._holds):
                self._heard(await hold.arm_beside(await self._controller.keeper()))
        self._times[State.ARMED.value] = time.monotonic()
        self._lease = asyncio.create_task(self._expire())
        await asyncio.gather(*(hold.go(self._is_over) for hold in list(self._holds)))
        log.info("fault %s %s armed in %s", self.id, self.name, [link.info.pid for link in links])

    async def _arm_in(self, link: AgentLink, processes: tuple[ProcessInfo, ...]) -> Hold:
        hold = Hold(self._order, link, processes)
        self._holds.append(hold)
        self._pids += [process.pid for process in processes]
        self._heard(await hold.arm())
        return hold

    def _is_over(self) -> bool:
        return self._over is not None

    def _heard(self, answer: Mapping[str, Any]) -> None:
        self._details.update(answer.get("details", {}))
        for note in answer.get("notes", ()):
            self._find(note)

    def _find(self, finding: str) -> None:
        if finding not in self._evidence:
            self._evidence.append(finding)

    async def _expire(self) -> None:
        await asyncio.sleep(self._order.left_s())
        await self.expired()

    async def biting(self, timeout_s: float) -> FaultStatus:
        """Wait until it can be seen from outside that the fault bites.

        Raises NeverHit when it cannot within `timeout_s`, or the error that made the fault fail.
        """
        if not self._holds and self._over is None:
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
        proof = self._definition.proof
        prover, all_must = PROVERS[proof], proof in ALL_MUST_BITE
        found = [await prover(hold.place) for hold in list(self._holds)]
        if not (all(found) if all_must else any(found)):
            return False
        for findings in found:
            for finding in findings:
                self._find(finding)
        return True

    async def threads(self) -> tuple[ThreadStack, ...]:
        """Where the threads of its processes stand right now, those inside the fault first; empty where that
        cannot be had.
        """
        found = [
            thread
            for hold in list(self._holds)
            for thread in await stacks(hold.place, {inside.tid for inside in hold.threads()})
        ]
        return tuple(sorted(found, key=lambda thread: not thread.inside))

    async def stacks(self) -> tuple[str, ...]:
        """The same in Python's own words, one text for each process."""
        return as_text(await self.threads())

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
            lease_left_s=self._order.left_s() if self._over is None else 0.0,
            newcomers=tuple(self._newcomer_pids),
            details=dict(self._details),
            threads=tuple(thread for hold in self._holds for thread in hold.threads()),
        )

    def _words(self) -> dict[str, int]:
        return total([self._final, *(hold.words() for hold in self._holds)])

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
        stops = self._definition.proof == "stopped"
        return any(
            (hold.place.link is link and words["gil_held"])
            or (stops and words["inside"] and link.info in hold.place.processes)
            for hold, words in [(hold, hold.words()) for hold in self._holds]
        )

    async def failed(self, error: errors.FaultsError) -> None:
        """Take it out everywhere because it cannot work in one place; `biting` raises the error."""
        self._failure = error
        self._find(str(error))
        await self._end(State.FAILED)

    async def refused_late(self, pid: int, kind: str, message: str, near: list[str]) -> None:
        """The same, in the words of the agent that found out after arming."""
        await self.failed(self._order.refusal(pid, kind, message, near))

    async def keeper_lost(self, keeper: AgentLink) -> None:
        """The keeper was killed before it could undo what it did: let what it stopped go on."""
        lost = [hold.place for hold in self._holds if hold.place.link is keeper]
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
            hold = await self._arm_in(link, (link.info,))
            await hold.go(self._is_over)
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
            released: list[Hold] = []
            while left := [hold for hold in self._holds if hold not in released]:  # newcomers may be added
                for hold in left:
                    hold.let_go()
                await asyncio.gather(*(self._release(hold) for hold in left))
                released += left
            self._final = self._words()
            self._holds.clear()
            if state is not State.FAILED and not self._final["hits"]:
                state = State.NEVER_HIT
            self._over = state
            self._times[state.value] = time.monotonic()
            await asyncio.gather(*(hold.close() for hold in released))
            self._controller.forget(self)
        if self._lease is not None and self._lease is not asyncio.current_task():
            self._lease.cancel()
        log.info("fault %s %s %s", self.id, self.name, state)

    async def _release(self, hold: Hold) -> None:
        self._heard(await hold.release(silenced=self._controller.silenced(hold.place.link, but=self)))
