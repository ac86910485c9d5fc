"""The process is killed (SIGKILL): no handler and no finally block runs.

Does: the sidecar, a process beside the controller, sends SIGKILL to the very process that was selected.
A user sees: what an out-of-memory kill looks like. Connections are reset, shared memory stays behind.
Cannot: be taken back. Release does nothing, and whether the process comes back is up to its supervisor.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "process.kill"
PROOF = "gone"
RUNS = "outside"


def arm(fault: InjectedFault) -> object:
    """Take a hold on each process that a reused number cannot fool, and kill them when told to."""
    handles = fault.process_handles()

    def kill() -> None:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)  # type: ignore[attr-defined, unused-ignore]
            fault.count_call()

    return kill
