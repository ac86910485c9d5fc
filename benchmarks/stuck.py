"""The endpoints while registers are stuck behind an actor whose GIL is held: 1,000 of them, then 10,000."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks import shots
from benchmarks.figures import Latencies, Section
from benchmarks.servers import LISTENING
from faults import Controller, Selector
from pegaref.client import SharedTensor
from pegaref.wire import engine_pb2, engine_pb2_grpc

ACTOR = Selector(imports="pegaref.actor.tensors")
DEADLINE_S = 25.0
SOON_S = 3.0
CHANNELS = 4
STUCK = 1000
BATCHES = 16
"""The number of batches of shots at each endpoint (benchmarks/take.py) in a turn."""

Taken = Mapping[str, Latencies]


def _request(number: int, wrapper: bytes) -> engine_pb2.RegisterContextRequest:
    return engine_pb2.RegisterContextRequest(
        instance_id=f"stuck-{number}",
        namespace="bench",
        tp_size=1,
        world_size=1,
        layer_names=["layer.0"],
        wrapper_bytes=[wrapper],
        num_blocks=[1],
        bytes_per_block=[4096],
        kv_stride_bytes=[0],
        segments=[1],
    )


class ConcurrentCalls:
    """Waiting registers, over a few channels, and the outcome of each."""

    def __init__(self, address: str, wrapper: bytes) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(CHANNELS)
        ]
        self._stubs = [engine_pb2_grpc.EngineStub(channel) for channel in self._channels]
        self._wrapper = wrapper
        self._tasks: list[asyncio.Task[tuple[str, float]]] = []
        self._numbers = 0

    def add(self, count: int, deadline_s: float) -> None:
        """Begin `count` registers, each for another instance."""
        for _ in range(count):
            self._numbers += 1
            self._tasks.append(asyncio.create_task(self._call(self._numbers, deadline_s)))

    async def _call(self, number: int, deadline_s: float) -> tuple[str, float]:
        began = time.monotonic()
        stub = self._stubs[number % CHANNELS]
        try:
            await stub.RegisterContextBatch(_request(number, self._wrapper), timeout=deadline_s + 10)
            outcome = "OK"
        except grpc.aio.AioRpcError as error:
            outcome = error.code().name
        return outcome, time.monotonic() - began

    @property
    def pending(self) -> int:
        """How many have no answer yet."""
        return sum(not task.done() for task in self._tasks)

    async def ended(self) -> tuple[Mapping[str, int], float]:
        """Wait for all; how many ended how, and the seconds that the slowest took."""
        results = await asyncio.gather(*self._tasks)
        self._tasks.clear()
        return collections.Counter(outcome for outcome, _ in results), max(took for _, took in results)

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close(None) for channel in self._channels))


def _rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def _take(http_port: int, grpc_address: str) -> Taken:
    """Figures of the three endpoints, from a process that has nothing to do with the calls."""
    taking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.take", str(http_port), grpc_address, str(BATCHES),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await taking.communicate()
    if taking.returncode:
        raise RuntimeError("the endpoints could not be timed; the reason is above")
    return {name: Latencies(tuple(samples)) for name, samples in json.loads(out).items()}


def _wait_for_commands(port: int, count: int) -> None:
    """Return once the server reports that `count` registers wait or run."""
    in_flight = re.compile(r'pegaref_commands_in_flight\{device="0",operation="register"\} (\d+)')
    give_up = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up:
        found = in_flight.search(shots.text(port, "/metrics"))
        if found is not None and int(found[1]) >= count:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{count} registers were not in flight within {DEADLINE_S:g} s")


@dataclass(slots=True)
class _Turns:
    """The measurements in turns: without a fault, with 1,000 stuck, without, with, … and at the end
    without."""

    without: list[Taken] = field(default_factory=list)
    stuck: list[Taken] = field(default_factory=list)
    fewest_pending: int = STUCK

    def ratio(self, name: str, q: float) -> float:
        """Stuck over without, at this quantile: each turn against the two it stands between; their median, so
        that a second in which the machine was elsewhere does not decide it."""
        return statistics.median(_ratios(self.stuck, self.without[:-1], self.without[1:], name, q))

    def noise(self, name: str, q: float) -> str:
        """The same for turns without, each against the two around it: the least and the most, in words.
        A ratio in between says nothing but how noisy the machine is. It takes two rounds to tell."""
        found = _ratios(self.without[1:-1], self.without[:-2], self.without[2:], name, q)
        return f"; without {min(found):.2f} to {max(found):.2f}" if found else ""


def _ratios(
    turns: Sequence[Taken], before: Sequence[Taken], after: Sequence[Taken], name: str, q: float
) -> list[float]:
    """Each turn over the mean of the one before and the one after it."""
    return [
        turn[name].quantile_ms(q) / statistics.mean((a[name].quantile_ms(q), b[name].quantile_ms(q)))
        for turn, a, b in zip(turns, before, after, strict=True)
    ]


def together(turns: Sequence[Taken], name: str) -> Latencies:
    """The samples of all turns as one."""
    return Latencies(tuple(itertools.chain.from_iterable(turn[name].samples_s for turn in turns)))


async def _measure(rounds: int) -> Section:
    section = Section(
        "Stuck registers",
        "The actor's GIL is held and registers pile up, again and again on one server. Each turn with 1,000 "
        "stuck is compared with the two turns without around it, and the ratio is the median of all turns. "
        "The range after it compares turns without with those around them: it shows the machine's noise.",
    )
    free = "127.0.0.1:0"
    command = [sys.executable, "-m", "pegaref", "serve", "--http-addr", free, "--addr", free]
    with SharedTensor(4096) as tensor:
        async with Controller() as controller:
            server = await controller.launch(
                command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            assert server.stdout is not None
            said = LISTENING.match((await server.stdout.readline()).decode())
            assert said is not None
            port, address, pid = int(said[2]), said[3], int(said[4])
            await controller.wait_process(ACTOR, timeout_s=60)
            pile = ConcurrentCalls(address, tensor.wrapper)
            pile.add(1, DEADLINE_S)
            await pile.ended()  # the actor is ready
            turns = await _in_turns(controller, pile, port, address, rounds)
            section.add(
                "registers pending during every turn",
                turns.fewest_pending,
                f"of {STUCK:,}",
                limit=STUCK,
                at_least=True,
            )
            for name in turns.stuck[0]:
                found = together(turns.stuck, name)
                for q, limit in ((0.5, 1.05), (0.99, 1.25)):
                    section.add(
                        f"1,000 stuck, {name}, faulted / baseline p{q * 100:g}",
                        turns.ratio(name, q),
                        "×",
                        limit=limit,
                        note=f"{found.quantile_ms(q):.3g} ms{turns.noise(name, q)}",
                    )
            baseline = together(turns.without, "/health")
            await _ten_thousand(section, controller, pile, port, address, pid, baseline)
            await pile.close()
            await server.terminate(10)
    return section


async def _in_turns(
    controller: Controller, pile: ConcurrentCalls, port: int, address: str, rounds: int
) -> _Turns:
    turns = _Turns(without=[await _take(port, address)])
    for _ in range(rounds):
        async with controller.arm("gil.hold", process=ACTOR, lease_s=120) as fault:
            await fault.biting(10)
            pile.add(STUCK, DEADLINE_S)
            await asyncio.to_thread(_wait_for_commands, port, STUCK)
            turns.stuck.append(await _take(port, address))
            turns.fewest_pending = min(turns.fewest_pending, pile.pending)
        await pile.ended()
        await asyncio.to_thread(
            shots.text, port, "/cache/memory/cleanup", method="POST"
        )  # as at the beginning
        turns.without.append(await _take(port, address))
    return turns


async def _ten_thousand(
    section: Section,
    controller: Controller,
    pile: ConcurrentCalls,
    port: int,
    address: str,
    pid: int,
    baseline: Latencies,
) -> None:
    small = _rss_mb(pid)
    async with controller.arm("gil.hold", process=ACTOR, lease_s=120) as fault:
        await fault.biting(10)
        pile.add(10_000, SOON_S)
        await asyncio.sleep(0)
        during = await _take(port, address)
        grown = _rss_mb(pid) - small
        outcomes, slowest_s = await pile.ended()
    section.add("10,000 stuck: the control process grew by", grown, "MB", limit=100)
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    section.add(
        "10,000 stuck: answered", sum(outcomes.values()), "calls", limit=10_000, at_least=True, note=told
    )
    section.add("10,000 stuck: the slowest answer took", slowest_s, "s", limit=DEADLINE_S + 10)
    ratio = during["/health"].p99_ms / baseline.p99_ms
    section.add("10,000 stuck, /health, p99 / baseline", ratio, "×", limit=2.0)


def run(*, rounds: int) -> Section:
    """Take the figures."""
    return asyncio.run(_measure(rounds))
