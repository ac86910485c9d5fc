"""`attach` gets into processes that were started without the agent, whatever they do, and leaves no trace."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from faults import Controller, Selector
from faults.attach import AlreadyAttached, NeverLoaded, attach
from tests.faults.bench import DEADLINE_S, until
from tests.faults.interpreters import VERSIONS, interpreter, reason
from tests.faults.unaware import descriptors, running, threads, tracer, unaware

pytestmark = pytest.mark.usefixtures("needs_a_way_in")

HARNESS = Path(__file__).parent / "attached_harness.py"
IDLE = "import select; print('idle'); select.select([], [], [])"
BUSY = "print('busy')\nx = 0\nwhile True: x += len(str(x) * 10)"
MANY = """
import threading, time
for _ in range(30): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print('many')
while True: pass
"""
HOLDS_ITS_GIL = """
import ctypes, sys
print("held")
ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
for line in sys.stdin: print(eval(line))
"""


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_process_attached_to_is_broken_and_given_back_like_any_other(
    controller: Controller, version: str
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(reason(version))
    async with unaware(controller, python) as target:
        info = await attach(controller, target.pid)
        assert (info.pid, info.python.rpartition(".")[0]) == (target.pid, version)
        async with controller.arm("gil.hold", process=target.pid) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)
            assert await target.is_silent()
        await target.ticks()


async def test_a_process_that_nobody_attached_to_has_no_agent(controller: Controller) -> None:
    async with unaware(controller) as target:
        await target.ticks()
        assert controller.processes() == ()
        assert await target.ask("'wedge_agent' in sys.modules") is False


@pytest.mark.parametrize("code", [IDLE, BUSY, MANY], ids=["idle", "busy", "many-threads"])
async def test_it_gets_in_whatever_the_threads_do(controller: Controller, code: str) -> None:
    target = await running(controller, code)
    assert (await attach(controller, target.pid)).pid == target.pid
    assert tracer(target.pid) == 0


async def test_a_process_whose_gil_is_held_is_refused_in_time_and_left_as_it_was(
    controller: Controller,
) -> None:
    target = await running(controller, HOLDS_ITS_GIL)
    assert target.stdin is not None
    assert target.stdout is not None
    with pytest.raises(NeverLoaded, match="its GIL is held") as refusal:
        await attach(controller, target.pid, within_s=1.0)
    assert (refusal.value.pid, tracer(target.pid)) == (target.pid, 0)

    target.stdin.write(b"x'wedge_agent' in __import__('sys').modules\n")
    async with asyncio.timeout(DEADLINE_S):
        assert await target.stdout.readline() == b"False\n"
    await until(lambda: threads(target.pid) == 1)  # what waited for the GIL had it, and did nothing
    assert controller.processes() == ()


async def test_what_is_attached_to_is_as_before_once_the_controller_has_gone(controller: Controller) -> None:
    names = "sorted(__import__('__main__').__dict__)"
    async with unaware(controller) as target:
        path, known = await target.ask("sys.path"), await target.ask(names)
        await until(lambda: threads(target.pid) == 2)
        before = descriptors(target.pid)
        async with Controller() as other:
            await attach(other, target.pid)
            assert threads(target.pid) == 3
        await until(lambda: threads(target.pid) == 2)
        assert (await target.ask("sys.path"), await target.ask(names)) == (path, known)
        await until(lambda: threads(target.pid) == 2)
        assert descriptors(target.pid) == before


async def test_a_process_is_attached_to_anew_after_its_controller_has_gone(controller: Controller) -> None:
    async with unaware(controller) as target:
        async with Controller() as other:
            await attach(other, target.pid)
        await until(lambda: threads(target.pid) == 2)
        await attach(controller, target.pid)
        async with controller.arm("noop", process=target.pid) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)
        await target.do("child = os.fork()\nif child == 0: time.sleep(60); os._exit(0)")
        child = await target.ask("child")
        await controller.wait_process(Selector(pid=child), timeout_s=DEADLINE_S)
        assert [info.pid for info in controller.processes()].count(child) == 1


async def test_a_process_with_an_agent_is_not_attached_to_twice(controller: Controller) -> None:
    async with unaware(controller) as target:
        await attach(controller, target.pid)
        with pytest.raises(AlreadyAttached, match="this controller's"):
            await attach(controller, target.pid)
        async with Controller() as other:
            with pytest.raises(AlreadyAttached, match="another controller's"):
                await attach(other, target.pid)
        async with controller.arm("noop", process=target.pid) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)


async def test_what_it_forks_later_is_covered(controller: Controller) -> None:
    async with unaware(controller) as target:
        await attach(controller, target.pid)
        await target.do("child = os.fork()\nif child == 0: time.sleep(60); os._exit(0)")
        child = await target.ask("child")
        assert (await controller.wait_process(Selector(pid=child), timeout_s=DEADLINE_S)).ppid == target.pid


async def test_it_lets_go_when_its_controller_is_killed(controller: Controller) -> None:
    async with unaware(controller) as target:
        harness = await asyncio.create_subprocess_exec(
            sys.executable, str(HARNESS), str(target.pid), stdout=asyncio.subprocess.PIPE
        )
        assert harness.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                assert json.loads(await harness.stdout.readline()) == {"biting": target.pid}
            assert await target.is_silent()
        finally:
            with suppress(ProcessLookupError):
                harness.kill()
            await harness.wait()
        async with asyncio.timeout(1.0):
            await target.ticks()


async def test_one_who_gives_up_attaching_leaves_no_debugger_behind(controller: Controller) -> None:
    async with unaware(controller) as target:
        for after_s in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12):
            attaching = asyncio.create_task(attach(controller, target.pid))
            await asyncio.sleep(after_s)
            attaching.cancel()
            await asyncio.gather(attaching, return_exceptions=True)
            assert tracer(target.pid) == 0
        await target.ticks()
        assert [path.name for path in controller.path.iterdir()] == ["agent.sock"]
