"""Connections through a relay stay open and carry nothing, as if the other end had lost power.

Does: the relay holds all bytes, and the ends of streams, in both directions; connections that are made
meanwhile are accepted and go nowhere. What was held is passed on at release, in order and complete.
A user sees: no error and no answer: requests run into their own time-outs, or wait for ever.
Cannot: break connections that do not go through the relay (net.relay), nor lose a byte.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "net.half_open"
PROOF = "inside"
RUNS = "outside"
NEEDS = ("relay",)
PARAMETERS = {
    "relay": {"type": "int", "default": 0, "help": "the relay's port; 0 for the only one"},
}


def arm(fault: InjectedFault) -> object:
    """Find the relay; change its policy when told to."""
    from wedge_agent import relay  # type: ignore[import-not-found]  # by the name that it has in the sidecar

    change: object = relay.policy_change(fault, relay.RelayPolicy(fault, holds=True))
    return change
