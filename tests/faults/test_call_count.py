"""Counting calls changes none of them."""

from __future__ import annotations

from faults import Controller
from tests.faults.bench import Target


async def test_the_calls_are_counted_and_made(controller: Controller, target: Target) -> None:
    await target.do("import workshop")
    async with controller.arm("call.count", process="bench", params={"site": "work"}) as fault:
        assert fault.status().calls == 0
        assert [await target.ask(f"workshop.work({n})") for n in (1, 2)] == [1, 2]
        assert (await fault.wait_biting(timeout_s=5)).calls == 2
        assert await target.ask("workshop.made") == ["work 1", "work 2"]


async def test_calls_of_a_coroutine_function_are_counted_and_made(
    controller: Controller, target: Target
) -> None:
    await target.do("import workshop, asyncio")
    async with controller.arm("call.count", process="bench", params={"site": "workshop:work_async"}) as fault:
        assert await target.ask("asyncio.run(workshop.work_async(1))") == 1
        assert fault.status().calls == 1


async def test_only_calls_that_meet_the_trigger_are_hits(controller: Controller, target: Target) -> None:
    await target.do("import workshop")
    once = {"on_hit": 2}
    async with controller.arm("call.count", process="bench", params={"site": "work"}, trigger=once) as fault:
        for n in range(3):
            await target.ask(f"workshop.work({n})")
        assert (fault.status().hits, fault.status().calls) == (1, 3)


async def test_with_a_class_the_deaths_of_its_objects_are_counted(
    controller: Controller, target: Target
) -> None:
    await target.do("import workshop")
    params = {"site": "workshop:Machine", "kind": "class"}
    async with controller.arm("call.count", process="bench", params=params) as fault:
        await target.do("workshop.Machine()")
        assert fault.status().calls == 1
    assert await target.ask("'__del__' in vars(workshop.Machine)") is False
