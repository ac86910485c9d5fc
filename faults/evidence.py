"""See from outside the process that a fault bites. Nothing here believes what the fault says of itself
alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faults import procfs
from faults.agent.wedge_agent.page import Page
from faults.agents import AgentLink
from faults.errors import NotAnswered, ProcessGone
from faults.model import ProcessInfo

SILENCE_S = 0.2
"""How long an agent must be silent for its GIL to be called held; it answers in less than a millisecond
otherwise.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """One process that a fault runs in (`link`), its page, and the processes it is done to (`processes`).

    `limit_before` is how many descriptors the first could have before the fault came.
    """

    link: AgentLink
    page: Page
    processes: tuple[ProcessInfo, ...]
    params: Mapping[str, Any]
    limit_before: int = 0


Findings = list[str]

_BURNS_S = 0.1


async def answers(place: Place) -> Findings:
    """The agent answers: nothing is broken."""
    asked = time.monotonic()
    try:
        await place.link.ask({"do": "ping"}, within_s=SILENCE_S)
    except (NotAnswered, ProcessGone):
        return []
    return [
        f"the agent of process {place.link.info.pid} answered in {(time.monotonic() - asked) * 1e3:.1f} ms"
    ]


async def gil_is_held(place: Place) -> Findings:
    """A thread says that it keeps the GIL, and the agent's thread, which needs the GIL to answer, is
    silent.
    """
    words, pid = place.page.read(), place.link.info.pid
    if not words["gil_held"] or await answers(place) or not procfs.alive(pid, place.link.info.started):
        return []
    return [
        f"the agent of process {pid} is silent for {SILENCE_S * 1e3:.0f} ms: its GIL is held",
        *_seat(place),
    ]


async def is_inside(place: Place) -> Findings:
    """A thread or task is in the fault; if it says that it keeps the GIL, that is proven too."""
    words, pid = place.page.read(), place.link.info.pid
    if not words["inside"] or not procfs.alive(pid, place.link.info.started):
        return []
    if words["gil_held"]:
        held = await gil_is_held(place)
        return [f"{words['inside']} inside in process {pid}", *held] if held else []
    return [f"{words['inside']} inside in process {pid}", *_seat(place)]


async def was_hit(place: Place) -> Findings:
    """The fault acted at least once."""
    words = place.page.read()
    return (
        [f"{words['hits']} of {words['calls']} calls hit in process {place.link.info.pid}"]
        if words["hits"]
        else []
    )


async def is_stopped(place: Place) -> Findings:
    """The kernel says that every one of the processes is stopped."""
    states = [(process.pid, procfs.stat(process.pid)) for process in place.processes]
    if not all(found is not None and found.state == "T" for _, found in states):
        return []
    return [f"process {pid} is in state T (stopped)" for pid, _ in states]


async def is_gone(place: Place) -> Findings:
    """Every one of the processes has ended."""
    if any(procfs.alive(process.pid, process.started) for process in place.processes):
        return []
    return [f"process {process.pid} has ended" for process in place.processes]


async def is_exhausted(place: Place) -> Findings:
    """The kernel says that the process has as many descriptors open as it may have, but for those left to
    it; or that it may have fewer than before, and it was refused one: it has given some up since.
    """
    pid = place.link.info.pid
    count, limit = procfs.descriptors(pid) + procfs.accepting(pid), procfs.descriptor_limit(pid)
    says = f"process {pid} has {count} descriptors open, and may have {limit}"
    if limit and count and count >= limit - place.params["leave"]:
        return [says]
    if place.page.read()["hits"] and not place.params["leave"] and 0 < limit < place.limit_before:
        return [f"{says} instead of {place.limit_before}; when it had as many it was refused one more"]
    return []


async def is_grown(place: Place) -> Findings:
    """The kernel says that at least as much memory is resident as the process was made to take."""
    pid, size = place.link.info.pid, place.params["size"]
    resident = procfs.resident_bytes(pid)
    return [f"process {pid} has {resident >> 20} MiB resident, {size >> 20} of them forced on it"] * (
        resident >= size
    )


async def is_starved(place: Place) -> Findings:
    """The keeper's hogs burn the CPUs that the processes would have; and how long those waited for one
    meanwhile.
    """
    hogs = procfs.descendants(place.link.info.pid)
    burnt, waited, began = _burnt(hogs), _waited(place), time.monotonic()
    await asyncio.sleep(_BURNS_S)
    took = time.monotonic() - began
    cpus = (_burnt(hogs) - burnt) / took
    if cpus <= 0.0:
        return []
    late_ms, took_ms = (_waited(place) - waited) * 1e3, took * 1e3
    waits = f"the process waited {late_ms:.0f} of {took_ms:.0f} ms for one"
    return [f"{len(hogs)} hogs burn {cpus:.1f} cpus; {waits}"]


def _burnt(pids: Sequence[int]) -> float:
    return sum(procfs.burnt_s(pid) for pid in pids)


def _waited(place: Place) -> float:
    return sum(procfs.waited_s(process.pid) for process in place.processes)


def _seat(place: Place) -> Findings:
    tid = place.page.read()["tid"]
    where = procfs.where(place.link.info.pid, tid)
    return [f"thread {tid} waits in the kernel ({where})"] if where else []


PROVERS: dict[str, Callable[[Place], Awaitable[Findings]]] = {
    "answer": answers,
    "gil": gil_is_held,
    "inside": is_inside,
    "hit": was_hit,
    "stopped": is_stopped,
    "gone": is_gone,
    "exhausted": is_exhausted,
    "grown": is_grown,
    "starved": is_starved,
}

BITES_WHEN_INSIDE: Sequence[str] = ("gil", "inside", "stopped")
"""Proofs of faults that bite only while something is in them; the others bite from their first hit on."""

ALL_MUST_BITE: Sequence[str] = tuple(proof for proof in PROVERS if proof not in ("inside", "hit"))
"""Proofs that every process has to give; the others need traffic, which may go to one process alone."""
