"""Whether this machine had time for the test: a core for the target, for the prober and for the judge itself.

A server that does not get a core is dark, and it is the machine that made it so. The kernel counts both for
each thread, in nanoseconds (`/proc/PID/task/TID/schedstat`: run, waited for a core, turns). A prober that is
late sees gaps that are its own. And the judge makes the calls of a scenario and asks the endpoints what they
say: while its event loop stands still, an answer that came in time looks like none.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from faults import fault_info, thread_run_delays_ns
from scenarios.judge import proof
from scenarios.record import Guard
from scenarios.spec.suite import Row

_OWN_SHARE = 0.5
"""A target that itself ran for this share of all cores starved itself: that is a finding, and no excuse."""

_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class CpuCounters:
    """At `at_s` (`time.monotonic()`), by process and thread: nanoseconds run, and nanoseconds waited."""

    at_s: float
    threads: dict[tuple[int, str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class CpuUse:
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
        """The figures in a sentence."""
        return (
            f"in {self.elapsed_s:.2f} s its threads waited for a core for {self.waited_s:.2f} s at most, "
            f"and ran for {self.ran_s:.2f} s together on {self.count} cores"
        )


def read_counters(pids: Iterable[int]) -> CpuCounters:
    """What the kernel has counted until now. A process or thread that ends meanwhile is left out."""
    at_s = time.monotonic()
    threads = {(pid, tid): spent for pid in pids for tid, spent in thread_run_delays_ns(pid).items()}
    return CpuCounters(at_s, threads)


def cpu_use(before: CpuCounters, after: CpuCounters) -> CpuUse:
    """What was counted between two readings; of a thread that is new in the second, all of it.

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
    return CpuUse(waited_s, ran_ns / 1e9, elapsed_s, os.cpu_count() or 1)


class LoopLag:
    """Measures twenty times a second, inside the context, how late the judge's event loop gets to run."""

    def __init__(self) -> None:
        self._ticks: list[tuple[float, float]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    def worst_s(self, from_s: float, to_s: float) -> float:
        """By how many seconds at most it was late between two times (`time.monotonic()`)."""
        return max(
            (ran_s - due_s for due_s, ran_s in self._ticks if due_s < to_s and ran_s > from_s), default=0.0
        )

    async def _tick(self) -> None:
        while True:
            due_s = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._ticks.append((due_s, time.monotonic()))


def prober_guard(late_s: float, allowed_s: float) -> Guard:
    """That the machine let the prober ask when it meant to."""
    detail = f"at worst {late_s * 1e3:.1f} ms late"
    return proof("the prober was on time", late_s <= allowed_s, detail, about="machine")


def cores_guard(use: CpuUse, allowed_s: float, row: Row, *, as_expected: bool) -> Guard:
    """That what went wrong in the window cannot come from a machine without a core to spare.

    What went as expected stands: a wait does not break a claim that held. A fault that takes the cores is
    meant to, and excuses nothing.
    """
    starves = any(fault_info(name).takes_cores for name in (row.fault, *(also.fault for also in row.also)))
    held = as_expected or starves or not use.lacking(allowed_s)
    remedy = "" if held else "; the machine was too busy to tell: run it with fewer --jobs, or alone"
    return proof("no lack of a core decided it", held, f"{use.detail}{remedy}", about="machine")


def judge_guard(lag_s: float, allowed_s: float, *, timed_by_judge: bool, as_expected: bool) -> Guard:
    """That the machine let the judge read the answers that it judges, where its own clock decides anything
    (`timed_by_judge`). What went as expected stands."""
    held = as_expected or lag_s <= allowed_s or not timed_by_judge
    detail = f"its event loop was {lag_s * 1e3:.1f} ms late at worst"
    return proof("the judge itself was on time", held, detail, about="machine")
