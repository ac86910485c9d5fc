"""A repeated call is run again with the same arguments, and its caller hears of one run."""

from __future__ import annotations

import pytest

from faults import ArmFailed, BadParameter, Controller
from tests.faults.bench import LaunchedTarget, Target, TargetError, launched
from tests.faults.interpreters import VERSIONS, interpreter, reason

COUNTING = """
import asyncio, workshop
def count(*args, **kwargs):
    counted.append([list(args), kwargs])
    return len(counted)
async def count_async(*args, **kwargs):
    await asyncio.sleep(0)
    return count(*args, **kwargs)
def fail_at(*numbers):
    if count() in numbers: raise KeyError(len(counted))
    return len(counted)
async def fail_at_async(*numbers):
    return fail_at(*numbers)
counted = []
workshop.count, workshop.count_async = count, count_async
workshop.fail_at, workshop.fail_at_async = fail_at, fail_at_async
"""
CALLS = {"count": "workshop.{}", "count_async": "asyncio.run(workshop.{})"}


@pytest.fixture
async def shop(target: LaunchedTarget) -> LaunchedTarget:
    """The workbench with functions that count their runs."""
    await target.do(COUNTING)
    return target


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("outcome", "value"), [("last", 3), ("first", 1)])
async def test_it_runs_again_with_the_same_arguments_and_one_result_is_returned(
    controller: Controller, shop: Target, name: str, outcome: str, value: int
) -> None:
    call = CALLS[name]
    params = {"site": f"workshop:{name}", "runs": 3, "outcome": outcome}
    async with controller.arm("call.repeat", process="bench", params=params) as fault:
        assert await shop.ask(call.format(f"{name}(7, key='word')")) == value
        status = await fault.wait_biting(timeout_s=5)
        assert (status.hits, status.calls) == (1, 1)
        assert "1 of 1 calls hit" in status.evidence[0]
        assert await shop.ask("counted") == [[[7], {"key": "word"}]] * 3
    assert await shop.ask(call.format(f"{name}()")) == 4


@pytest.mark.parametrize("call", ["workshop.{}({})", "asyncio.run(workshop.{}_async({}))"])
@pytest.mark.parametrize(
    ("outcome", "fails", "says"),
    [("last", 1, 2), ("last", 2, "KeyError: 2"), ("first", 1, "KeyError: 1"), ("first", 2, 1)],
)
async def test_the_caller_hears_of_one_run_alone_whether_it_returns_or_raises(
    controller: Controller, shop: Target, call: str, outcome: str, fails: int, says: object
) -> None:
    site = "workshop:fail_at" + ("_async" if "async" in call else "")
    params = {"site": site, "outcome": outcome}
    async with controller.arm("call.repeat", process="bench", params=params):
        if isinstance(says, int):
            assert await shop.ask(call.format("fail_at", fails)) == says
        else:
            with pytest.raises(TargetError, match=str(says)):
                await shop.ask(call.format("fail_at", fails))
        assert await shop.ask("len(counted)") == 2


async def test_a_trigger_says_which_calls_are_repeated(controller: Controller, shop: Target) -> None:
    params, trigger = {"site": "workshop:count"}, {"on_hit": 2}
    async with controller.arm("call.repeat", process="bench", params=params, trigger=trigger) as fault:
        assert [await shop.ask("workshop.count()") for _ in range(3)] == [1, 3, 4]
        assert (fault.status().hits, fault.status().calls) == (1, 3)


async def test_a_repeated_call_goes_through_what_was_armed_before_it_each_time(
    controller: Controller, shop: Target
) -> None:
    site = {"site": "workshop:count"}
    drop = controller.arm("call.drop", process="bench", params=site, trigger={"on_hit": 2})
    async with drop, controller.arm("call.repeat", process="bench", params={**site, "runs": 3}):
        assert await shop.ask("workshop.count()") == 2
    assert drop.status().calls == 3


async def test_how_often_and_what_comes_of_it_are_checked(controller: Controller, shop: Target) -> None:
    with pytest.raises(ArmFailed, match="2 to 1000"):
        await controller.arm("call.repeat", process="bench", params={"site": "work", "runs": 1}).arm()
    with pytest.raises(BadParameter, match="last or first"):
        controller.arm("call.repeat", params={"site": "work", "outcome": "second"})


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_python_repeats(controller: Controller, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(reason(version))
    async with launched(controller, python=python) as shop:
        await controller.wait_process("bench")
        await shop.do(COUNTING)
        for name, call in CALLS.items():
            params = {"site": f"workshop:{name}", "outcome": "first"}
            async with controller.arm("call.repeat", process="bench", params=params) as fault:
                before = await shop.ask("len(counted)")
                assert await shop.ask(call.format(f"{name}()")) == before + 1
                assert await shop.ask("len(counted)") == before + 2
                await fault.wait_biting(timeout_s=5)
