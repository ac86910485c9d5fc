"""HTTP probes against real sockets: what is sent is what is written, and what curl, httpx, Go's client and a
kubelet take for an answer is one."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scenarios.prober.http import HttpProber
from scenarios.prober.messages import HttpSeries, Probed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

GOOD = {
    "a length": OK,
    "HTTP/1.0 that ends with the connection": b"HTTP/1.0 200 OK\r\n\r\nok",
    "HTTP/1.1 without a length": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nok",
    "chunks, with an extension and a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"1;a=b\r\no\r\n1\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n",
    "chunks beside a length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "after 100 and 103": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK,
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a folded header": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "bytes that are not ASCII": b"HTTP/1.1 200 D\xe9j\xe0\r\nX: caf\xe9\r\nContent-Length: 2\r\n\r\nok",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "more than its length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90 + b"Content-Length: 2\r\n\r\nok",
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
}
"""Each was put before curl 7.88, httpx 0.28 and Go's net/http (`kubectl get --raw`): all take all of them."""

BROKEN = {
    "nothing": (b"", "reset"),
    "a head that breaks off": (b"HTTP/1.1 200 OK\r\nContent-Le", "reset"),
    "less than its length (curl's error 18)": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "reset"),
    "chunks that break off": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "reset"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "error"),
    "no HTTP": (b"+PONG\r\n\r\n", "error"),
    "a head without end": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (2 << 20), "error"),
    "101, unasked": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "error",
    ),
}
"""None of the four takes these, but curl the head that breaks off."""


