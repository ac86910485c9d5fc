"""Calls of one Python callable raise, and the work is not done.

Does: the original is not run; the exception that `error` names is raised with `message`.
A user sees: what the callers make of a failing dependency: an error that is handled, or one that is not.
Cannot: raise an exception whose class needs more than a message to be made (refused when it is armed).
"""

from __future__ import annotations

import builtins
import sys
from difflib import get_close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "call.raise"
PROOF = "hit"
TRIGGERS = True
PARAMETERS = {
    "site": {"type": "site", "required": True, "help": "what is called: module:qualname, or a site's name"},
    "error": {
        "type": "str",
        "default": "RuntimeError",
        "help": "a built-in exception, or module:qualname in a module that the target has imported",
    },
    "message": {"type": "str", "default": "raised by call.raise", "help": "what the exception says"},
}


def arm(fault: InjectedFault) -> None:
    """Find the exception, try to make one, and patch the site."""
    error = _find(fault)
    try:
        error(fault.params["message"])
    except Exception as reason:  # noqa: BLE001  # whatever its __init__ may raise
        fault.refuse(f"{fault.params['error']} cannot be made from a message alone: {reason}")

    def fail(call: Callable[[], Any]) -> Any:
        raise error(fault.params["message"])

    async def fail_task(call: Callable[[], Any]) -> Any:
        raise error(fault.params["message"])

    fault.patch(fault.params["site"], fail, fail_task)


def _find(fault: InjectedFault) -> Callable[[str], BaseException]:
    text = fault.params["error"]
    module_name, _, qualname = text.rpartition(":")
    found: Any = sys.modules.get(module_name) if module_name else builtins
    if found is None:
        fault.refuse(f"error={text}: the target has not imported {module_name}")
    for part in qualname.split("."):
        near = get_close_matches(part, dir(found))
        found = getattr(found, part, None)
        if found is None:
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            fault.refuse(f"error={text}: there is no {part!r}{hint}")
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        fault.refuse(f"error={text} is not an exception")
    made: Callable[[str], BaseException] = found
    return made
