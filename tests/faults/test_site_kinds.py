"""Whoever holds a callable, and however it came there: its calls are hit, or it is said that they are not.

Each case is the child of a multiprocessing program that holds callables in every way there is; all sites are
armed at once.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faults import Controller, Fault, Selector
from tests.faults.bench import DEADLINE_S, until
from tests.faults.interpreters import VERSIONS, interpreter

STARTER = Path(__file__).parent / "program" / "starter.py"
HOLDERS = Path(__file__).parent / "program" / "holders.py"

HERE = [version for version in VERSIONS if interpreter(version)]


class Holders:
    """The program, running; `sites` are what its child, `pid`, calls, by kind."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._stdin, self._stdout = stdin, stdout
        self.sites: dict[str, str] = {}
        self.pid = 0

    async def hear(self) -> dict[str, Any]:
        """What it says next."""
        async with asyncio.timeout(DEADLINE_S):
            said: dict[str, Any] = json.loads(await self._stdout.readline())
            return said

    async def call(self) -> dict[str, Any]:
        """Have it call everything once."""
        self._stdin.write(b"\n")
        return await self.hear()


@asynccontextmanager
async def holders(controller: Controller, version: str, way: str, folder: Path) -> AsyncIterator[Holders]:
    """The program on that Python. cloudpickle is copied, so that no other package of this Python is seen."""
    python, spec = interpreter(version), importlib.util.find_spec("cloudpickle")
    assert python is not None
    if spec is not None and spec.origin is not None:
        shutil.copytree(Path(spec.origin).parent, folder / "cloudpickle")
    pipe = asyncio.subprocess.PIPE
    launched = await controller.launch([python, str(HOLDERS), way, str(folder)], stdin=pipe, stdout=pipe)
    assert launched.stdin is not None
    assert launched.stdout is not None
    program = Holders(launched.stdin, launched.stdout)
    try:
        said = await program.hear()
        program.sites, program.pid = said["sites"], said["pid"]
        await controller.wait_process(Selector(pid=program.pid))
        yield program
    finally:
        await launched.close()


@pytest.mark.parametrize(
    ("version", "way"), [(version, "forkserver" if version == "3.12" else "spawn") for version in HERE]
)
async def test_a_callable_is_hit_whoever_holds_it_and_looks_as_before(
    controller: Controller, tmp_path: Path, version: str, way: str
) -> None:
    async with holders(controller, version, way, tmp_path) as program:
        before = await program.call()
        faults: dict[str, Fault] = {}
        async with AsyncExitStack() as armed:
            for kind, site in program.sites.items():
                fault = controller.arm("call.count", process=program.pid, params={"site": site})
                faults[kind] = await armed.enter_async_context(fault)
            during = await program.call()
            assert {kind: fault.status().calls for kind, fault in faults.items()} == dict.fromkeys(faults, 1)
        after = await program.call()
    assert during["results"] == before["results"]
    assert during["looks"] == before["looks"]
    assert not any(during["codes"])
    assert after == before


@pytest.mark.parametrize("site", ["__main__:work", "starter:work"])
@pytest.mark.parametrize("version", [HERE[0], HERE[-1]])
async def test_a_program_that_has_only_just_started_is_hit_once_it_has_come_so_far(
    controller: Controller, version: str, site: str
) -> None:
    """A fault that covers newcomers gets into them before their first line, however they are started."""
    python, pipe = interpreter(version), asyncio.subprocess.PIPE
    assert python is not None
    launched = await controller.launch(
        [python, STARTER.name],
        cwd=STARTER.parent,
        env=controller.environment(os.environ),
        stdin=pipe,
        stdout=pipe,
    )
    assert launched.stdin is not None
    await controller.wait_process(Selector(main=True))
    params = {"site": site}
    async with controller.arm(
        "call.count", process=Selector(cmdline="-c|starter"), params=params, newcomers="cover"
    ) as fault:
        for way in ("fork", "spawn", "forkserver", "script", "module"):
            calls = fault.status().calls
            launched.stdin.write(way.encode() + b"\n")
            await until(lambda calls=calls: fault.status().calls > calls)  # type: ignore[misc]
            launched.stdin.write(b"end\n")
            assert launched.stdout is not None
            async with asyncio.timeout(DEADLINE_S):
                assert await launched.stdout.readline() == b"ended\n"
    await launched.close()
