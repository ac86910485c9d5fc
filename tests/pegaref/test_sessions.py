"""Sessions: one per instance, and nothing of it left when it ends, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pegaref.client import Client, ClientError, SharedTensor
from pegaref.errors import CleanupPending, ShuttingDown
from pegaref.messages import Dropped
from pegaref.serving.refusal import TooMany
from pegaref.serving.sessions import NO_SESSION, OpenSession, Sessions
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, client_process, eventually, running
from tests.pegaref.simulation import settle

RELEASED_WITHIN_S = 5.0
AT_ONCE_S = 5.0  # who waited for a stuck drop would wait twice as long, and then see it given up

needs_torch = pytest.mark.torch


class Drops:
    """Stands where the registry's handle is: takes note of what is dropped."""

    def __init__(self) -> None:
        self.dropped: list[tuple[str, int]] = []
        self.pending = False

    async def __call__(self, instance_id: str, generation: int) -> Dropped:
        self.dropped.append((instance_id, generation))
        if self.pending:
            raise CleanupPending("later", operation_id="op")
        return Dropped()


def make(most: int = 10) -> tuple[Sessions, Drops]:
    drops = Drops()
    return Sessions(drops, most=most), drops


async def ended(session: OpenSession) -> tuple[str, str]:
    async with asyncio.timeout(DEADLINE_S):
        reason = await session.ended
    return reason.code, reason.message


async def test_the_end_of_a_session_drops_its_generation() -> None:
    sessions, drops = make()
    session = sessions.open("a", "")
    sessions.close(session)
    await settle()
    assert drops.dropped == [("a", session.generation)]
    assert len(sessions) == 0


async def test_a_session_that_is_closed_twice_is_dropped_once() -> None:
    sessions, drops = make()
    session = sessions.open("a", "")
    sessions.close(session)
    sessions.close(session)
    await settle()
    assert len(drops.dropped) == 1


async def test_a_new_session_supersedes_the_old_one_and_drops_only_its_generation() -> None:
    sessions, drops = make()
    old = sessions.open("a", "")
    new = sessions.open("a", "")
    await settle()
    assert (await ended(old))[0] == "ABORTED"
    assert drops.dropped == [("a", old.generation)]
    assert new.generation > old.generation
    assert not new.ended.done()


async def test_the_late_end_of_a_superseded_stream_touches_nothing() -> None:
    sessions, drops = make()
    old = sessions.open("a", "")
    new = sessions.open("a", "")
    await settle()
    drops.dropped.clear()
    sessions.close(old)
    await settle()
    assert drops.dropped == []
    assert sessions.generation_of("a") == new.generation


async def test_other_instances_are_left_alone() -> None:
    sessions, drops = make()
    a, b = sessions.open("a", ""), sessions.open("a:b", "")
    sessions.close(a)
    await settle()
    assert drops.dropped == [("a", a.generation)]
    assert not b.ended.done()


async def test_a_register_belongs_to_the_open_session_or_is_loose() -> None:
    sessions, _ = make()
    assert sessions.generation_of("a") == NO_SESSION
    session = sessions.open("a", "")
    assert sessions.generation_of("a") == session.generation
    sessions.close(session)
    assert sessions.generation_of("a") == NO_SESSION


async def test_what_was_registered_loose_goes_with_the_next_session_that_ends() -> None:
    sessions, drops = make()
    assert sessions.add_registered("a", NO_SESSION)
    session = sessions.open("a", "")
    sessions.close(session)
    await settle()
    assert drops.dropped == [("a", session.generation), ("a", NO_SESSION)]


async def test_the_loose_registers_of_ranks_that_came_before_their_scheduler_survive_superseding() -> None:
    sessions, drops = make()
    old = sessions.open("a", "")
    assert sessions.add_registered("a", NO_SESSION)
    sessions.open("a", "")
    await settle()
    assert drops.dropped == [("a", old.generation)]


async def test_a_register_that_ends_after_its_session_has_no_owner() -> None:
    sessions, _ = make()
    session = sessions.open("a", "")
    assert sessions.add_registered("a", session.generation)
    sessions.close(session)
    assert not sessions.add_registered("a", session.generation)


