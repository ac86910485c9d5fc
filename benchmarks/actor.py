"""Handle → actor → reply beside a bare socketpair ping-pong from the same event loop; and whole registers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.shared_memory import SharedMemory as SharedBlock

import uvloop

from benchmarks.figures import Latencies, Section
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.placement import open_placement
from pegaref.registry import RegistryHandle
from pegaref.wrapper import SharedMemory, encode_wrapper

ECHO = (
    "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nwhile d := s.recv(65536): s.sendall(d)"
)
PIPE_ECHO = (
    "import os, sys\nr, w = int(sys.argv[1]), int(sys.argv[2])\nwhile d := os.read(r, 65536): os.write(w, d)"
)
MESSAGE = b"x" * 40
KEY = ContextKey("bench", 0, 0, 0, 0)
DEADLINE_S = 30.0
LAYERS = 80
BATCH = 100

Turn = Callable[[], Awaitable[object]]


@contextlib.contextmanager
def _socket_ping_pong() -> Iterator[Turn]:
    """One message to a process that sends it back, read by the event loop."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with _echoing(
            ECHO, [theirs.fileno()], ours.fileno(), lambda: ours.send(MESSAGE), lambda: ours.recv(65536)
        ) as turn:
            yield turn


@contextlib.contextmanager
def _pipe_ping_pong() -> Iterator[Turn]:
    """The same over two pipes, as the process placement has them."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    try:
        with _echoing(
            PIPE_ECHO,
            [their_in, their_out],
            our_in,
            lambda: os.write(our_out, MESSAGE),
            lambda: os.read(our_in, 65536),
        ) as turn:
            yield turn
    finally:
        for fd in (their_in, our_out, our_in, their_out):
            os.close(fd)


@contextlib.contextmanager
def _echoing(
    program: str, its_fds: list[int], our_fd: int, send: Callable[[], object], receive: Callable[[], object]
) -> Iterator[Turn]:
    command = [sys.executable, "-S", "-c", program, *map(str, its_fds)]
    with subprocess.Popen(command, pass_fds=its_fds) as process:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None]

        def read() -> None:
            receive()
            answered.set_result(None)

        async def turn() -> None:
            nonlocal answered
            answered = loop.create_future()
            send()
            await answered

        loop.add_reader(our_fd, read)
        try:
            yield turn
        finally:
            loop.remove_reader(our_fd)
            process.kill()


@contextlib.asynccontextmanager
async def _handle(placement_name: str):  # type: ignore[no-untyped-def]  # AsyncIterator[RegistryHandle]
    placement = open_placement(placement_name)
    handle = RegistryHandle([0], placement)
    await handle.start()
    try:
        await handle.clear(deadline_s=DEADLINE_S)  # answered once torch is loaded
        yield handle
    finally:
        await handle.close(grace_s=2.0)
        placement.close()


async def _alternate(turns: dict[str, Turn], rounds: int) -> dict[str, Latencies]:
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            for _ in range(BATCH):
                begun = time.perf_counter()
                await turn()
                if number:  # the first round warms up
                    samples[name].append(time.perf_counter() - begun)
    return {name: Latencies(tuple(taken)) for name, taken in samples.items()}


async def _registers_per_s(handle: RegistryHandle, wrapper: bytes, rounds: int) -> float:
    """Register and unregister 80 layers, one pair after the other; returns pairs per second."""
    layers = tuple(Layer(f"layer.{n}", wrapper, 1, 4096, 0, 1) for n in range(LAYERS))
    begun = time.perf_counter()
    for _ in range(rounds):
        await handle.register(RegisterLayers(KEY, layers), deadline_s=DEADLINE_S)
        await handle.drop_instance("bench", generation=None, deadline_s=DEADLINE_S)
    return rounds / (time.perf_counter() - begun)


async def _measure(section: Section, rounds: int, where: str, *, bounded: bool) -> None:
    block = SharedBlock(create=True, size=4096)
    wrapper = encode_wrapper(SharedMemory(block.name, 4096, "uint8", (4096,)))
    try:
        with _socket_ping_pong() as floor, _pipe_ping_pong() as pipes:
            async with _handle("process") as process, _handle("thread") as thread:
                taken = await _alternate(
                    {
                        "floor: ping-pong": floor,
                        "ping-pong over pipes": pipes,
                        "process placement": lambda: process.clear(deadline_s=DEADLINE_S),
                        "thread placement": lambda: thread.clear(deadline_s=DEADLINE_S),
                    },
                    rounds,
                )
                rates = {
                    name: await _registers_per_s(handle, wrapper, rounds * 5)
                    for name, handle in (("process", process), ("thread", thread))
                }
    finally:
        block.close()
        block.unlink()
    for name, latencies in taken.items():
        note = f"p99 {latencies.p99_ms * 1e3:.3g} µs"
        section.add(f"{where}: {name}, p50", latencies.p50_ms * 1e3, "µs", note=note)
    own = taken["process placement"].p50_ms
    for name, other, limit in (("ping-pong", "floor: ping-pong", 2.0), ("thread", "thread placement", 1.0)):
        ratio = own / taken[other].p50_ms
        section.add(f"{where}: process / {name}", ratio, "×", limit=limit if bounded else None)
    for name, rate in rates.items():
        section.add(f"{where}: register + unregister of {LAYERS} layers, {name}", rate, "pairs/s")


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """This process, and what it starts, on a single core."""
    free = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(free)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, free)


def run(*, rounds: int) -> Section:
    """Take the figures on uvloop, as the server runs: on one core, then wherever the scheduler puts it."""
    section = Section(
        "The actor",
        "`clear` of an empty registry through the handle, from a uvloop event loop. The floor is a "
        "socketpair ping-pong of 40 bytes with an echoing process, from the same loop, in turns. The process "
        "placement uses two pipes, whose own ping-pong is shown too. The placements are compared on one "
        "core. On free cores it is up to chance, for each of the four, whether its other side is woken on "
        "the same core or on a sleeping one, which costs 20 µs and more on a virtual machine: these figures "
        "have no bound.",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        with _on_one_core():
            runner.run(_measure(section, rounds, "one core", bounded=True))
        runner.run(_measure(section, rounds, "free", bounded=False))
    return section
