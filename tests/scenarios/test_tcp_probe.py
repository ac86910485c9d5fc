"""TCP probes against real servers: lit, not accepting, silent, wrong, gone; and what a kubelet would see."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from scenarios.cli.live import watch_command
from scenarios.errors import CouldNotRun, Malformed
from scenarios.judge.kubelet import replay
from scenarios.live.arguments import watch_request
from scenarios.onboarding.check import check
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import Probed, TcpSeries
from scenarios.prober.series import series_set
from scenarios.prober.tcp import TcpProber
from scenarios.record import KubeletRules, Sample, Series
from scenarios.spec import suite_file, target_file

GIVE_UP_S = 0.4
WITHIN_S = 30.0
RULES = KubeletRules(timeout_s=1.0, period_s=1.0, failure_threshold=3)
SERVER = """
import socketserver, sys

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"+PONG\\r\\n" if line.strip() == b"PING" else b"-ERR\\r\\n")

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

server = Server(("127.0.0.1", 0), Echo)
print("listening on", server.server_address[1], flush=True)
server.serve_forever()
"""


@asynccontextmanager
async def serving(*, greets: bytes = b"", answers: bytes = b"", hangs_up: bool = False) -> AsyncIterator[str]:
    """A server that says `greets` first and `answers` to every line, and then hangs up or does not."""
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with closing(writer):
            try:
                writer.write(greets)
                while not hangs_up and await reader.readline():
                    writer.write(answers)
            except ConnectionError:
                return

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN_S):
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


@contextmanager
def not_accepting() -> Iterator[str]:
    """A socket that listens and whose backlog is full, so that the kernel accepts nothing more for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        host, port = server.getsockname()
        waiting = []
        try:
            for _ in range(4):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex((host, port))
                waiting.append(client)
            yield f"{host}:{port}"
        finally:
            for client in waiting:
                client.close()


async def probed(
    address: str, send: bytes = b"", expect: str | None = None, *, kept: bool = False, times: int = 1
) -> list[Probed]:
    prober = TcpProber(0, TcpSeries(address, kept, 0.1, 0.0, GIVE_UP_S, send, expect))
    try:
        return [await prober.probe(time.monotonic()) for _ in range(times)]
    finally:
        await prober.close()


def outcomes(found: list[Probed]) -> list[str]:
    return [probe.outcome for probe in found]


async def test_an_accepted_connection_is_an_answer_where_nothing_is_expected() -> None:
    async with serving() as address:
        assert outcomes(await probed(address)) == ["ok"]


