"""Who may change things and see tracebacks: over real connections from this machine and from elsewhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from pegaref.client import Client, ClientError, SharedTensor
from pegaref.config import Address, ServerConfig, Tls
from pegaref.serving.access import Access, Caller, explain
from pegaref.serving.refusal import Forbidden, Unauthenticated
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, eventually, request
from tests.pegaref.stalls import Stall

needs_torch = pytest.mark.torch

TOKEN = "0123456789abcdef0123456789abcdef"
LOCAL, REMOTE = "127.0.0.1", "192.0.2.7"
MUTUAL = Tls(Path("c"), Path("k"), Path("a"))


OK, FORBIDDEN, UNKNOWN = "OK", "PERMISSION_DENIED", "UNAUTHENTICATED"


def verdict(check: Callable[[Caller], None], caller: Caller) -> str:
    try:
        check(caller)
    except (Forbidden, Unauthenticated) as error:
        return error.code
    return OK


CALLERS = pytest.mark.parametrize(
    ("config", "caller", "changes", "registers"),
    [
        (ServerConfig(), Caller(LOCAL), OK, OK),
        (ServerConfig(), Caller("::1"), OK, OK),
        (ServerConfig(), Caller("::ffff:127.0.0.1"), OK, OK),
        (ServerConfig(), Caller(REMOTE), FORBIDDEN, FORBIDDEN),
        (ServerConfig(), Caller(""), FORBIDDEN, FORBIDDEN),
        (ServerConfig(), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), FORBIDDEN, FORBIDDEN),
        (ServerConfig(), Caller(LOCAL, origin="http://evil.example"), FORBIDDEN, FORBIDDEN),
        (ServerConfig(token=TOKEN), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), OK, OK),
        (ServerConfig(token=TOKEN), Caller(LOCAL, authorization=f"Bearer {TOKEN}"), OK, OK),
        (ServerConfig(token=TOKEN), Caller(LOCAL), UNKNOWN, OK),
        (ServerConfig(token=TOKEN), Caller(LOCAL, authorization=TOKEN), UNKNOWN, OK),
        (ServerConfig(token=TOKEN), Caller(REMOTE), UNKNOWN, UNKNOWN),
        (ServerConfig(token=TOKEN), Caller(REMOTE, authorization="Bearer é"), UNKNOWN, UNKNOWN),
        (ServerConfig(tls=MUTUAL), Caller(REMOTE, certified=True), OK, OK),
        (ServerConfig(tls=MUTUAL), Caller(REMOTE), UNKNOWN, UNKNOWN),
        (ServerConfig(tls=MUTUAL), Caller(LOCAL), UNKNOWN, OK),
        (ServerConfig(tls=MUTUAL, token=TOKEN), Caller(REMOTE, authorization=f"Bearer {TOKEN}"), OK, OK),
        (ServerConfig(tls=Tls(Path("c"), Path("k"))), Caller(REMOTE, certified=True), FORBIDDEN, FORBIDDEN),
    ],
)


@CALLERS
def test_who_may_change_things_who_may_register_and_who_sees_tracebacks(
    config: ServerConfig, caller: Caller, changes: str, registers: str
) -> None:
    access = Access(config)
    assert verdict(access.check, caller) == changes
    assert verdict(access.check_client, caller) == registers
    assert access.trusts(caller) == (registers == OK)


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


def own_address() -> str:
    """An address of this machine that is not loopback: who connects to it does so from it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((REMOTE, 9))  # sends nothing: it only asks for the route
        except OSError as error:
            pytest.skip(f"this machine has no address but loopback: {error}")
        host: str = asking.getsockname()[0]
    return host


class Elsewhere:
    """A server that listens everywhere, as those see it who come from elsewhere."""

    def __init__(self, serve: Serve, *flags: str) -> None:
        self.server = serve("--http-addr=0.0.0.0:0", "--addr=0.0.0.0:0", *flags)
        self._host = own_address()

    def client(self, token: str | None = None) -> Client:
        _, _, port = self.server.grpc.rpartition(":")
        return Client(f"{self._host}:{port}", token=token, deadline_s=DEADLINE_S)

    def http(self, method: str, path: str, token: str | None = None) -> httpx.Response:
        _, _, port = self.server.http.rpartition(":")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return request(method, f"http://{self._host}:{port}{path}", headers=headers)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path / "token"


