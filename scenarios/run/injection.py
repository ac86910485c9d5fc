"""The faults of a scenario, from arming to release: the row's own, and those that bite at the same time."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Self

from faults import Controller, Fault, FaultStatus, NeverHit, Selector, State, fault_info
from scenarios.judge import claim, proof
from scenarios.record import Guard, Stack
from scenarios.run.processes import Identity, identity, started_s
from scenarios.run.results import FaultStatuses
from scenarios.server import resources
from scenarios.spec import Scenario
from scenarios.spec.suite import FurtherFault

_STACKS_WITHIN_S = 1.0
_LOOK_EVERY_S = 0.1
_LOOKS, _LOOK_AGAIN_S = 3, 0.01
_FEWEST_CYCLES = 2
"""A fault that bit only once did not flap."""


class Injection:
    """The faults are armed inside the context, the row's own first, and released at its end, the row's own
    last. `process` is where the row's own is armed if the row does not say."""

    def __init__(
        self, scenario: Scenario, controller: Controller, seed: int, process: Selector | None = None
    ) -> None:
        row = scenario.row
        self._row, self._timing, self._controller, self._seed = row, scenario.timing, controller, seed
        self._process = process
        self._main = self._own_fault()
        self._one_of: list[Fault] = []
        self._also = [self._fault(also) for also in row.also]
        self._meant_to_end = scenario.after != "recovers" or row.ends_by == "server"
        self._identities: dict[int, Identity] = {}
        self._lost: dict[int, tuple[str, float]] = {}
        self._armed = AsyncExitStack()
        self._past_cycles: list[FaultStatus] = []
        self._cycles = 1
        self._missed = ""
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as arming:
            self._one_of = await self._one_for_each()
            for fault in (*(self._one_of or [self._main]), *self._also):
                await arming.enter_async_context(fault)
            self._armed = arming.pop_all()
        await self._look()
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
        if self._one_of:
            yield await self._wait_first_bite("the fault bit")
        else:
            yield await self._wait_bite(self._main, "the fault bit")
        for fault in self._also:
            yield await self._wait_bite(fault, f"{fault.name} bit at the same time")

    async def watch_processes(self) -> None:
        """Look, until cancelled, whether the processes in which the faults were armed are still there."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        for fault in (self._main, *self._also):
            info = fault_info(fault.name)
            for pid in () if info.ends_process else fault.status().pids:
                if pid in self._lost:
                    continue
                if lost := await self._how_lost(pid, outside=info.runs == "outside"):
                    how = f"process {pid}, in which {fault.name} was armed, {lost}"
                    self._lost[pid] = how, time.monotonic()

    async def _how_lost(self, pid: int, *, outside: bool) -> str:
        now = identity(pid)
        for _ in range(_LOOKS):
            if now is None:  # so it also looks for a moment while one of its threads makes it another program
                await asyncio.sleep(_LOOK_AGAIN_S)
                now = identity(pid)
        first = self._identities.get(pid, now)
        if now is None or first is None or now.started != first.started:
            return "has ended"
        self._identities[pid] = first
        if outside:
            return ""
        if now.stack != first.stack:
            return "runs another program (exec)"
        if not await self._controller.find_processes(pid):
            return "has closed the agent's connection, and with it the fault"
        return ""

    def broken(self) -> tuple[int, ...]:
        """The processes in which the faults bite."""
        found: list[int] = []
        for fault in (self._main, *self._also):
            if not fault_info(fault.name).is_control:
                status = fault.status()
                found += {thread.pid for thread in status.threads} or status.pids
        return tuple(dict.fromkeys(found))

    async def there(self, served: frozenset[int], serves: frozenset[int], opened_s: float) -> Guard:
        """The proof that the faults bit in what serves for as long as the window, which opened at `opened_s`,
        was open: the processes in which they were armed are still there, and where they serve (`served`,
        before the fault), no process serves now that has come since. A row whose fault or target ends them is
        left out.
        """
        await self._look()
        armed = {pid for fault in (self._main, *self._also) for pid in fault.status().pids}
        ends = self._meant_to_end or fault_info(self._main.name).ends_process
        problems = [
            f"{how} {_moment(at_s, opened_s)}"
            for how, at_s in sorted(self._lost.values(), key=lambda lost: lost[1])
        ]
        if armed & served:
            for pid in sorted(serves - served - armed):
                since_s = started_s(pid)
                if since_s is not None:
                    problems.append(
                        f"process {pid} serves, is not broken, and started {_moment(since_s, opened_s)}"
                    )
        detail = "; ".join(problems) or "in " + ", ".join(f"process {pid}" for pid in sorted(armed))
        return proof("the fault was in what serves", ends or not problems, detail)

    async def flap(self) -> None:
        """Release the row's fault and arm it again until `stop_flapping`, if the row says so; it has to bite
        in every cycle."""
        flap = self._row.flap
        while flap is not None and not await self._wait_closing(flap.held_s):
            await self._main.release()
            if await self._wait_closing(flap.free_s):
                return
            self._past_cycles.append(self._main.status())
            self._main = self._own_fault()
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

    def _own_fault(self, process: Selector | str | int | None = None) -> Fault:
        row = self._row
        part = FurtherFault(row.fault, row.params, row.process, row.trigger)
        return self._fault(part, process or row.process or self._process)

    def _fault(self, part: FurtherFault, process: Selector | str | int | None = None) -> Fault:
        trigger = dict(part.trigger)
        if "p" in trigger:
            trigger.setdefault("seed", self._seed)
        lease_s = self._timing.lease_s
        return self._controller.arm(
            part.fault,
            process=process or part.process,
            lease_s=lease_s,
            params=part.params,
            trigger=trigger,
        )

    async def _one_for_each(self) -> list[Fault]:
        """A fault for each process of that name, where it has to break one of several.

        Which of them the calls reach is luck. So the fault is kept in the first process in which it bites,
        and released in the others: one call that hangs has broken one process.
        """
        row = self._row
        if row.breaks != "one" or row.bites != "on-traffic" or row.ends_by == "server":
            return []
        found = await self._controller.find_processes(row.process or self._process or Selector(main=True))
        if len(found) < 2:
            return []
        return [self._own_fault(one.pid) for one in found]

    async def _wait_first_bite(self, name: str) -> Guard:
        waits = {asyncio.create_task(self._wait_bite(fault, name)): fault for fault in self._one_of}
        pending, guards = set(waits), [proof(name, False, "nothing was armed")]
        try:
            while pending and not guards[0].held:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                guards = sorted((task.result() for task in done), key=lambda guard: not guard.held)
                self._main = next((waits[t] for t in done if t.result().held), self._main)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if guards[0].held:
            for fault in self._one_of:
                if fault is not self._main:
                    await fault.release()
        else:
            self._main = self._one_of[0]
        return guards[0]

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


def _moment(at_s: float, opened_s: float) -> str:
    """`0.4 s after the window opened`."""
    late_s = at_s - opened_s
    return f"{abs(late_s):.1f} s {'before' if late_s < 0 else 'after'} the window opened"


def _lasted(fault: Fault, name: str) -> Guard:
    state = fault.status().state
    lease = f": its lease of {fault.lease_s:g} s ran out" if state is State.EXPIRED else ""
    return proof(name, state is State.BITING, f"it was {state} when the window closed{lease}")


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
