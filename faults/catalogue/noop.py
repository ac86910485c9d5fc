"""Nothing is broken: the control with which every other fault is compared.

Does: enters the process like every fault, counts one hit, and changes nothing.
A user sees: a process that works as before; whatever goes dark under it has another cause.
Cannot: prove anything about a wedge. It proves that arming, evidence and release cost nothing by themselves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "noop"
PROOF = "answer"
IS_CONTROL = True


def arm(fault: InjectedFault) -> object:
    """Count one hit when it starts."""
    return fault.count_call
