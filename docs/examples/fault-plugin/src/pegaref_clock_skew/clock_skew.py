"""Python's wall clock is wrong by some seconds, as after a bad time synchronisation.

Does: every `time.time()` of the process returns a shifted time; released, the original is back.
A user sees: tokens that have expired or are not valid yet, negative ages, caches that never or always expire.
Cannot: shift what does not call `time.time`: `datetime.now()`, `time.time_ns()`, other languages, the kernel.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "clock.skew"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "seconds": {"type": "float", "default": 3600.0, "help": "by how much the clock is wrong"},
    "direction": {
        "type": "choice",
        "choices": ("ahead", "behind"),
        "default": "ahead",
        "help": "ahead: it is later there than here",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch `time.time`."""
    by_s = fault.params["seconds"] * (1 if fault.params["direction"] == "ahead" else -1)

    def shifted(call: Callable[[], Any]) -> Any:
        return call() + by_s

    async def shifted_task(call: Callable[[], Awaitable[Any]]) -> Any:
        return (
            await call() + by_s
        )  # time.time is no coroutine function; whoever replaced it may have made it one

    fault.patch("time:time", shifted, shifted_task)
