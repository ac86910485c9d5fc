"""Connections through a relay are reset: open ones at once, and new ones when they are made.

Does: the relay closes both sides with RST instead of FIN, and drops what it had not passed on.
A user sees: "Connection reset by peer" in the middle of a request, or right after connecting.
Cannot: refuse a connection before it is made, as a closed port does; nor reset what does not go through the
relay.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "net.reset"
PROOF = "hit"
RUNS = "outside"
NEEDS = ("relay",)
PARAMETERS = {
    "relay": {"type": "int", "default": 0, "help": "the relay's port; 0 for the only one"},
}


def arm(fault: InjectedFault) -> object:
    """Find the relay; change its policy when told to."""
    from wedge_agent import relay  # type: ignore[import-not-found]  # by the name that it has in the sidecar

    change: object = relay.policy_change(fault, relay.RelayPolicy(fault, resets=True))
    return change
