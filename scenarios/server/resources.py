"""What a target holds, seen from outside through /proc: shared mappings, processes, threads, descriptors."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from faults import AGENT_THREAD_NAME
from scenarios.record import LeakRecord, Resources
from scenarios.spec.target import LeakAllowance

_LOOK_EVERY_S = 0.025
_SHARED = 3
_KINDS = ("mappings", "processes", "threads", "fds")
_WORDS = {
    "mappings": "shared mappings",
    "processes": "processes",
    "threads": "threads",
    "fds": "descriptors",
}
_NAMES_SHOWN = 6

Names = Counter[str]


@dataclass(frozen=True, slots=True)
class Holding:
    """What several processes hold together, by name, so that leaks can be named."""

    mappings: Names = field(default_factory=Counter)
    processes: Names = field(default_factory=Counter)
    threads: Names = field(default_factory=Counter)
    fds: Names = field(default_factory=Counter)

    @property
    def counts(self) -> Resources:
        """The number of each."""
        return Resources(**{kind: getattr(self, kind).total() for kind in _KINDS})


def measure(
    pids: Iterable[int],
    ignored_threads: Iterable[str] = (),
    agents: Mapping[int, Collection[int]] = MappingProxyType({}),
) -> Holding:
    """What these processes hold together now, without threads whose name one of the regexes matches, and
    without the agents' threads and descriptors (`agents`, by process).

    A process that ends meanwhile counts for nothing.
    """
    held = Holding()
    ignored = [re.compile(pattern) for pattern in (*ignored_threads, re.escape(AGENT_THREAD_NAME))]
    for pid in pids:
        with suppress(OSError):
            process = Path(f"/proc/{pid}")
            if not alive(pid):
                continue
            mappings = _shared_mappings(process)
            names = [_read(task / "comm") for task in _inside(process / "task")]
            threads = [f"{name} of {pid}" for name in names if not any(p.fullmatch(name) for p in ignored)]
            own = agents.get(pid, ())
            fds = [f"{_link(fd)} of {pid}" for fd in _inside(process / "fd") if int(fd.name) not in own]
            held.processes[str(pid)] += 1
            held.mappings.update(mappings)
            held.threads.update(threads)
            held.fds.update(fds)
    return held


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def wait_agreeing(held: Callable[[], Holding], within_s: float) -> Holding:
    """What is held once two readings in a row agree, or at the deadline.

    There is no event for another process's descriptors, so this reads them at short intervals.
    """
    deadline_s = time.monotonic() + within_s
    last = held()
    while time.monotonic() < deadline_s:
        await asyncio.sleep(_LOOK_EVERY_S)
        now = held()
        if now == last:
            return now
        last = now
    return last


async def measure_leaks(
    before: Holding, held: Callable[[], Holding], allowed: LeakAllowance, within_s: float
) -> LeakRecord:
    """Wait until the target holds no more than before plus what is allowed, and say what it still does.

    The figures are growth over `before` beyond what is allowed, never below zero.
    """
    limits = Resources(
        mappings=allowed.mappings, processes=allowed.processes, threads=allowed.threads, fds=allowed.fds
    )
    began_s = time.monotonic()
    while True:
        after = held()
        grown = _grown(before.counts, after.counts, limits)
        if not any(grown.values()) or time.monotonic() - began_s > within_s:
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    return LeakRecord(
        **grown,
        before=before.counts,
        after=after.counts,
        allowed=limits,
        settled_s=round(time.monotonic() - began_s, 3),
        details=tuple(_details(before, after, [kind for kind in _KINDS if grown[kind]])),
    )


def _grown(before: Resources, after: Resources, limits: Resources) -> dict[str, int]:
    return {
        kind: max(0, getattr(after, kind) - getattr(before, kind) - getattr(limits, kind)) for kind in _KINDS
    }


def _details(before: Holding, after: Holding, kinds: Iterable[str]) -> Iterator[str]:
    for kind in kinds:
        old, new = getattr(before, kind), getattr(after, kind)
        names = [_explained(name) for name in sorted((new - old).elements())]
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        listed = ", ".join(names[:_NAMES_SHOWN]) + more
        yield f"{new.total()} {_WORDS[kind]} left, {old.total()} before; new: {listed}"


def _explained(name: str) -> str:
    """A socket as its addresses, while the kernel still knows them; anything else by its name."""
    link, _, pid = name.rpartition(" of ")
    if link.startswith("socket:") and (connection := _sockets(int(pid)).get(link)) is not None:
        ends = [":".join(map(str, end)) for end in (connection.laddr, connection.raddr) if end]
        return f"{' from '.join(ends) or 'socket'} {connection.status} of {pid}"
    return name


def not_accepted(before: Holding, after: Holding) -> bool:
    """Whether the processes have a new socket that is open still and was not accepted: one whose address is
    not that of a socket on which one of them listens.
    """
    new = after.fds - before.fds
    sockets = {pid: _sockets(int(pid)) for pid in after.processes}
    listening = {
        connection.laddr.port
        for found in sockets.values()
        for connection in found.values()
        if connection.status == psutil.CONN_LISTEN
    }
    for name in new:
        link, _, pid = name.rpartition(" of ")
        if (connection := sockets.get(pid, {}).get(link)) is None:
            continue
        if connection.family is socket.AF_UNIX:
            accepted = bool(connection.laddr)  # a connecting socket has no path of its own
        else:
            accepted = bool(connection.laddr) and connection.laddr.port in listening
        if not accepted:
            return True
    return False


def _sockets(pid: int) -> dict[str, Any]:
    """What the kernel knows of the sockets of a process, by their links in /proc/PID/fd."""
    with suppress(psutil.Error, OSError):
        found = psutil.Process(pid).net_connections("all")
        return {_link(Path(f"/proc/{pid}/fd/{one.fd}")): one for one in found if one.fd >= 0}
    return {}


def _shared_mappings(process: Path) -> list[str]:
    """The files behind the shared mappings (`/dev/shm/…`, memfds, devices), one for each mapping."""
    found = []
    for line in (process / "maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if fields[1][_SHARED] == "s":
            found.append(f"{fields[5] if len(fields) > 5 else 'anonymous'} of {process.name}")
    return found


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _link(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return "closing"


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return "ending"
