"""What a process holds, from outside: each kind of leak is found by name, and its twin that lets go is
not.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scenarios.server.resources import Holding, alive, measure, measure_leaks, wait_agreeing
from scenarios.spec.target import LeakAllowance

HOLDER = """
import mmap, os, subprocess, sys, threading

held = []
print("ready", flush=True)
for line in sys.stdin:
    what = line.strip()
    if what == "mappings":
        held.append(mmap.mmap(-1, 4096))
    elif what == "fds":
        held.append(open("/dev/null"))
    elif what == "threads":
        event = threading.Event()
        threading.Thread(target=event.wait, daemon=True).start()
        held.append(event)
    elif what == "processes":
        held.append(subprocess.Popen(["sleep", "60"]))
    elif what == "let go":
        for thing in held:
            for letting_go in ("close", "set", "kill"):
                getattr(thing, letting_go, lambda: None)()
            getattr(thing, "wait", lambda: None)()
        held.clear()
    elif what == "private":
        held.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE))
    print("done", flush=True)
"""


class Holder:
    """A process that holds what it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._answer()

    def told(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        self._answer()

    def pids(self) -> tuple[int, ...]:
        import psutil

        return (self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True)))

    def held(self) -> Holding:
        return measure(self.pids())

    def end(self) -> None:
        self.told("let go")
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline()


@pytest.fixture
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.end()


@pytest.mark.parametrize("kind", ["mappings", "fds", "threads", "processes"])
async def test_what_is_held_on_to_is_a_leak_and_what_is_let_go_is_none(holder: Holder, kind: str) -> None:
    before = await wait_agreeing(holder.held, 5)
    holder.told(kind)
    found = await measure_leaks(before, holder.held, LeakAllowance(), 0.05)
    assert getattr(found, kind) == 1
    assert any(" left, " in detail for detail in found.details)
    holder.told("let go")
    found = await measure_leaks(before, holder.held, LeakAllowance(), 5)
    assert found.details == ()


async def test_private_memory_is_the_allocator_s_business(holder: Holder) -> None:
    before = await wait_agreeing(holder.held, 5)
    holder.told("private")
    found = await measure_leaks(before, holder.held, LeakAllowance(), 0.05)
    assert found.details == ()


async def test_what_the_target_file_allows_is_no_leak_and_one_more_is(holder: Holder) -> None:
    before = await wait_agreeing(holder.held, 5)
    allowed = LeakAllowance(fds=1, because="a log file")
    holder.told("fds")
    found = await measure_leaks(before, holder.held, allowed, 0.05)
    assert found.fds == 0
    holder.told("fds")
    found = await measure_leaks(before, holder.held, allowed, 0.05)
    assert found.fds == 1


async def test_what_is_let_go_while_we_wait_is_no_leak(holder: Holder) -> None:
    before = await wait_agreeing(holder.held, 5)
    holder.told("threads")
    waiting = asyncio.create_task(measure_leaks(before, holder.held, LeakAllowance(), 5))
    await asyncio.sleep(0)
    holder.told("let go")
    found = await waiting
    assert found.details == ()


async def test_threads_that_the_target_file_ignores_are_not_counted(holder: Holder) -> None:
    assert measure(holder.pids()).counts.threads == 1
    (name,) = (name.split(" of ")[0] for name in measure(holder.pids()).threads)
    assert measure(holder.pids(), [f"{name[:3]}.*"]).counts.threads == 0
    assert measure(holder.pids(), [name[:3]]).counts.threads == 1


def test_a_process_that_ended_holds_nothing(holder: Holder) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not alive(ended.pid)
    assert measure([ended.pid]).counts.processes == 0
    assert alive(holder.pid)
