"""Calls of one Python callable do their work and return something else.

Does: the original runs; what it returns is replaced by `value`, or changed: `halve` keeps the first half of
what has a length, `negate` gives -x or not x, `flip` turns one bit of bytes around.
A user sees: a dependency that lies, and whether anybody checks.
Cannot: change a result in place, which others may hold too; and where a result is not of a kind that can be
so changed, it is returned as it is and the fault fails, rather than pretend.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.corrupt"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "how": {
        "type": "choice",
        "choices": ("replace", "halve", "negate", "flip"),
        "default": "replace",
        "help": "what becomes of the result",
    },
    "value": {"type": "json", "default": None, "help": "what is returned with how=replace, as JSON"},
}


def arm(fault: InjectedFault) -> None:
    """Patch the site."""
    change = {"replace": lambda _: fault.params["value"], "halve": _halve, "negate": _negate, "flip": _flip}
    how = fault.params["how"]

    def corrupted(result: Any) -> Any:
        try:
            return change[how](result)
        except Exception:  # noqa: BLE001  # the result's own operators may raise anything
            fault.fail(
                "ArmFailed", f"how={how} cannot change a {type(result).__name__}; it was left as it is"
            )
            return result

    def corrupt(call: Callable[[], Any]) -> Any:
        return corrupted(call())

    async def corrupt_task(call: Callable[[], Awaitable[Any]]) -> Any:
        return corrupted(await call())

    fault.patch(fault.params["site"], corrupt, corrupt_task)


def _halve(result: Any) -> Any:
    return result[: len(result) // 2]


def _negate(result: Any) -> Any:
    return not result if isinstance(result, bool) else -result


def _flip(result: Any) -> Any:
    changed = bytearray(result)
    changed[len(changed) // 2] ^= 1
    return type(result)(changed)
