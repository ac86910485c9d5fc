"""Calls of one Python callable block until release, like a C call that waits for a GPU that never answers.

Does: whoever calls the site waits in the kernel before the original runs; released, the original runs with
the same arguments and its result is returned. `gil=released` lets the other threads run, `gil=held` lets
none. A coroutine function awaits instead, and its event loop keeps running, unless `gil=held`.
A user sees: requests that reach the call hang, one by one, and with them whatever shares their thread.
Interrupting the process (a Python signal handler, Ctrl-C) does not end the call, since it would not end a
real one.
Cannot: stall a call in the middle: it stalls before the original has begun (a generator: before its first
step). A callable written in C is replaced by name, and who held it before calls the original: that is told.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.stall"
PROOF = "inside"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "gil": {
        "type": "choice",
        "choices": ("released", "held"),
        "default": "released",
        "help": "whether the stalled call lets other threads run Python",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""
    gil = fault.params["gil"]

    def stall(call: Callable[[], Any]) -> Any:
        fault.wait(gil)
        return call()

    async def stall_task(call: Callable[[], Awaitable[Any]]) -> Any:
        if gil == "held":
            fault.wait(gil)
        else:
            await fault.wait_async()
        return await call()

    fault.tell_of_greenlets()
    fault.patch(fault.params["site"], stall, stall_task)
