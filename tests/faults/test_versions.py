"""Every fault bites and is released, by every way in, on every Python on this machine.

A cell is a market of its own, mostly waiting for processes to start, so some run at a time. The matrix is
printed at the end of the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from faults import Controller, Selector, catalogue
from faults.attach import attach
from tests.faults import gdb_here
from tests.faults.bench import DEADLINE_S
from tests.faults.embedded import build
from tests.faults.interpreters import VERSIONS, interpreter, reason
from tests.faults.matrix_report import MatrixReport

PROGRAM = Path(__file__).parent / "program" / "market.py"
WAYS = ("environment", "fork", "spawn", "forkserver", "exec", "attach", "embedded")
AT_A_TIME = 4
SITE = {"site": "workshop:work"}
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "noop": {},
    "gil.hold": {},
    "gil.contend": {"threads": 2},
    "call.stall": SITE,
    "call.delay": {**SITE, "delay": 0.01},
    "call.raise": SITE,
    "call.drop": SITE,
    "call.corrupt": {**SITE, "value": 2},
    "call.count": SITE,
    "call.repeat": SITE,
    "object.finalizer_stall": {"site": "workshop:Machine"},
    "loop.block": {},
    "fd.exhaust": {},
    "memory.pressure": {"size": "16M"},
    "net.relay": {},
    "net.slow": {"delay": 0.01},
    "net.half_open": {},
    "net.reset": {},
    "process.stop": {},
    "process.starve": {"hogs": 1},
    "process.kill": {},  # the last: nothing is given back
}
"""Each fault with parameters that bite on the market."""
ELSEWHERE = {"cuda.stream_stall": "it needs an NVIDIA GPU"}
"""Faults that the market has nothing for, and why."""


class Market:
    """The program, running; `pid` is the process that has the stalls."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self.pid = self.port = 0
        self._lines = lines

    async def opened(self) -> None:
        """Wait until it is open."""
        async with asyncio.timeout(DEADLINE_S):
            line = await self.next("open")
        self.pid, self.port = line["open"], line["port"]

    async def ticks(self) -> None:
        """Wait for a tick that was made after this call."""
        now = time.monotonic_ns()
        async with asyncio.timeout(DEADLINE_S):
            while (await self.next("tick"))["tick"] <= now:
                continue

    async def next(self, what: str) -> dict[str, int]:
        """The next line of that kind."""
        while line := await self._lines.readline():
            if line.startswith(f'{{"{what}"'.encode()):
                found: dict[str, int] = json.loads(line)
                return found
        raise AssertionError(f"the market ended before it said {what!r}")


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> MatrixReport:
    """Collects the cells; prints them when the run is over."""
    found = MatrixReport(tuple(FAULTS))
    for name, why in ELSEWHERE.items():
        found.skipped(name, why)
    request.config.pluginmanager.register(found)
    return found


async def obstacle(way: str, version: str) -> str | None:
    """Why that cell of the matrix cannot be had here."""
    python = interpreter(version)
    if python is None:
        return reason(version)
    if way == "embedded":
        return build.why_not(python)
    if way == "attach" and version != "3.14":
        return await gdb_here.obstacle()
    return None


@asynccontextmanager
async def market(controller: Controller, command: list[str], env: Mapping[str, str]) -> AsyncIterator[Market]:
    pipe = asyncio.subprocess.PIPE
    launched = await controller.launch(command, env=env, stdin=pipe, stdout=pipe)
    assert launched.stdout is not None
    try:
        opened = Market(launched.stdout)
        await opened.opened()
        yield opened
    finally:
        await launched.close()


