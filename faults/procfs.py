"""What the kernel says about a process, without asking the process."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stat:
    """Of /proc/PID/stat (proc_pid_stat(5)): `state` is one letter, `started` clock ticks since boot."""

    state: str
    ppid: int
    started: int


def stat(pid: int) -> Stat | None:
    """None when there is no such process; a zombie still has one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(state=fields[0].decode(), ppid=int(fields[1]), started=int(fields[19]))


def alive(pid: int, started: int) -> bool:
    """Whether this process still runs: it has not ended, is no zombie, and its number was not reused."""
    found = stat(pid)
    return found is not None and found.started == started and found.state not in "ZX"


def argv(pid: int) -> tuple[str, ...]:
    """The arguments it was started with; empty when it has ended or is not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return (
        tuple(part.decode(errors="surrogateescape") for part in raw.rstrip(b"\0").split(b"\0")) if raw else ()
    )


def name(pid: int) -> str:
    """The name that it has given itself, or its program's; at most 15 characters; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def listens(pid: int, port: int) -> bool:
    """Whether it holds a TCP socket that listens on this port."""
    sockets: set[str] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()  # proc_pid_net(5): local address, state and inode are 1, 3 and 9
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    return bool(sockets) and any(link in sockets for link in descriptor_links(pid))


def descriptor_links(pid: int) -> list[str]:
    """Where its descriptors lead; those that it has closed meanwhile are left out."""
    links = []
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                links.append(str(fd.readlink()))
    return links


def age_s(started: int) -> float:
    """For how long a process has run that started so many clock ticks after boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def executable(pid: int) -> str:
    """The program's file; empty when it cannot be read."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def environment(pid: int) -> dict[str, str] | None:
    """The environment it was started with; None when it has ended or is not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (entry.decode(errors="surrogateescape").partition("=") for entry in raw.split(b"\0"))
    return {name: value for name, _, value in pairs if name}


def mapped_files(pid: int) -> tuple[str, ...]:
    """The files that it has mapped, each once, in the order of their addresses; none when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    found = (line.split(maxsplit=5)[5:] for line in lines)
    return tuple(dict.fromkeys(path[0] for path in found if path and path[0].startswith("/")))


def runs_python(pid: int) -> bool:
    """Whether its program is Python's, or has loaded Python's library."""
    if "python" in Path(executable(pid)).name:
        return True
    return any("/libpython" in path for path in mapped_files(pid))


def ancestors(pid: int) -> tuple[int, ...]:
    """Its parent, its parent's parent and so on, up to the first process."""
    above: list[int] = []
    found = stat(pid)
    while found is not None and found.ppid > 0 and found.ppid not in above:
        above.append(found.ppid)
        found = stat(found.ppid)
    return tuple(above)


def descendants(root: int) -> tuple[int, ...]:
    """Every live process below `root`, nearest first; zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat(int(entry.name))) is not None and found.state not in "ZX":
            children.setdefault(found.ppid, []).append(int(entry.name))
    below: list[int] = []
    level = children.get(root, [])
    while level:
        below += level
        level = [grandchild for child in level for grandchild in children.get(child, [])]
    return tuple(below)


def descriptors(pid: int) -> int:
    """How many descriptors it has open; 0 when that cannot be read."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def descriptor_limit(pid: int) -> int:
    """How many descriptors it may have (its soft limit); 0 when there is no limit, or it cannot be read."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return 0
    soft = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))
    return int(soft) if soft.isdigit() else 0


def accepting(pid: int) -> int:
    """How many of its threads wait in accept(2). Each of them has reserved a descriptor for the next
    connection, which no other call can use and /proc/PID/fd does not list.
    """
    found = 0
    for waiting in Path(f"/proc/{pid}/task").glob("*/wchan"):
        try:
            found += "accept" in waiting.read_text()
        except OSError:  # the thread has ended
            continue
    return found


def resident_bytes(pid: int) -> int:
    """How much of its memory is in RAM; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def cpu_time_s(pid: int) -> float:
    """The CPU time that it has used, its threads' together; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def thread_run_delays_ns(pid: int) -> dict[str, tuple[int, int]]:
    """For each thread of process `pid`, by its number: how long it has run, and how long it was runnable but
    waited for a CPU (its run delay), in nanoseconds.

    Threads that end meanwhile are left out. The result is empty if the kernel does not report this.
    """
    found: dict[str, tuple[int, int]] = {}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                ran, waited, _ = (task / "schedstat").read_text().split()
                found[task.name] = int(ran), int(waited)
    return found


def run_delay_s(pid: int) -> float:
    """How long its threads together have waited for a CPU while they could have run."""
    return sum(waited for _, waited in thread_run_delays_ns(pid).values()) / 1e9


def where(pid: int, tid: int) -> str:
    """The kernel function that a thread sleeps in and its state, as far as this user may read them."""
    words = []
    try:
        words.append(Path(f"/proc/{pid}/task/{tid}/wchan").read_text().strip("0\n"))
        fields = Path(f"/proc/{pid}/task/{tid}/stat").read_bytes().rpartition(b")")[2].split()
        words.append(f"state {fields[0].decode()}")
    except OSError:
        return ""
    return ", ".join(word for word in words if word)
