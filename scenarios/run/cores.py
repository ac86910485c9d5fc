"""Whether a target had the cores to answer with: how long its threads stood runnable and were not run.

A server that does not get a core is dark, and it is the machine that made it so. The kernel counts both for
each thread, in nanoseconds (`/proc/PID/task/TID/schedstat`: run, waited for a core, turns).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from faults import fault_info, thread_run_delays_ns
from scenarios.run.facts import Facts

_OWN_SHARE = 0.5
"""A target that itself ran for this share of all cores starved itself: that is a finding, and no excuse."""

GUARD = "no lack of a core decided it"
"""The proof that the machine let the target answer."""


@dataclass(frozen=True, slots=True)
class Look:
    """At `at_s` (`time.monotonic()`), by process and thread: nanoseconds run, and nanoseconds waited."""

    at_s: float
    threads: dict[tuple[int, str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Cores:
    """In a stretch of `elapsed_s`: how long the thread that waited most stood in line for a core, and for how
    long all of the target's threads together ran on the machine's `count` cores."""

    waited_s: float
    ran_s: float
    elapsed_s: float
    count: int

    def lacking(self, allowed_s: float) -> bool:
        """Whether a thread waited for longer than that, and not because its own target used the cores."""
        return self.waited_s > allowed_s and self.ran_s < _OWN_SHARE * self.count * self.elapsed_s

    @property
    def detail(self) -> str:
        """In words."""
        return (
            f"in {self.elapsed_s:.2f} s its threads waited for a core for {self.waited_s:.2f} s at most, "
            f"and ran for {self.ran_s:.2f} s together on {self.count} cores"
        )


def look(pids: Iterable[int]) -> Look:
    """What the kernel has counted until now. A process or thread that ends meanwhile is left out."""
    at_s = time.monotonic()
    return Look(at_s, {(pid, tid): spent for pid in pids for tid, spent in thread_run_delays_ns(pid).items()})


def between(before: Look, after: Look) -> Cores:
    """What was counted between two looks; of a thread that is new in the second, all of it.

    A wait longer than the stretch itself is left out: Linux 6.12 and newer now and then book a thread's sleep
    as a wait, all at once when it wakes up (seen: 2.7 s within 0.5 s).
    """
    elapsed_s = after.at_s - before.at_s
    ran_ns, waited_s = 0, 0.0
    for thread, (ran, waited) in after.threads.items():
        ran_before, waited_before = before.threads.get(thread, (0, 0))
        ran_ns += ran - ran_before
        if (more_s := (waited - waited_before) / 1e9) <= elapsed_s:
            waited_s = max(waited_s, more_s)
    return Cores(waited_s, ran_ns / 1e9, elapsed_s, os.cpu_count() or 1)


def judge(cores: Cores, facts: Facts, allowed_s: float) -> None:
    """Whether what went wrong in the window can be told from a machine without a core to spare.

    What went as expected stands: a wait does not break a claim that held. A fault that takes the cores is
    meant to, and excuses nothing.
    """
    row = facts.scenario.row
    names = (row.fault, *(also.fault for also in row.also))
    starved = any(fault_info(name).takes_cores for name in names)
    told = facts.as_expected or starved or not cores.lacking(allowed_s)
    remedy = "" if told else "; the machine was too busy to tell: run it with fewer --jobs, or alone"
    facts.prove(GUARD, told, f"{cores.detail}{remedy}")
