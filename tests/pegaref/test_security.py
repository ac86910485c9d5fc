"""Who gets in, and that whoever does not, or does too much, cannot keep the others out."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from pegaref.client import Client, ClientError, SharedTensor
from pegaref.config import Address, ServerConfig, Tls
from pegaref.serving.access import Access, Caller, explain, host_of_grpc_peer
from pegaref.serving.refusal import Forbidden, Unauthenticated
from pegaref.wire import engine_pb2
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, eventually

needs_torch = pytest.mark.torch

TOKEN = "0123456789abcdef0123456789abcdef"
LOCAL, REMOTE = "127.0.0.1", "192.0.2.7"
BUDGET_S = 2.0  # of a probe, on a machine that may be busy
MUTUAL = Tls(Path("c"), Path("k"), Path("a"))


def verdict(config: ServerConfig, caller: Caller) -> str:
    try:
        Access(config).check(caller)
    except (Forbidden, Unauthenticated) as error:
        return error.code
    return "OK"


@pytest.mark.parametrize(
    ("config", "caller", "expected"),
    [
        (ServerConfig(), Caller(LOCAL), "OK"),
        (ServerConfig(), Caller("::1"), "OK"),
        (ServerConfig(), Caller(REMOTE), "PERMISSION_DENIED"),
        (ServerConfig(), Caller(""), "PERMISSION_DENIED"),
        (ServerConfig(), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), "PERMISSION_DENIED"),
        (ServerConfig(), Caller(LOCAL, origin="http://evil.example"), "PERMISSION_DENIED"),
        (ServerConfig(token=TOKEN), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), "OK"),
        (ServerConfig(token=TOKEN), Caller(LOCAL, authorization=f"Bearer {TOKEN}"), "OK"),
        (ServerConfig(token=TOKEN), Caller(LOCAL), "UNAUTHENTICATED"),
        (ServerConfig(token=TOKEN), Caller(LOCAL, authorization=TOKEN), "UNAUTHENTICATED"),
        (ServerConfig(token=TOKEN), Caller(REMOTE, authorization="Bearer é"), "UNAUTHENTICATED"),
        (ServerConfig(tls=MUTUAL), Caller(REMOTE, certified=True), "OK"),
        (ServerConfig(tls=MUTUAL), Caller(REMOTE), "UNAUTHENTICATED"),
        (ServerConfig(tls=MUTUAL), Caller(LOCAL), "UNAUTHENTICATED"),
        (ServerConfig(tls=MUTUAL, token=TOKEN), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), "OK"),
        (ServerConfig(tls=Tls(Path("c"), Path("k"))), Caller(REMOTE, certified=True), "PERMISSION_DENIED"),
    ],
)
def test_who_may_change_things(config: ServerConfig, caller: Caller, expected: str) -> None:
    assert verdict(config, caller) == expected


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:1234", "127.0.0.1"),
        ("ipv6:%5B::1%5D:1234", "::1"),
        ("ipv6:[::1]:1234", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1234", "fe80::1"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_grpc_peers_are_read(peer: str, host: str) -> None:
    assert host_of_grpc_peer(peer) == host


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ServerConfig(http=Address("0.0.0.0", 1)), "refused off loopback"),
        (ServerConfig(grpc=Address("::", 1), token=TOKEN), "without TLS"),
        (ServerConfig(http=Address("0.0.0.0", 1), tls=MUTUAL), None),
        (ServerConfig(), None),
    ],
)
def test_what_a_person_should_know_at_start(config: ServerConfig, words: str | None) -> None:
    line = explain(config)
    assert line is None if words is None else words in (line or "")


@needs_torch
def test_a_server_that_others_can_reach_says_so_at_start(tmp_path: Path, serve: Serve) -> None:
    server = serve("--http-addr=0.0.0.0:0", ready=False)
    eventually(lambda: "changes (POST, Shutdown) are refused off loopback" in server.log())


@needs_torch
def test_the_twin_on_loopback_has_nothing_to_say(server: Running) -> None:
    assert "can be reached from other machines" not in server.log()


@needs_torch
def test_a_web_page_cannot_clean_up(server: Running, tensor: SharedTensor, instance: str) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor})
        answer = server.post("/instances/cleanup", headers={"origin": "http://evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
        assert instance in server.instances()
        client.unregister(instance)


@needs_torch
def test_a_forwarded_for_header_changes_nothing_about_who_asks(server: Running) -> None:
    answer = server.post("/instances/cleanup?id=nobody", headers={"x-forwarded-for": REMOTE})
    assert answer.status_code == 200


@needs_torch
def test_with_a_token_only_who_shows_it_may_change_things(
    tmp_path: Path, serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    server = serve(f"--token-file={tmp_path / 'token'}")
    refused = server.post("/instances/cleanup")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert server.post("/instances/cleanup", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert server.post("/instances/cleanup", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    with server.client() as client:
        client.register(instance, {"a": tensor})
        client.unregister(instance)
        with pytest.raises(ClientError) as caught:
            client.shut_down()
        assert caught.value.code == "UNAUTHENTICATED"
    assert TOKEN not in server.log()
    with Client(server.grpc, token=TOKEN) as client:
        client.shut_down()
    assert server.process.wait(DEADLINE_S) == 0


# ---- TLS


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it certified for a server and for a client."""

    authority: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], check=True, capture_output=True, cwd=folder, timeout=DEADLINE_S
        )

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    # All that strict verification asks for, which is Python's default from 3.13 on.
    authority = (
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    openssl(
        "req", "-x509", *curve, *authority, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"
    )
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    return Certificates(
        folder / "ca.pem",
        (folder / "server.pem", folder / "server.key"),
        (folder / "client.pem", folder / "client.key"),
    )


def tls_flags(certificates: Certificates, *, mutual: bool) -> list[str]:
    certificate, key = certificates.server
    flags = [f"--tls-cert={certificate}", f"--tls-key={key}"]
    return [*flags, f"--tls-client-ca={certificates.authority}"] if mutual else flags


def browser(certificates: Certificates, *, certified: bool) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    if certified:
        context.load_cert_chain(*certificates.client)
    return httpx.Client(verify=context, timeout=DEADLINE_S)


def channel_credentials(certificates: Certificates, *, certified: bool) -> grpc.ChannelCredentials:
    certificate, key = certificates.client if certified else (None, None)
    return grpc.ssl_channel_credentials(
        certificates.authority.read_bytes(),
        key.read_bytes() if key else None,
        certificate.read_bytes() if certificate else None,
    )


@needs_torch
def test_with_tls_both_wires_are_encrypted_and_plain_ones_refused(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=False), ready=False)
    with browser(certificates, certified=False) as https:
        assert https.get(server.url("/health", "https")).text == "ok"
        assert https.post(server.url("/instances/cleanup?id=nobody", "https")).status_code == 200
    with pytest.raises(httpx.HTTPError):
        server.get("/health")
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=False)) as client:
        client.health()
    with server.client() as plain, pytest.raises(ClientError):
        plain.health()


