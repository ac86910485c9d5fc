"""A server in C that has CPython inside is broken in its Python, and its C answers as before."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faults import Controller, Selector
from faults.attach import attach
from tests.faults import gdb_here
from tests.faults.bench import DEADLINE_S, QUIET_S
from tests.faults.embedded import build

pytestmark = pytest.mark.skipif(
    build.why_not(sys.executable) is not None, reason=build.why_not(sys.executable) or ""
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("embedded"), sys.executable)


class Server:
    """The C server, running."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.port = pid, port

    async def get(self, path: str) -> str:
        """The body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
        return answer.decode().partition("\r\n\r\n")[2]

    async def soon(self, path: str) -> str:
        """The same, within the tests' deadline."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.get(path)

    async def is_dark(self, path: str) -> bool:
        """Whether there is no answer for as long as the tests listen."""
        try:
            async with asyncio.timeout(QUIET_S):
                await self.get(path)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def serving(controller: Controller, program: Path, env: Mapping[str, str]) -> AsyncIterator[Server]:
    launched = await controller.launch(
        [str(program)], env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert launched.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            port = int((await launched.stdout.readline()).split()[1])
        yield Server(launched.pid, port)
    finally:
        await launched.close()


@pytest.fixture(params=["environment", "attach"])
async def server(
    controller: Controller, program: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Server]:
    """The C server with the agent in its interpreter, by either way."""
    if request.param == "environment":
        async with serving(controller, program, controller.environment(os.environ)) as opened:
            await controller.wait_process(Selector(pid=opened.pid))
            yield opened
    else:
        async with serving(controller, program, dict(os.environ)) as opened:
            if (why := await gdb_here.obstacle()) is not None:
                if sys.version_info < (3, 14):  # from then on attaching takes no gdb
                    await gdb_here.refused(controller, opened.pid, why)
                assert [await opened.soon(path) for path in ("/health", "/python")] == ["ok", "2"]
                pytest.skip(f"gdb cannot attach here: {why}")
            await attach(controller, opened.pid)
            yield opened


async def test_with_its_gil_held_c_stays_lit_and_what_needs_python_goes_dark(
    controller: Controller, server: Server
) -> None:
    async with controller.arm("gil.hold", process=server.pid) as fault:
        await fault.wait_biting(timeout_s=DEADLINE_S)
        assert await server.is_dark("/python")
        assert await server.soon("/health") == "ok"
    assert await server.soon("/python") == "2"


async def test_a_stalled_call_without_the_gil_darkens_itself_alone(
    controller: Controller, server: Server
) -> None:
    async with controller.arm("call.stall", process=server.pid, params={"site": "desk:work"}) as fault:
        working = asyncio.create_task(server.soon("/work"))
        await fault.wait_biting(timeout_s=DEADLINE_S)
        assert (await server.soon("/python"), await server.soon("/health")) == ("2", "ok")
        assert not working.done()
        await fault.release()
        assert await working == "42"


async def test_noop_darkens_nothing(controller: Controller, server: Server) -> None:
    async with controller.arm("noop", process=server.pid) as fault:
        await fault.wait_biting(timeout_s=DEADLINE_S)
        assert [await server.soon(path) for path in ("/health", "/python", "/work")] == ["ok", "2", "42"]
