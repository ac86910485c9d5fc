"""A relay in front of a port passes everything on; the other net faults work through it.

Does: the sidecar, a process beside the controller, listens on `listen` and passes what comes to `to`. Nothing
is broken: it is the control for net.half_open, net.slow and net.reset, which change what it does.
A user sees: `address` (and `port`) in the fault's details; clients that connect there reach the port behind
it.
Cannot: stand in front of clients that connect to the port itself; they must be pointed at the relay. It lives
no longer than its lease.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "net.relay"
PROOF = "answer"
RUNS = "outside"
IS_CONTROL = True
PARAMETERS = {
    "to": {"type": "str", "required": True, "help": "where the target listens: HOST:PORT"},
    "listen": {
        "type": "str",
        "default": "127.0.0.1:0",
        "help": "where the relay listens: HOST:PORT, 0 for any",
    },
}


def arm(fault: InjectedFault) -> object:
    """Open the relay."""
    from wedge_agent import relay  # type: ignore[import-not-found]  # by the name that it has in the sidecar

    relay.open_relay(fault)
    return fault.count_call
