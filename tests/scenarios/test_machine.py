"""A target without a core to run on: seen from outside, and never called the target's own darkness."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from typing import Literal

import msgspec
import pytest

from scenarios.judge import claim
from scenarios.judge.observation import Observation
from scenarios.judge.verdict import with_verdict
from scenarios.record import Guard, ScenarioRecord
from scenarios.run.machine import CpuCounters, CpuUse, cores_guard, cpu_use, read_counters
from scenarios.run.results import ScenarioResults, WindowClosing, raw_record
from scenarios.spec import Scenario, suite_file

ALLOWED_S = 1.0
STARVED = CpuUse(waited_s=1.4, ran_s=0.1, elapsed_s=2.0, count=2)
SERVED = CpuUse(waited_s=0.1, ran_s=0.1, elapsed_s=2.0, count=2)
CROWDED_BY_ITSELF = CpuUse(waited_s=1.4, ran_s=3.9, elapsed_s=2.0, count=2)

# On one core: the seconds to have worked in all come in, it works as long, and says so.
WORKER = """
import os, sys, time
os.sched_setaffinity(0, [int(sys.argv[1])])
start = time.process_time()
for line in sys.stdin:
    while time.process_time() < start + float(line):
        pass
    print("done", flush=True)
"""
HOG = """
import os, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
print("there", flush=True)
while True:
    pass
"""


class Worker:
    """A process that does so many seconds of work on one core when told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._worked_s = process, 0.0
        self.pid = process.pid

    def works(self, seconds: float) -> CpuUse:
        """What was counted while it did."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._worked_s += seconds
        before = read_counters([self.pid])
        self._process.stdin.write(f"{self._worked_s}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"
        return cpu_use(before, read_counters([self.pid]))


@pytest.fixture
def core() -> int:
    return min(os.sched_getaffinity(0))


@pytest.fixture
def worker(core: int) -> Iterator[Worker]:
    command = [sys.executable, "-c", WORKER, str(core)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        found = Worker(process)
        found.works(0.05)  # started, and on its core
        yield found
        assert process.stdin is not None
        process.stdin.close()


def test_a_process_that_others_keep_from_its_core_is_seen_waiting_and_not_running(
    worker: Worker, core: int
) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            command = [sys.executable, "-c", HOG, str(core)]
            hog = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            )
            stack.callback(hog.kill)
            assert hog.stdout is not None
            hog.stdout.readline()
        found = worker.works(0.4)
    assert found.waited_s > found.elapsed_s / 2
    assert found.ran_s < found.elapsed_s / 2
    assert found.lacking(found.elapsed_s / 2)


def test_a_process_that_waits_for_something_else_waits_for_no_core(worker: Worker) -> None:
    before = read_counters([worker.pid])
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"]) as other:
        other.wait()
    found = cpu_use(before, read_counters([worker.pid]))
    assert found.waited_s < found.elapsed_s / 2
    assert found.ran_s < found.elapsed_s / 2
    assert not found.lacking(found.elapsed_s / 2)


def test_a_process_that_is_gone_counts_for_nothing(worker: Worker) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert {pid for pid, _ in read_counters([worker.pid, gone.pid]).threads} == {worker.pid}


def test_the_thread_that_waited_longest_is_told_and_what_all_ran() -> None:
    before = CpuCounters(10.0, {(1, "1"): (0, 0), (1, "2"): (5_000, 10**9)})
    after = CpuCounters(
        12.0, {(1, "1"): (10**8, 3 * 10**8), (1, "2"): (10**8 + 5_000, 25 * 10**8), (1, "3"): (10**8, 0)}
    )
    found = cpu_use(before, after)
    assert (found.waited_s, round(found.ran_s, 6), found.elapsed_s) == (1.5, 0.3, 2.0)


def test_a_wait_longer_than_the_time_that_passed_is_the_kernels_mistake() -> None:
    before = CpuCounters(10.0, {(1, "1"): (0, 0), (1, "2"): (0, 0)})
    after = CpuCounters(10.5, {(1, "1"): (0, 27 * 10**8), (1, "2"): (0, 10**8)})
    assert cpu_use(before, after).waited_s == 0.1


@cache
def scenario() -> Scenario:
    """One that has to stay lit."""
    _, scenarios, _ = suite_file.load(suite_file.find("default"))
    return next(s for s in scenarios if s.name == "gil.hold@pegaref-process")


def judged(
    observed: Literal["lit", "dark"], use: CpuUse, *guards: Guard, **changes: object
) -> ScenarioRecord:
    """A scenario in which all went well but that this was observed, and these guards of its run."""
    row = msgspec.structs.replace(scenario().row, **changes)
    given = dataclasses.replace(scenario(), row=row)
    seen = Observation(observed, "as it was seen", {})
    found = ScenarioResults(closing=WindowClosing(2.2, seen, ())).with_guards(*guards)
    as_expected = found.as_expected(given.expected)
    found = found.with_guards(cores_guard(use, ALLOWED_S, row, as_expected=as_expected))
    return with_verdict(raw_record(given, found, "", {"start": 0.0}, 1.0), found.guards, seen)


def test_darkness_without_a_core_is_unproven_and_says_what_to_do() -> None:
    found = judged("dark", STARVED)
    assert found.verdict == "unproven"
    assert "waited for a core for 1.40 s" in found.reasons[0]
    assert "fewer --jobs" in found.reasons[0]


def test_darkness_with_a_core_is_a_fail() -> None:
    assert judged("dark", SERVED).verdict == "fail"


def test_what_stayed_lit_all_the_same_is_a_pass() -> None:
    assert judged("lit", STARVED).verdict == "pass"


def test_a_target_that_took_the_cores_itself_has_no_excuse() -> None:
    assert judged("dark", CROWDED_BY_ITSELF).verdict == "fail"


def test_a_fault_that_takes_the_cores_is_no_excuse_either() -> None:
    assert judged("dark", STARVED, fault="process.starve").verdict == "fail"


def test_a_claim_that_broke_without_a_core_is_unproven_too() -> None:
    late = claim("register was answered", False, "after 1.2 s of 1 s")
    assert judged("lit", STARVED, late).verdict == "unproven"
    assert judged("lit", SERVED, late).verdict == "fail"
