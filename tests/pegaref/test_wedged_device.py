"""A device that hangs, on a real server: what its callers get and when, and that the other device works."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from pegaref.client import SharedTensor
from pegaref.wire import engine_pb2
from tests.pegaref.conftest import Serve
from tests.pegaref.requests import refusal, register_of
from tests.pegaref.running import DEADLINE_S, Running, eventually
from tests.pegaref.shared import mapped

pytestmark = pytest.mark.torch

ENDS_AT_ONCE = """
import os, sys
if "pegaref.actor.child" in sys.orig_argv and os.path.exists({flag!r}):
    os._exit(7)
"""


@pytest.mark.promise("deadlines")
def test_a_register_on_a_wedged_device_ends_by_its_deadline_and_leaves_nothing(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.stub() as stub, server.actor_stopped():
        error = refusal(lambda: stub.RegisterContextBatch(register_of(instance, tensor), timeout=0.4))
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    server.wait_ready()
    with server.stub() as stub:
        assert stub.RegisterContextBatch(register_of(instance, tensor), timeout=DEADLINE_S).status.ok
        stub.UnregisterContext(engine_pb2.UnregisterRequest(instance_id=instance), timeout=DEADLINE_S)


def test_an_unregister_on_a_wedged_device_ends_by_its_deadline_and_is_carried_out_later(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    unregister = engine_pb2.UnregisterRequest(instance_id=instance)
    with server.stub() as stub:
        assert stub.RegisterContextBatch(register_of(instance, tensor), timeout=DEADLINE_S).status.ok
        with server.actor_stopped():
            error = refusal(lambda: stub.UnregisterContext(unregister, timeout=1.0))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            where = f"/operations/{dict(error.trailing_metadata())['operation-id']}"
            assert server.get(where).json()["done"] is False
            assert mapped(tensor.name, server.actor_pid()) == 1
        eventually(lambda: server.get(where).json()["done"], what="carried out")
    assert instance not in server.instances()
    assert mapped(tensor.name, server.actor_pid()) == 0
    server.wait_ready()


@pytest.mark.promise("other-devices")
@pytest.mark.parametrize("how", ["unregister", "cleanup", "session"])
def test_the_other_device_works_meanwhile(
    server: Running, tensor: SharedTensor, instance: str, how: str
) -> None:
    with server.client() as client, server.actor_stopped(device=0):
        eventually(lambda: server.ready()["devices"]["0"].get("hang") == "stopped", what="wedged")
        session = client.session(instance) if how == "session" else None
        client.register(instance, {"a": tensor}, device_id=1)
        assert mapped(tensor.name, server.actor_pid(1)) == 1
        if session is not None:
            session.close()
        elif how == "cleanup":
            assert server.post("/instances/cleanup", params={"id": instance}).status_code == 200
        else:
            client.unregister(instance)
        eventually(lambda: mapped(tensor.name, server.actor_pid(1)) == 0, what="released")
        assert server.ready()["devices"]["1"]["ready"] is True
    server.wait_ready()


@pytest.mark.promise("deadlines")
def test_neither_a_caller_nor_a_cleanup_waits_longer_than_the_servers_limit(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--max-deadline=0.5", "--wedge-after=60")
    with server.stub() as stub, server.actor_stopped():
        began = time.monotonic()
        error = refusal(lambda: stub.RegisterContextBatch(register_of("stuck", tensor), timeout=DEADLINE_S))
        assert time.monotonic() - began < 10
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    server.wait_ready()
    with server.client() as client:
        client.register(instance, {"a": tensor})
    with server.actor_stopped():
        began = time.monotonic()
        answer = server.post("/instances/cleanup", params={"id": instance, "timeout": "3600"})
        assert answer.status_code == 202
        assert time.monotonic() - began < 10


@pytest.mark.promise("bounded-mailbox")
def test_over_the_mailboxs_limit_a_register_is_refused_at_once_and_told_when_to_come_back(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--mailbox-commands=2", "--wedge-after=60")
    with server.stub() as stub:
        with server.actor_stopped():
            stuck = [
                stub.RegisterContextBatch.future(
                    register_of(f"{instance}-{number}", tensor), timeout=DEADLINE_S
                )
                for number in range(6)
            ]
            eventually(
                lambda: sum(call.done() for call in stuck) == 3, what="one runs, two wait, three are refused"
            )
            for call in stuck:
                if call.done():
                    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert float(dict(call.trailing_metadata())["retry-after-s"]) > 0
        assert sum(call.exception(timeout=DEADLINE_S) is None for call in stuck) == 3


def test_an_actor_that_cannot_live_is_dead_and_says_why_until_it_can(
    serve: Serve, tensor: SharedTensor, instance: str, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    (tmp_path / "sitecustomize.py").write_text(ENDS_AT_ONCE.format(flag=str(flag)))
    server = serve(ready=False, environment={"PYTHONPATH": str(tmp_path)})

    def dead() -> dict[str, object]:
        device: dict[str, object] = server.ready()["devices"]["0"]
        return device if device["phase"] == "dead" else {}

    device = eventually(dead, what="dead")
    assert (device["ready"], device["hang"]) == (False, "dead")
    assert "exit status 7" in str(device["reason"])
    assert server.get("/health").status_code == 200
    dead_is_told = 'pegaref_wedged{device="0",kind="dead"} 1.0'
    eventually(lambda: dead_is_told in server.get("/metrics").text, what="the metrics tell it")
    flag.unlink()
    server.wait_ready()
    with server.client() as client:
        client.register(instance, {"a": tensor})