def command(way: str, version: str, directory: Path) -> list[str]:
    """How the market is started."""
    python = interpreter(version)
    assert python is not None
    if way == "embedded":
        opening = "import sys; sys.path.insert(0, {!r}); import market; market.open_market()"
        return [str(build.build(directory, python)), opening.format(str(PROGRAM.parent))]
    return [python, str(PROGRAM), "plain" if way in ("environment", "attach") else way]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[tuple[str, str], asyncio.Task[dict[str, str]]]]:
    """The cells that were asked for, by way and version, under way; those that cannot be had are left out."""
    room = asyncio.Semaphore(AT_A_TIME)

    async def cell(way: str, version: str) -> dict[str, str]:
        async with room:
            return await failures(way, version, tmp_path_factory.mktemp(way))

    wanted = [
        (str(item.callspec.params["way"]), str(item.callspec.params["version"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    tasks = {key: asyncio.create_task(cell(*key)) for key in wanted if await obstacle(*key) is None}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
async def test_every_fault_bites_and_is_given_back(
    way: str,
    version: str,
    report: MatrixReport,
    cells: Mapping[tuple[str, str], asyncio.Task[dict[str, str]]],
) -> None:
    if (why := await obstacle(way, version)) is not None:
        if way == "attach" and interpreter(version) is not None:
            await refused_and_unharmed(version, why)
        report.skipped(f"{way} {version}", why)
        pytest.skip(why)
    failed = await cells[way, version]
    for name in FAULTS:
        report.add(way, version, name, bit=name not in failed)
    assert failed == {}


async def refused_and_unharmed(version: str, why: str) -> None:
    """See that a market is not attached to where gdb cannot, and goes on."""
    python = interpreter(version)
    assert python is not None
    async with (
        Controller() as controller,
        market(controller, [python, str(PROGRAM), "plain"], dict(os.environ)) as opened,
    ):
        await gdb_here.refused(controller, opened.pid, why)
        await opened.ticks()


async def failures(way: str, version: str, directory: Path) -> dict[str, str]:
    """Break a market in every way, one after the other; what went wrong, by fault."""
    failed = {}
    async with Controller() as controller:
        env = dict(os.environ) if way == "attach" else controller.environment(os.environ)
        async with market(controller, command(way, version, directory), env) as opened:
            if way == "attach":
                await attach(controller, opened.pid)
            await controller.wait_process(Selector(pid=opened.pid))
            for name, params in FAULTS.items():
                try:
                    await bite_and_give_back(controller, opened, name, params)
                except Exception as error:  # noqa: BLE001  # told, with the others
                    failed[name] = f"{type(error).__name__}: {error}"
    return failed


async def bite_and_give_back(
    controller: Controller, opened: Market, name: str, params: Mapping[str, Any]
) -> None:
    """Prove from outside that the fault bites, release it, and hear the process go on."""
    if name.startswith("net."):
        await bite_the_connections(controller, opened, name, params)
    else:
        async with controller.arm(name, process=opened.pid, params=params) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)
    if name != "process.kill":
        await opened.ticks()


async def bite_the_connections(
    controller: Controller, opened: Market, name: str, params: Mapping[str, Any]
) -> None:
    """The same for what goes through a relay; afterwards what is said through it is heard again."""
    to = {"to": f"127.0.0.1:{opened.port}"}
    async with controller.arm("net.relay", process=opened.pid, params=to) as relay:
        await relay.wait_biting(timeout_s=DEADLINE_S)
        port = relay.status().details["port"]
        if name != "net.relay":
            talking = asyncio.create_task(talk(port))
            async with controller.arm(name, process=opened.pid, params=params) as fault:
                await fault.wait_biting(timeout_s=DEADLINE_S)
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
        async with asyncio.timeout(DEADLINE_S):
            assert await echo(port) == b"hello"


async def talk(port: int) -> None:
    """Say something through the relay again and again, whatever comes of it."""
    while True:
        with suppress(OSError):
            await echo(port)


async def echo(port: int) -> bytes:
    """What comes back of what is said; empty when the connection is reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello")
        return await reader.read(5)
    finally:
        writer.close()


def test_every_fault_of_the_catalogue_is_in_the_matrix() -> None:
    own = {fault.name for fault in catalogue() if "/faults/catalogue/" in fault.origin}
    assert own == FAULTS.keys() | ELSEWHERE.keys()
