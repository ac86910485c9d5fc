"""A stalled call blocks its caller until release and no longer, and then works as usual."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from faults import Controller, NeverHit, State
from tests.faults.bench import LaunchedTarget, TargetError, pending, result, until


@pytest.fixture
async def shop(target: LaunchedTarget) -> LaunchedTarget:
    """The workbench with the workshop imported."""
    await target.do("import workshop")
    return target


async def test_calls_hang_until_release_and_then_return_what_they_always_did(
    controller: Controller, shop: LaunchedTarget
) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = [shop.start(f"workshop.work({number})") for number in range(4)]
        await fault.wait_biting(timeout_s=5)
        assert await pending(stuck[0])
        await until(lambda: fault.status().inside == 4)
    assert [await result(future) for future in stuck] == [0, 1, 2, 3]
    assert fault.status().hits == 4


async def test_other_calls_go_on(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = shop.start("workshop.work()")
        await fault.wait_biting(timeout_s=5)
        assert await shop.ask("workshop.device_work(1)") == "none on 1"
        await shop.ticks()
    await result(stuck)


async def test_with_the_gil_held_nothing_goes_on(controller: Controller, shop: LaunchedTarget) -> None:
    params = {"site": "work", "gil": "held"}
    async with controller.arm("call.stall", process="bench", params=params) as fault:
        stuck = shop.start("workshop.work(7)")
        await fault.wait_biting(timeout_s=5)
        assert await shop.is_silent()
    assert await result(stuck) == 7
    await shop.ticks()


async def test_sleepers_wake_at_once(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = [shop.start("workshop.work()") for _ in range(20)]
        await until(lambda: fault.status().inside == 20)
        await fault.release()
        assert fault.status().inside == 0
        assert fault.status().held_s < fault.lease_s / 2
        await asyncio.gather(*map(result, stuck))


async def test_nobody_calls_and_so_it_is_never_hit(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        with pytest.raises(NeverHit, match="0 of 0 calls"):
            await fault.wait_biting(timeout_s=0.1)
    assert fault.status().state is State.NEVER_HIT


async def test_the_lease_ends_it_without_anybody(controller: Controller, shop: LaunchedTarget) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "work"}, lease_s=1.5) as fault:
        stuck = shop.start("workshop.work(1)")
        await fault.wait_biting(timeout_s=5)
        assert await result(stuck) == 1
        await until(lambda: fault.status().state.over)
        assert fault.status().state is State.EXPIRED
        assert await shop.ask("workshop.work(2)") == 2


async def test_an_exception_of_the_call_arrives_after_the_stall(
    controller: Controller, shop: LaunchedTarget
) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "workshop:fail"}) as fault:
        stuck = shop.start("workshop.fail()")
        await fault.wait_biting(timeout_s=5)
    with pytest.raises(TargetError, match="KeyError"):
        await result(stuck)


async def test_a_stalled_coroutine_leaves_its_event_loop_running(
    controller: Controller, shop: LaunchedTarget
) -> None:
    async with controller.arm("call.stall", process="bench", params={"site": "workshop:work_async"}) as fault:
        lit = shop.start("workshop.calling_loop_runs_on(workshop.work_async)")
        await fault.wait_biting(timeout_s=5)
        await until(lambda: fault.status().held_s > 0.2)
    assert await result(lit) is True


async def test_a_coroutine_stalled_with_the_gil_held_stops_everything(
    controller: Controller, shop: LaunchedTarget
) -> None:
    params = {"site": "workshop:work_async", "gil": "held"}
    async with controller.arm("call.stall", process="bench", params=params) as fault:
        stuck = shop.start("workshop.calling_loop_runs_on(workshop.work_async)")
        await fault.wait_biting(timeout_s=5)
        assert await shop.is_silent()
    assert await result(stuck) is False


async def test_ctrl_c_does_not_end_a_stalled_call(controller: Controller, shop: LaunchedTarget) -> None:
    await shop.do("import signal")
    await shop.ask("signal.signal(signal.SIGINT, signal.default_int_handler) and None", main=True)
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = shop.start("workshop.work(1)", main=True)
        await fault.wait_biting(timeout_s=5)
        os.kill(shop.pid, signal.SIGINT)
        assert await pending(stuck)
    with pytest.raises(TargetError, match="KeyboardInterrupt"):
        await result(stuck)


@pytest.mark.parametrize("gil", ["released", "held"])
async def test_a_default_sigterm_ends_a_process_that_is_stalled_in_its_only_thread(
    controller: Controller, gil: str
) -> None:
    program = "import colorsys, time\nwhile True: colorsys.rgb_to_hsv(0, 0, 0); time.sleep(0.01)"
    launched = await controller.launch([sys.executable, "-c", program])
    params = {"site": "colorsys:rgb_to_hsv", "gil": gil}
    async with controller.arm("call.stall", params=params) as fault:
        await fault.wait_biting(timeout_s=5)
        os.kill(launched.pid, signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await launched.wait() == -signal.SIGTERM
