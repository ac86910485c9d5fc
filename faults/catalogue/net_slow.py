"""Connections through a relay are slow: every piece is delayed, and the bytes per second are limited.

Does: the relay waits `delay` seconds before it passes on a piece, and passes at most `rate` bytes in a second
in each direction of each connection (0: as fast as it goes).
A user sees: what a bad network does to time-outs and to buffers that wait for slow readers.
Cannot: lose or reorder packets, which a relay of streams never sees; nor slow down what does not go through
it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "net.slow"
PROOF = "hit"
RUNS = "outside"
NEEDS = ("relay",)
PARAMETERS = {
    "relay": {"type": "int", "default": 0, "help": "the relay's port; 0 for the only one"},
    "delay": {"type": "seconds", "default": 0.1, "help": "how late each piece is, in seconds"},
    "rate": {"type": "bytes", "default": 0, "help": "bytes in a second, each way; 0 for no limit"},
}


def arm(fault: InjectedFault) -> object:
    """Find the relay; change its policy when told to."""
    from wedge_agent import relay  # type: ignore[import-not-found]  # by the name that it has in the sidecar

    policy = relay.RelayPolicy(fault, delay_s=fault.params["delay"], bytes_per_s=fault.params["rate"])
    change: object = relay.policy_change(fault, policy)
    return change
