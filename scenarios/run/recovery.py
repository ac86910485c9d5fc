"""After the fault: check that the target is as good as before, or gone with everything that belonged to
it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from faults import NoSuchProcess
from scenarios.errors import SetupFailed
from scenarios.judge import claim
from scenarios.record import Guard, LeakRecord, ServerStop
from scenarios.run.calls import ScenarioCalls
from scenarios.run.results import Stretch
from scenarios.run.watch import TargetWatch
from scenarios.server import resources
from scenarios.server.server import Server
from scenarios.spec import Scenario
from scenarios.spec.suite import Stop

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """What the target holds, and the claim that it is no more than it should be."""

    leaks: LeakRecord
    guard: Guard


@dataclass(frozen=True, slots=True)
class EndpointRecovery:
    """The claim that the endpoints answer again, and since when they do; None if they do not."""

    guard: Guard
    stretch_s: Stretch | None


async def stop_under_fault(server: Server, stop: Stop) -> tuple[ServerStop, Guard]:
    """Ask the server to end while the fault still bites, and wait until it and all its processes have."""
    everyone = server.pids()
    began_s = time.monotonic()
    code = await server.terminate_and_wait(stop.within_s)
    while left := [pid for pid in everyone if resources.alive(pid)]:
        if time.monotonic() - began_s > stop.within_s:
            break
        await asyncio.sleep(_POLL_S)
    took_s = round(time.monotonic() - began_s, 3)
    detail = f"after {took_s:.2f} s of {stop.within_s:g} s: exit code {code}, {len(left)} processes left"
    held = code == stop.code and not left
    return ServerStop(code=code, took_s=took_s, left=len(left)), claim(
        "it stopped under the wedge", held, detail
    )


class Recovery:
    """The checks of one scenario's server after the release. `wedged` are the processes that the fault was
    in."""

    def __init__(
        self, scenario: Scenario, server: Server, calls: ScenarioCalls, wedged: tuple[int, ...]
    ) -> None:
        self._scenario, self._server, self._calls, self._wedged = scenario, server, calls, wedged
        self._timing = scenario.timing

    async def wait_respawned(self) -> Guard:
        """Wait for the process that replaces the wedged one, which must not be the same."""
        assert self._scenario.row.process is not None
        try:
            found = await self._server.controller.wait_process(
                self._scenario.row.process, timeout_s=self._timing.recover_within_s
            )
        except NoSuchProcess as error:
            return claim("respawned", False, str(error))
        detail = f"{_processes(self._wedged)} became {found.pid}"
        return claim("respawned", found.pid not in self._wedged, detail)

    async def wait_recovered(self, watch: TargetWatch, released_s: float) -> EndpointRecovery:
        """Wait until the endpoints answer again."""
        within_s = self._timing.recover_within_s
        since_s = await watch.wait_steady(released_s, within_s)
        took = f"not within {within_s:g} s" if since_s is None else f"after {since_s - released_s:.2f} s"
        return EndpointRecovery(
            claim("the endpoints recovered", since_s is not None, f"steady {took}"),
            None if since_s is None else (since_s, watch.samples.known_until_s),
        )

    async def wait_hung(self, watch: TargetWatch, released_s: float) -> Guard | None:
        """Wait whether a server that went dark by itself comes back: the claim that it hangs for good; None
        if it came back."""
        within_s = self._timing.settle_within_s
        if await watch.wait_steady(released_s, within_s) is not None:
            return None
        return claim(
            "it hangs by itself", True, f"nothing was broken in it, and it was dark {within_s:g} s later"
        )

    async def verify_nothing_left(self) -> LeakCheck:
        """Undo the calls that were answered, and check that no call left anything behind."""
        await self._calls.undo()
        return await self._compare_with_before("nothing was left behind")

    async def verify_functional(self) -> Guard | None:
        """Make the same calls with the same keys once more: the claim that they work; None without calls."""
        try:
            done = await self._calls.repeat()
        except SetupFailed as error:
            return claim("works again", False, str(error))
        if done is None:
            return None
        name, times = done
        return claim("works again", True, f"{name} with the same keys, {times} times")

    async def verify_no_leaks(self) -> LeakCheck:
        """Check that the target holds no more than before the scenario."""
        return await self._compare_with_before("nothing leaked")

    def wedged_gone(self) -> Guard:
        """The claim that the wedged processes do not run any more."""
        left = [pid for pid in self._wedged if resources.alive(pid)]
        detail = f"{_processes(self._wedged)} killed, {_processes(left) if left else 'none'} left"
        return claim("the process is gone", bool(self._wedged) and not left, detail)

    async def verify_terminated(self) -> LeakCheck:
        """Stop the rest of the server, and check that none of its processes survives."""
        server = self._server
        everyone = server.pids()
        await server.stop()
        survivors = [pid for pid in (*self._wedged, *everyone) if resources.alive(pid)]
        leaks = LeakRecord(
            processes=len(survivors),
            before=server.before.counts if server.before else None,
            after=resources.measure(survivors).counts,
            details=tuple(f"process {pid} survives" for pid in survivors),
        )
        detail = "; ".join(leaks.details) or "no process left"
        return LeakCheck(leaks, claim("nothing leaked", not survivors, detail))

    async def _compare_with_before(self, guard: str) -> LeakCheck:
        server = self._server
        await server.caller.close()
        assert server.before is not None
        found = await resources.measure_leaks(
            server.before, server.held, self._scenario.target.spec.leaks, self._timing.settle_within_s
        )
        detail = "; ".join(found.details) or _no_more(found)
        return LeakCheck(found, claim(guard, not found.details, detail))


def _no_more(leaks: LeakRecord) -> str:
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