async def test_loose_registers_that_were_dropped_are_not_dropped_again() -> None:
    sessions, drops = make()
    sessions.add_registered("a", NO_SESSION)
    sessions.clear_sessionless("a")
    session = sessions.open("a", "")
    sessions.close(session)
    await settle()
    assert drops.dropped == [("a", session.generation)]


async def test_a_session_whose_tensors_were_lost_ends_with_unavailable() -> None:
    sessions, drops = make()
    lost, kept = sessions.open("a", ""), sessions.open("b", "")
    sessions.end_lost([("a", lost.generation), ("b", kept.generation + 100)])
    code, message = await ended(lost)
    assert (code, "register again" in message) == ("UNAVAILABLE", True)
    assert not kept.ended.done()
    await settle()
    assert drops.dropped == [("a", lost.generation)]


async def test_over_the_limit_a_session_is_refused_at_once_but_an_open_one_may_be_superseded() -> None:
    sessions, _ = make(most=1)
    sessions.open("a", "")
    with pytest.raises(TooMany):
        sessions.open("b", "")
    sessions.open("a", "")


async def test_at_the_end_all_sessions_end_with_unavailable_and_no_new_one_opens() -> None:
    sessions, drops = make()
    session = sessions.open("a", "")
    await sessions.end_all()
    assert (await ended(session))[0] == "UNAVAILABLE"
    with pytest.raises(ShuttingDown):
        sessions.open("b", "")
    sessions.close(session)
    await settle()
    assert drops.dropped == []


async def test_a_cleanup_that_has_to_wait_is_left_to_the_registry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions, drops = make()
    drops.pending = True
    sessions.close(sessions.open("a", ""))
    await settle()
    assert "waits for an actor as operation op" in caplog.text


# ---- on a real server


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that takes no actor for wedged, so that a drop is waited for as long as one can be."""
    with running(tmp_path_factory.mktemp("patient"), "--wedge-after=60") as server:
        yield server


@needs_torch
def test_a_session_that_its_client_closes_releases_its_memory(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        with client.session(instance):
            client.register(instance, {"a": tensor})
            assert instance in server.instances()
        eventually(lambda: instance not in server.instances(), within_s=RELEASED_WITHIN_S)


@needs_torch
def test_a_client_that_is_killed_leaves_nothing_registered(server: Running, instance: str) -> None:
    with client_process("hold", "--addr", server.grpc, "--instance", instance, "--layers", "3") as client:
        assert client.said["registered"] == 3
        assert instance in server.instances()
        client.process.kill()
        eventually(lambda: instance not in server.instances(), within_s=RELEASED_WITHIN_S)


@needs_torch
def test_a_connection_that_is_reset_ends_its_session(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with relay_to(server.grpc) as relay, Client(relay.address) as client:
        session = client.session(instance)
        client.register(instance, {"a": tensor})
        assert instance in server.instances()
        relay.reset()
        eventually(lambda: instance not in server.instances(), within_s=RELEASED_WITHIN_S)
        assert session.wait_ended(DEADLINE_S)


@needs_torch
def test_the_twin_whose_client_stays_keeps_its_memory(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client, client.session(instance) as session:
        client.register(instance, {"a": tensor})
        assert not session.wait_ended(1.0)
        assert instance in server.instances()


@needs_torch
def test_a_new_session_frees_the_tensors_of_the_old_one_and_its_end_frees_none_of_the_new(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as first, server.client() as second:
        old = first.session(instance)
        first.register(instance, {"a": tensor})
        with second.session(instance) as new:
            assert old.wait_ended(DEADLINE_S)
            assert old.failure is not None
            assert old.failure.code == "ABORTED"
            second.register(instance, {"a": tensor})
            old.close()
            assert not new.wait_ended(0.3)
            generations = [
                context["generation"]
                for context in server.get("/instances").json()["contexts"]
                if context["instance"] == instance
            ]
            assert len(generations) == 1


@needs_torch
def test_a_session_under_a_wedge_is_cleaned_up_when_the_actor_is_back(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        session = client.session(instance)
        client.register(instance, {"a": tensor})
        with server.actor_stopped():
            session.close()
            eventually(lambda: server.get("/instances").json()["sessions"] == 0)
        eventually(lambda: instance not in server.instances(), within_s=RELEASED_WITHIN_S)
    server.wait_ready()


@needs_torch
def test_a_closed_stream_ends_at_once_although_the_drop_of_its_tensors_is_stuck(
    patient: Running, tensor: SharedTensor, instance: str
) -> None:
    with patient.client() as client:
        session = client.session(instance)
        client.register(instance, {"a": tensor})
        with patient.actor_stopped():
            session.close()
            eventually(lambda: stuck_drops(patient) == 1, what="the drop is stuck")
            eventually(lambda: open_streams(patient) == 0, within_s=AT_ONCE_S, what="the stream is over")
            assert stuck_drops(patient) == 1
        eventually(lambda: instance not in patient.instances(), within_s=RELEASED_WITHIN_S)


@needs_torch
def test_a_new_session_opens_and_the_old_one_ends_at_once_although_the_drop_between_them_is_stuck(
    patient: Running, tensor: SharedTensor, instance: str
) -> None:
    with patient.client() as client:
        old = client.session(instance)
        client.register(instance, {"a": tensor})
        with patient.actor_stopped():
            with client.session(instance, deadline_s=AT_ONCE_S):
                assert old.wait_ended(AT_ONCE_S)
                assert old.failure is not None
                assert old.failure.code == "ABORTED"
                assert stuck_drops(patient) == 1
        eventually(lambda: instance not in patient.instances(), within_s=RELEASED_WITHIN_S)


def stuck_drops(server: Running) -> int:
    """Drops that wait for device 0's actor, or are with it."""
    return sampled(server, 'pegaref_commands_in_flight{device="0",operation="drop_instance"}')


