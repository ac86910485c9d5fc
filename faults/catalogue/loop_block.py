"""The target's event loops are blocked, as by a synchronous call in a coroutine.

Does: has every running asyncio or uvloop loop, and every hub of gevent's, call a function that waits in the
kernel until release. `gil=released` lets other threads run, `gil=held` lets none.
A user sees: an async server that accepts connections and answers none, while its threads go on.
Cannot: find a loop that is not running when it is armed (refused if none is), nor block trio's.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "loop.block"
PROOF = "inside"
PARAMETERS = {
    "gil": {
        "type": "choice",
        "choices": ("released", "held"),
        "default": "released",
        "help": "whether the blocked loop lets other threads run Python",
    },
}


def arm(fault: InjectedFault) -> object:
    """Find the loops; block them when told to."""
    loops, hubs = _running_loops(), _hubs()
    if not (loops or hubs):
        fault.refuse("no asyncio event loop is running in the process, and no hub of gevent's")

    def block() -> None:
        if fault.count_call():
            fault.wait(fault.params["gil"])

    def start() -> None:
        for loop in loops:
            loop.call_soon_threadsafe(block)
        for hub in hubs:
            hub.loop.run_callback_threadsafe(block)
        loops.clear()
        hubs.clear()

    return start


def _hubs() -> list[Any]:
    """gevent's, one for each thread that runs greenlets."""
    gevent: Any = sys.modules.get("gevent.hub")
    kind = gevent.Hub if gevent is not None else None
    found = [one for one in gc.get_objects() if kind is not None and issubclass(type(one), kind)]
    return [hub for hub in found if not hub.dead and hasattr(hub.loop, "run_callback_threadsafe")]


def _running_loops() -> list[Any]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    loops = [found for found in gc.get_objects() if isinstance(found, asyncio.AbstractEventLoop)]
    return [loop for loop in loops if loop.is_running()]
