"""The process is starved of CPU time: other processes burn every core that it may run on.

Does: the sidecar, a process beside the controller, starts `hogs` processes for each of the CPUs that the
target may use, bound to that CPU and of the target's own priority. They end with the fault, the sidecar, or
the lease.
A user sees: everything late, by as much as the scheduler makes it wait; nothing stuck.
Cannot: starve a process of higher priority, or one whose container gives it a share of its own (cgroup
weight). Everything else on those CPUs is slowed down too, the prober included.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from faults.agent.wedge_agent.fault import InjectedFault

NAME = "process.starve"
PROOF = "starved"
RUNS = "outside"
TAKES_CORES = True
PARAMETERS = {
    "hogs": {"type": "int", "default": 4, "help": "processes for each CPU, 1 to 64"},
}
_HOG = """
import os, sys, time
cpu, nice, until, sidecar = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
os.sched_setaffinity(0, [cpu])
os.nice(nice)
while time.monotonic() < until and os.getppid() == sidecar:
    for _ in range(100_000):
        continue
"""


def arm(fault: InjectedFault) -> object:
    """Find the CPUs; start the hogs when told to."""
    if not 1 <= fault.params["hogs"] <= 64:
        fault.refuse("hogs must be 1 to 64")
    places = set()
    for pid, _ in fault.targets:
        nice = max(0, os.getpriority(os.PRIO_PROCESS, pid))
        for thread in os.listdir(f"/proc/{pid}/task"):
            places |= {(cpu, nice) for cpu in os.sched_getaffinity(int(thread))}
    hogs: list[int] = []

    def start() -> None:
        fault.undo(lambda: _end(hogs))
        for cpu, nice in sorted(places) * fault.params["hogs"]:
            arguments = [str(cpu), str(nice), str(fault.until_ns / 1e9), str(os.getpid())]
            command = [sys.executable, "-I", "-S", "-c", _HOG, *arguments]
            hogs.append(os.posix_spawn(sys.executable, command, os.environ))
            fault.count_call()

    return start


def _end(hogs: list[int]) -> None:
    for pid in hogs:
        os.kill(pid, signal.SIGKILL)
    for pid in hogs:
        os.waitpid(pid, 0)
