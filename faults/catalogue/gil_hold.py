"""A thread of the target blocks in a C call that keeps the GIL, so no Python code runs in that process.

Does: starts a thread in the target that waits in the kernel (`poll`, through ctypes.PyDLL) without giving up
the GIL. Every other thread waits for the GIL for as long as the fault bites; threads that run no Python go
on.
A user sees: a process that lives and uses no CPU, whose sockets accept connections and answer nothing.
Handlers of signals written in Python do not run, timers do not fire; faulthandler's signal still prints the
stacks.
Cannot: bite an interpreter without a GIL (refused), or a process that is stopped.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "gil.hold"
PROOF = "gil"


def arm(fault: InjectedFault) -> object:
    """Refuse where there is no GIL; else start the thread when told to."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        fault.refuse(
            "this interpreter runs without a GIL, so there is none to hold; break a call with call.stall"
        )

    def hold() -> None:
        if fault.count_call():
            fault.wait("held")

    return lambda: fault.thread(hold)
