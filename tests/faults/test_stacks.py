"""Where a wedged process stands can be seen, by its own agent or from outside."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from faults import Controller
from tests.faults.bench import LaunchedTarget, result

PY_SPY = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
needs_py_spy = pytest.mark.skipif(
    PY_SPY is None, reason="py-spy is not installed, and the agent cannot answer"
)


async def test_a_stalled_call_shows_who_called_it(controller: Controller, target: LaunchedTarget) -> None:
    await target.do("import workshop\ndef caller_of_note(): return workshop.work(1)")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = target.start("caller_of_note()")
        await fault.biting(timeout_s=5)
        (stack,) = await fault.stacks()
        assert "caller_of_note" in stack
        assert "wait_for_end" in stack
    await result(stuck)


@needs_py_spy
@pytest.mark.parametrize("fault", ["gil.hold", "process.stop"])
async def test_a_process_that_cannot_answer_is_read_from_outside(
    controller: Controller, target: LaunchedTarget, fault: str
) -> None:
    async with controller.arm(fault, process="bench") as armed:
        await armed.biting(timeout_s=5)
        (stack,) = await armed.stacks()
        assert "workbench.py" in stack
    await target.ticks()


async def test_a_process_that_is_gone_has_no_stack(controller: Controller, target: LaunchedTarget) -> None:
    async with controller.arm("process.kill", process="bench") as armed:
        await armed.biting(timeout_s=5)
        assert await armed.stacks() == ()