@needs_torch
def test_with_mutual_tls_a_probe_needs_no_certificate_and_a_change_does(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=True), ready=False)
    cleanup = server.url("/instances/cleanup?id=nobody", "https")
    with browser(certificates, certified=False) as https:
        assert https.get(server.url("/health", "https")).status_code == 200
        assert https.post(cleanup).status_code == 401
    with browser(certificates, certified=True) as https:
        assert https.post(cleanup).status_code == 200
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=False)) as client:
        with pytest.raises(ClientError):
            client.shut_down(deadline_s=3)
    with Client(server.grpc, credentials=channel_credentials(certificates, certified=True)) as client:
        client.shut_down()
    assert server.process.wait(DEADLINE_S) == 0


@needs_torch
def test_a_tls_handshake_that_never_begins_is_closed_in_time(
    serve: Serve, certificates: Certificates
) -> None:
    server = serve(*tls_flags(certificates, mutual=False), "--header-timeout=1", ready=False)
    with crowd(server.http, 5) as silent:
        eventually(lambda: all(map(closed, silent)), within_s=10, what="all were closed")


# ---- limits


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


@contextlib.contextmanager
def crowd(address: str, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Many connections that say something, or nothing, and then are silent."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            connection = stack.enter_context(connect(address))
            with contextlib.suppress(OSError):
                connection.sendall(say)
            sockets.append(connection)
        yield sockets


def closed(connection: socket.socket) -> bool:
    """Whether the peer has closed it, as far as is known now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def assert_lit(server: Running) -> None:
    """Every fresh probe on every wire is answered within a probe's budget."""
    for _ in range(5):
        for path in (b"/health", b"/metrics"):
            began = time.monotonic()
            with connect(server.http) as connection:
                connection.sendall(b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % path)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - began < BUDGET_S, path
        began = time.monotonic()
        with grpc.insecure_channel(server.grpc) as channel:
            assert HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S).status == 1
        assert time.monotonic() - began < BUDGET_S, "grpc health"


