"""A process is found by what ps(1) shows of it, its port and what is above it, with an agent or without."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from faults import Controller, NoSuchProcess, Selector, procfs, tell_apart
from tests.faults.bench import DEADLINE_S, until

pytestmark = pytest.mark.once

BOSS = """
import multiprocessing, socket, sys, time

def retitle(title):
    open("/proc/self/comm", "w").write(title)
    begin, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[45:47])
    with open("/proc/self/mem", "r+b", 0) as memory:
        memory.seek(begin)
        memory.write(title.encode().ljust(end - begin - 1, bytes(1))[: end - begin - 1])

def engine(port):
    listener = socket.create_server(("127.0.0.1", 0))
    port.value = listener.getsockname()[1]
    retitle("MINE::Engine")
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    port = context.Value("i", 0)
    context.Process(target=engine, args=(port,), daemon=True).start()
    while not port.value:
        time.sleep(0.02)
    print(port.value, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_what_a_process_is_called_and_where_it_listens_select_it(tmp_path: Path, method: str) -> None:
    (tmp_path / "boss.py").write_text(BOSS)
    named = {"shell": Selector(cmdline="^sh -c"), "boss": Selector(main=True)}
    with (tmp_path / "port").open("w+b") as printed:
        async with Controller(processes=named) as controller:
            shell = await controller.launch(
                ["sh", "-c", f"{sys.executable} boss.py {method} & wait"], cwd=tmp_path, stdout=printed
            )
            await until(lambda: (tmp_path / "port").read_text().endswith("\n"))
            port = int((tmp_path / "port").read_text())

            async def selected(**conditions: object) -> list[int]:
                found = await controller.find_processes(
                    Selector(**conditions),  # type: ignore[arg-type]
                    timeout_s=DEADLINE_S,
                    agents=False,
                )
                return [info.pid for info in found]

            (engine,) = await selected(cmdline="^MINE::Engine$")
            assert await selected(port=port) == [engine]
            assert await selected(parent="boss") == [engine]  # and none of multiprocessing's helpers
            assert len(await selected(cmdline="resource_tracker")) == 1
            (boss,) = await selected(main=True)
            assert boss in procfs.ancestors(engine)
            assert set(await selected(parent="shell")) == {boss, engine}
            assert engine in await selected(main=False)
            assert boss not in await selected(main=False)
            assert await selected(cmdline="^sh -c") == [shell.pid]

            async with controller.arm("process.stop", process="shell") as fault:
                assert (await fault.wait_biting(DEADLINE_S)).pids == (shell.pid,)
            with pytest.raises(NoSuchProcess, match=rf"{shell.pid} \(sh -c .*\): it runs no Python; only"):
                await controller.wait_process("shell", timeout_s=0.1)


async def test_a_helper_that_lives_for_a_moment_is_never_the_main_process(tmp_path: Path) -> None:
    helper, server = (f"{sys.executable} -c 'import time; time.sleep({s})'" for s in (0.5, 60))
    async with Controller() as controller:
        await controller.launch(["sh", "-c", f"{helper}; {server} & while true; do {helper}; done"])
        for _ in range(2):
            main = await controller.wait_process(Selector(main=True), timeout_s=DEADLINE_S)
            assert "sleep(60)" in " ".join(main.argv)
            os.kill(main.pid, 0)


def test_processes_are_told_in_a_few_words_that_show_what_differs() -> None:
    long = "/opt/very/long/python -m server --model /a/very/long/path/to/some/weights"
    assert tell_apart(
        [(1, f"{long} --rank 0"), (2, f"{long} --rank 1"), (3, f"{long} --rank 0 --front")]
    ) == [
        "1 (… 0)",
        "2 (… 1)",
        "3 (… 0 --front)",
    ]
    assert tell_apart((pid, f"{long} --rank {pid}") for pid in range(64)) == ["0, 1, 2, 3 and 60 more (… 0)"]
    assert tell_apart([(7, "/usr/bin/python3 app.py")]) == ["7 (python3 app.py)"]
