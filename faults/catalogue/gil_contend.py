"""Threads of the target compete for the GIL without ever keeping it, so that all its Python code is late.

Does: starts threads in the target that run Python without end. Each gives the GIL up when another wants it,
but only after the interpreter's switch interval (5 ms by default, `sys.getswitchinterval`).
A user sees: one core in use, and latencies that grow by a switch interval for each thread that stands before
one.
Cannot: stop anything for good (gil.hold does), or bite an interpreter without a GIL (refused).
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "gil.contend"
PROOF = "inside"
PARAMETERS = {
    "threads": {"type": "int", "default": 4, "help": "how many threads fight, 1 to 64"},
}
_LOOKS_EVERY = 10_000


def arm(fault: InjectedFault) -> object:
    """Refuse where there is no GIL; else start the threads when told to."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        fault.refuse("this interpreter runs without a GIL, so there is none to fight for")
    if not 1 <= fault.params["threads"] <= 64:
        fault.refuse("threads must be 1 to 64")

    def fight() -> None:
        if not (fault.count_call() and fault.enter()):
            return
        try:
            while fault.live and time.monotonic_ns() < fault.until_ns:
                for _ in range(_LOOKS_EVERY):
                    continue
        finally:
            fault.leave()

    def start() -> None:
        for _ in range(fault.params["threads"]):
            fault.thread(fight)

    return start
