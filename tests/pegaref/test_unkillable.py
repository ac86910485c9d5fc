"""Actors that cannot be killed: in state D, and alive after SIGKILL. Both are real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pegaref.client import ClientError, SharedTensor
from pegaref.config import RegistrySettings
from pegaref.errors import DeviceWedged
from pegaref.registry import Hang
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, alive, eventually
from tests.pegaref.shared import mapped, register_shared, running, shared_memory, until
from tests.pegaref.simulation import key
from tests.pegaref.stalls import Stall
from tests.pegaref.tracer import Held, TracingForbidden

pytestmark = pytest.mark.torch

GONE_WITHIN_S = 10.0


@contextmanager
def outliving_sigkill(server: Running, stall: Stall, instance: str) -> Iterator[Held]:
    """Device 0's actor hangs, was sent SIGKILL by its server for that, and is there all the same."""

    def unregister() -> None:
        with server.client() as client, suppress(ClientError):
            client.unregister(instance)

    pid = server.actor_pid()
    stall.block("held")
    try:
        held = Held(pid).__enter__()
    except TracingForbidden as error:
        pytest.skip(f"this process may not trace: {error}")
    stuck = threading.Thread(target=unregister)
    try:
        stuck.start()
        eventually(lambda: held.ending, what="SIGKILL reached the actor")
        stall.block("pass")  # for the actor that comes after
        yield held
    finally:
        held.release()
        stuck.join(DEADLINE_S)
    assert not stuck.is_alive()


@pytest.mark.promise("kind-of-hang")
async def test_a_child_in_state_d_is_named_shown_and_goes_on_with_its_tensors(stall: Stall) -> None:
    with shared_memory() as name:
        async with running(settings=RegistrySettings(wedge_after_s=1.0)) as r:
            pid = r.pid()
            for instance in ("kept", "a"):
                await r.handle.register(register_shared(name, key(instance)), deadline_s=DEADLINE_S)
            stall.block("uninterruptible")
            drop = asyncio.create_task(r.handle.drop_instance("a", generation=None, deadline_s=DEADLINE_S))
            await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "D")
            await until(lambda: r.device().hang is Hang.UNKILLABLE)
            await until(lambda: "empty_cache" in r.device().traceback)
            with pytest.raises(DeviceWedged, match="unkillable"):
                await r.handle.register(register_shared(name, key("b")), deadline_s=DEADLINE_S)
            stall.release()
            assert (await drop).contexts == 1
            await until(lambda: r.device().ready)
            assert (r.pid(), mapped(name, pid)) == (pid, 1)


@pytest.mark.promise("quarantine")
def test_an_actor_that_outlives_sigkill_is_quarantined_and_replaced_when_it_ends(
    serve: Serve, stall: Stall, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--devices=0,1", "--on-wedge=respawn", "--wedge-after=0.5")
    pid = server.actor_pid()
    with server.client() as client:
        client.register(instance, {"a": tensor})
        with outliving_sigkill(server, stall, instance):
            device = eventually(lambda: quarantined(server), what="quarantined")
            assert (device["ready"], device["hang"], device["pid"]) == (False, "unkillable", pid)
            assert "outlived SIGKILL" in device["reason"]
            assert server.get("/ready").status_code == 503
            assert server.get("/health").status_code == 200
            assert 'pegaref_wedged{device="0",kind="unkillable"} 1.0' in server.get("/metrics").text
            with pytest.raises(ClientError) as refusal:
                client.register(f"{instance}-new", {"a": tensor})
            assert (refusal.value.code, alive(pid)) == ("UNAVAILABLE", True)
            client.register(f"{instance}-1", {"a": tensor}, device_id=1)
            client.unregister(f"{instance}-1")
            assert quarantined(server)
        server.wait_ready()
        assert not Path(f"/proc/{pid}").exists(), "a zombie was left"
        assert server.ready()["devices"]["0"]["epoch"] == 2
        client.register(instance, {"a": tensor})


@pytest.mark.promise("bounded-end")
@pytest.mark.parametrize("quarantine", [True, False], ids=["quarantined", "only just killed"])
def test_a_server_whose_actor_outlives_sigkill_ends_without_waiting_for_it(
    serve: Serve, stall: Stall, tensor: SharedTensor, instance: str, quarantine: bool
) -> None:
    server = serve("--on-wedge=respawn", "--wedge-after=0.5")
    pid = server.actor_pid()
    with server.client() as client:
        client.register(instance, {"a": tensor})
        session = client.session(instance)
        with outliving_sigkill(server, stall, instance):
            if quarantine:
                eventually(lambda: quarantined(server), what="quarantined")
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            assert server.process.wait(DEADLINE_S) == 0, server.log()
            assert time.monotonic() - began < GONE_WITHIN_S
            assert "left behind" in server.log()
            assert alive(pid)
        assert session.wait_ended(DEADLINE_S)
    eventually(lambda: not alive(pid), what="the actor has ended")


def quarantined(server: Running) -> dict[str, Any]:
    """What /ready says of device 0 in quarantine; nothing while it is not in it."""
    device: dict[str, Any] = server.ready()["devices"]["0"]
    return device if device["phase"] == "quarantined" else {}
