"""A stopped process does nothing, and runs on when the fault ends, whatever ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from faults import Controller, State, procfs
from tests.faults.bench import LaunchedTarget, launched, pending, result, until


async def test_a_stopped_process_is_silent_and_then_goes_on(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("process.stop", process="bench") as fault:
        status = await fault.wait_biting(timeout_s=5)
        assert status.evidence == (f"process {target.pid} is in state T (stopped)",)
        answer = target.start("1 + 1")
        assert await target.is_silent()
        assert await pending(answer, for_s=0.01)
    assert await result(answer) == 2
    await target.ticks()
    assert fault.status().held_s >= 0.3


async def test_its_neighbour_ticks_on(controller: Controller, target: LaunchedTarget) -> None:
    async with launched(controller) as neighbour:
        async with controller.arm("process.stop", process=target.pid) as fault:
            await fault.wait_biting(timeout_s=5)
            await neighbour.ticks()


async def test_the_lease_lets_it_go_on(controller: Controller, target: LaunchedTarget) -> None:
    async with controller.arm("process.stop", process="bench", lease_s=1.0) as fault:
        await fault.wait_biting(timeout_s=5)
        await target.ticks()
        await until(lambda: fault.status().state.over)
        assert fault.status().state is State.EXPIRED


async def test_a_lease_ends_at_the_controller_too_when_nobody_in_the_process_can_tell(
    controller: Controller, target: LaunchedTarget
) -> None:
    lease_s, began_s = 0.5, time.monotonic()
    async with controller.arm("noop", process="bench", lease_s=lease_s) as fault:
        async with controller.arm("process.stop", process="bench") as stop:
            await stop.wait_biting(timeout_s=5)
            await until(lambda: fault not in controller.faults())
            assert stop.status().state is State.BITING
    status = fault.status()
    assert status.state is State.EXPIRED
    assert status.times["expired"] >= began_s + lease_s


async def test_it_goes_on_when_the_sidecar_is_killed(controller: Controller, target: LaunchedTarget) -> None:
    async with controller.arm("process.stop", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        os.kill((await controller.sidecar()).pid, signal.SIGKILL)
        await target.ticks()
    assert fault.status().state is State.FAILED
    async with controller.arm("process.stop", process="bench") as again:
        await again.wait_biting(timeout_s=5)
    await target.ticks()


async def test_a_process_that_is_killed_while_stopped_is_no_trouble(
    controller: Controller, target: LaunchedTarget
) -> None:
    async with controller.arm("process.stop", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        os.kill(target.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            await target.launched.wait()
    assert fault.status().state is State.RELEASED
    assert procfs.stat(target.pid) is None
