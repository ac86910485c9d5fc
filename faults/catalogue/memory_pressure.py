"""The process grows: memory that it did not request stays resident until release.

Does: maps `size` bytes in the target and writes to each page, a bit at a time.
A user sees: a process that has leaked; near a container's limit, what the kernel and the program make of
that.
Cannot: take more than half of what the machine, or the process's memory cgroup, has left (refused): the point
is pressure, not the machine's end. Memory limits that nobody can read are not seen.
"""

from __future__ import annotations

import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "memory.pressure"
PROOF = "grown"
PARAMETERS = {
    "size": {"type": "bytes", "default": 256 * 1024 * 1024, "help": "how much (4096, 64k, 256M, 1G)"},
}
_CHUNK = bytes(1024 * 1024)


def arm(fault: InjectedFault) -> object:
    """Refuse what would be too much; grow when told to."""
    size, left = fault.params["size"], _left_bytes()
    if not 0 < size <= left // 2:
        fault.refuse(f"size={size} is not between 1 and half of the {left} bytes that are left")
    memory = mmap.mmap(-1, size)
    fault.undo(memory.close)

    def grow() -> None:
        fault.count_call()
        try:
            for at in range(0, size, len(_CHUNK)):
                if not fault.live:
                    return
                memory[at : at + len(_CHUNK)] = _CHUNK[: size - at]
        except ValueError:  # released, and so unmapped, between two chunks
            return

    return lambda: fault.thread(grow)


def _left_bytes() -> int:
    with open("/proc/meminfo") as lines:
        table = dict(line.split(":", 1) for line in lines)
    left = int(table["MemAvailable"].split()[0]) * 1024
    for used, limit in _cgroup_files():
        try:
            with open(used) as have, open(limit) as may:
                left = min(left, int(may.read()) - int(have.read()))
        except (OSError, ValueError):  # no such controller, or no limit ("max")
            continue
    return max(0, left)


def _cgroup_files() -> list[tuple[str, str]]:
    roots = ["/sys/fs/cgroup"]
    try:
        with open("/proc/self/cgroup") as lines:
            roots += [
                "/sys/fs/cgroup" + line.rstrip().split(":", 2)[2] for line in lines if line.startswith("0::")
            ]
    except OSError:
        return []
    return [(os.path.join(root, "memory.current"), os.path.join(root, "memory.max")) for root in roots]
