"""The faults of a scenario, from arming to release: the row's own, and those that bite at the same time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Self

from faults import Controller, Fault, FaultStatus, NeverHit, State
from scenarios.judge import claim, proof
from scenarios.record import Guard, Stack
from scenarios.run.results import FaultStatuses
from scenarios.server import resources
from scenarios.spec import Scenario
from scenarios.spec.suite import FurtherFault

_STACKS_WITHIN_S = 1.0
_FEWEST_CYCLES = 2
"""A fault that bit only once did not flap."""


class Injection:
    """The faults are armed inside the context, the row's own first, and released at its end, the row's own
    last."""

    def __init__(self, scenario: Scenario, controller: Controller, seed: int) -> None:
        row = scenario.row
        self._row, self._timing, self._controller, self._seed = row, scenario.timing, controller, seed
        self._main = self._fault(FurtherFault(row.fault, row.params, row.process, row.trigger))
        self._also = [self._fault(also) for also in row.also]
        self._armed = AsyncExitStack()
        self._past_cycles: list[FaultStatus] = []
        self._cycles = 1
        self._missed = ""
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as arming:
            for fault in (self._main, *self._also):
                await arming.enter_async_context(fault)
            self._armed = arming.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def release(self) -> FaultStatuses:
        """Release all faults and return their statuses. A second call does nothing more."""
        self._closing.set()
        await self._armed.aclose()
        own = _merge_cycles([*self._past_cycles, self._main.status()])
        return FaultStatuses(own, tuple(fault.status() for fault in self._also))

    async def wait_bites(self) -> AsyncIterator[Guard]:
        """Wait until each fault bites; yields the proof for each, with its evidence."""
        yield await self._wait_bite(self._main, "the fault bit")
        for fault in self._also:
            yield await self._wait_bite(fault, f"{fault.name} bit at the same time")

    async def flap(self) -> None:
        """Release the row's fault and arm it again until `stop_flapping`, if the row says so; it has to bite
        in every cycle."""
        flap = self._row.flap
        while flap is not None and not await self._wait_closing(flap.held_s):
            await self._main.release()
            if await self._wait_closing(flap.free_s):
                return
            self._past_cycles.append(self._main.status())
            row = self._row
            self._main = self._fault(FurtherFault(row.fault, row.params, row.process, row.trigger))
            await self._armed.enter_async_context(self._main)
            try:
                await self._main.wait_biting(self._timing.bite_within_s)
            except NeverHit as error:
                self._missed = f"its coming number {self._cycles + 1} did not bite: {error}"
                return
            self._cycles += 1

    def stop_flapping(self) -> None:
        """Let `flap` return; a fault that bites now continues to bite."""
        self._closing.set()

    @property
    def biting_since_s(self) -> float:
        """Since when the row's own fault bites (`time.monotonic()`); 0 if it does not."""
        return self._main.status().times.get(State.BITING.value, 0.0)

    @property
    def done(self) -> bool:
        """Whether everything that the window has to stay open for has happened: a flapping fault has bitten
        again, and the server has replaced a wedged process."""
        if self._row.flap is not None:
            return self._cycles >= _FEWEST_CYCLES or bool(self._missed)
        return self._row.ends_by != "server" or self._replaced()

    def window_guards(self) -> tuple[Guard, ...]:
        """The guards, when the window closes, that the faults lasted while it was open."""
        if self._row.flap is not None:
            detail = self._missed or f"{self._cycles} times, and bit every time"
            held = not self._missed and self._cycles >= _FEWEST_CYCLES
            own = proof("the fault came and went", held, detail)
        elif self._row.ends_by == "server":
            status = self._main.status()
            detail = f"{status.pids} became {status.newcomers or 'nothing'} while the fault was armed"
            own = claim("the server replaced what was wedged", self._replaced(), detail)
        else:
            own = _lasted(self._main, "the fault lasted")
        return (own, *(_lasted(fault, f"{fault.name} lasted") for fault in self._also))

    async def read_stacks(self) -> tuple[Stack, ...]:
        """The stacks of the wedged processes, as far as they can be read quickly."""
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
            trigger.setdefault("seed", self._seed)
        lease_s = self._timing.lease_s
        return self._controller.arm(
            part.fault, process=part.process, lease_s=lease_s, params=part.params, trigger=trigger
        )

    async def _wait_bite(self, fault: Fault, name: str) -> Guard:
        try:
            status = await fault.wait_biting(self._timing.bite_within_s)
        except NeverHit as error:
            return proof(name, False, str(error))
        evidence = "; ".join(status.evidence)
        return proof(name, status.hits > 0 and bool(evidence), evidence or "it gave no evidence")

    def _replaced(self) -> bool:
        status = self._main.status()
        return bool(status.newcomers) and not any(resources.alive(pid) for pid in status.pids)

    async def _wait_closing(self, for_s: float) -> bool:
        """Wait until the flapping has to end, at most `for_s`; returns whether it has to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._closing.wait()
        return self._closing.is_set()


def _lasted(fault: Fault, name: str) -> Guard:
    state = fault.status().state
    return proof(name, state is State.BITING, f"it was {state} when the window closed")


def _merge_cycles(cycles: list[FaultStatus]) -> FaultStatus:
    """All cycles of one fault as one status, which ends as the last of them."""
    first, last = cycles[0], cycles[-1]
    return dataclasses.replace(
        last,
        hits=sum(status.hits for status in cycles),
        calls=sum(status.calls for status in cycles),
        held_s=sum(status.held_s for status in cycles),
        evidence=tuple(finding for status in cycles for finding in status.evidence),
        times={**last.times, **first.times, last.state.value: last.times.get(last.state.value, 0.0)}
        if len(cycles) > 1
        else last.times,
    )
