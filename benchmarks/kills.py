"""Actors, clients and the control process, killed at random under mixed load: what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.figures import Section
from pegaref.client import Client, SharedTensor
from pegaref.errors import ClientError

_CLIENTS = 6
_DEVICES = (0, 1)
_KINDS = {"client": 12, "actor": 5, "control": 3}  # how often each, of twenty
_PAUSE_S = 0.5
_WITHIN_S = 60.0
_SEED = 20
_GONE_WITHIN_S = 10.0


class _Holder:
    """A client process with a session and registered memory, which comes back when the server does."""

    def __init__(self, number: int, address: str) -> None:
        self.instance = f"kills-{number}"
        hold = ("hold", "--retry", "--addr", address, "--instance", self.instance)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pegaref.client", *hold, "--device", str(number % len(_DEVICES))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.memory: str = json.loads(self.process.stdout.readline())["name"]  # an object in /dev/shm

    def end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(_WITHIN_S)


class _World:
    """The server, its clients, and all processes that ever were."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.http, self.grpc = _free_address(), _free_address()
        self.server: servers.Server
        self.holders: list[_Holder] = []
        self.seen: set[int] = set()
        self.memories: set[str] = set()
        self.worst_s: defaultdict[str, float] = defaultdict(float)
        self.mapped = 0
        self._numbers = 0
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Start a server on the same ports, and wait only until it listens."""
        self._stack = contextlib.ExitStack()
        flags = ("--http-addr", self.http, "--addr", self.grpc, "--device-type", "cpu", "--devices", "0,1")
        self.server = self._stack.enter_context(servers.listening(*flags))
        self.seen.add(self.server.pid)

    def stop(self) -> None:
        """SIGTERM, or nothing if it is dead."""
        self._stack.close()

    def add_client(self) -> None:
        """Start one more client."""
        self._numbers += 1
        self.holders.append(holder := _Holder(self._numbers, self.grpc))
        self.seen.add(holder.process.pid)
        self.memories.add(holder.memory)

    def get(self, path: str) -> str:
        """What the server answers, whatever the status."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=_WITHIN_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def actors(self) -> list[int]:
        """The live children of the control process."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        found = [pid for pid in map(int, children) if _alive(pid)]
        self.seen.update(found)
        return found

    def kill(self) -> str | None:
        """Kill one process at random; which kind it was, or None where there is none of the kind drawn."""
        (kind,) = self.random.choices(list(_KINDS), list(_KINDS.values()))
        actors = self.actors()
        if kind == "client":
            holder = self.holders.pop(self.random.randrange(len(self.holders)))
            if self.random.random() < 0.5:  # or its actor would still load torch most of the times
                _wait(lambda: _mapped(self.actors(), holder.memory), "a client is registered")
            self.mapped += _mapped(self.actors(), holder.memory)
            os.kill(holder.process.pid, signal.SIGKILL)
            holder.process.wait()
            self._await(kind, lambda: not _mapped(self.actors(), holder.memory) and not _named(holder.memory))
            self.add_client()
        elif kind == "control":
            os.kill(self.server.pid, signal.SIGKILL)
            self._await(kind, lambda: not any(map(_alive, (self.server.pid, *actors))))
            self.stop()
            self.start()
        elif actors:
            victim = self.random.choice(actors)
            os.kill(victim, signal.SIGKILL)
            self._await(kind, lambda: not _alive(victim))
        else:
            return None
        return kind

    def settle(self, instances: set[str]) -> float:
        """Wait until the server is ready and holds exactly these instances; the seconds it took."""

        def settled() -> bool:
            return (
                json.loads(self.get("/ready"))["ready"]
                and self.figures() == (len(instances),) * 2
                and (set(json.loads(self.get("/instances"))["instances"]) == instances)
            )

        return _wait(settled, "the server settles")

    def figures(self) -> tuple[float, float]:
        """Its open sessions, and the tensors that its actors hold."""
        found = {"pegaref_sessions": 0.0, "pegaref_tensors": 0.0}
        for line in self.get("/metrics").splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in found:
                found[name] += float(line.rpartition(" ")[2])
        return found["pegaref_sessions"], found["pegaref_tensors"]

    def _await(self, kind: str, gone: Callable[[], bool]) -> None:
        self.worst_s[kind] = max(self.worst_s[kind], _wait(gone, f"what a killed {kind} had is gone"))


def run(rounds: int, seed: int = _SEED) -> Section:
    """Kill `rounds` processes, then see what is left."""
    world = _World(seed)
    killed: Counter[str] = Counter()
    began_s = time.monotonic()
    world.start()
    try:
        for _ in range(_CLIENTS):
            world.add_client()
        world.settle({holder.instance for holder in world.holders})
        with _load(world) as answered:
            while killed.total() < rounds:
                time.sleep(world.random.uniform(0, _PAUSE_S))
                if (kind := world.kill()) is not None:
                    killed[kind] += 1
        settled_s = world.settle({holder.instance for holder in world.holders})
        for holder in world.holders:
            holder.end()
        world.settle(set())
        world.actors()
        stopping_s = time.monotonic()
    finally:
        world.stop()
        for holder in world.holders:
            holder.process.kill()
            holder.process.wait()
    stopped_s = time.monotonic() - stopping_s
    took_s = time.monotonic() - began_s
    return _section(world, killed, answered, settled_s, stopped_s, took_s)


def _section(
    world: _World,
    killed: Counter[str],
    answered: Counter[str],
    settled_s: float,
    stopped_s: float,
    took_s: float,
) -> Section:
    kinds = ", ".join(f"{killed[kind]} × {kind}" for kind in _KINDS)
    calls = ", ".join(f"{count:,} × {what}" for what, count in sorted(answered.items()))
    section = Section(
        "Kills",
        f"SIGKILL at random under load, in {took_s:.0f} s (seed {_SEED}): {kinds}. "
        f"{_CLIENTS} clients hold sessions; answered meanwhile: {calls}. "
        "After each kill what the process had must be gone.",
    )
    section.add("killed processes", killed.total(), "")
    section.add(
        "killed clients whose memory an actor had mapped",
        world.mapped,
        "",
        limit=killed["client"] // 3,
        at_least=True,
    )
    for kind, what in (
        ("client", "a killed client's memory is mapped and named nowhere"),
        ("actor", "a killed actor is gone"),
        ("control", "a killed control process's actors are gone"),
    ):
        section.add(f"{what}, worst", world.worst_s[kind], "s", limit=_GONE_WITHIN_S)
    section.add("ready again, with exactly the instances that live", settled_s, "s", limit=_WITHIN_S)
    section.add("SIGTERM to the end, at last", stopped_s, "s", limit=10)
    section.add("processes left", sum(map(_alive, world.seen)), "", limit=0)
    section.add("shared memory left", sum(map(_named, world.memories)), "objects", limit=0)
    return section


@contextlib.contextmanager
def _load(world: _World) -> Iterator[Counter[str]]:
    """Registers and unregisters on both devices, and scrapes, inside the block; yields what was answered."""
    over, answered = threading.Event(), Counter[str]()

    def register(device: int) -> None:
        with SharedTensor(4096) as tensor:
            while not over.is_set():
                with contextlib.suppress(ClientError), Client(world.grpc, deadline_s=5) as client:
                    while not over.is_set():
                        client.register(f"load-{device}", {"layer": tensor}, device_id=device)
                        client.unregister(f"load-{device}")
                        answered["register and unregister"] += 1
                over.wait(0.1)

    def scrape() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(OSError):
                world.get("/metrics")
                answered["scrape"] += 1

    threads = [threading.Thread(target=register, args=(device,)) for device in _DEVICES]
    threads.append(threading.Thread(target=scrape))
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with contextlib.suppress(ClientError), Client(world.grpc, deadline_s=_WITHIN_S) as client:
        for device in _DEVICES:
            client.unregister(f"load-{device}")


def _wait(look: Callable[[], bool], what: str) -> float:
    began_s = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if look():
                return time.monotonic() - began_s
        if time.monotonic() - began_s > _WITHIN_S:
            raise RuntimeError(f"not within {_WITHIN_S:g} s: {what}")
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def _mapped(pids: list[int], name: str) -> bool:
    for pid in pids:
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{pid}/maps").read_text():
                return True
    return False


def _named(name: str) -> bool:
    return Path("/dev/shm", name).exists()


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"
