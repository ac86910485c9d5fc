"""A dropped call returns None at once; the work is lost, or only its result is."""

from __future__ import annotations

import pytest

from faults import BadParameter, Controller
from tests.faults.bench import Target


@pytest.mark.parametrize(("what", "made"), [("call", []), ("result", ["work 1"])])
async def test_the_call_or_its_result_is_lost(
    controller: Controller, target: Target, what: str, made: list[str]
) -> None:
    await target.do("import workshop")
    async with controller.arm("call.drop", process="bench", params={"site": "work", "what": what}) as fault:
        assert await target.ask("workshop.work(1)") is None
        status = await fault.wait_biting(timeout_s=5)
        assert "1 of 1 calls hit" in status.evidence[0]
        assert await target.ask("workshop.made") == made
    assert await target.ask("workshop.work(2)") == 2


async def test_a_coroutine_is_dropped_too(controller: Controller, target: Target) -> None:
    await target.do("import workshop, asyncio")
    params = {"site": "workshop:work_async", "what": "result"}
    async with controller.arm("call.drop", process="bench", params=params):
        assert await target.ask("asyncio.run(workshop.work_async(1))") is None
        assert await target.ask("workshop.made") == ["work_async 1"]
    assert await target.ask("asyncio.run(workshop.work_async(1))") == 1


async def test_what_can_be_dropped_is_said(controller: Controller) -> None:
    with pytest.raises(BadParameter, match="call or result"):
        controller.arm("call.drop", params={"site": "work", "what": "everything"})
