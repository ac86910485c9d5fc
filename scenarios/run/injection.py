"""What is broken: the row's fault, and those that bite at the same time, from arming to release."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

from faults import Controller, Fault, FaultStatus, NeverHit, State
from scenarios.record.model import Stack
from scenarios.run.facts import Facts
from scenarios.server import resources
from scenarios.spec import Scenario
from scenarios.spec.suite import FurtherFault

_STACKS_WITHIN_S = 1.0
_COMINGS = 2
"""A fault that came but once did not come and go."""


class Breakage:
    """Armed inside the context, the row's own fault first, and released at its end, that one last. What was
    found out is left in the facts."""

    def __init__(self, scenario: Scenario, controller: Controller, facts: Facts) -> None:
        row = scenario.row
        self._row, self._timing, self._controller, self._facts = row, scenario.timing, controller, facts
        self._main = self._fault(FurtherFault(row.fault, row.params, row.process, row.trigger))
        self._also = [self._fault(also) for also in row.also]
        self._armed = AsyncExitStack()
        self._over: list[FaultStatus] = []
        self._comings = 1
        self._missed = ""
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as arming:
            for fault in (self._main, *self._also):
                await arming.enter_async_context(fault)
            self._armed = arming.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.release()

    async def release(self) -> None:
        """Give everything back. Doing it again does nothing."""
        self._closing.set()
        await self._armed.aclose()
        facts = self._facts
        facts.status = _together([*self._over, self._main.status()])
        facts.also = tuple(fault.status() for fault in self._also)

    async def bites(self) -> bool:
        """Wait until all of them bite, and say how that can be seen."""
        found = [await self._bites(self._main, "the fault bit")]
        found += [await self._bites(fault, f"{fault.name} bit at the same time") for fault in self._also]
        return all(found)

    async def come_and_go(self) -> None:
        """Let the row's fault come and go until `stay`, if it is to; every coming has to bite."""
        flap = self._row.flap
        while flap is not None and not await self._stays(flap.held_s):
            await self._main.release()
            if await self._stays(flap.free_s):
                return
            self._over.append(self._main.status())
            row = self._row
            self._main = self._fault(FurtherFault(row.fault, row.params, row.process, row.trigger))
            await self._armed.enter_async_context(self._main)
            try:
                await self._main.biting(self._timing.bite_within_s)
            except NeverHit as error:
                self._missed = f"its coming number {self._comings + 1} did not bite: {error}"
                return
            self._comings += 1

    def stay(self) -> None:
        """Come and go no more."""
        self._closing.set()

    def done(self) -> bool:
        """Whether what the window has to stay open for has happened: a fault that flaps has come again, a
        wedged process is replaced by the server."""
        if self._row.flap is not None:
            return self._comings >= _COMINGS or bool(self._missed)
        return self._row.ends_by != "server" or self._replaced()

    def judge(self) -> None:
        """Whether they lasted for as long as the window was open."""
        facts = self._facts
        if self._row.flap is not None:
            detail = self._missed or f"{self._comings} times, and bit every time"
            held = not self._missed and self._comings >= _COMINGS
            facts.prove("the fault came and went", held, detail)
        elif self._row.ends_by == "server":
            status = self._main.status()
            detail = f"{status.pids} became {status.newcomers or 'nothing'} while the fault was armed"
            facts.claim("the server replaced what was wedged", self._replaced(), detail)
        else:
            self._lasted(self._main, "the fault lasted")
        for fault in self._also:
            self._lasted(fault, f"{fault.name} lasted")

    async def stacks(self) -> tuple[Stack, ...]:
        """Where the wedged processes stand, as far as can be had in a moment."""
        status = self._main.status()
        texts: tuple[str, ...] = ()
        if status.inside:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STACKS_WITHIN_S):
                    texts = await self._main.stacks()
        process = self._row.process or "main"
        return tuple(
            Stack(process=process, pid=pid, source="the fault layer", text=text)
            for pid, text in zip(status.pids, texts, strict=False)
        )

    def _fault(self, part: FurtherFault) -> Fault:
        trigger = dict(part.trigger)
        if "p" in trigger:
            trigger.setdefault("seed", self._facts.seed)
        lease_s = self._timing.lease_s
        return self._controller.arm(
            part.fault, process=part.process, lease_s=lease_s, params=part.params, trigger=trigger
        )

    async def _bites(self, fault: Fault, guard: str) -> bool:
        try:
            status = await fault.biting(self._timing.bite_within_s)
        except NeverHit as error:
            self._facts.prove(guard, False, str(error))
            return False
        evidence = "; ".join(status.evidence)
        bit = status.hits > 0 and bool(evidence)
        self._facts.prove(guard, bit, evidence or "it gave no evidence")
        return bit

    def _lasted(self, fault: Fault, guard: str) -> None:
        state = fault.status().state
        self._facts.prove(guard, state is State.BITING, f"it was {state} when the window closed")

    def _replaced(self) -> bool:
        status = self._main.status()
        return bool(status.newcomers) and not any(resources.alive(pid) for pid in status.pids)

    async def _stays(self, for_s: float) -> bool:
        """Wait; whether the coming and going is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._closing.wait()
        return self._closing.is_set()


def _together(comings: list[FaultStatus]) -> FaultStatus:
    """The comings of one fault as one status, which ends as the last of them."""
    first, last = comings[0], comings[-1]
    return dataclasses.replace(
        last,
        hits=sum(status.hits for status in comings),
        calls=sum(status.calls for status in comings),
        held_s=sum(status.held_s for status in comings),
        evidence=tuple(finding for status in comings for finding in status.evidence),
        times={**last.times, **first.times, last.state.value: last.times.get(last.state.value, 0.0)}
        if len(comings) > 1
        else last.times,
    )
