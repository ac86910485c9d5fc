"""What the fault layer costs a process that it is not breaking, and how soon it releases one that it is."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import letting_go
from benchmarks.figures import Section, alternate
from faults import Controller, Selector

_WORK = """
import sys, time
def work():
    total = 0
    for number in range(200_000): total += number * number % 7
for _ in sys.stdin:
    before = time.process_time_ns()
    work()
    print(time.process_time_ns() - before, flush=True)
"""
_PAIRS_A_ROUND = 4
_SHOTS_A_PAIR = 20


def run(*, rounds: int) -> Section:
    """Start-up and idle cost, release latency, cycles of arming and releasing, killed controllers."""
    section = Section(
        "The agent in a process",
        "Start-up and idle cost compare the same program with and without the agent, in turns. Release is "
        "timed from the call to the process's next tick (it ticks every 2 ms); the floor is a process that "
        "is woken through a pipe. Controllers are killed with SIGKILL while their fault bites.",
    )
    asyncio.run(_with_a_controller(section, rounds))
    letting_go.by_dying(section, rounds)
    return section


async def _with_a_controller(section: Section, rounds: int) -> None:
    async with Controller() as controller:
        await asyncio.to_thread(_start_up, section, controller.environment(os.environ), rounds)
        await _idle(section, controller, rounds)
        await letting_go.by_release(section, controller, rounds)
        await letting_go.through_a_relay(section, controller, rounds)
        await letting_go.again_and_again(section, controller, rounds)


def _start_up(section: Section, env: dict[str, str], rounds: int) -> None:
    command = [sys.executable, "-c", "pass"]
    taken = alternate(
        {
            "without": lambda: subprocess.run(command, env=dict(os.environ), check=True),
            "with": lambda: subprocess.run(command, env=env, check=True),
        },
        rounds=rounds,
        batch=10,
    )
    without_ms, with_ms = taken["without"].p50_ms, taken["with"].p50_ms
    section.add("an interpreter starts and ends, p50", without_ms, "ms")
    section.add("what the agent adds to that", with_ms - without_ms, "ms", limit=30)


async def _idle(section: Section, controller: Controller, rounds: int) -> None:
    """Measure CPU time, which other processes do not affect, over pairs of fresh processes, because their
    place in memory makes some a few percent faster.
    """
    without_s, ratios, woken = [], [], 0
    for _ in range(_PAIRS_A_ROUND * rounds):
        with _worker(dict(os.environ)) as plain, _worker(controller.environment(os.environ)) as inhabited:
            await controller.wait_process(Selector(pid=inhabited.pid, imports="sys"))  # it has answered
            await asyncio.to_thread(_work_s, inhabited)
            before = _switches_of_the_agent(inhabited.pid)
            taken = [
                (await asyncio.to_thread(_work_s, plain), await asyncio.to_thread(_work_s, inhabited))
                for _ in range(_SHOTS_A_PAIR)
            ]
            woken += _switches_of_the_agent(inhabited.pid) - before
        fastest_s, with_s = (min(times) for times in zip(*taken, strict=True))
        without_s.append(fastest_s)
        ratios.append(with_s / fastest_s)
    section.add(
        "CPU time of 200,000 turns of a loop, without an agent", statistics.median(without_s) * 1e3, "ms"
    )
    section.add(
        "the same with an idle agent / without",
        statistics.median(ratios),
        "×",
        limit=1.05,
        note=f"{min(ratios):.3g} to {max(ratios):.3g} in {len(ratios)} pairs",
    )
    section.add("times that the idle agents' threads ran meanwhile", woken, "", limit=0)


@contextmanager
def _worker(env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _WORK]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _work_s(worker: subprocess.Popen[str]) -> float:
    """Let the worker do its work once; returns the CPU time that it took, in seconds."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    return int(worker.stdout.readline()) / 1e9


def _switches_of_the_agent(pid: int) -> int:
    """How often the one thread besides the main one was given a CPU (proc_pid_status(5))."""
    (thread,) = (task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))
    lines = (thread / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
