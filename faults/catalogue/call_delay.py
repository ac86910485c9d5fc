"""Calls of one Python callable wait for a while, and then work as usual.

Does: whoever calls the site waits in the kernel for `delay` seconds, or until release, before the original
runs. A coroutine function awaits instead.
A user sees: a dependency that has become slow. Nothing is lost.
Cannot: make the callable itself slower; it only starts later.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.delay"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "delay": {"type": "seconds", "default": 0.1, "help": "how late each call is, in seconds"},
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""
    delay_s = fault.params["delay"]

    def be_late(call: Callable[[], Any]) -> Any:
        fault.wait(for_s=delay_s)
        return call()

    async def be_late_task(call: Callable[[], Awaitable[Any]]) -> Any:
        await fault.wait_async(for_s=delay_s)
        return await call()

    fault.tell_of_greenlets()
    fault.patch(fault.params["site"], be_late, be_late_task)
