"""A killed process is gone, and nobody else is."""

from __future__ import annotations

import asyncio
import signal

from faults import Controller, Selector
from tests.faults.bench import LaunchedTarget, launched


async def test_the_process_is_gone_and_its_neighbour_is_not(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with launched(controller) as neighbour:
        async with controller.arm("process.kill", process=target.pid) as fault:
            status = await fault.biting(timeout_s=5)
            assert status.evidence == (f"process {target.pid} has ended",)
            async with asyncio.timeout(5):
                assert await target.launched.wait() == -signal.SIGKILL
        await neighbour.ticks()


async def test_every_process_that_matches_is_killed(controller: Controller, target: LaunchedTarget) -> None:
    async with launched(controller) as neighbour:
        await controller.process(Selector(pid=neighbour.pid))
        async with controller.arm("process.kill", process="bench") as fault:
            status = await fault.biting(timeout_s=5)
            assert status.hits == 2
            assert set(status.pids) == {target.pid, neighbour.pid}
