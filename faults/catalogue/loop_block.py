"""The target's event loops are blocked, as by a synchronous call in a coroutine.

Does: has every running asyncio or uvloop loop call a function that waits in the kernel until release.
`gil=released` lets other threads run, `gil=held` lets none.
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
    loops = _running_loops()
    if not loops:
        fault.refuse("no asyncio event loop is running in the process")

    def block() -> None:
        if fault.count_call():
            fault.wait(fault.params["gil"])

    def start() -> None:
        for loop in loops:
            loop.call_soon_threadsafe(block)
        loops.clear()

    return start


def _running_loops() -> list[Any]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    loops = [found for found in gc.get_objects() if isinstance(found, asyncio.AbstractEventLoop)]
    return [loop for loop in loops if loop.is_running()]