@needs_torch
def test_a_server_that_others_can_reach_says_so_at_start(tmp_path: Path, serve: Serve) -> None:
    server = serve("--http-addr=0.0.0.0:0", loads=False)
    eventually(lambda: "changes (POST, Shutdown, registering) are refused off loopback" in server.log())


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
    assert answer.status_code == 404


def registry_calls(client: Client, instance: str, tensor: SharedTensor) -> Iterator[str]:
    """How the registry's calls are answered; whoever is let in leaves nothing behind."""
    calls: tuple[Callable[[], None], ...] = (
        lambda: client.register(instance, {"a": tensor}),
        lambda: client.unregister(instance),
        lambda: client.session(instance).close(),
    )
    for call in calls:
        try:
            call()
        except ClientError as error:
            yield error.code
        else:
            yield OK


@pytest.mark.promise("access")
@needs_torch
def test_without_credentials_nobody_elsewhere_registers_and_all_may_look(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    elsewhere = Elsewhere(serve)
    server = elsewhere.server
    with server.client() as here, elsewhere.client() as there:
        held = here.session(f"{instance}-held")
        here.register(f"{instance}-held", {"a": tensor})
        assert list(registry_calls(there, f"{instance}-held", tensor)) == [FORBIDDEN] * 3
        with pytest.raises(ClientError, match="off loopback"):
            there.shut_down()
        assert elsewhere.http("POST", "/instances/cleanup").status_code == 403
        assert server.instances() == [f"{instance}-held"]
        assert not held.wait_ended(0)
        there.health()
        for path in ("/health", "/ready", "/metrics", "/instances"):
            assert elsewhere.http("GET", path).status_code == 200
        assert list(registry_calls(here, instance, tensor)) == [OK] * 3
        held.close()


@pytest.mark.promise("access")
@needs_torch
def test_with_a_token_who_shows_it_may_do_all_from_elsewhere_and_this_machine_only_registers_without(
    serve: Serve, token_file: Path, tensor: SharedTensor, instance: str
) -> None:
    elsewhere = Elsewhere(serve, f"--token-file={token_file}")
    with elsewhere.client() as client:
        assert list(registry_calls(client, instance, tensor)) == [UNKNOWN] * 3
    with elsewhere.client("wrong" * 4) as client:
        assert list(registry_calls(client, instance, tensor)) == [UNKNOWN] * 3
    with elsewhere.client(TOKEN) as client:
        assert list(registry_calls(client, instance, tensor)) == [OK] * 3
    server = elsewhere.server
    with server.client() as client:
        assert list(registry_calls(client, instance, tensor)) == [OK] * 3
    refused = server.post("/instances/cleanup")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert server.post("/instances/cleanup", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert server.post("/instances/cleanup", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    with server.client() as client:
        with pytest.raises(ClientError) as caught:
            client.shut_down()
        assert caught.value.code == "UNAUTHENTICATED"
    assert TOKEN not in server.log()
    with Client(server.grpc, token=TOKEN) as client:
        client.shut_down()
    assert server.process.wait(DEADLINE_S) == 0


@pytest.mark.promise("tracebacks-hidden")
@needs_torch
def test_where_a_wedged_actor_hangs_is_told_to_this_machine_and_to_who_shows_the_token(
    serve: Serve, token_file: Path, tensor: SharedTensor, instance: str, stall: Stall
) -> None:
    elsewhere = Elsewhere(serve, f"--token-file={token_file}", "--wedge-after=0.5")
    server = elsewhere.server

    def device(report: Any) -> dict[str, Any]:
        found: dict[str, Any] = report["devices"]["0"]
        return found

    def unregister() -> None:
        with server.client() as client, suppress(ClientError):
            client.unregister(instance)

    with server.client() as client:
        client.register(instance, {"a": tensor})
    stall.block("released")
    stuck = threading.Thread(target=unregister)
    stuck.start()
    eventually(lambda: "empty_cache" in device(server.ready()).get("traceback", ""), what="a traceback")
    there = elsewhere.http("GET", "/ready")
    assert (there.status_code, device(there.json())["hang"]) == (503, "stalled")
    assert "traceback" not in device(there.json())
    assert ".py" not in there.text
    assert "empty_cache" in device(elsewhere.http("GET", "/ready", TOKEN).json())["traceback"]
    page = server.get("/ready", headers={"origin": "http://evil.example"})
    assert "traceback" not in device(page.json())
    assert "empty_cache" in server.log()
    stall.release()
    stuck.join(DEADLINE_S)
    assert not stuck.is_alive()