def open_streams(server: Running) -> int:
    """Sessions' streams that the server has not ended: a client no longer waits for one it cancelled."""
    return sampled(server, 'pegaref_grpc_requests_in_flight{method="pegaflow.Engine/Session"}')


def sampled(server: Running, sample: str) -> int:
    """What the metrics say of it now; 0 while they do not name it."""
    lines = server.get("/metrics").text.splitlines()
    return next((int(float(line.removeprefix(sample))) for line in lines if line.startswith(sample)), 0)


@pytest.mark.promise("respawn")
@needs_torch
def test_clients_of_a_lost_actor_are_told_and_register_again_and_the_metrics_count_it(
    serve: Serve, instance: str
) -> None:
    server = serve("--on-wedge=respawn", "--wedge-after=0.5")
    with client_process("hold", "--addr", server.grpc, "--instance", instance) as client:
        before = server.get("/instances").json()["contexts"][0]["generation"]
        assert sampled(server, 'pegaref_actor_epoch{device="0"}') == 1
        os.kill(server.actor_pid(), signal.SIGKILL)
        eventually(
            lambda: [
                context
                for context in server.get("/instances").json()["contexts"]
                if context["generation"] > before and context["settled"]
            ],
            what="registered again in a new session",
        )
        assert sampled(server, 'pegaref_actor_respawns_total{device="0"}') == 1
        assert sampled(server, 'pegaref_actor_epoch{device="0"}') == 2
        client.close_stdin()
        assert client.process.wait(DEADLINE_S) == 0
    assert server.instances() == []


@needs_torch
def test_a_session_that_cannot_be_opened_in_time_is_an_error_of_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address) as client, pytest.raises(ClientError) as caught:
            client.session("a", deadline_s=0.3)
    assert caught.value.code == "DEADLINE_EXCEEDED"


class Relay:
    """A loopback relay in front of a server, whose connections can be reset."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Close every connection so that its peers get a RST, and take no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for connection in self._sockets:
            with suppress(OSError):  # it is closed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads it, which closes it

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            source.close()


@contextmanager
def relay_to(target: str) -> Iterator[Relay]:
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.reset()
