"""Calls of one Python callable are run twice or more often.

Does: the original runs `runs` times, one after the other, with the same arguments (the very same objects).
With `outcome=last` the caller gets what the last run returned or raised, with `outcome=first` what the first
did; what the other runs returned or raised is lost. A user sees: the effects of a retry or of a message that
is delivered twice: duplicate replies, work done twice, a reference released twice. Cannot: repeat work that
only begins in the call and continues later (a generator, a coroutine that a plain function returns), nor
arguments that the first run used up or changed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.repeat"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "runs": {"type": "int", "default": 2, "help": "how often it is run for each call, 2 to 1000"},
    "outcome": {
        "type": "choice",
        "choices": ("last", "first"),
        "default": "last",
        "help": "which run's result, or exception, the caller gets",
    },
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""
    runs, keeps_first = fault.params["runs"], fault.params["outcome"] == "first"
    if not 2 <= runs <= 1000:
        fault.refuse("runs must be 2 to 1000")

    def repeat(call: Callable[[], Any]) -> Any:
        first = _run(call) if keeps_first else None
        for _ in range(runs - 1):
            _run(call)
        return _told(first) if first else call()

    async def repeat_task(call: Callable[[], Awaitable[Any]]) -> Any:
        first = await _run_task(call) if keeps_first else None
        for _ in range(runs - 1):
            await _run_task(call)
        return _told(first) if first else await call()

    fault.patch(fault.params["site"], repeat, repeat_task)


def _run(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001  # whatever the original raises; the caller may get it later
        return None, error


async def _run_task(call: Callable[[], Awaitable[Any]]) -> tuple[Any, Exception | None]:
    try:
        return await call(), None
    except Exception as error:  # noqa: BLE001
        return None, error


def _told(outcome: tuple[Any, Exception | None]) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result
