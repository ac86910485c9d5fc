"""Which of the target's processes serve, as seen from outside, in /proc.

A process *serves* if it holds a listening socket of a watched endpoint and takes connections from it. Holding
it is not enough: a master process holds it for its workers, and a child that was forked later holds it by
accident. So a process counts that is seen to wait for the socket (in accept, or in epoll with the socket in
the set). Where none is, as with select and poll, those count that no other holder descends from: workers, not
their master.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.address import Place, http_url, place
from scenarios.errors import CouldNotRun
from scenarios.record import Series

_LOOKS, _LOOK_EVERY_S = 3, 0.01
"""A process that runs just now waits for nothing, so it is looked at more than once."""

_COMES_WITHIN_S = 3.0
_LISTENING, _UNIX_LISTENING = "0A", 0x10000
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a process from another one of the same number (`started`, in clock ticks since boot) and
    from itself after exec (`stack`, where the kernel put its stack)."""

    started: int
    stack: int


@dataclass(frozen=True, slots=True)
class Serving:
    """The processes that serve, by their sockets (inodes). `seen_waiting`: they were seen to wait for them,
    and were not only taken for those that do. `coming`: workers that hold such a socket and were not seen to
    wait for it, as while they start."""

    sockets: Mapping[int, frozenset[int]] = field(default_factory=dict)
    seen_waiting: bool = False
    coming: frozenset[int] = frozenset()

    @property
    def pids(self) -> frozenset[int]:
        """Their process ids."""
        return frozenset(self.sockets)

    @property
    def spread(self) -> bool:
        """Whether they have sockets of their own, among which the kernel spreads the connections
        (SO_REUSEPORT); otherwise one that hangs takes no connection, and the others take them all."""
        return len(set(self.sockets.values())) > 1


def identity(pid: int) -> Identity | None:
    """None when it has ended, a zombie included."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Identity(started=int(fields[19]), stack=int(fields[25]))


def started_s(pid: int) -> float | None:
    """When a process started, in `time.monotonic()` seconds; None when it has ended."""
    fields = _stat(pid)
    if fields is None:
        return None
    asleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return int(fields[19]) * _TICKS_S - asleep_s


async def find_serving(pids: Iterable[int], series: Mapping[str, Series]) -> Serving:
    """Which of these processes serve the watched endpoints now."""
    pids, places = tuple(pids), tuple(_places(series))
    held: dict[int, dict[int, int]] = {}
    waiting: set[int] = set()
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            inodes = _listening(pids[0], places) if pids else frozenset()
            held = {pid: fds for pid in pids if (fds := _held(pid, inodes))}
        waiting |= {pid for pid, fds in held.items() if pid not in waiting and _waits_for(pid, fds)}
        if len(held) < 2 or waiting == set(held):
            break
    likely = _likely(held)
    sockets = {pid: frozenset(held[pid].values()) for pid in sorted(waiting or likely)}
    return Serving(sockets, bool(waiting), frozenset(likely - set(sockets)))


async def wait_serving(pids: Callable[[], Iterable[int]], series: Mapping[str, Series]) -> Serving:
    """Which processes serve a server that has just started: workers that are coming are waited for, a few
    seconds at most, since others may hold a socket for ever and never take a connection from it."""
    give_up_s = time.monotonic() + _COMES_WITHIN_S
    while True:
        found = await find_serving(pids(), series)
        if not found.coming or time.monotonic() > give_up_s:
            return found
        await asyncio.sleep(_LOOK_EVERY_S)


def _places(series: Mapping[str, Series]) -> Iterator[Place]:
    for one in series.values():
        if one.watched and one.kind != "command":
            with suppress(CouldNotRun):
                at, _, over = one.address.partition(" over ")
                yield place(over) if over else http_url(at).place if one.kind == "http" else place(at)


def _listening(pid: int, places: Iterable[Place]) -> frozenset[int]:
    """The inodes of the sockets that listen at these places, in the network that the process is in."""
    ports = {at.port for at in places if not at.path}
    paths = {at.path for at in places if at.path}
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        for fields in _table(pid, table):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) in ports:
                found.add(int(fields[9]))
    for fields in _table(pid, "unix") if paths else ():
        if int(fields[3], 16) & _UNIX_LISTENING and fields[-1] in paths:
            found.add(int(fields[6]))
    return frozenset(found)


def _table(pid: int, name: str) -> list[list[str]]:
    with suppress(OSError):
        return [line.split() for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]]
    return []


def _held(pid: int, inodes: frozenset[int]) -> dict[int, int]:
    """The descriptors of the process that are among these sockets: descriptor to inode."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir() if links else ():
            with suppress(OSError):
                inode = links.get(str(fd.readlink()))
                if inode is not None:
                    found[int(fd.name)] = inode
    return found


def _waits_for(pid: int, fds: Iterable[int]) -> bool:
    """Whether a thread of it waits for one of these descriptors: in accept, or in an epoll set that has it.

    The first argument of the system call that a thread is in is compared, whatever call that is.
    """
    wanted = set(fds)
    for call in Path(f"/proc/{pid}/task").glob("*/syscall"):
        with suppress(OSError, ValueError, IndexError):
            first = int(call.read_text().split()[1], 16)
            if first in wanted or wanted & _polled(pid, first):
                return True
    return False


def _polled(pid: int, fd: int) -> set[int]:
    """The descriptors in an epoll set; none if it is something else."""
    if fd > 1 << 20 or str(Path(f"/proc/{pid}/fd/{fd}").readlink()) != "anon_inode:[eventpoll]":
        return set()
    lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    return {int(line.split()[1]) for line in lines if line.startswith("tfd:")}


def _likely(held: Mapping[int, object]) -> set[int]:
    """Those that no other holder descends from; of these, where there are any, those with a thread that waits
    for some descriptor."""
    leaves = set(held)
    for pid in held:
        above = _parent(pid)
        while above is not None and above > 1:
            leaves.discard(above)
            above = _parent(above)
    return {pid for pid in leaves if _polls(pid)} or leaves


def _polls(pid: int) -> bool:
    for waits in Path(f"/proc/{pid}/task").glob("*/wchan"):
        with suppress(OSError):
            if any(word in waits.read_text() for word in ("poll", "select", "accept")):
                return True
    return False


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc_pid_stat(5)); None when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return None
