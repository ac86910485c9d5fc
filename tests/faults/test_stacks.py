"""Where a wedged process stands can be seen, by its own agent or from outside."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from faults import Controller, Thread
from tests.faults.bench import LaunchedTarget, result, until

PY_SPY = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
needs_py_spy = pytest.mark.skipif(
    PY_SPY is None, reason="py-spy is not installed, and the agent cannot answer"
)


async def test_a_stalled_call_shows_who_called_it(controller: Controller, target: LaunchedTarget) -> None:
    await target.do("import workshop\ndef caller_of_note(): return workshop.work(1)")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = target.start("caller_of_note()")
        await fault.wait_biting(timeout_s=5)
        (stack,) = await fault.stacks()
        assert "caller_of_note" in stack
        assert "wait_for_end" in stack
        (thread,) = await fault.threads()
        assert thread.inside
        assert (thread.thread,) == fault.status().threads
        assert thread.thread.pid == target.pid
        assert "caller_of_note" in [frame.function for frame in thread.frames]
    await result(stuck)
    assert fault.status().threads == ()


@needs_py_spy
@pytest.mark.parametrize("fault", ["gil.hold", "process.stop"])
async def test_a_process_that_cannot_answer_is_read_from_outside(
    controller: Controller, target: LaunchedTarget, fault: str
) -> None:
    async with controller.arm(fault, process="bench") as armed:
        await armed.wait_biting(timeout_s=5)
        (stack,) = await armed.stacks()
        assert "workbench.py" in stack
        seen = await armed.threads()
        inside = [found.thread for found in seen if found.inside]
        assert tuple(inside) == armed.status().threads
        assert len(inside) == (fault == "gil.hold")  # a stopped process has nobody in the fault
        (main,) = [found for found in seen if found.name == "MainThread"]
        assert main.thread == Thread(target.pid, target.pid)
    await target.ticks()


async def test_all_threads_that_are_in_a_fault_are_named(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop\ndef work(): return [threading.get_native_id(), workshop.work()][0]")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = [target.start("work()") for _ in range(70)]
        await until(lambda: fault.status().inside == 70)
        inside = fault.status().threads
        assert len(inside) == 64  # there is room for no more
    assert {thread.tid for thread in inside} <= {await result(future) for future in stuck}
    assert fault.status().threads == ()


async def test_a_process_that_is_gone_has_no_stack(controller: Controller, target: LaunchedTarget) -> None:
    async with controller.arm("process.kill", process="bench") as armed:
        await armed.wait_biting(timeout_s=5)
        assert await armed.stacks() == ()
