"""What the agent is made of, as it was before the program replaced it.

gevent and eventlet put their own functions into `_thread`, `select` and `time`. The agent runs beside them in
a thread of the kernel's: a greenlet in its place would stand still whenever the program does, and its `poll`
would stop the program. So the agent takes these names from here alone. It is loaded before the program's
first line; where it comes into a running program, gevent still has the originals.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _original(module: str, name: str) -> Any:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(__import__(module), name)


RLock = _original("_thread", "RLock")
allocate_lock = _original("_thread", "allocate_lock")
get_ident = _original("_thread", "get_ident")
get_native_id = _original("_thread", "get_native_id")
start_new_thread = _original("_thread", "start_new_thread")
poll = _original("select", "poll")
sleep = _original("time", "sleep")

own_threads: set[int] = set()
"""The agent's own threads, by `get_ident()`: what they call is no call of the program's."""

THREAD_NAME = "wedge-agent"
"""What the kernel calls the agent's threads (/proc/PID/task/TID/comm), so that nobody takes them for the
program's.
"""


def name_thread() -> None:
    """Give the thread that calls this the agent's name, where the kernel lets it."""
    try:
        comm = os.open("/proc/thread-self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # no /proc, or no descriptor left
        return
    try:
        os.write(comm, THREAD_NAME.encode())
    finally:
        os.close(comm)
