"""Programs whose threads fork, spawn and import at once end as they do without the agent."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

from faults import Controller, Selector
from tests.faults.interpreters import VERSIONS, interpreter, reason
from tests.faults.test_agent import run

STORMS = Path(__file__).parent / "program" / "storms.py"
_ENDS_WITHIN_S = 60.0
_ARMED_TIMES = 3
_BURSTS = {"fork": 25, "multiprocessing": 15, "mixed": 25, "spawn": 2, "uvloop": 25, "gevent": 25}


async def storm(controller: Controller, python: str, kind: str, *, armed: bool = False) -> None:
    """One storm, which must end by itself; with `armed`, faults come into it and go again all the while."""
    launched = await controller.launch(
        [python, "-W", "ignore", str(STORMS), kind, "0" if armed else str(_BURSTS[kind]), "0"],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert launched.stdout is not None
    assert launched.stdin is not None
    async with asyncio.timeout(_ENDS_WITHIN_S):
        assert await launched.stdout.readline() == b"storming\n"
        for _ in range(_ARMED_TIMES if armed else 0):
            fault = controller.arm(
                "call.delay",
                process=Selector(main=True),
                params={"site": "__main__:work", "delay": 0.001},
                newcomers="cover",
            )
            async with fault:
                await fault.wait_biting(timeout_s=_ENDS_WITHIN_S)
        launched.stdin.close()
        assert await launched.stdout.read() == b"all came back\n"
        assert await launched.wait() == 0


HERE = [v for v in VERSIONS if interpreter(v)]


# The storm begins before the first fault and outlasts the last. Without any: on the oldest and the newest.
@pytest.mark.parametrize(
    ("version", "armed"),
    [(v, True) for v in HERE] + [(v, False) for v in HERE if v in (HERE[0], HERE[-1])],
    ids=lambda value: value if isinstance(value, str) else "faults-come-and-go" if value else "nothing-armed",
)
@pytest.mark.parametrize("kind", ["fork", "multiprocessing", "mixed"])
async def test_a_storm_of_forks_ends_as_it_does_without_the_agent(
    controller: Controller, version: str, kind: str, armed: bool
) -> None:
    python = interpreter(version)
    assert python is not None, reason(version)
    await storm(controller, python, kind, armed=armed)


@pytest.mark.parametrize("kind", ["spawn", "uvloop", "gevent"])
async def test_a_storm_of_spawns_or_of_a_loop_ends_as_it_does_without_the_agent(
    controller: Controller, kind: str
) -> None:
    if kind != "spawn" and importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    await storm(controller, sys.executable, kind)


IMPORTING = """
import os, sys, threading

import importlib.abc, importlib.machinery

blocked, go_on = threading.Event(), threading.Event()

class Blocking(importlib.abc.MetaPathFinder):
    # The agent's thread stands still in the middle of that import.
    def find_spec(self, name, path=None, target=None):
        if name != "wedge_agent.calls" or threading.current_thread() is threading.main_thread():
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (blocked.set(), go_on.wait(20), run(module))
        return spec

sys.meta_path.insert(0, Blocking())
other = threading.Thread(target=go_on.wait, args=(20,))
other.start()
print("ready", flush=True)
assert blocked.wait(20)
pid = os.fork()
if pid == 0:
    import wedge_agent.calls
    os.write(1, b"imported\\n")
    os._exit(0)
print(os.waitpid(pid, 0)[1], flush=True)
go_on.set()
other.join()
def work(): pass
sys.stdin.read()
"""


async def test_a_child_that_is_forked_while_the_agent_imports_can_import_the_same(
    controller: Controller,
) -> None:
    launched = await controller.launch(
        [sys.executable, "-W", "ignore", "-c", IMPORTING],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert launched.stdout is not None
    assert launched.stdin is not None
    async with asyncio.timeout(_ENDS_WITHIN_S):
        assert await launched.stdout.readline() == b"ready\n"
        main = await controller.wait_process(Selector(main=True))
        arming = asyncio.create_task(
            controller.arm("call.drop", process=main.pid, params={"site": "__main__:work"}).arm()
        )
        assert await launched.stdout.readline() == b"imported\n"
        assert await launched.stdout.readline() == b"0\n"
        await arming
        launched.stdin.close()
        assert await launched.wait() == 0


HANDLER = """
import os, signal, sys, threading

forked = 0

def fork(*_):
    global forked
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    forked += 1

signal.signal(signal.SIGALRM, fork)
for n in range(200):
    signal.setitimer(signal.ITIMER_REAL, 0.0001 * (n % 20 + 1))  # once, anywhere in what follows
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while True:
        try:
            os.waitpid(pid, 0)
            break
        except InterruptedError:
            continue
signal.setitimer(signal.ITIMER_REAL, 0)  # one that is still due would end an interpreter that shuts down
print(forked > 0)
"""


async def test_a_signal_handler_that_forks_in_the_middle_of_a_fork_holds_up_nothing(
    controller: Controller,
) -> None:
    async with asyncio.timeout(_ENDS_WITHIN_S):
        assert await run(controller, "-c", HANDLER) == "True\n"


PROFILED = """
import os, sys, threading

from gevent import monkey
monkey.patch_all()

allocate_lock = monkey.get_original("_thread", "allocate_lock")
begun, go_on = allocate_lock(), allocate_lock()
begun.acquire(), go_on.acquire()

def other():
    begun.release()
    go_on.acquire()

monkey.get_original("_thread", "start_new_thread")(other, ())
begun.acquire()
called = []

def look(frame, event, _):
    if event == "call" and "wedge_agent" in frame.f_code.co_filename:
        called.append(frame.f_code.co_name)

forked = monkey.get_original("os", "fork")
for n in range(2):
    called.clear()
    sys.setprofile(look)
    pid = forked()
    sys.setprofile(None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    print(bool(called), flush=True)
go_on.release()
"""


async def test_beside_gevent_and_other_threads_no_python_code_of_the_agent_runs_in_a_fork(
    controller: Controller,
) -> None:
    """But for the first, in which it finds out."""
    async with asyncio.timeout(_ENDS_WITHIN_S):
        assert await run(controller, "-W", "ignore", "-c", PROFILED) == "True\nFalse\n"
