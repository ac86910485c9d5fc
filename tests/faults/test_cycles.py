"""After a thousand faults the process has the same descriptors, threads and memory as before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faults import Controller
from tests.faults.bench import DEADLINE_S, LaunchedTarget, result, until
from tests.faults.unaware import descriptors, threads

CYCLES = 1000
WARM_UP = 400
_WITHIN_S = 120.0
_COLLECT_EVERY = 200  # else what grows is the garbage before Python's first full collection
_GROWTH_LIMIT_KIB = 256
"""Over the 600 cycles after the allocator has taken what it takes: less than half a KiB each."""


def resident_kib(pid: int) -> int:
    """The memory that is the process's own: pages that it shares with nobody (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def cycles(
    controller: Controller, target: LaunchedTarget, times: int, name: str, params: dict[str, str]
) -> None:
    """Arm and release so often; a fault that needs no traffic to bite is let bite."""
    for number in range(times):
        async with controller.arm(name, process="bench", params=params) as fault:
            while not params and fault.status().hits != 1:  # noqa: ASYNC110  # in memory, which tells nobody
                await asyncio.sleep(0.002)
        if number % _COLLECT_EVERY == 0:
            await target.do("import gc; gc.collect()")


async def settled(target: LaunchedTarget) -> None:
    """Have the garbage collected that waits for it, and wait for threads that are ending."""
    await target.do("import gc; gc.collect()")
    await until(lambda: threads(target.pid) == 3)  # the main thread, the one that ticks, the agent


@pytest.mark.parametrize(
    ("name", "params"),
    [("noop", {}), ("call.stall", {"site": "work"}), ("gil.hold", {})],
)
async def test_a_thousand_cycles_leave_nothing_in_the_target(
    controller: Controller, target: LaunchedTarget, name: str, params: dict[str, str]
) -> None:
    await target.do("import workshop")
    async with asyncio.timeout(_WITHIN_S):
        await cycles(controller, target, WARM_UP, name, params)
        await settled(target)
        held = descriptors(target.pid)
        memory = resident_kib(target.pid)
        await cycles(controller, target, CYCLES - WARM_UP, name, params)
    await settled(target)
    assert descriptors(target.pid) == held
    assert resident_kib(target.pid) - memory < _GROWTH_LIMIT_KIB
    assert await target.ask("workshop.work(7)") == 7


async def test_a_thousand_calls_that_stall_and_go_on_leave_nothing(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    for round_ in range(3):
        async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
            stuck = [target.start(f"workshop.work({number})") for number in range(300)]
            await until(lambda: fault.status().inside == 300)
        async with asyncio.timeout(DEADLINE_S):
            assert [await result(call) for call in stuck] == list(range(300))
        await settled(target)
        if round_ == 0:
            held = descriptors(target.pid)
    assert descriptors(target.pid) == held
