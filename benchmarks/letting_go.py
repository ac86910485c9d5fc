"""How soon a process runs on after a fault, and whether it then holds more than before."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import killed
from benchmarks.figures import Latencies, Section
from benchmarks.ticks import Ticks
from faults import Controller, Fault, Selector

TICKER = Path(__file__).parent / "ticker.py"
WAITING: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("gil.hold", {}),
    ("call.stall", {"site": "json:loads"}),
    ("call.stall", {"site": "json:loads", "gil": "held"}),
    ("call.delay", {"site": "json:loads", "delay": "60"}),
    ("object.finalizer_stall", {"site": "__main__:Thing"}),
    ("object.finalizer_stall", {"site": "__main__:Thing", "gil": "held"}),
    ("loop.block", {}),
    ("loop.block", {"gil": "held"}),
    ("process.stop", {}),
)
"""Every fault in which somebody in the target waits, but for cuda.stream_stall (docs/gpu.md)."""
RELAYED: tuple[tuple[str, Mapping[str, str]], ...] = (("net.half_open", {}), ("net.slow", {"delay": "60"}))
"""The same for what goes through a relay."""
_WITHIN_S = 15.0
_SAID_EVERY_S = 0.005
_RELEASES_A_ROUND = 20
_CYCLES_A_ROUND = 200
_WARM_UP = 100
_KILLS_A_ROUND = 20


async def by_release(section: Section, controller: Controller, rounds: int) -> None:
    """Release latency of every fault that waits, beside a wake-up through a pipe."""
    times = _RELEASES_A_ROUND * rounds
    floor = await asyncio.to_thread(_woken, times)
    section.add(
        "a process is woken through a pipe, p99", floor.p99_ms, "ms", note=f"p50 {floor.p50_ms:.3g} ms"
    )
    with _ticker(controller.environment(os.environ)) as (process, ticks):
        await controller.wait_process(Selector(pid=process.pid))
        for name, params in WAITING:
            taken = []
            for _ in range(times):
                fault = controller.arm(name, process=process.pid, params=params)
                taken.append(await _released_after_s(fault, ticks))
            held = ", the GIL held" if params.get("gil") == "held" else ""
            _add_release(section, name + held, Latencies(tuple(taken)))


def _add_release(section: Section, what: str, taken: Latencies) -> None:
    note = f"p50 {taken.p50_ms:.3g} ms"
    section.add(f"release of {what}, p99", taken.p99_ms, "ms", limit=50, note=note)


async def through_a_relay(section: Section, controller: Controller, rounds: int) -> None:
    """Release latency of the faults that keep what goes through a relay: from the call to the byte kept."""
    with _ticker(controller.environment(os.environ)) as (process, _):
        await controller.wait_process(Selector(pid=process.pid))
        listening = await asyncio.start_server(_echo, "127.0.0.1", 0)
        async with listening:
            to = {"to": f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"}
            async with controller.arm("net.relay", process=process.pid, params=to) as relay:
                await relay.wait_biting(_WITHIN_S)
                port = relay.status().details["port"]
                for name, params in RELAYED:
                    taken = []
                    for _ in range(_RELEASES_A_ROUND * rounds):
                        fault = controller.arm(name, process=process.pid, params=params)
                        taken.append(await _let_through_after_s(fault, port))
                    _add_release(section, name, Latencies(tuple(taken)))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while received := await reader.read(1024):
            writer.write(received)
    finally:
        writer.close()


async def _let_through_after_s(fault: Fault, port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_WITHIN_S), fault:
            sent = await _said_until_hit(fault, writer)
            released_s = time.monotonic()
            await asyncio.gather(fault.release(), reader.readexactly(sent))
            return time.monotonic() - released_s
    finally:
        writer.close()


async def _released_after_s(fault: Fault, ticks: Ticks) -> float:
    async with fault:
        await _bitten(fault)
        if not await asyncio.to_thread(ticks.silent):
            raise RuntimeError(f"{fault.name} has somebody inside, and the process goes on ticking")
        released_s = time.monotonic()
        await fault.release()
        tick_s = await asyncio.to_thread(ticks.next_s, after_s=released_s, within_s=_WITHIN_S)
    if tick_s is None:
        raise RuntimeError(f"{fault.name} was released, and the process does not go on")
    return tick_s - released_s


async def _said_until_hit(fault: Fault, writer: asyncio.StreamWriter) -> int:
    """Send bytes until the relay holds some; returns how many were sent."""
    sent = 0
    while not fault.status().hits:
        writer.write(b"x")
        sent += 1
        await asyncio.sleep(_SAID_EVERY_S)
    return sent


async def _bitten(fault: Fault) -> None:
    async with asyncio.timeout(_WITHIN_S):
        while not fault.status().inside:  # noqa: ASYNC110  # memory that another process writes
            await asyncio.sleep(0.001)


def _woken(times: int) -> Latencies:
    taken = []
    with _ticker(dict(os.environ), "--told") as (process, ticks):
        assert process.stdin is not None
        for _ in range(times):
            told_s = time.monotonic()
            process.stdin.write(b"x")
            tick_s = ticks.next_s(after_s=told_s, within_s=_WITHIN_S)
            if tick_s is None:
                raise RuntimeError("a process that waits on a pipe was not woken")
            taken.append(tick_s - told_s)
    return Latencies(tuple(taken))


@contextmanager
def _ticker(env: dict[str, str], *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Ticks]]:
    with Ticks() as ticks:
        command = [sys.executable, str(TICKER), str(ticks.port), *flags]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, bufsize=0) as process:
            try:
                yield process, ticks
            finally:
                process.kill()


async def again_and_again(section: Section, controller: Controller, rounds: int) -> None:
    """Measure what the process holds in addition after many faults."""
    cycles = _CYCLES_A_ROUND * rounds
    with _ticker(controller.environment(os.environ)) as (process, ticks):
        await controller.wait_process(Selector(pid=process.pid))
        for _ in range(_WARM_UP):
            await _released_after_s(controller.arm("gil.hold", process=process.pid), ticks)
        before = _possessions(process.pid)
        for _ in range(cycles):
            async with controller.arm("gil.hold", process=process.pid) as fault:
                await _bitten(fault)
        after = _possessions(process.pid)
    for what, unit, limit in (("descriptors", "", 0), ("threads", "", 0), ("memory of its own", "KiB", 512)):
        more = after[what] - before[what]
        section.add(f"more {what} after {cycles} faults", more, unit, limit=limit)


def _possessions(pid: int) -> dict[str, int]:
    """Descriptors, threads, and KiB of memory that is shared with nobody (proc_pid_smaps(5))."""
    process = Path(f"/proc/{pid}")
    pages = (process / "smaps_rollup").read_text().splitlines()
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "memory of its own": sum(int(line.split()[1]) for line in pages if line.startswith("Private_")),
    }


def by_dying(section: Section, rounds: int) -> None:
    """How soon processes run on after their controller is killed."""
    freed_s = killed.freed_after_s(_KILLS_A_ROUND * rounds)
    in_time = sum(after_s <= 1.0 for after_s in freed_s)
    section.add(
        f"processes free within 1 s of their controller's SIGKILL, of {len(freed_s)}",
        in_time,
        "",
        limit=len(freed_s),
        at_least=True,
        note=f"median {statistics.median(freed_s) * 1e3:.3g} ms, longest {max(freed_s) * 1e3:.3g} ms",
    )
