"""A fault on the controller's side, from arming to its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from faults import errors, procfs
from faults.agent.wedge_agent.protocol import Refused
from faults.agent_link import AgentLink
from faults.evidence import prove
from faults.injection import Injection, refusal_error, total
from faults.model import (
    Definition,
    FaultStatus,
    Newcomers,
    ProcessInfo,
    Proof,
    Selector,
    State,
    ThreadStack,
)
from faults.processes import Processes
from faults.sidecar import Sidecar
from faults.stacks import format_stacks, stacks

log = logging.getLogger(__name__)

_FIND_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.005
_STATUSES_KEPT = 100


class FaultRegistry:
    """The faults of one controller that are armed, and how the last hundred that are over ended."""

    def __init__(self) -> None:
        self._armed: dict[str, Fault] = {}
        self._ended: list[FaultStatus] = []

    @property
    def armed(self) -> tuple[Fault, ...]:
        """The faults that are not over, in the order of arming."""
        return tuple(self._armed.values())

    def find(self, fault_id: str) -> Fault | None:
        """The armed fault of that id."""
        return self._armed.get(fault_id)

    def statuses(self) -> tuple[FaultStatus, ...]:
        """The statuses of the faults that are over, then of those that are not."""
        return (*self._ended, *(fault.status() for fault in self.armed))

    def add(self, fault: Fault) -> None:
        """Count a fault as armed."""
        self._armed[fault.id] = fault

    def remove(self, fault: Fault) -> None:
        """Remove a fault, and keep its last status if it was armed."""
        if self._armed.pop(fault.id, None) is not None:
            self._ended = [*self._ended, fault.status()][-_STATUSES_KEPT:]

    def agent_is_blocked(self, link: AgentLink, *, but: Fault) -> bool:
        """Whether a fault other than `but` keeps that agent from answering right now."""
        return any(fault.blocks_agent(link) for fault in self.armed if fault is not but)


class Fault:
    """What `Controller.arm` returns: armed by `async with`, released at its end, or earlier by `release`."""

    def __init__(
        self,
        definition: Definition,
        *,
        id: str,
        selector: Selector,
        lease_s: float,
        params: Mapping[str, Any],
        trigger: Mapping[str, Any],
        newcomers: Newcomers,
        processes: Processes,
        sidecar: Sidecar,
        registry: FaultRegistry,
    ) -> None:
        self.id, self.name, self.selector, self.lease_s = id, definition.info.name, selector, lease_s
        self.params, self.trigger = dict(params), dict(trigger)
        self._definition, self._newcomers = definition, newcomers
        self._processes, self._sidecar, self._registry = processes, sidecar, registry
        self._injections: list[Injection] = []
        self._until_ns = 0  # the end of the lease, monotonic; it begins with `arm`
        self._final = total(())
        self._evidence: list[str] = []
        self._details: dict[str, Any] = {}
        self._newcomer_pids: list[int] = []
        self._pids: list[int] = []
        self._times: dict[str, float] = {}
        self._over: State | None = None
        self._failure: errors.FaultsError | None = None
        self._ending = asyncio.Lock()
        self._lease_task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Fault {self.id} {self.name} {self.status().state}>"

    async def __aenter__(self) -> Self:
        await self.arm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def arm(self) -> None:
        """Arm it in every process that matches, or none. Raises NoSuchProcess, UnknownSite, ArmFailed, …"""
        try:
            await self._arm()
        except BaseException:
            await self._end(State.FAILED)
            raise

    async def _arm(self) -> None:
        if self._definition.info.runs == "outside":
            found = await self._processes.wait_processes(self.selector, timeout_s=_FIND_WITHIN_S)
            self._begin_lease()
            arming = [self._inject(await self._sidecar.link(), found)]
        else:
            links = await self._processes.wait_matching(self.selector, timeout_s=_FIND_WITHIN_S)
            self._begin_lease()
            arming = [self._inject(link, [link.info]) for link in links]
        for armed in await asyncio.gather(*arming, return_exceptions=True):
            if isinstance(armed, BaseException):
                raise armed
        if self._definition.sidecar_function:
            for injection in list(self._injections):
                answer = await injection.arm_sidecar(await self._sidecar.link())
                self._add_notes(answer.notes, answer.details)
        self._times[State.ARMED.value] = time.monotonic()
        self._lease_task = asyncio.create_task(self._expire())
        await asyncio.gather(*(injection.start(self._is_over) for injection in list(self._injections)))
        log.info("fault %s %s armed in %s", self.id, self.name, self._pids)

    def _begin_lease(self) -> None:
        self._registry.add(self)
        self._until_ns = time.monotonic_ns() + int(self.lease_s * 1e9)

    async def _inject(self, link: AgentLink, processes: Sequence[ProcessInfo]) -> Injection:
        injection = Injection(
            self.id,
            self._definition,
            params=self.params,
            trigger=self.trigger,
            until_ns=self._until_ns,
            link=link,
            processes=processes,
        )
        self._injections.append(injection)
        self._pids += [process.pid for process in processes]
        answer = await injection.arm()
        self._add_notes(answer.notes, answer.details)
        return injection

    def _is_over(self) -> bool:
        return self._over is not None

    def _lease_left_s(self) -> float:
        return max(0.0, self._until_ns / 1e9 - time.monotonic())

    def _add_notes(self, notes: Sequence[str], details: Mapping[str, Any]) -> None:
        self._details.update(details)
        for note in notes:
            self._add_finding(note)

    def _add_finding(self, finding: str) -> None:
        if finding not in self._evidence:
            self._evidence.append(finding)

    async def _expire(self) -> None:
        await asyncio.sleep(self._lease_left_s())
        await self.expire()

    async def wait_biting(self, timeout_s: float) -> FaultStatus:
        """Wait until it can be seen from outside that the fault bites.

        Raises NeverHit when it cannot within `timeout_s`, or the error that made the fault fail.
        """
        if not self._injections and self._over is None:
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

    biting = wait_biting
    """Its former name."""

    async def _prove(self) -> bool:
        if self.status().state is not State.BITING:
            return False
        findings = await prove(self._definition.proof, list(self._injections))
        for finding in findings:
            self._add_finding(finding)
        return bool(findings)

    async def threads(self) -> tuple[ThreadStack, ...]:
        """Where the threads of its processes stand now, those inside the fault first; empty if it cannot be
        read.
        """
        found = [
            thread
            for injection in list(self._injections)
            for thread in await stacks(injection, {inside.tid for inside in injection.threads()})
        ]
        return tuple(sorted(found, key=lambda thread: not thread.inside))

    async def stacks(self) -> tuple[str, ...]:
        """Where the threads stand, in Python's own words: one text for each process."""
        return format_stacks(await self.threads())

    def _findings_so_far(self) -> list[str]:
        status = self.status()
        return [
            f"{status.state}: {status.hits} of {status.calls} calls hit, {status.inside} inside",
            *self._evidence,
        ]

    def status(self) -> FaultStatus:
        """The fault's current status. Only reads memory, and changes nothing."""
        counters = self._counters()
        now = time.monotonic()
        times = dict(self._times)
        for state, at in ((State.HIT, "first_hit_ns"), (State.BITING, self._bites_at())):
            if counters[at]:
                times[state.value] = counters[at] / 1e9
        current_s = now - counters["since_ns"] / 1e9 if counters["since_ns"] else 0.0
        return FaultStatus(
            id=self.id,
            name=self.name,
            state=self._over or self._present_state(counters),
            hits=counters["hits"],
            inside=counters["inside"],
            evidence=tuple(self._evidence),
            held_s=counters["held_ns"] / 1e9 + current_s,
            times=times,
            calls=counters["calls"],
            pids=tuple(self._pids),
            params=self.params,
            trigger=self.trigger,
            lease_left_s=self._lease_left_s() if self._over is None else 0.0,
            newcomers=tuple(self._newcomer_pids),
            details=dict(self._details),
            threads=tuple(thread for injection in self._injections for thread in injection.threads()),
        )

    def _counters(self) -> dict[str, int]:
        return total([self._final, *(injection.counters() for injection in self._injections)])

    def _bites_at(self) -> str:
        return "first_inside_ns" if self._definition.proof.needs_inside else "first_hit_ns"

    def _present_state(self, counters: Mapping[str, int]) -> State:
        if not self._times:
            return State.NEW
        if counters["inside"] if self._definition.proof.needs_inside else counters["hits"]:
            return State.BITING
        return State.HIT if counters["hits"] else State.ARMED

    def blocks_agent(self, link: AgentLink) -> bool:
        """Whether the fault keeps that process's agent from answering because the GIL is held or it is
        stopped."""
        if self._over is not None:
            return False
        stops = self._definition.proof is Proof.STOPPED
        return any(
            (injection.link is link and counters["gil_held"])
            or (stops and counters["inside"] and link.info in injection.processes)
            for injection, counters in [(found, found.counters()) for found in self._injections]
        )

    async def fail(self, error: errors.FaultsError) -> None:
        """Release it everywhere because it cannot work in one process; `wait_biting` raises the error."""
        self._failure = error
        self._add_finding(str(error))
        await self._end(State.FAILED)

    async def fail_refused(self, pid: int, refused: Refused) -> None:
        """The agent of process `pid` found out after arming that it cannot do it: take it out everywhere, but
        for a process that appeared later.
        """
        error = refusal_error(self.name, self.params, pid, refused)
        if pid in self._newcomer_pids:
            self._add_finding(f"process {pid} appeared later and could not be covered: {error}")
        else:
            await self.fail(error)

    async def on_sidecar_lost(self, sidecar: AgentLink) -> None:
        """Undo what the sidecar did, since it was killed first: stopped processes run on."""
        lost = [injection for injection in self._injections if injection.link is sidecar]
        for process in (process for injection in lost for process in injection.processes):
            if self._definition.proof is Proof.STOPPED and procfs.alive(process.pid, process.started):
                os.kill(process.pid, signal.SIGCONT)
        if lost:
            await self.fail(errors.ArmFailed(self.name, sidecar.info.pid, "the sidecar was killed"))

    async def expire(self) -> None:
        """End it because its lease has run out; the target may have ended it already."""
        await self._end(State.EXPIRED)

    async def on_new_process(self, link: AgentLink) -> None:
        """A matching process appeared while the fault is armed: report it, or arm the fault in it too."""
        if self._over is not None or link.info.pid in self._pids:
            return
        self._newcomer_pids.append(link.info.pid)
        if self._newcomers == "tell":
            self._add_finding(f"process {link.info.pid} appeared later and is not covered")
            return
        try:
            injection = await self._inject(link, [link.info])
            await injection.start(self._is_over)
            self._add_finding(f"process {link.info.pid} appeared later and is covered")
        except errors.FaultsError as error:
            self._add_finding(f"process {link.info.pid} appeared later and could not be covered: {error}")

    async def release(self) -> FaultStatus:
        """Release the processes; everything that waits in the fault continues. A second call does nothing."""
        await self._end(State.RELEASED)
        return self.status()

    async def _end(self, state: State) -> None:
        async with self._ending:
            if self._over is not None:
                return
            released: list[Injection] = []
            while left := [found for found in self._injections if found not in released]:  # newcomers too
                for injection in left:
                    injection.set_released()
                await asyncio.gather(*(self._release(injection) for injection in left))
                released += left
            self._final = self._counters()
            self._injections.clear()
            if state is not State.FAILED and not self._final["hits"]:
                state = State.NEVER_HIT
            self._over = state
            self._times[state.value] = time.monotonic()
            await asyncio.gather(*(injection.close() for injection in released))
            self._registry.remove(self)
        if self._lease_task is not None and self._lease_task is not asyncio.current_task():
            self._lease_task.cancel()
        log.info("fault %s %s %s", self.id, self.name, state)

    async def _release(self, injection: Injection) -> None:
        blocked = self._registry.agent_is_blocked(injection.link, but=self)
        self._add_notes(await injection.release(blocked=blocked), {})
