"""Calls of one Python callable are counted and otherwise left alone.

Does: every call of the site that meets the trigger's conditions counts as a hit; the original runs as ever.
With `kind=class` the site is a class, and what is counted is how often its objects die.
A user sees: a process that works as before. `calls` and `hits` of the fault's status tell whether, and how
often, a site is reached: try it before a fault is armed there.
Cannot: see calls of a callable written in C by who held it before (as for every fault on calls), nor tell who
called.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.count"
PROOF = "hit"
TRIGGERS = True
IS_CONTROL = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "kind": {
        "type": "choice",
        "choices": ("function", "class"),
        "default": "function",
        "help": "whether the site is called, or is a class whose objects die",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""

    def go_on(call: Callable[[], Any]) -> Any:
        return call()

    async def go_on_task(call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    if fault.params["kind"] == "class":
        fault.patch(fault.params["site"] + ".__del__", go_on, go_on_task, absent=_nothing)
    else:
        fault.patch(fault.params["site"], go_on, go_on_task)


def _nothing(dying: object) -> None:
    return
