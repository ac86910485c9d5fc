"""Objects of one class block when they die.

Does: gives the class a `__del__` that waits in the kernel until release, before the one that it had.
It runs in whatever thread drops the last reference or collects the garbage. `gil=released` lets other threads
run meanwhile, `gil=held` lets none.
A user sees: a hang in a line that looks innocent (a `del`, a `return`, the end of a request, `gc.collect()`),
as when freeing a GPU tensor waits for the device.
Cannot: slow down what a class written in C frees without running Python, nor a class that cannot be changed
(refused). An object that dies while the interpreter shuts down may not run its `__del__` at all.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "object.finalizer_stall"
PROOF = "inside"
TRIGGERS = True
SITE_KIND = "class"
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "the class: module:qualname, or a site's name"},
    "gil": {
        "type": "choice",
        "choices": ("released", "held"),
        "default": "released",
        "help": "whether the stalled finaliser lets other threads run Python",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch, or add, the finaliser."""

    def stall(call: Callable[[], Any]) -> Any:
        fault.wait(fault.params["gil"])
        return call()

    async def never(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    fault.tell_of_greenlets()
    fault.patch(fault.params["site"] + ".__del__", stall, never, absent=_nothing)


def _nothing(dying: object) -> None:
    return
