"""How the agent gets into a program, and that it does not disturb the program."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults import Controller, Selector
from faults.agent import AGENT_DIRECTORY
from tests.faults.bench import DEADLINE_S, LaunchedTarget, launched, result, until

PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
ALL_PYTHONS = sorted(
    PYENV.glob("[23].*/bin/python"), key=lambda path: [int(n) for n in path.parts[-3].split(".")]
)
SUPPORTED = [path for path in ALL_PYTHONS if tuple(map(int, path.parts[-3].split(".")[:2])) >= (3, 8)]


async def run(controller: Controller, *arguments: str, python: str = sys.executable) -> str:
    """The standard output of Python with those arguments and the agent; it must print nothing else."""
    process = await asyncio.create_subprocess_exec(
        python,
        *arguments,
        env=controller.environment(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        out, errors = await process.communicate()
    assert errors == b""
    assert process.returncode == 0
    return out.decode()


STATE = (
    "import sys, os, json, threading\n"
    "print(json.dumps([sys.path, sorted(sys.modules), threading.active_count()]))"
)
AGENT_NEEDS = {"wedge_agent", "wedge_agent.unpatched", "sitecustomize", "_socket", "select", "__future__"}


async def test_a_program_sees_the_same_path_and_threads_as_without_the_agent(controller: Controller) -> None:
    path, modules, threads = json.loads(await run(controller, "-c", STATE))
    plain = subprocess.run([sys.executable, "-c", STATE], capture_output=True, check=True, timeout=DEADLINE_S)
    plain_path, plain_modules, plain_threads = json.loads(plain.stdout)
    assert path == plain_path
    assert threads == plain_threads
    assert set(modules) - set(plain_modules) <= AGENT_NEEDS


async def test_the_users_own_sitecustomize_still_runs(controller: Controller, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.users_own = __file__")
    env = controller.environment({**os.environ, "PYTHONPATH": str(tmp_path)})
    done = await controller.launch(
        [sys.executable, "-c", "import sys, sitecustomize; print(sys.users_own == sitecustomize.__file__)"],
        env=env,
        stdout=asyncio.subprocess.PIPE,
    )
    assert done.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await done.stdout.read() == b"True\n"


OLD = [path for path in ALL_PYTHONS if path not in SUPPORTED]


@pytest.mark.parametrize("python", OLD, ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("own", [None, "import sys; sys.users_own = 1", "import there_is_no_such_module"])
def test_a_python_that_is_too_old_for_the_agent_runs_as_without_it(
    tmp_path: Path, python: Path, own: str | None
) -> None:
    if own is not None:
        (tmp_path / "sitecustomize.py").write_text(own)
    program = "import sys; print(sorted(sys.path)); print(getattr(sys, 'users_own', None))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    wedged = {
        **env,
        "PYTHONPATH": os.pathsep.join([str(AGENT_DIRECTORY), str(tmp_path)]),
        "FAULTS_AGENT": str(tmp_path / "nobody.sock"),
    }
    seen, plain = (
        subprocess.run([python, "-c", program], env=each, capture_output=True, text=True, timeout=DEADLINE_S)
        for each in (wedged, env)
    )
    assert (seen.returncode, seen.stdout) == (plain.returncode, plain.stdout)
    assert seen.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_an_error_of_the_users_sitecustomize_is_told_as_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import there_is_no_such_module")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(AGENT_DIRECTORY), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", "print(1)"], env=env, capture_output=True, timeout=DEADLINE_S
    )
    assert done.stdout == b"1\n"
    assert b"there_is_no_such_module" in done.stderr


def test_without_a_controllers_address_the_agent_opens_nothing() -> None:
    env = {name: value for name, value in os.environ.items() if name != "FAULTS_AGENT"}
    env["PYTHONPATH"] = str(AGENT_DIRECTORY)
    program = "import os, sys; print(len(os.listdir('/proc/self/fd')), 'wedge_agent' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=DEADLINE_S)
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=DEADLINE_S)
    assert done.stdout == plain.stdout
    assert b"False" in done.stdout


async def test_the_former_name_of_the_variable_is_read_too(controller: Controller) -> None:
    env = controller.environment(os.environ)
    env["WEDGE_AGENT"] = env.pop("FAULTS_AGENT")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", env=env, stdin=pipe)
    try:
        assert (await controller.wait_process("main", timeout_s=DEADLINE_S)).pid == process.pid
    finally:
        await process.communicate(b"\n")


def test_a_controller_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(AGENT_DIRECTORY), "FAULTS_AGENT": str(tmp_path / "nobody.sock")}
    done = subprocess.run(
        [sys.executable, "-c", "print(1)"], env=env, capture_output=True, timeout=DEADLINE_S
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


FORK = """
import os, sys
child = os.fork()
if child == 0:
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.parts[-3])
async def test_a_forked_child_connects_by_itself_and_its_parent_stays_single_threaded(
    controller: Controller, python: Path
) -> None:
    launched = await controller.launch(
        [str(python), "-W", "always", "-c", FORK],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    parent = await controller.wait_process(Selector(main=True))
    await until(lambda: len(controller.processes()) == 2)
    child = next(process for process in controller.processes() if process.pid != parent.pid)
    assert child.ppid == parent.pid
    for pid in (parent.pid, child.pid):
        async with controller.arm("noop", process=pid) as fault:
            await fault.wait_biting(timeout_s=5)
    assert launched.stdin is not None
    launched.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await launched.wait() == 0
        assert launched.stderr is not None
        if python.parts[-3].startswith("3.13"):  # which counts threads only when the agent is back
            return
        assert await launched.stderr.read() == b""  # from 3.12 on, a fork with threads is warned of


async def test_a_fault_of_the_parent_is_not_in_its_forked_child(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = target.start("workshop.work(1)")
        await fault.wait_biting(timeout_s=5)
        await target.do(
            "r, w = os.pipe()\nr2, w2 = os.pipe()\nchild = os.fork()\n"
            "if child == 0:\n"
            "    os.write(w, str(workshop.work(7)).encode())\n    os.read(r2, 1)\n    os._exit(0)"
        )
        assert await target.ask("os.read(r, 10).decode()") == "7"
        assert not stuck.done()
        await until(lambda: any("not covered" in finding for finding in fault.status().evidence))
        assert fault.status().inside == 1
        await target.ask("os.write(w2, b'x') and os.waitpid(child, 0)[1]")
    assert await stuck == 1


async def test_a_new_process_is_covered_when_that_is_asked_for(
    controller: Controller, target: LaunchedTarget
) -> None:
    await target.do("import workshop")
    fault = controller.arm("call.drop", process="bench", params={"site": "work"}, newcomers="cover")
    async with fault:
        await target.do(
            "r, w = os.pipe()\nr2, w2 = os.pipe()\nchild = os.fork()\n"
            "if child == 0:\n"
            "    os.read(r2, 1)\n    os.write(w, str(workshop.work(7)).encode())\n    os._exit(0)"
        )
        await until(lambda: any("is covered" in finding for finding in fault.status().evidence))
        await target.ask("os.write(w2, b'x')")
        assert await target.ask("os.read(r, 10).decode()") == "None"
        await target.ask("os.waitpid(child, 0)[1]")


async def test_a_fork_while_the_agent_is_busy_does_not_leave_it_deaf(
    controller: Controller, target: LaunchedTarget, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\nsys.begun.set()\ntime.sleep(1.5)\ndef work(): return 1"
    )
    await target.do(f"sys.path.append({str(tmp_path)!r}); sys.begun = threading.Event()")
    importing = target.start("import slow", execute=True)
    assert await target.ask("sys.begun.wait(5)")
    arming = asyncio.create_task(
        controller.arm("call.drop", process="bench", params={"site": "slow:work"}).arm()
    )
    await target.do("child = os.fork()\nif child == 0: os._exit(0)")
    await result(importing)
    await arming
    assert await target.ask("sys.modules['slow'].work()") is None
    await target.ask("os.waitpid(child, 0)[1]")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_workers_of_multiprocessing_are_found(
    controller: Controller, tmp_path: Path, method: str
) -> None:
    program = tmp_path / "workers.py"
    program.write_text(
        "import multiprocessing, sys\n"
        "def work(n): return n\n"
        "if __name__ == '__main__':\n"
        f"    pool = multiprocessing.get_context({method!r}).Pool(2)\n"
        "    print(pool.map(work, [1, 2]), flush=True)\n"
        "    sys.stdin.read()\n"
        "    pool.close()\n"
        "    pool.join()\n"
    )
    launched = await controller.launch(
        [sys.executable, str(program)], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert launched.stdout is not None
    assert launched.stdin is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await launched.stdout.readline() == b"[1, 2]\n"
    main = await controller.wait_process(Selector(main=True))
    await until(lambda: len(controller.processes()) >= 3)
    below = [process for process in controller.processes() if process.pid != main.pid]
    for process in below:
        async with controller.arm("noop", process=process.pid) as fault:
            await fault.wait_biting(timeout_s=5)
    launched.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await launched.wait() == 0


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.parts[-3])
async def test_a_program_that_closes_all_descriptors_loses_the_agent_and_nothing_else(
    controller: Controller, python: Path
) -> None:
    program = (
        "import os, sys, time; os.closerange(3, 100)\n"
        "files = [os.open('/dev/zero', os.O_RDONLY) for _ in range(20)]\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "print(all(len(os.read(fd, 1)) for fd in files))"
    )
    # Its fork is that of a program with one thread: Python 3.12 and later would warn of others.
    for _ in range(3):
        assert await run(controller, "-c", program, python=str(python)) == "True\n"


async def test_exec_in_the_same_process_connects_anew(controller: Controller) -> None:
    program = (
        "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    )
    launched = await controller.launch([sys.executable, "-c", program], stdin=asyncio.subprocess.PIPE)
    after = await controller.wait_process(Selector(cmdline=r"^\S+ -c import sys; sys.stdin"))
    assert after.pid == launched.pid
    assert [process.pid for process in controller.processes()] == [launched.pid]


@pytest.mark.parametrize("path", sorted(AGENT_DIRECTORY.rglob("*.py")), ids=lambda path: path.name)
def test_what_runs_in_a_target_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.parts[-3])
async def test_every_python_here_can_be_broken_and_given_back(controller: Controller, python: Path) -> None:
    async with launched(controller, python=str(python)) as target:
        info = await controller.wait_process("bench")
        assert info.python == python.parts[-3]
        await target.do("import workshop")
        async with controller.arm("gil.hold", process="bench") as held:
            await held.wait_biting(timeout_s=5)
        async with controller.arm("call.stall", process="bench", params={"site": "work"}) as stall:
            stuck = target.start("workshop.work(1)")
            await stall.wait_biting(timeout_s=5)
        assert await result(stuck) == 1
        await target.ticks()


async def test_the_agent_costs_less_than_thirty_milliseconds_at_start(controller: Controller) -> None:
    def start_s(env: dict[str, str]) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", "pass"], env=env, check=True, timeout=DEADLINE_S)
        after = os.times()
        return (after.children_user + after.children_system) - (before.children_user + before.children_system)

    loop = asyncio.get_running_loop()
    with_agent, without = controller.environment(os.environ), dict(os.environ)
    costs = []
    for _ in range(10):
        one = await loop.run_in_executor(None, start_s, with_agent)
        other = await loop.run_in_executor(None, start_s, without)
        costs.append(one - other)
    assert sorted(costs)[len(costs) // 2] < 0.030


SUB_INTERPRETER = """
import os, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
run = getattr(interpreters, "exec", None) or interpreters.run_string
other = interpreters.create()
run(other, "import sys; assert 'wedge_agent' not in sys.modules")
interpreters.destroy(other)
print("wedge_agent" in sys.modules)
"""


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.parts[-3])
async def test_a_sub_interpreter_is_made_and_ended_as_without_the_agent(
    controller: Controller, python: Path
) -> None:
    """From 3.12 on, and in 3.8, one that has a thread of the agent's aborts the process as it ends."""
    assert await run(controller, "-c", SUB_INTERPRETER, python=str(python)) == "True\n"
