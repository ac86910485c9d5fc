"""Calls of one Python callable vanish: it returns None at once, and the work or its result is lost.

Does: with `what=call` the original is not run; with `what=result` it is run, and its result is thrown away.
A user sees: a message that was never sent, or work that was done and never confirmed. Nothing waits in the
fault.
Cannot: drop what a callable does besides its result when `what=result`, nor return anything but None
(call.corrupt does); what raises with `what=result` still raises.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.drop"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "what": {
        "type": "choice",
        "choices": ("call", "result"),
        "default": "call",
        "help": "call: it is not run at all; result: it is run and its result is lost",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""
    runs = fault.params["what"] == "result"

    def drop(call: Callable[[], Any]) -> None:
        if runs:
            call()

    async def drop_task(call: Callable[[], Awaitable[Any]]) -> None:
        if runs:
            await call()

    fault.patch(fault.params["site"], drop, drop_task)
