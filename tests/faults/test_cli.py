"""The commands: they hold a session, break its processes, release them, and report errors in one line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import procfs
from tests.faults.bench import DEADLINE_S, Target

PROGRAM = Path(__file__).parent / "program" / "workbench.py"


class Shell:
    """Runs commands with a runtime directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start one command."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "faults", *arguments,
            env=self.env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
        )  # fmt: skip

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        """Run one command to its end: its exit code, output and errors."""
        process = await self.start(*arguments)
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
        return process.returncode, out.decode(), errors.decode()


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Commands that find no session but those of the test."""
    return Shell(tmp_path_factory.mktemp("w"))


@pytest.fixture
async def held(shell: Shell) -> AsyncIterator[tuple[Target, asyncio.subprocess.Process]]:
    """The workbench below `wedge exec`."""
    process = await shell.start("exec", "--", sys.executable, str(PROGRAM))
    assert process.stdin is not None
    assert process.stdout is not None
    target = Target(process.pid, process.stdin, process.stdout)
    try:
        await target.ready()
        yield target, process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()
        await target.ended()
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()
        process.stdin.close()


async def test_exec_arm_status_and_release_go_together(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process]
) -> None:
    target, _ = held
    code, out, _ = await shell.run("arm", "gil.hold", "--lease", "20s")
    assert code == 0
    assert "f1 gil.hold: biting" in out
    assert await target.is_silent()
    code, out, _ = await shell.run("status", "--json")
    status = json.loads(out)
    assert code == 0
    assert [fault["state"] for fault in status["faults"]] == ["biting"]
    assert len(status["processes"]) == 1
    assert (await shell.run("release", "f1"))[0] == 0
    await target.ticks()
    code, out, _ = await shell.run("status")
    assert "released" in out


async def test_parameters_and_triggers_are_given_as_settings(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process]
) -> None:
    target, _ = held
    await target.do("import workshop")
    settings = ("site=workshop:work", "what=result", "on_hit=2")
    code, out, _ = await shell.run("arm", "call.drop", *settings, "--json", "--process", "cmdline=workbench")
    assert code == 0
    assert json.loads(out)["trigger"] == {"on_hit": 2}
    assert await target.ask("[workshop.work(1), workshop.work(1), workshop.work(1)]") == [1, None, 1]
    assert (await shell.run("release", "--all"))[0] == 0


async def test_waiting_for_a_bite_that_does_not_come_fails(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process]
) -> None:
    target, _ = held
    await target.do("import workshop")
    code, _, errors = await shell.run("arm", "call.stall", "site=workshop:work", "--wait", "100ms")
    assert code == 1
    assert "did not bite within 0.1 s" in errors


async def test_ctrl_c_ends_the_command_and_what_breaks_it(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process]
) -> None:
    target, process = held
    pid = await target.ask("os.getpid()")
    await shell.run("arm", "gil.hold")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 128 + signal.SIGINT
    assert procfs.stat(pid) is None
    assert list(Path(shell.env["XDG_RUNTIME_DIR"], "faults").iterdir()) == []


@pytest.mark.parametrize(
    ("program", "code"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
async def test_exec_exits_as_the_command_does(shell: Shell, program: str, code: int) -> None:
    returned, _, errors = await shell.run("exec", "--quiet", "--", sys.executable, "-c", program)
    assert (returned, errors) == (code, "")


async def test_several_sessions_must_be_told_apart(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process]
) -> None:
    other = await shell.start("exec", "--", sys.executable, "-c", "input()")
    assert other.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        name = (await other.stderr.readline()).split()[2].rstrip(b",").decode()
    code, _, errors = await shell.run("status")
    assert code == 2
    assert "choose one with --session" in errors
    assert name in errors
    code, out, _ = await shell.run("status", "--session", name)
    assert code == 0
    assert name in out
    async with asyncio.timeout(DEADLINE_S):
        await other.communicate(b"\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status"], "no session is open; start the target with `wedge exec"),
        (["arm", "gil.hodl"], "did you mean gil.hold"),
        (["arm", "gil.hold"], "no session is open"),
        (["arm", "noop", "what"], "write NAME=VALUE"),
        (["release"], "--all"),
        (["faults", "call.stal"], "did you mean call.stall"),
        (["exec", "--", "/no/such/program"], "cannot start /no/such/program"),
    ],
)
async def test_what_cannot_be_done_is_one_line_and_exit_2(
    shell: Shell, arguments: list[str], says: str
) -> None:
    code, out, errors = await shell.run(*arguments)
    assert (code, out) == (2, "")
    assert says in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["arm", "call.stall"], "needs the parameter 'site'"),
        (["arm", "call.stall", "site=workshop:wrok"], "did you mean work"),
        (["arm", "noop", "colour=red"], "it takes none"),
        (["arm", "noop", "--lease", "10m"], "at most 300 s"),
        (["arm", "noop", "--process", "nobody"], "no process selector is called 'nobody'"),
        (["arm", "noop", "--process", "size=3"], "selects no process"),
        (["release", "f99"], "none is armed"),
    ],
)
async def test_what_a_session_refuses_is_one_line_and_exit_2(
    shell: Shell, held: tuple[Target, asyncio.subprocess.Process], arguments: list[str], says: str
) -> None:
    await held[0].do("import workshop")
    code, out, errors = await shell.run(*arguments)
    assert (code, out) == (2, "")
    assert says in errors
    assert len(errors.splitlines()) == 1


async def test_the_catalogue_is_listed_with_parameters(shell: Shell) -> None:
    code, out, _ = await shell.run("faults", "--json")
    listed = {fault["name"]: fault for fault in json.loads(out)}
    assert code == 0
    assert {"noop", "gil.hold", "call.stall", "call.drop", "process.stop", "process.kill"} <= listed.keys()
    assert [parameter["name"] for parameter in listed["call.stall"]["params"]] == ["site", "gil"]
    code, out, _ = await shell.run("faults", "gil.hold")
    assert "Cannot:" in out