class Server:
    """Sends what `answers` has for a path, and keeps what it was sent."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers, self.asked = answers, list[bytes]()
        self.connections = 0
        self.at = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                self.asked.append(head + await reader.readexactly(int(length[1]) if length else 0))
                answer = self.answers[head.split()[1].decode()]
                writer.write(answer)
                if b"Content-Length: 0" not in answer and answer != OK:
                    await writer.drain()
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    answers: dict[str, bytes], unix: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answers)
    if unix is not None:
        listening = await asyncio.start_unix_server(server.serve, unix)
    else:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        server.at = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(60), listening:
        yield server
        listening.close()


def series(url: str, *, kept: bool = False, **more: object) -> HttpSeries:
    return HttpSeries(url, kept, 0.1, 0.0, 10.0, **more)  # type: ignore[arg-type]


async def probed(one: HttpSeries, times: int = 1) -> list[Probed]:
    prober = HttpProber(0, one)
    try:
        return [await prober.probe(time.monotonic()) for _ in range(times)]
    finally:
        await prober.close()


@pytest.mark.parametrize("kept", [False, True])
async def test_what_others_take_for_an_answer_is_one(kept: bool) -> None:
    paths = {f"/{i}": answer for i, answer in enumerate(GOOD.values())}
    async with serving(paths) as server:
        found = {}
        for path, form in zip(paths, GOOD, strict=True):
            twice = await probed(series(f"http://{server.at}{path}", kept=kept, body="^ok"), 2)
            found[form] = [(probe.outcome, probe.status) for probe in twice]
    assert found == {form: [("ok", 200)] * 2 for form in GOOD}


async def test_what_others_take_is_taken_by_httpx_and_curl_too() -> None:
    """So that the table above is about them and not about this prober."""
    paths = {f"/{i}": answer for i, answer in enumerate(GOOD.values())}
    async with serving(paths) as server, httpx.AsyncClient(trust_env=False) as client:
        for path, form in zip(paths, GOOD, strict=True):
            assert (await client.get(f"http://{server.at}{path}")).status_code == 200, form
        if shutil.which("curl"):
            urls = [f"http://{server.at}{path}" for path in paths]
            command = ["curl", "-sS", "--fail-early", "--noproxy", "*", "-w", "|", *urls]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, check=False, timeout=30
            )
            assert (done.returncode, done.stdout.count(b"|")) == (0, len(GOOD)), done.stderr


async def test_an_answer_that_is_not_whole_is_none() -> None:
    paths = {f"/{i}": answer for i, (answer, _) in enumerate(BROKEN.values())}
    async with serving(paths) as server:
        found = {}
        for path, form in zip(paths, BROKEN, strict=True):
            (probe,) = await probed(series(f"http://{server.at}{path}"))
            found[form] = probe.outcome
    assert found == {form: outcome for form, (_, outcome) in BROKEN.items()}


async def test_an_answer_without_a_body_is_whole_at_once() -> None:
    answers = {
        "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "/head": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "/big": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 21),
    }
    async with serving(answers) as server:
        base = f"http://{server.at}"
        assert [p.status for p in await probed(series(f"{base}/204", kept=True, status=(204,)), 2)] == [
            204
        ] * 2
        assert [p.outcome for p in await probed(series(f"{base}/304", status=(304,)))] == ["ok"]
        assert [p.outcome for p in await probed(series(f"{base}/head", method="HEAD"))] == ["ok"]
        (big,) = await probed(series(f"{base}/big"))  # a kubelet reads 10 KiB of it, and is content
    assert big.outcome == "ok"


async def test_what_is_sent_is_what_is_written() -> None:
    async with serving({"/a//b/%7e?x=&y": OK}) as server:
        url = f"http://{server.at}/a//b/%7e?x=&y"
        await probed(series(url))
        headers = {"HOST": "model.example", "User-Agent": "kube-probe/1.31", "X-Key": "a: b"}
        await probed(series(url, method="POST", content=b'{"ping":1}', json=True, headers=headers))
    plain, posted = (request.decode().split("\r\n") for request in server.asked)
    assert plain[0] == "GET /a//b/%7e?x=&y HTTP/1.1"
    assert sorted(filter(None, plain[1:])) == sorted(
        [f"Host: {server.at}", "User-Agent: wedge-prober", "Accept: */*", "Connection: close"]
    )
    assert posted[0] == "POST /a//b/%7e?x=&y HTTP/1.1"
    assert posted[-1] == '{"ping":1}'
    assert {"HOST: model.example", "User-Agent: kube-probe/1.31", "X-Key: a: b"} < set(posted)
    assert {"Content-Type: application/json", "Content-Length: 10"} < set(posted)
    assert sum(line.lower().startswith(("host:", "user-agent:")) for line in posted) == 2


def moved(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("kept", [False, True])
async def test_redirects_are_followed_as_a_kubelet_follows_them(kept: bool) -> None:
    """On the same host and not to another one, whose 3xx is then the answer; ten requests at most
    (`RedirectChecker` and `DoHTTPProbe` in pkg/probe/http of Kubernetes)."""
    answers = {
        "/old": moved("/new"),
        "/new": OK,
        "/away": moved("http://other.example/"),
        "/nowhere": b"HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n",
        "/round": moved("/round", 307),
        "/keeps": moved("/new", 308),
    }
    async with serving(answers) as server, serving({"/": OK}) as other:
        answers["/port"] = moved(f"http://{other.at}/", 301)
        base = f"http://{server.at}"

        async def seen(path: str, **more: object) -> tuple[str, int]:
            (one,) = await probed(series(f"{base}{path}", kept=kept, **more))
            return one.outcome, one.status

        assert await seen("/old") == ("ok", 200)
        assert await seen("/port") == ("ok", 200)
        assert await seen("/away") == ("wrong", 302)
        assert await seen("/nowhere") == ("wrong", 302)
        assert await seen("/old", status=(302,)) == ("ok", 302)
        server.asked.clear()
        assert await seen("/round") == ("error", 0)
        assert len(server.asked) == 10
        server.asked.clear()
        await seen("/old", method="POST", content=b"x")
        await seen("/keeps", method="POST", content=b"x")
        methods = [request.split()[0].decode() for request in server.asked]
        assert methods == ["POST", "GET", "POST", "POST"]
        assert server.asked[-1].endswith(b"\r\n\r\nx")


async def test_a_kept_connection_that_was_closed_between_two_probes_is_made_again() -> None:
    async with serving({"/": OK, "/once": GOOD["Connection: close"]}) as server:
        prober = HttpProber(0, series(f"http://{server.at}/", kept=True))
        assert (await prober.probe(time.monotonic())).outcome == "ok"
        (held,) = prober._held.values()
        held._transport.write(b"nonsense\r\n\r\n")  # type: ignore[union-attr]  # the server goes, unseen as yet
        assert (await prober.probe(time.monotonic())).outcome == "ok"
        await prober.close()
        assert server.connections == 2
        assert [p.outcome for p in await probed(series(f"http://{server.at}/once", kept=True), 3)] == [
            "ok"
        ] * 3
        assert server.connections == 5


async def test_what_comes_after_an_answer_is_not_taken_for_the_next_one() -> None:
    async with serving({"/": OK + b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"}) as server:
        assert [p.status for p in await probed(series(f"http://{server.at}/", kept=True), 3)] == [200] * 3


async def test_a_unix_socket_is_asked_for_the_url(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serving({"/health": OK}, unix=path) as server:
        at: dict[str, Any] = {"address": f"unix:{path}"}
        assert [p.outcome for p in await probed(series("http://localhost/health", **at))] == ["ok"]
        assert [p.outcome for p in await probed(series("http://localhost/health", kept=True, **at), 2)] == [
            "ok"
        ] * 2
    assert server.asked[0].startswith(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    assert (await probed(series("http://localhost/", address=f"unix:{tmp_path}/no.sock")))[
        0
    ].outcome == "error"


@pytest.mark.parametrize("bits", [2048, 1024])
async def test_certificates_are_not_verified_as_by_a_kubelet(tmp_path: Path, bits: int) -> None:
    """Neither who signed one, nor its name, nor how short its key is. A server that just closes the
    connection under TLS, as Python's own does, has answered too."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key = ["-newkey", f"rsa:{bits}", "-nodes", "-keyout", f"{tmp_path}/k.pem", "-out", f"{tmp_path}/c.pem"]
    command = ["openssl", "req", "-x509", *key, "-days", "1", "-subj", "/CN=other.example"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    async with serving({"/": OK}, tls=context) as server:
        for kept in (False, True):
            twice = await probed(series(f"https://{server.at}/", kept=kept), 2)
            assert [p.outcome for p in twice] == ["ok"] * 2
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor(1) as pool:
        at = f"127.0.0.1:{plain.getsockname()[1]}"
        served = pool.submit(_answer_bare, plain, context)
        (bare,) = await probed(series(f"https://{at}/"))
        served.result()
    assert bare.outcome == "ok"


def _answer_bare(listening: socket.socket, context: ssl.SSLContext) -> None:
    """One answer without a length, and then the connection is closed without TLS being told."""
    with listening.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
        connection.recv(65536)
        connection.sendall(GOOD["HTTP/1.0 that ends with the connection"])
