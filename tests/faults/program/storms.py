"""Storms: bursts of 1 to 16 threads that all fork, spawn, import or start threads at once.

Run as `python storms.py KIND BURSTS SEED`; KIND is fork, multiprocessing, spawn, mixed, uvloop or gevent, and
BURSTS may be 0 in the first four: until standard input ends, for at most a minute.
Prints `storming` at its first burst and `all came back` at its end. A thread that does not come back within
30 s ends it with the stacks of all threads and exit status 1.
"""

from __future__ import annotations

import _thread
import faulthandler
import os
import random
import select
import subprocess
import sys
import time
from typing import Any, Callable, Sequence

_BACK_WITHIN_S = 30.0
_ENDLESS_S = 60.0
# A child must not import what another thread may have been importing: Python would wait for ever by itself.
_MODULES, _CHILDS_MODULE = ("colorsys", "this_is_not_there", "stringprep", "tabnanny"), "fileinput"

# What gevent replaces, as it was: the threads below are the kernel's in every kind of storm.
fork, waitpid = os.fork, os.waitpid
start_new_thread, allocate_lock = _thread.start_new_thread, _thread.allocate_lock


def work(n: int) -> int:
    """What a fault may be armed at."""
    return n


def fork_one() -> None:
    """Fork a child that imports, works and ends."""
    pid = fork()
    if pid == 0:
        __import__(_CHILDS_MODULE)
        work(1)
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    if os.WEXITSTATUS(status) != 7:
        print("a child ended with status", status, flush=True)
        os._exit(1)


def fork_by_multiprocessing() -> None:
    """Fork with multiprocessing, as a server does."""
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=work, args=(1,))
    child.start()
    child.join()
    if child.exitcode:
        print("a child ended with", child.exitcode, flush=True)
        os._exit(1)


def spawn_one() -> None:
    """Start a new interpreter, which is given the agent by its environment."""
    subprocess.run([sys.executable, "-c", "import json"], check=True, timeout=_BACK_WITHIN_S)


def import_one() -> None:
    """Import something that is not imported yet, or try to."""
    name = random.choice(_MODULES)
    sys.modules.pop(name, None)
    try:
        __import__(name)
    except (ImportError, KeyError):  # there is none; or another thread has just done the same
        work(2)


def start_one() -> None:
    """Start a thread and wait for its end."""
    ended = allocate_lock()
    ended.acquire()
    start_new_thread(ended.release, ())
    if not ended.acquire(timeout=_BACK_WITHIN_S):
        stuck("a thread's thread did not end")


def stuck(what: str) -> None:
    """Say so with all stacks, and end."""
    print(what, flush=True)
    faulthandler.dump_traceback(sys.stdout)
    os._exit(1)


KINDS = {
    "fork": (fork_one,),
    "multiprocessing": (fork_by_multiprocessing, fork_one),
    "spawn": (spawn_one, fork_one),
    "mixed": (fork_one, fork_one, import_one, start_one),
}


def burst(
    actions: Sequence[Callable[[], None]], threads: int, also: Callable[[], None] | None = None
) -> None:
    """Run `threads` threads that begin at the same moment, each with one of the actions, and one that runs
    `also`; returns once all have ended.
    """
    begin = allocate_lock()
    begin.acquire()
    ends = []

    def act(action: Callable[[], None], ended: Any) -> None:
        begin.acquire()
        begin.release()
        work(0)
        action()
        ended.release()

    for action in [*random.choices(actions, k=threads), *([also] if also else [])]:
        ended = allocate_lock()
        ended.acquire()
        start_new_thread(act, (action, ended))
        ends.append(ended)
    begin.release()
    left = sum(not ended.acquire(timeout=_BACK_WITHIN_S) for ended in ends)
    if left:
        stuck(f"{left} of {len(ends)} threads never came back")


def storm_of_uvloop(bursts: int) -> None:
    """Bursts out of an event loop that goes on: forks in its executor, then subprocesses of its own.

    One after the other: uvloop has a child that a thread forks while the loop starts a process run the hooks
    of a fork twice (2 of 100 such children, without an agent; Python 3.13 ends them for it).
    """
    import asyncio

    import uvloop

    async def some() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(bursts):
            forks = [loop.run_in_executor(None, fork_one) for _ in range(random.randint(1, 8))]
            await asyncio.wait_for(asyncio.gather(*forks), _BACK_WITHIN_S)
            children = [asyncio.create_subprocess_exec("true") for _ in range(random.randint(0, 3))]
            for child in await asyncio.gather(*children):
                await child.wait()

    loop = uvloop.new_event_loop()
    loop.run_until_complete(some())


def storm_of_gevent(bursts: int) -> None:
    """Bursts of greenlets that fork, then one thread of the kernel's that does beside others that start
    threads, with everything patched.

    One such fork at a time: `concurrent.futures` takes a lock in every fork, and gevent's lock is now and
    then lost on the second thread that asks for it (without an agent: 1 of 18 storms of 600 bursts with up
    to 8 threads that fork, and 3 of 3 of 200 with `sys.setswitchinterval(1e-5)`; gevent 26.9.0, Python 3.11).
    """
    import gevent

    def fork_green() -> None:
        pid = os.fork()  # gevent's
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def fork_unwatched() -> None:
        pid = fork()
        if pid == 0:
            os._exit(0)
        try:
            waitpid(pid, 0)
        except ChildProcessError:  # gevent's loop, which waits for any child, was first
            work(3)

    for _ in range(bursts):
        greenlets = [gevent.spawn(fork_green) for _ in range(random.randint(1, 8))]
        gevent.joinall(greenlets, timeout=_BACK_WITHIN_S, raise_error=True)
        if not all(greenlet.dead for greenlet in greenlets):
            stuck("greenlets never came back")
        burst((start_one,), random.randint(1, 8), also=fork_unwatched)


def ended_input() -> bool:
    """Whether standard input has ended."""
    return bool(select.select([0], [], [], 0)[0])


def main(kind: str, bursts: int, seed: int) -> None:
    """One storm."""
    random.seed(seed)
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    print("storming", flush=True)
    if kind == "gevent":
        storm_of_gevent(bursts)
    elif kind == "uvloop":
        storm_of_uvloop(bursts)
    else:
        until = time.monotonic() + _ENDLESS_S
        done = 0
        while done < bursts or (not bursts and not ended_input() and time.monotonic() < until):
            burst(KINDS[kind], random.randint(1, 16))
            done += 1
    print("all came back", flush=True)
    os._exit(0)


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
