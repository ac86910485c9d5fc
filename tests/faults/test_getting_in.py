"""The environment brings the agent into servers with workers and every kind of interpreter, or the error says
why it cannot.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults import Controller, NoSuchProcess, Selector, procfs
from tests.faults.bench import DEADLINE_S, PROGRAM, QUIET_S, launched, until
from tests.faults.interpreters import interpreter, reason

_INSTALL_WITHIN_S = 60
_PORT = re.compile(rb"http://127\.0\.0\.1:(\d+)")

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """A server with workers: its command, the application, and how to tell a worker."""

    command: tuple[str, ...]
    app: str
    worker: Selector


UVICORN = Kind(
    ("-m", "uvicorn", "app:app", "--workers", str(WORKERS), "--port", "0", "--lifespan", "off"),
    ASGI,
    Selector(parent="server", cmdline="spawn_main"),
)
GUNICORN = Kind(
    ("-m", "gunicorn", "app:app", "--workers", str(WORKERS), "--bind", "127.0.0.1:0"),
    WSGI,
    Selector(parent="server"),
)


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that gunicorn is installed in; skipped where it cannot be had."""
    directory = tmp_path_factory.mktemp("gunicorn")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), "gunicorn"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_WITHIN_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"gunicorn could not be installed: {error}")
    return directory


@pytest.fixture(params=[UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A server to start, found through PYTHONPATH if it was installed for this test."""
    found: Kind = request.param
    if found is GUNICORN:
        monkeypatch.setenv("PYTHONPATH", str(request.getfixturevalue("gunicorn")))
    return found


@asynccontextmanager
async def serving(controller: Controller, kind: Kind, directory: Path) -> AsyncIterator[int]:
    """The server, all of its workers connected; its port."""
    (directory / "app.py").write_text(kind.app)
    server = await controller.launch(
        [sys.executable, *kind.command], cwd=directory,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert server.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while not (match := _PORT.search(await server.stdout.readline())):
            continue
    reading = asyncio.create_task(server.stdout.read())
    await all_workers(controller, kind.worker)
    await lit(int(match[1]))
    try:
        yield int(match[1])
    finally:
        await server.close()
        await reading


async def all_workers(controller: Controller, worker: Selector) -> None:
    """Wait until every worker has an agent."""
    async with asyncio.timeout(DEADLINE_S):
        while len(await controller.find_processes(worker, timeout_s=DEADLINE_S)) < WORKERS:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def lit(port: int) -> None:
    """Wait until a request is answered; a worker that has only just been started refuses connections."""
    async with asyncio.timeout(DEADLINE_S):
        while not await answers(port):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def answers(port: int, *, within_s: float = DEADLINE_S) -> bool:
    """Whether a request over a fresh connection is answered in time."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return (await reader.read()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (TimeoutError, ConnectionError):
        return False


async def test_a_server_is_dark_while_all_of_its_workers_are(kind: Kind, tmp_path: Path) -> None:
    selectors = {"server": Selector(main=True)}
    async with Controller(processes=selectors) as controller, serving(controller, kind, tmp_path) as port:
        async with controller.arm("gil.hold", process=kind.worker) as fault:
            status = await fault.wait_biting(timeout_s=DEADLINE_S)
            assert len(status.pids) == WORKERS
            assert not await answers(port, within_s=QUIET_S)
        assert await answers(port)


async def test_a_server_with_one_worker_held_is_lit_by_the_other(kind: Kind, tmp_path: Path) -> None:
    selectors = {"server": Selector(main=True)}
    async with Controller(processes=selectors) as controller, serving(controller, kind, tmp_path) as port:
        one = await controller.wait_process(kind.worker)
        async with controller.arm("gil.hold", process=one.pid) as fault:
            await fault.wait_biting(timeout_s=DEADLINE_S)
            assert await answers(port)


async def test_the_interpreter_of_a_virtual_environment_reports(
    controller: Controller, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    async with launched(controller, python=str(tmp_path / "env" / "bin" / "python")) as target:
        info = await controller.wait_process("bench")
        assert (info.pid, info.argv[0]) == (target.pid, str(tmp_path / "env" / "bin" / "python"))
        assert await target.ask("sys.prefix") == str(tmp_path / "env")


@dataclass(frozen=True)
class Agentless:
    """A way to start Python without the agent, and what is told of it; no `version` is this very Python."""

    told: str
    version: str = ""
    before: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    path: str | None = None


AGENTLESS = {
    "-S": Agentless(r"started with -S, which ignores `sitecustomize`", flags=("-S",)),
    "-I": Agentless(r"started with -I, which ignores its environment", flags=("-X", "utf8", "-uI")),
    "-E": Agentless(r"started with -E, which ignores its environment", flags=("-W", "ignore", "-E")),
    "environment": Agentless(r"started without FAULTS_AGENT", before=("env", "-i")),
    "path": Agentless(r"started with another PYTHONPATH", path="/nowhere"),
    "2.7": Agentless(r"its Python is 2\.7, and the agent needs 3\.8", version="2.7"),
    "3.7": Agentless(r"its Python is 3\.7, and the agent needs 3\.8", version="3.7"),
}


@pytest.mark.parametrize("why", AGENTLESS)
async def test_what_keeps_the_agent_out_of_a_process_is_told(controller: Controller, why: str) -> None:
    way = AGENTLESS[why]
    python = interpreter(way.version) if way.version else sys.executable
    if python is None:
        pytest.skip(reason(way.version))
    env = controller.environment(os.environ)
    target = await controller.launch(
        [*way.before, python, *way.flags, "-c", "import sys; sys.stdin.read()"],
        env=env if way.path is None else {**env, "PYTHONPATH": way.path},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await until(lambda: procfs.executable(target.pid) == str(Path(python).resolve()))
    with pytest.raises(NoSuchProcess, match=way.told) as told:
        await controller.wait_process("bench", timeout_s=0.2)
    assert str(target.pid) in str(told.value)


async def test_what_an_unaware_parent_starts_is_reached_below_it(controller: Controller) -> None:
    run = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    shell = await controller.launch(
        ["sh", "-c", f'{sys.executable} -S -c "$0" {sys.executable} {PROGRAM}; exit', run],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    info = await controller.wait_process("bench", timeout_s=DEADLINE_S)
    assert info.pid in shell.pids()
    assert info.pid != shell.pid
