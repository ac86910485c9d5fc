"""The process is stopped (SIGSTOP): it exists, keeps everything it holds, and does nothing.

Does: the sidecar, a process beside the controller, sends SIGSTOP, and SIGCONT on release, at the lease's end,
or when the controller dies.
A user sees: state T. Connections to it are accepted by the kernel and answered by nobody.
Cannot: stop a process in an uninterruptible wait (state D) before that wait ends. A shell with job control,
or a supervisor that watches for stopped children, may notice the signal itself.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "process.stop"
PROOF = "stopped"
RUNS = "outside"


def arm(fault: InjectedFault) -> object:
    """Take a hold on each process that a reused number cannot fool, and stop them when told to."""
    handles = fault.process_handles()

    def go_on() -> None:
        for handle in handles:
            try:
                signal.pidfd_send_signal(handle, signal.SIGCONT)  # type: ignore[attr-defined, unused-ignore]
            except ProcessLookupError:  # it ended while stopped: there is nothing to release
                continue
            finally:
                fault.leave()

    def stop() -> None:
        fault.undo(go_on)
        for handle in handles:
            fault.count_call()
            fault.enter()
            signal.pidfd_send_signal(handle, signal.SIGSTOP)  # type: ignore[attr-defined, unused-ignore]

    return stop
