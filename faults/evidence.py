"""Evidence, from outside the process, that a fault bites. What a fault says about itself is never enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from faults import procfs
from faults.agent.wedge_agent.protocol import Done, Ping, Refused
from faults.errors import NotAnswered, ProcessGone
from faults.injection import Injection
from faults.model import Proof

SILENCE_S = 0.2
"""How long an agent must be silent before its GIL counts as held; otherwise it answers within a millisecond.
"""


Findings = list[str]

_BURNS_S = 0.1


async def answers(injection: Injection) -> Findings:
    """The agent answers: nothing is broken."""
    asked = time.monotonic()
    try:
        await injection.link.ask(Ping(), Done, within_s=SILENCE_S)
    except (NotAnswered, ProcessGone, Refused):
        return []
    took_ms = (time.monotonic() - asked) * 1e3
    return [f"the agent of process {injection.link.info.pid} answered in {took_ms:.1f} ms"]


async def gil_is_held(injection: Injection) -> Findings:
    """A thread reports that it keeps the GIL, and the agent, which needs the GIL to answer, is silent."""
    counters, pid = injection.page.read(), injection.link.info.pid
    if not counters["gil_held"] or await answers(injection) or not _runs(injection):
        return []
    return [
        f"the agent of process {pid} is silent for {SILENCE_S * 1e3:.0f} ms: its GIL is held",
        *_where(injection),
    ]


async def is_inside(injection: Injection) -> Findings:
    """A thread or task is in the fault; if it says that it keeps the GIL, that is proven too."""
    counters, pid = injection.page.read(), injection.link.info.pid
    if not counters["inside"] or not _runs(injection):
        return []
    if counters["gil_held"]:
        held = await gil_is_held(injection)
        return [f"{counters['inside']} inside in process {pid}", *held] if held else []
    return [f"{counters['inside']} inside in process {pid}", *_where(injection)]


async def was_hit(injection: Injection) -> Findings:
    """The fault acted at least once."""
    counters = injection.page.read()
    return (
        [f"{counters['hits']} of {counters['calls']} calls hit in process {injection.link.info.pid}"]
        if counters["hits"]
        else []
    )


async def is_stopped(injection: Injection) -> Findings:
    """The kernel says that every one of the processes is stopped."""
    states = [(process.pid, procfs.stat(process.pid)) for process in injection.processes]
    if not all(found is not None and found.state == "T" for _, found in states):
        return []
    return [f"process {pid} is in state T (stopped)" for pid, _ in states]


async def is_gone(injection: Injection) -> Findings:
    """Every one of the processes has ended."""
    if any(procfs.alive(process.pid, process.started) for process in injection.processes):
        return []
    return [f"process {process.pid} has ended" for process in injection.processes]


async def is_exhausted(injection: Injection) -> Findings:
    """The kernel reports that the process has all the descriptors open that it may have, except those left to
    it; or that its limit is lower than before and a descriptor was refused (it has closed some since).
    """
    pid = injection.link.info.pid
    count, limit = procfs.descriptors(pid) + procfs.accepting(pid), procfs.descriptor_limit(pid)
    says = f"process {pid} has {count} descriptors open, and may have {limit}"
    if limit and count and count >= limit - injection.params["leave"]:
        return [says]
    if injection.page.read()["hits"] and not injection.params["leave"] and 0 < limit < injection.limit_before:
        return [f"{says} instead of {injection.limit_before}; when it had as many it was refused one more"]
    return []


async def is_grown(injection: Injection) -> Findings:
    """The kernel says that at least as much memory is resident as the process was made to take."""
    pid, size = injection.link.info.pid, injection.params["size"]
    resident = procfs.resident_bytes(pid)
    return [f"process {pid} has {resident >> 20} MiB resident, {size >> 20} of them forced on it"] * (
        resident >= size
    )


async def is_starved(injection: Injection) -> Findings:
    """The sidecar's hogs keep the processes' CPUs busy; also reports how long the processes waited for a
    CPU."""
    hogs = procfs.descendants(injection.link.info.pid)
    used_s, delay_s, began = _cpu_time_s(hogs), _run_delay_s(injection), time.monotonic()
    await asyncio.sleep(_BURNS_S)
    took = time.monotonic() - began
    cpus = (_cpu_time_s(hogs) - used_s) / took
    if cpus <= 0.0:
        return []
    late_ms, took_ms = (_run_delay_s(injection) - delay_s) * 1e3, took * 1e3
    waits = f"the process waited {late_ms:.0f} of {took_ms:.0f} ms for one"
    return [f"{len(hogs)} hogs burn {cpus:.1f} cpus; {waits}"]


def _cpu_time_s(pids: Sequence[int]) -> float:
    return sum(procfs.cpu_time_s(pid) for pid in pids)


def _run_delay_s(injection: Injection) -> float:
    return sum(procfs.run_delay_s(process.pid) for process in injection.processes)


def _runs(injection: Injection) -> bool:
    return procfs.alive(injection.link.info.pid, injection.link.info.started)


def _where(injection: Injection) -> Findings:
    tid = injection.page.read()["tid"]
    where = procfs.where(injection.link.info.pid, tid)
    return [f"thread {tid} waits in the kernel ({where})"] if where else []


PROVERS: dict[Proof, Callable[[Injection], Awaitable[Findings]]] = {
    Proof.ANSWER: answers,
    Proof.GIL: gil_is_held,
    Proof.INSIDE: is_inside,
    Proof.HIT: was_hit,
    Proof.STOPPED: is_stopped,
    Proof.GONE: is_gone,
    Proof.EXHAUSTED: is_exhausted,
    Proof.GROWN: is_grown,
    Proof.STARVED: is_starved,
}


async def prove(proof: Proof, injections: Sequence[Injection]) -> Findings:
    """The findings in the fault's processes if they prove that it bites; else empty."""
    found = [await PROVERS[proof](injection) for injection in injections]
    proven = all(found) if proof.needs_all else any(found)
    return [finding for findings in found for finding in findings] if proven else []
