"""The process has no file descriptor left: whatever opens, accepts or connects fails with EMFILE.

Does: lowers the process's soft limit to what is open (setrlimit(2), RLIMIT_NOFILE) and fills the gaps below
it, until one more is refused or `leave` are left. Release closes the fillers and restores the limit.
A user sees: "Too many open files" from accept, open, socket, pipe, dlopen, import. Connections that are open
live on; new ones wait in the kernel's queue, and a server that does not expect it may spin.
Cannot: exhaust the whole machine (ENFILE). A child that is started meanwhile inherits the lowered limit and
keeps it. Other faults cannot be armed in the process while none is left.
"""

from __future__ import annotations

import errno
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "fd.exhaust"
PROOF = "exhausted"
PARAMETERS = {
    "leave": {"type": "int", "default": 0, "help": "how many descriptors are left free"},
}


def arm(fault: InjectedFault) -> object:
    """Exhaust when told to."""
    fillers: list[int] = []

    def close_fillers() -> None:
        while fillers:
            os.close(fillers.pop())

    def exhaust() -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        in_use = {int(name) for name in os.listdir("/proc/self/fd")}
        limit = max(fd for fd in in_use if _is_open(fd)) + 1
        if limit + fault.params["leave"] > before[0]:
            limit = before[0] - fault.params["leave"]
        fault.undo(close_fillers)
        fault.undo(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before))
        while _fill(fillers, below=limit):
            continue
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit + fault.params["leave"], before[1]))
        while not fault.params["leave"] and _fill(fillers, below=limit):  # what others have closed meanwhile
            continue
        fault.count_call()

    return exhaust


def _fill(fillers: list[int], below: int) -> bool:
    """Take one more below that number; False once there is none, or one is refused."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return False
    if fd < below:
        fillers.append(fd)
        return True
    os.close(fd)
    return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # the descriptor that the listing itself used
        return False
    return True
