"""The standard library's functions that the agent uses, as they were before the program replaced them.

gevent and eventlet put their own functions into `_thread`, `select` and `time`. The agent needs a kernel
thread: a greenlet would stop whenever the program does, and its `poll` would stop the program. So the agent
takes these names only from here. This module is loaded before the program's first line; in a program that
already runs, it gets the originals from gevent.
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
