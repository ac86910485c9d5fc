"""A killed process is gone, and no other process is."""

from __future__ import annotations

import asyncio
import dataclasses
import signal

import pytest

from faults import ArmFailed, Controller, Selector
from tests.faults.bench import LaunchedTarget, launched


async def test_the_process_is_gone_and_its_neighbour_is_not(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with launched(controller) as neighbour:
        async with controller.arm("process.kill", process=target.pid) as fault:
            status = await fault.wait_biting(timeout_s=5)
            assert status.evidence == (f"process {target.pid} has ended",)
            async with asyncio.timeout(5):
                assert await target.launched.wait() == -signal.SIGKILL
        await neighbour.ticks()


async def test_every_process_that_matches_is_killed(controller: Controller, target: LaunchedTarget) -> None:
    async with launched(controller) as neighbour:
        await controller.wait_process(Selector(pid=neighbour.pid))
        async with controller.arm("process.kill", process="bench") as fault:
            status = await fault.wait_biting(timeout_s=5)
            assert status.hits == 2
            assert set(status.pids) == {target.pid, neighbour.pid}


@pytest.mark.parametrize("name", ["process.kill", "process.stop"])
@pytest.mark.parametrize("by_ticks", [-1, 1])
async def test_a_process_that_has_only_the_number_of_the_one_that_was_meant_is_left_alone(
    controller: Controller, target: LaunchedTarget, name: str, by_ticks: int
) -> None:
    (link,) = await controller._processes.wait_matching(Selector(pid=target.pid), timeout_s=5)
    info = link.info
    link.info = dataclasses.replace(info, started=info.started + by_ticks)
    with pytest.raises(ArmFailed, match=f"process {target.pid} has ended, and its number is another's now"):
        async with controller.arm(name, process=target.pid):
            raise AssertionError("it was armed")
    await target.ticks()
    link.info = info
    async with controller.arm(name, process=target.pid) as fault:
        await fault.wait_biting(timeout_s=5)
