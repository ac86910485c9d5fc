"""After the fault: the target is as good as before, or it is gone with all that hung on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from faults import NoSuchProcess
from scenarios.errors import SetupFailed
from scenarios.record.model import Leaks, Stopped
from scenarios.run.calls import Calls
from scenarios.run.facts import Facts
from scenarios.run.watch import Watch
from scenarios.server import resources
from scenarios.server.server import Server
from scenarios.spec import Scenario

_LOOK_EVERY_S = 0.02


class Recovery:
    """What has to be true of one scenario's server when the fault is released, or before if it is to stop."""

    def __init__(self, scenario: Scenario, server: Server, calls: Calls, facts: Facts) -> None:
        self._scenario, self._server, self._calls, self._facts = scenario, server, calls, facts
        self._timing = scenario.timing

    async def stops(self) -> None:
        """The server is asked to end, if the row says so, with the fault still biting."""
        stop = self._scenario.row.stop
        if stop is None:
            return
        server, facts = self._server, self._facts
        everyone = server.pids()
        began_s = time.monotonic()
        code = await server.terminate_and_wait(stop.within_s)
        while left := [pid for pid in everyone if resources.alive(pid)]:
            if time.monotonic() - began_s > stop.within_s:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        took_s = round(time.monotonic() - began_s, 3)
        facts.stopped = Stopped(code=code, took_s=took_s, left=len(left))
        detail = f"after {took_s:.2f} s of {stop.within_s:g} s: exit code {code}, {len(left)} processes left"
        facts.claim("it stopped under the wedge", code == stop.code and not left, detail)

    async def back(self, watch: Watch) -> bool:
        """Its endpoints answer again, and a process that was killed is there again."""
        facts = self._facts
        released_s = facts.marks_s["released"]
        if self._scenario.after == "respawns" and not await self._respawned():
            return False
        since_s = await watch.steady(released_s, self._timing.recover_within_s)
        if since_s is not None:
            facts.recovered_s = (since_s, watch.samples.known_until_s)
        waited = f"within {self._timing.recover_within_s:g} s"
        took = f"after {since_s - released_s:.2f} s" if since_s is not None else f"not {waited}"
        facts.claim("the endpoints recovered", since_s is not None, f"steady {took}")
        return since_s is not None

    async def works_again(self) -> bool:
        """Nothing is left of the calls once what was answered is undone, and the same calls with the same
        keys work once more."""
        await self._calls.take_back()
        if not await self._as_before("nothing was left behind"):
            return False
        try:
            done = await self._calls.again()
        except SetupFailed as error:
            self._facts.claim("works again", False, str(error))
            return False
        if done is not None:
            name, times = done
            self._facts.claim("works again", True, f"{name} with the same keys, {times} times")
        return True

    async def nothing_leaked(self) -> bool:
        """It holds no more than before."""
        return await self._as_before("nothing leaked")

    async def _as_before(self, guard: str) -> bool:
        server = self._server
        await server.caller.close()
        assert server.before is not None
        found = await resources.measure_leaks(
            server.before, server.held, self._scenario.target.spec.leaks, self._timing.settle_within_s
        )
        self._facts.leaks = found
        self._facts.claim(guard, not found.details, "; ".join(found.details) or _no_more(found))
        return not found.details

    async def gone(self) -> None:
        """The process is gone for good: so must be all that hung on it."""
        facts, server = self._facts, self._server
        pids = facts.status.pids if facts.status is not None else ()
        if self._scenario.row.stop is None:
            left = [pid for pid in pids if resources.alive(pid)]
            detail = f"{_processes(pids)} killed, {_processes(left) if left else 'none'} left"
            facts.claim("the process is gone", bool(pids) and not left, detail)
        everyone = server.pids()
        await server.stop()
        survivors = [pid for pid in (*pids, *everyone) if resources.alive(pid)]
        facts.leaks = Leaks(
            processes=len(survivors),
            before=server.before.counts if server.before else None,
            after=resources.measure(survivors).counts,
            details=tuple(f"process {pid} survives" for pid in survivors),
        )
        facts.claim("nothing leaked", not survivors, "; ".join(facts.leaks.details) or "no process left")

    async def _respawned(self) -> bool:
        status = self._facts.status
        before = status.pids if status is not None else ()
        assert self._scenario.row.process is not None
        try:
            found = await self._server.controller.process(
                self._scenario.row.process, timeout_s=self._timing.recover_within_s
            )
        except NoSuchProcess as error:
            self._facts.claim("respawned", False, str(error))
            return False
        self._facts.claim("respawned", found.pid not in before, f"{_processes(before)} became {found.pid}")
        return found.pid not in before


def _no_more(leaks: Leaks) -> str:
    held = leaks.after
    if held is None:
        return "no more than before"
    return (
        f"no more than before: processes {held.processes}, threads {held.threads}, descriptors {held.fds}, "
        f"shared memory {held.mappings}"
    )


def _processes(pids: Iterable[int]) -> str:
    named = ", ".join(map(str, pids))
    return f"processes {named}" if "," in named else f"process {named}"
