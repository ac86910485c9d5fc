"""No launched process outlives its launcher, and no other process is touched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from faults import Controller, LaunchFailed, procfs
from tests.faults.bench import DEADLINE_S, until

# Several write to one pipe: each line is one write, with PYTHONUNBUFFERED too.
TREE = """
import os, signal, subprocess, sys, time
says = "os.write(1, b'%d\\\\n' % os.getpid()); time.sleep(600)"
daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); " + says
deaf = "import signal, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + says
for program in (daemon, deaf):
    subprocess.Popen([sys.executable, "-c", program])
os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""

SHARES = """
import sys
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")
print(memory.name, flush=True)
if "child" in sys.argv:
    import os
    if os.fork(): memory.close()
sys.stdin.read()
"""

HARNESS = """
import asyncio, os, sys
from faults import Controller
async def main():
    async with Controller() as c:
        launched = await c.launch([sys.executable, "-c", sys.argv[1]], stdin=asyncio.subprocess.PIPE)
        os.write(1, f"{c.path}\\n".encode())
        await asyncio.sleep(60)
asyncio.run(main())
"""


SEEN_WITHIN_S = 0.5


async def lines(stream: asyncio.StreamReader | None, count: int) -> list[str]:
    """So many lines, within the deadline."""
    assert stream is not None
    async with asyncio.timeout(DEADLINE_S):
        return [(await stream.readline()).decode().strip() for _ in range(count)]


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has collected yet does not."""
    found = procfs.stat(pid)
    return found is not None and found.state not in "ZX"


async def test_closing_ends_daemons_and_the_deaf(controller: Controller) -> None:
    launched = await controller.launch([sys.executable, "-c", TREE], stdout=asyncio.subprocess.PIPE)
    pids = sorted(int(line) for line in await lines(launched.stdout, 3))
    assert set(pids) <= set(launched.pids())
    await launched.close()
    assert not any(map(alive, pids))
    assert launched.returncode == -signal.SIGTERM


async def test_a_stopped_process_is_ended_too(controller: Controller) -> None:
    launched = await controller.launch([sys.executable, "-c", "import time; time.sleep(600)"])
    os.kill(launched.pid, signal.SIGSTOP)
    await launched.close()
    assert not alive(launched.pid)
    assert launched.returncode == -signal.SIGTERM  # it went on, and ended as it was asked to


async def test_the_harness_is_killed_and_everything_below_it_goes(tmp_path: Path) -> None:
    harness = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HARNESS, TREE, stdout=asyncio.subprocess.PIPE
    )
    *pids, path = sorted(await lines(harness.stdout, 4), key=lambda line: line.startswith("/"))
    harness.kill()
    await harness.wait()
    await until(lambda: not any(alive(int(pid)) for pid in pids))
    await until(lambda: not Path(path).exists())


async def test_ctrl_c_reaches_the_harness_alone_which_leaves_cleanly() -> None:
    harness = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HARNESS, TREE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    *pids, path = sorted(await lines(harness.stdout, 4), key=lambda line: line.startswith("/"))
    assert all(os.getpgid(int(pid)) != harness.pid for pid in pids)
    os.killpg(harness.pid, signal.SIGINT)
    async with asyncio.timeout(DEADLINE_S):
        await harness.communicate()
    assert not any(alive(int(pid)) for pid in pids)
    assert not Path(path).exists()


@pytest.mark.parametrize("mode", ["killed", "child"])
async def test_shared_memory_that_the_command_made_is_removed(controller: Controller, mode: str) -> None:
    launched = await controller.launch(
        [sys.executable, "-c", SHARES, mode], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    (name,) = await lines(launched.stdout, 1)
    assert Path("/dev/shm", name).exists()
    if mode == "killed":
        await asyncio.sleep(SEEN_WITHIN_S)  # the guard tells nobody when it has seen who made what
        os.kill(launched.pid, signal.SIGKILL)
    await launched.close()
    assert not Path("/dev/shm", name).exists()


async def test_shared_memory_that_somebody_else_made_or_uses_stays(controller: Controller) -> None:
    launched = await controller.launch(
        [sys.executable, "-c", SHARES], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    (name,) = await lines(launched.stdout, 1)
    used = shared_memory.SharedMemory(name)
    ours = shared_memory.SharedMemory(create=True, size=4096)
    idle = Path("/dev/shm", f"{name}-that-nobody-has-open")
    idle.touch()
    try:
        await launched.close()
        assert idle.exists()
        assert Path("/dev/shm", name).exists()
        assert Path("/dev/shm", ours.name).exists()
    finally:
        idle.unlink()
        for memory in (used, ours):
            memory.close()
            memory.unlink()


async def test_the_exit_code_and_the_streams_are_the_commands_own(controller: Controller) -> None:
    launched = await controller.launch(
        [sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(3)"],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert launched.stdin is not None
    assert launched.stdout is not None
    launched.stdin.write(b"said")
    launched.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await launched.stdout.read() == b"said\n"
        assert await launched.wait() == 3
    assert launched.returncode == 3


async def test_the_command_starts_with_the_usual_signals_and_no_stray_descriptors(
    controller: Controller,
) -> None:
    program = (
        "import json, os\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "files = sorted(os.listdir('/proc/self/fd'))\n"
        "print(json.dumps([status['SigIgn'].strip(), status['SigBlk'].strip(), files]))"
    )
    launched = await controller.launch(
        ["/bin/sh", "-c", 'exec "$0" "$@"', sys.executable, "-I", "-c", program],
        stdout=asyncio.subprocess.PIPE,
    )
    ignored, blocked, descriptors = json.loads((await lines(launched.stdout, 1))[0])
    pythons_own = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    assert int(ignored, 16) & ~pythons_own == 0
    assert int(blocked, 16) == 0
    assert descriptors == ["0", "1", "2", "3"]  # 3 is the listing itself


@pytest.mark.parametrize(
    ("command", "says"),
    [([], "name a program"), (["/no/such/program"], "No such file"), (["/etc/passwd"], "Permission denied")],
)
async def test_a_command_that_cannot_start_says_why(
    controller: Controller, command: list[str], says: str
) -> None:
    with pytest.raises(LaunchFailed, match=says):
        await controller.launch(command)


async def test_a_missing_working_directory_is_said(controller: Controller, tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="missing"):
        await controller.launch([sys.executable], cwd=tmp_path / "missing")


async def test_a_guard_that_is_killed_takes_the_command_with_it(controller: Controller) -> None:
    launched = await controller.launch([sys.executable, "-c", "import time; time.sleep(600)"])
    found = procfs.stat(launched.pid)
    assert found is not None
    os.kill(found.ppid, signal.SIGKILL)
    await until(lambda: not alive(launched.pid))
    async with asyncio.timeout(DEADLINE_S):
        await launched.close()
