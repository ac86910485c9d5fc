"""Faults from outside need no agent in the process: any program can be stopped or starved."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import Controller, Launched, NoSuchProcess, Selector, State
from faults.attach import AlreadyAttached, NoAgent, NoProcess, NotAttachable, outside
from tests.faults.bench import DEADLINE_S, launched, until
from tests.faults.test_attach_cli import attached
from tests.faults.test_cli import Shell


@pytest.fixture
async def sleeper(controller: Controller) -> Launched:
    """A program that is no Python."""
    return await controller.launch(["sleep", "600"])


def state(pid: int) -> str:
    """The letter of the kernel."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_program_without_python_is_stopped_and_goes_on(
    controller: Controller, sleeper: Launched
) -> None:
    async with outside(controller, sleeper.pid):
        async with controller.arm("process.stop", process=sleeper.pid) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)
            assert state(sleeper.pid) == "T"
        await until(lambda: state(sleeper.pid) == "S")


async def test_it_is_starved_and_killed(controller: Controller, sleeper: Launched) -> None:
    async with outside(controller, sleeper.pid):
        async with controller.arm("process.starve", process=sleeper.pid, params={"hogs": 1}) as starved:
            await starved.wait_biting(timeout_s=DEADLINE_S)
        async with controller.arm("process.kill", process=sleeper.pid) as killed:
            await killed.wait_biting(timeout_s=DEADLINE_S)
        assert await sleeper.wait() == -signal.SIGKILL
        await until(lambda: controller.processes() == ())  # what has ended is nobody's any more


async def test_a_fault_inside_it_is_refused_with_the_way_in(
    controller: Controller, sleeper: Launched
) -> None:
    async with outside(controller, sleeper.pid):
        fault = controller.arm("gil.hold", process=sleeper.pid)
        with pytest.raises(NoAgent, match="only faults from outside"):
            await fault.arm()
        assert fault.status().state is State.FAILED


async def test_it_does_not_stand_in_the_way_of_those_with_an_agent(
    controller: Controller, sleeper: Launched
) -> None:
    async with outside(controller, sleeper.pid), launched(controller) as target:
        found = await controller.wait_process(Selector(imports="threading"), timeout_s=DEADLINE_S)
        assert found.pid == target.pid


async def test_afterwards_it_is_not_the_controllers(controller: Controller, sleeper: Launched) -> None:
    async with outside(controller, sleeper.pid) as info:
        assert controller.processes() == (info,)
        with pytest.raises(AlreadyAttached):
            async with outside(controller, sleeper.pid):
                raise AssertionError("taken in twice")
    with pytest.raises(NoSuchProcess):
        await controller.wait_process(Selector(pid=sleeper.pid), timeout_s=0.1)


@pytest.mark.parametrize("pid", [os.getpid(), os.getppid()], ids=["itself", "its parent"])
async def test_nobody_stops_himself(controller: Controller, pid: int) -> None:
    with pytest.raises(NotAttachable, match="would stop with it"):
        async with outside(controller, pid):
            raise AssertionError("taken in")


async def test_a_number_that_no_process_has(controller: Controller) -> None:
    with pytest.raises(NoProcess):
        async with outside(controller, 2**22 + 1):
            raise AssertionError("taken in")


@pytest.fixture
async def session(tmp_path_factory: pytest.TempPathFactory, sleeper: Launched) -> AsyncIterator[Shell]:
    """Commands beside an open `wedge attach --outside`."""
    shell = Shell(tmp_path_factory.mktemp("w"))
    async with attached(shell, sleeper.pid, "--outside") as process:
        yield shell
    assert process.returncode == 0


async def test_the_commands_do_it_too(session: Shell, sleeper: Launched) -> None:
    code, out, errors = await session.run(
        "arm", "process.stop", "--process", str(sleeper.pid), "--wait", "5s"
    )
    assert (code, errors) == (0, "")
    assert "process.stop: biting" in out
    assert (await session.run("release", "--all"))[0] == 0
    await until(lambda: state(sleeper.pid) == "S")
