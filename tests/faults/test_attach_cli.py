"""`wedge attach`: a session for a running process, which runs on when the session ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faults import Controller
from tests.faults import gdb_here
from tests.faults.bench import DEADLINE_S, LaunchedTarget
from tests.faults.test_cli import Shell
from tests.faults.unaware import unaware

needs_a_way_in = pytest.mark.usefixtures("needs_a_way_in")


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Commands that find no session but those of the test."""
    return Shell(tmp_path_factory.mktemp("w"))


@pytest.fixture
async def target(controller: Controller) -> AsyncIterator[LaunchedTarget]:
    """A workbench without an agent; the fixture's controller only ends it."""
    async with unaware(controller) as bench:
        yield bench


@asynccontextmanager
async def attached(shell: Shell, pid: int, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`wedge attach PID`, as soon as it says that it is in; interrupted in the end if it still runs."""
    process = await shell.start("attach", *flags, str(pid))
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            said = (await process.stderr.readline()).decode()
        assert f"attached to {pid}" in said
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await process.communicate()


@needs_a_way_in
async def test_the_same_commands_break_a_process_that_was_attached_to(
    shell: Shell, target: LaunchedTarget
) -> None:
    async with attached(shell, target.pid) as session:
        code, out, errors = await shell.run("arm", "gil.hold", "--process", str(target.pid), "--wait", "10s")
        assert (code, errors) == (0, "")
        assert "gil.hold: biting" in out
        assert await target.is_silent()
        assert (await shell.run("release", "--all"))[0] == 0
        await target.ticks()
    assert session.returncode == 0


@needs_a_way_in
async def test_ctrl_c_gives_back_what_is_armed_and_the_process_goes_on(
    shell: Shell, target: LaunchedTarget
) -> None:
    async with attached(shell, target.pid) as session:
        await shell.run("arm", "gil.hold", "--process", str(target.pid), "--wait", "10s")
    assert session.returncode == 0
    await target.ticks()


@needs_a_way_in
async def test_the_session_ends_with_the_process(shell: Shell, target: LaunchedTarget) -> None:
    async with attached(shell, target.pid) as session:
        await target.launched.terminate(grace_s=1.0)
        async with asyncio.timeout(DEADLINE_S):
            assert await session.wait() == 0


async def test_a_refusal_is_one_line_and_exit_status_2(shell: Shell, controller: Controller) -> None:
    sleep = await controller.launch(["sleep", "60"])
    code, out, errors = await shell.run("attach", str(sleep.pid))
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"wedge: cannot attach to process {sleep.pid}: ")
    assert Path(f"/proc/{sleep.pid}").exists()


async def test_a_gdb_that_would_break_it_is_told_and_not_let_in(
    target: LaunchedTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entered = gdb_here.put_in_the_way(monkeypatch, tmp_path)
    shell = Shell(tmp_path)
    code, out, errors = await shell.run("attach", str(target.pid))
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert gdb_here.AMX_SAYS in errors
    assert str(target.pid) not in entered.read_text().split()
    await target.ticks()