async def test_a_unix_socket_and_an_ipv6_address_are_asked_too(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            writer.write(await reader.readline())

    async with await asyncio.start_unix_server(serve, tmp_path / "s.sock"):
        assert outcomes(await probed(f"unix:{tmp_path}/s.sock", b"PING\n", "PING")) == ["ok"]
    assert outcomes(await probed(f"unix:{tmp_path}/gone.sock")) == ["error"]
    async with await asyncio.start_server(serve, "::1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert outcomes(await probed(f"[::1]:{port}", b"PING\n", "PING")) == ["ok"]


async def test_a_server_that_stopped_accepting_is_dark() -> None:
    with not_accepting() as address:
        (found,) = await probed(address)
    assert (found.outcome, found.sent_s) == ("timeout", None)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_server_that_accepts_and_never_answers_is_dark(kept: bool) -> None:
    async with serving() as address:
        found = await probed(address, b"PING\r\n", "PONG", kept=kept, times=2)
    assert outcomes(found) == ["timeout", "timeout"]
    assert all(probe.sent_s is not None for probe in found)


@pytest.mark.parametrize("kept", [False, True])
async def test_the_expected_answer_is_lit_and_any_other_is_wrong(kept: bool) -> None:
    async with serving(answers=b"+PONG\r\n") as address:
        assert outcomes(await probed(address, b"PING\r\n", r"^\+PONG", kept=kept, times=3)) == ["ok"] * 3
        assert outcomes(await probed(address, b"PING\r\n", r"^\+OK", kept=kept)) == ["wrong"]


async def test_a_greeting_answers_without_a_question() -> None:
    async with serving(greets=b"220 ready\r\n") as address:
        assert outcomes(await probed(address, expect="^220 ")) == ["ok"]


@pytest.mark.parametrize(("greets", "outcome"), [(b"", "reset"), (b"421 busy\r\n", "wrong")])
async def test_a_server_that_hangs_up_is_told_apart_by_whether_it_said_anything(
    greets: bytes, outcome: str
) -> None:
    async with serving(greets=greets, hangs_up=True) as address:
        assert outcomes(await probed(address, expect="^220 ")) == [outcome]


async def test_a_port_that_nobody_listens_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert outcomes(await probed(f"127.0.0.1:{port}")) == ["refused"]


async def test_a_stopped_process_still_accepts_and_only_an_expected_answer_shows_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            address = f"127.0.0.1:{process.stdout.readline().split()[-1]}"
            assert outcomes(await probed(address, b"PING\n", "PONG")) == ["ok"]
            psutil.Process(process.pid).suspend()
            assert outcomes(await probed(address)) == ["ok"]
            assert outcomes(await probed(address, b"PING\n", "PONG")) == ["timeout"]
            psutil.Process(process.pid).resume()
            assert outcomes(await probed(address, b"PING\n", "PONG")) == ["ok"]
        finally:
            process.kill()


async def test_the_prober_s_process_probes_tcp_on_its_schedule_and_closes_every_connection() -> None:
    ended: list[Probed] = []
    async with serving(answers=b"+PONG\r\n") as address, ProberHandle() as handle:
        handle.on_batch = lambda batch: ended.extend(batch.probed)
        fresh, kept = (TcpSeries(address, k, 0.05, 0.0, 20.0, b"PING\r\n", "PONG") for k in (False, True))
        await handle.news()  # it has started
        await handle.watch((fresh, kept), soon())
        while len(ended) < 10:
            await handle.news()
        await handle.pause()
    assert {(probe.series, probe.outcome) for probe in ended} == {(0, "ok"), (1, "ok")}


def sample(at_s: float, connected_s: float | None, ended_s: float | None, outcome: str) -> Sample:
    sent_s = None if connected_s is None else at_s + connected_s
    return Sample(at_s, sent_s, None if ended_s is None else at_s + ended_s, outcome)  # type: ignore[arg-type]


@pytest.mark.parametrize(("connected_s", "restarts"), [(0.001, 0), (None, 1), (1.5, 1)])
def test_a_kubelet_only_connects_and_never_misses_the_answer(
    connected_s: float | None, restarts: int
) -> None:
    lane = Series(
        endpoint="tcp", kind="tcp", connection="fresh", address="127.0.0.1:1", budget_s=2.0, period_s=0.1,
        watched=True, role="liveness",
    )  # fmt: skip
    samples = [sample(i / 10, connected_s, 3.0, "timeout") for i in range(100)]
    found = replay({"tcp": lane}, {"tcp": samples}, 10.0, RULES)
    assert bool(found.liveness_restarts) == bool(restarts)


TARGET = """
[target]
name = "echo"
command = ["{{python}}", "{{here}}/echo.py"]
ready = {{ line = 'listening on (?P<port>\\d+)' }}

[[probe]]
kind = "tcp"
name = "tcp ping"
address = "127.0.0.1:{{port}}"
{keys}
"""
PING = 'send = "PING\\r\\n"\nexpect = "PONG"\nconnections = ["fresh", "kept"]'


def target(folder: Path, keys: str = PING) -> Path:
    (folder / "echo.py").write_text(SERVER)
    path = folder / "echo.toml"
    path.write_text(TARGET.format(keys=keys))
    return path


def test_a_target_s_tcp_probes_become_lanes_of_their_own_kind(tmp_path: Path) -> None:
    found = series_set(target_file.load(target(tmp_path)).spec, {"port": "7"}, 0)
    assert [(lane.kind, lane.address) for lane in found.described.values()] == [("tcp", "127.0.0.1:7")] * 2
    fresh, kept = found.probed
    assert isinstance(fresh, TcpSeries)
    assert isinstance(fresh, TcpSeries)
    assert isinstance(kept, TcpSeries)
    assert (fresh.send, fresh.expect, fresh.kept, kept.kept) == (b"PING\r\n", "PONG", False, True)


async def test_a_target_with_a_tcp_probe_is_checked_and_a_wrong_answer_is_shown(tmp_path: Path) -> None:
    path = target(tmp_path)
    assert (await check(target_file.load(path), lambda line: None)).problems == ()

    target(tmp_path, "")
    advice = (await check(target_file.load(path), lambda line: None)).advice
    assert any(line.startswith("probe 'tcp ping' only connects") for line in advice)

    target(tmp_path, PING.replace("PING", "HELO") + "\nbudget_s = 0.3")
    problems = (await check(target_file.load(path), lambda line: None)).problems
    said = "had no good answer: b'-ERR\\r\\n' does not match 'PONG'"
    assert problems == (
        f"echo.toml:7: probe 'tcp ping' {said}",
        f"echo.toml:7: probe 'tcp ping (kept-alive)' {said}",
    )


@pytest.mark.parametrize(
    ("keys", "line", "says"),
    [
        ('send = "PING"', 11, "probe[0].send: nobody waits for what comes back"),
        ('expect = "("', 11, "probe[0].expect: not a regular expression"),
        ('expect = "2"\nconnections = ["kept"]', 12, "probe[0].connections: a kept connection shows nothing"),
        ('expect = "2"\nsend = "base64:?"', 12, "probe[0].send: 'base64:?' is not base64"),
        (
            'expect = "2"\nsend = "{prot}"',
            12,
            "probe[0].send: unknown placeholder {prot}; did you mean port?",
        ),
        ("service = 'x'", 11, "probe[0].service: unknown key"),
    ],
)
def test_a_tcp_probe_that_shows_nothing_is_refused_with_its_line(
    tmp_path: Path, keys: str, line: int, says: str
) -> None:
    with pytest.raises(Malformed) as raised:
        target_file.load(target(tmp_path, keys))
    assert says in str(raised.value)
    assert raised.value.line == line


def test_a_row_cannot_ask_what_a_tcp_probe_says(tmp_path: Path) -> None:
    target(tmp_path, PING + "\n[processes]\nserver = { main = true }")
    row = '[[row]]\nname = "r"\nfault = "noop"\nprocess = "server"\nexpect = "lit"\nbecause = "a test"\n'
    says = 'says = [{ probe = "tcp ping", status = 200 }]\n'
    (tmp_path / "s.toml").write_text(f'[suite]\nname = "s"\ntargets = ["echo.toml"]\n{row}{says}')
    with pytest.raises(Malformed, match="'tcp ping' is TCP: it has no status and no body"):
        suite_file.load(tmp_path / "s.toml")


def test_watch_takes_tcp_ports_and_says_what_an_address_is(tmp_path: Path) -> None:
    assert watch_request(None, (), (), (), ("127.0.0.1:7",)).series.names == ("tcp 127.0.0.1:7",)
    assert "tcp ping" in watch_request(str(target(tmp_path)), (), (), ("port=7",)).series.names
    with pytest.raises(CouldNotRun, match=r"'7' names no port .* write HOST:PORT"):
        watch_request(None, (), (), (), ("7",))


def test_watch_tells_that_a_tcp_port_is_lit() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = CliRunner().invoke(watch_command, ["--tcp", address, "--for", "3s"])
    assert told.exit_code == 0
    assert f"tcp {address}: lit" in told.output
