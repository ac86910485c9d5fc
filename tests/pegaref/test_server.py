"""The server as a whole: every placement serves the same, and the control process never loads torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pegaref.client import SharedTensor
from pegaref.config import PLACEMENTS
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running

pytestmark = pytest.mark.torch

GONE_WITHIN_S = 10.0


def maps(pid: int) -> str:
    """What the process has in its memory, by the kernel."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_registers_shows_drops_and_ends(
    request: pytest.FixtureRequest, serve: Serve, tensor: SharedTensor, instance: str, placement: str
) -> None:
    if placement == "process":  # it is the shared one, whose end is in test_shutdown.py
        registers_shows_and_drops(request.getfixturevalue("server"), tensor, instance)
        return
    server = serve(f"--placement={placement}", "--devices=0,1")
    assert "libtorch" in maps(server.pid)
    registers_shows_and_drops(server, tensor, instance)
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    assert server.process.wait(DEADLINE_S) == 0, server.log()
    assert time.monotonic() - began < GONE_WITHIN_S
    assert "Traceback" not in server.log()


def registers_shows_and_drops(server: Running, tensor: SharedTensor, instance: str) -> None:
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
