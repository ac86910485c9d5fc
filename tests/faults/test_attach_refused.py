"""`attach` refuses a process that it cannot enter, says what is missing, and leaves the process as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import sysconfig
from pathlib import Path

import pytest

from faults import Controller
from faults.attach import (
    AlreadyAttached,
    NoProcess,
    NotAllowed,
    NotAttachable,
    NotPython,
    ToolMissing,
    attach,
    remote_exec,
)
from faults.attach.elf import Mapped
from faults.attach.target import look, refusal_of_scope, version
from tests.faults.bench import DEADLINE_S, until
from tests.faults.unaware import tracer, unaware

SLEEP = ["sleep", "60"]
needs_gdb = pytest.mark.usefixtures("needs_gdb")


async def test_a_number_that_no_process_has(controller: Controller) -> None:
    with pytest.raises(NoProcess, match="there is no such process; look its number up"):
        await attach(controller, 2**22 + 1)  # over the kernel's limit, PID_MAX_LIMIT


async def test_a_process_that_has_ended_and_is_not_collected(controller: Controller) -> None:
    ended = os.posix_spawn("/bin/true", ["true"], os.environ)
    try:
        await until(lambda: ") Z " in Path(f"/proc/{ended}/stat").read_text())
        with pytest.raises(NoProcess, match="it has ended"):
            await attach(controller, ended)
    finally:
        os.waitpid(ended, 0)


async def test_a_program_without_python_is_told_what_works_on_it(controller: Controller) -> None:
    target = await controller.launch(SLEEP)
    with pytest.raises(NotPython, match=r"holds no Python interpreter.*process\.stop"):
        await attach(controller, target.pid)
    assert tracer(target.pid) == 0


async def test_this_very_process(controller: Controller) -> None:
    with pytest.raises(NotAttachable, match="this very process"):
        await attach(controller, os.getpid())


async def test_a_stopped_process_is_not_waited_for(controller: Controller) -> None:
    async with unaware(controller) as target:
        os.kill(target.pid, signal.SIGSTOP)
        try:
            await until(lambda: ") T " in Path(f"/proc/{target.pid}/stat").read_text())
            with pytest.raises(NotAttachable, match=f"it is stopped.*kill -CONT {target.pid}"):
                await attach(controller, target.pid)
        finally:
            os.kill(target.pid, signal.SIGCONT)
        await target.ticks()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
async def test_another_users_process(controller: Controller) -> None:
    process = await asyncio.create_subprocess_exec(*SLEEP, user=65534)
    try:
        with pytest.raises(NotAllowed, match="it runs as user 65534 and this is user 0"):
            await attach(controller, process.pid)
    finally:
        process.kill()
        await process.wait()


@needs_gdb
async def test_a_process_that_a_debugger_is_in(controller: Controller) -> None:
    async with unaware(controller) as target:
        gdb = await controller.launch(
            ["gdb", "-nx", "-q", "-p", str(target.pid)],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert gdb.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            await gdb.stdout.readuntil(b"(gdb) ")
        assert tracer(target.pid) == gdb.pid
        with pytest.raises(AlreadyAttached, match=rf"process {gdb.pid} \(gdb.*end that debugger first"):
            await attach(controller, target.pid)
        await gdb.close()
        await target.ticks()


async def test_without_gdb_an_older_python_is_refused_by_its_name(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with unaware(controller) as target:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolMissing, match=r"gdb is not installed; install it.*apt-get install gdb"):
            await attach(controller, target.pid)
        await target.ticks()


@needs_gdb
async def test_an_interpreter_that_is_mapped_and_not_started(controller: Controller) -> None:
    library = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LDLIBRARY") or "")
    if not (library.is_file() and ".so" in library.name):
        pytest.skip("this Python has no shared library to map")
    target = await controller.launch(SLEEP, env={**os.environ, "LD_PRELOAD": str(library)})
    await until(lambda: Path(f"/proc/{target.pid}/wchan").read_text() == "hrtimer_nanosleep")
    with pytest.raises(NotPython, match="has not been started"):
        await attach(controller, target.pid)
    assert (tracer(target.pid), target.returncode) == (0, None)


@pytest.mark.parametrize(
    ("scope", "capable", "below", "reason"),
    [
        (0, False, False, None),
        (1, False, True, None),
        (1, True, False, None),
        (1, False, False, "only its own ancestors"),
        (2, True, False, None),
        (2, False, True, "only a process with CAP_SYS_PTRACE"),
        (3, True, True, "nobody may trace"),
    ],
)
def test_the_kernels_ptrace_scope_is_named(
    scope: int, capable: bool, below: bool, reason: str | None
) -> None:
    refusal = refusal_of_scope(scope, capable=capable, below=below)
    assert (refusal is None) == (reason is None)
    assert refusal is None or reason is None or reason in refusal[0]


@pytest.mark.parametrize(
    ("executable", "paths", "expected"),
    [
        ("/usr/bin/python3.11", [], (3, 11)),
        ("/opt/server", ["/usr/lib/libpython3.14.so.1.0"], (3, 14)),
        ("/opt/server", ["/usr/lib/libpython3.14t.so.1.0"], (3, 14)),
        ("/usr/bin/python3.9", ["/opt/lib/libpython3.12.so"], (3, 12)),
        ("/opt/server", ["/usr/lib/x/_json.cpython-313-x86_64-linux-gnu.so"], (3, 13)),
        ("/opt/server", ["/usr/lib/libc.so.6"], None),
    ],
)
def test_the_version_is_seen_in_what_is_mapped(
    executable: str, paths: list[str], expected: tuple[int, int] | None
) -> None:
    assert version(executable, [Mapped(0, path) for path in paths]) == expected


async def test_a_python_without_remote_exec_says_that_it_has_none(
    controller: Controller, tmp_path: Path
) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("this Python has sys.remote_exec")
    async with unaware(controller) as target:
        with pytest.raises(ToolMissing, match=r"has no sys\.remote_exec"):
            await remote_exec.load(look(target.pid), tmp_path / "script.py")
        await target.ticks()


async def test_a_refusal_leaves_no_file_behind(controller: Controller) -> None:
    target = await controller.launch(SLEEP)
    with pytest.raises(NotPython):
        await attach(controller, target.pid)
    assert [path.name for path in controller.path.iterdir()] == ["agent.sock"]
