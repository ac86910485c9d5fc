"""`wedge attach`: a session for a process that runs already, which goes on when the session ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import Controller
from tests.faults.bench import DEADLINE_S, LaunchedTarget
from tests.faults.test_cli import Shell
from tests.faults.unaware import unaware

needs_gdb = pytest.mark.skipif(
    sys.version_info < (3, 14) and shutil.which("gdb") is None,
    reason="gdb is not installed, and attaching to a Python before 3.14 needs it",
)


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Commands that find no session but those of the test."""
    return Shell(tmp_path_factory.mktemp("w"))


@pytest.fixture
async def target(controller: Controller) -> AsyncIterator[LaunchedTarget]:
    """A workbench without an agent; the fixture's controller only ends it."""
    async with unaware(controller) as bench:
        yield bench


async def attached(shell: Shell, pid: int, *flags: str) -> asyncio.subprocess.Process:
    """`wedge attach PID`, as soon as it says that it is in."""
    process = await shell.start("attach", *flags, str(pid))
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        said = (await process.stderr.readline()).decode()
    assert f"attached to {pid}" in said
    return process


@needs_gdb
async def test_the_same_commands_break_a_process_that_was_attached_to(
    shell: Shell, target: LaunchedTarget
) -> None:
    session = await attached(shell, target.pid)
    code, out, errors = await shell.run("arm", "gil.hold", "--process", str(target.pid), "--wait", "10s")
    assert (code, errors) == (0, "")
    assert "gil.hold: biting" in out
    assert await target.is_silent()
    assert (await shell.run("release", "--all"))[0] == 0
    await target.ticks()
    session.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE_S):
        assert await session.wait() == 0


@needs_gdb
async def test_ctrl_c_gives_back_what_is_armed_and_the_process_goes_on(
    shell: Shell, target: LaunchedTarget
) -> None:
    session = await attached(shell, target.pid)
    await shell.run("arm", "gil.hold", "--process", str(target.pid), "--wait", "10s")
    session.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE_S):
        assert await session.wait() == 0
    await target.ticks()


@needs_gdb
async def test_the_session_ends_with_the_process(shell: Shell, target: LaunchedTarget) -> None:
    session = await attached(shell, target.pid)
    await target.launched.terminate(grace_s=1.0)
    async with asyncio.timeout(DEADLINE_S):
        assert await session.wait() == 0


async def test_a_refusal_is_one_line_and_exit_status_2(shell: Shell, controller: Controller) -> None:
    sleep = await controller.launch(["sleep", "60"])
    code, out, errors = await shell.run("attach", str(sleep.pid))
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"wedge: cannot attach to process {sleep.pid}: ")
    assert Path(f"/proc/{sleep.pid}").exists()
