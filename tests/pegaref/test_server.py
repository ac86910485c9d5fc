"""The server as a whole: every placement serves the same, and the control process never loads torch."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pegaref.client import SharedTensor
from pegaref.config import PLACEMENTS
from tests.pegaref.conftest import Serve
from tests.pegaref.running import Running

pytestmark = pytest.mark.torch


def maps(pid: int) -> str:
    """What the process has in its memory, by the kernel."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_registers_shows_and_drops(
    serve: Serve, tensor: SharedTensor, instance: str, placement: str
) -> None:
    server = serve(f"--placement={placement}", "--devices=0,1")
    with server.client() as client:
        with client.session(instance):
            client.register(instance, {"a": tensor, "b": tensor}, device_id=1)
            assert server.instances() == [instance]
            assert server.get("/health").status_code == 200
            client.unregister(instance)
            assert server.instances() == []
            client.register(instance, {"a": tensor})
        client.health()
    assert server.post("/instances/cleanup").status_code == 200
    assert server.instances() == []


@pytest.mark.promise("no-torch")
def test_the_control_process_of_placement_process_never_loads_torch(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client, client.session(instance):
        client.register(instance, {"a": tensor})
        assert "libtorch" not in maps(server.pid)
        assert tensor.name not in maps(server.pid)
        assert "libtorch" in maps(server.actor_pid())
        assert tensor.name in maps(server.actor_pid())


def test_what_was_dropped_is_not_mapped_any_more(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor})
        assert tensor.name in maps(server.actor_pid())
        client.unregister(instance)
        assert tensor.name not in maps(server.actor_pid())


def test_the_twin_placement_inline_has_torch_in_the_control_process(serve: Serve) -> None:
    server = serve("--placement=inline")
    assert "libtorch" in maps(server.pid)


def test_the_server_answers_long_before_torch_is_loaded(serve: Serve) -> None:
    began = time.monotonic()
    server = serve(ready=False)
    assert server.get("/health").status_code == 200
    first_answer_s = time.monotonic() - began
    server.wait_ready()
    assert first_answer_s < (time.monotonic() - began) * 0.8