BIG = b"GET /health HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 20_000


@needs_torch
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["whole", "endless"])
@pytest.mark.parametrize("piece", [len(BIG) + 4, 1000], ids=["in one piece", "in pieces"])
def test_a_request_head_that_is_too_large_is_431(server: Running, piece: int, end: bytes) -> None:
    head = BIG + end
    with connect(server.http) as connection:
        for start in range(0, len(head), piece):
            try:
                connection.sendall(head[start : start + piece])
            except OSError:  # it was refused before all of it had been sent
                break
            time.sleep(0.001)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")
    assert_lit(server)


@needs_torch
def test_the_twin_that_just_fits_is_answered(server: Running) -> None:
    answer = server.get("/health", headers={"x": "y" * 15_000})
    assert answer.status_code == 200


@needs_torch
def test_a_grpc_message_that_is_too_large_is_refused(server: Running) -> None:
    request = engine_pb2.RegisterContextRequest(wrapper_bytes=[b"x" * 5_000_000])
    with server.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.RegisterContextBatch(request, timeout=DEADLINE_S)
    error: grpc.Call = caught.value  # type: ignore[assignment]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@needs_torch
def test_grpc_metadata_that_is_too_large_is_refused(server: Running) -> None:
    with server.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Health(engine_pb2.HealthRequest(), timeout=DEADLINE_S, metadata=[("x", "y" * 20_000)])
    error: grpc.Call = caught.value  # type: ignore[assignment]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_lit(server)


@needs_torch
def test_at_the_limit_the_longest_idle_connection_gives_way(serve: Serve) -> None:
    server = serve("--max-connections=20", "--header-timeout=600", ready=False)
    with crowd(server.http, 60) as idle:
        assert_lit(server)
        eventually(lambda: sum(map(closed, idle)) >= 40, what="all above the limit were closed")
        assert closed(idle[0])
    eventually(lambda: "gave way to new ones" in server.log(), what="the log says so")


@needs_torch
def test_half_a_request_is_closed_in_time_and_keeps_nobody_out(serve: Serve) -> None:
    server = serve("--max-connections=20", "--header-timeout=1", ready=False)
    with crowd(server.http, 15, b"GET /health HTTP/1.1\r\nhost: a\r\n") as loris:
        assert_lit(server)
        for connection in loris:  # one more byte of a header now and then does not help
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        eventually(lambda: all(map(closed, loris)), within_s=8, what="all were closed")
    assert_lit(server)


@needs_torch
def test_the_twin_that_waits_between_whole_requests_is_kept(serve: Serve) -> None:
    server = serve("--header-timeout=1", ready=False)
    request = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
    with connect(server.http) as patient, connect(server.http) as silent:
        patient.sendall(request)
        assert patient.recv(4096).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: closed(silent), what="the silent one was closed, so the time is up")
        time.sleep(0.5)
        patient.sendall(request)
        assert patient.recv(4096).startswith(b"HTTP/1.1 200 ")


@needs_torch
@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_two_thousand_idle_connections_leave_the_probes_lit(serve: Serve, wire: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2500:
        pytest.skip(f"this process may open only {soft} files, too few to open 2,000 connections")
    server = serve(ready=False)
    with crowd(getattr(server, wire), 2000):
        assert_lit(server)


@needs_torch
@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_without_file_descriptors_an_open_connection_stays_lit_and_new_ones_come_back_by_themselves(
    serve: Serve, wire: str
) -> None:
    server = serve()
    with httpx.Client(base_url=server.url(""), timeout=DEADLINE_S) as kept:
        kept.get("/health")
        used = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 4, limits[1]))
        with crowd(getattr(server, wire), 40):
            for _ in range(5):
                assert kept.get("/health").text == "ok"
    eventually(lambda: _answers(server), what="fresh connections are answered again")
    assert server.get("/ready").status_code == 200
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    assert_lit(server)


def _answers(server: Running) -> bool:
    try:
        return server.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
