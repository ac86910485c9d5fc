"""The end: SIGTERM, SIGINT and the RPC, wedged or not; readiness first, nobody left waiting, nothing left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from faults import Controller, Selector
from pegaref.client import Client, ClientError, SharedTensor
from pegaref.client.connection import Session
from tests.pegaref.breaker import Breaker
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, LINE, Running, alive, eventually

pytestmark = pytest.mark.torch

GONE_WITHIN_S = 10.0
LATE_S = 5.0  # that a busy machine may add to the half second that is left of that


def send(number: signal.Signals) -> Callable[[Running], None]:
    return lambda server: os.kill(server.pid, number)


def ask(server: Running) -> None:
    with server.client() as client:
        client.shut_down()


ENDS = [
    pytest.param(send(signal.SIGTERM), id="SIGTERM"),
    pytest.param(send(signal.SIGINT), id="SIGINT"),
    pytest.param(ask, id="Shutdown"),
]


def told(session: Session) -> bool:
    """The client of the session has heard that and why it ended."""
    assert session.wait_ended(DEADLINE_S)
    assert session.failure is not None
    expected = ("UNAVAILABLE", "the server is shutting down")
    return (session.failure.code, session.failure.message) == expected


def gone(server: Running, children: list[int], began: float) -> None:
    """The server has ended with 0 in time, and its children with it."""
    assert server.process.wait(DEADLINE_S) == 0, server.log()
    assert time.monotonic() - began < GONE_WITHIN_S
    assert not any(map(alive, children))
    assert "Traceback" not in server.log()


def test_a_server_with_an_open_session_ends_and_tells_the_client(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--devices=0,1")
    children = server.children()
    assert len(children) == 2
    with server.client() as client:
        session = client.session(instance)
        client.register(instance, {"a": tensor})
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        gone(server, children, began)
        assert told(session)


@pytest.mark.promise("bounded-end")
@pytest.mark.parametrize("end", ENDS)
def test_a_wedged_server_with_stuck_calls_ends_too_and_answers_every_one(
    serve: Serve, tensor: SharedTensor, instance: str, end: Callable[[Running], None]
) -> None:
    server = serve("--wedge-after=60")
    children = server.children()
    errors: list[str] = []

    def register(number: int) -> None:
        with Client(server.grpc, deadline_s=DEADLINE_S) as client:
            try:
                client.register(f"{instance}-{number}", {"a": tensor})
            except ClientError as error:
                errors.append(error.code)

    with server.client() as client, server.actor_stopped():
        session = client.session(instance)
        stuck = [threading.Thread(target=register, args=(number,)) for number in range(4)]
        for thread in stuck:
            thread.start()
        eventually(
            lambda: (
                'pegaref_commands_in_flight{device="0",operation="register"} 4.0'
                in server.get("/metrics").text
            ),
            what="four registers are stuck",
        )
        began = time.monotonic()
        end(server)
        gone(server, children, began)
        for thread in stuck:
            thread.join(DEADLINE_S)
        assert errors == ["UNAVAILABLE"] * 4
        assert told(session)


def test_readiness_goes_first_and_liveness_stays_while_the_actor_is_waited_for(
    serve: Serve, tensor: SharedTensor
) -> None:
    server = serve("--wedge-after=60", "--shutdown-grace=6")
    with server.actor_stopped():
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: server.get("/ready").status_code == 503, what="not ready")
        assert server.ready()["stage"] == "stopping"
        assert server.get("/health").status_code == 200
        refused = server.post("/instances/cleanup")
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        with server.client() as client, pytest.raises(ClientError) as caught:
            client.register("late", {"a": tensor})
        assert caught.value.code == "UNAVAILABLE"
        assert server.process.wait(DEADLINE_S) == 0


def test_a_killed_server_takes_its_children_with_it_one_that_is_stopped_too(serve: Serve) -> None:
    server = serve("--devices=0,1")
    children = server.children()
    assert len(children) == 2
    with server.actor_stopped():
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not any(map(alive, children)), within_s=2.0, what="no child is left")


STOPS_AT_ONCE = """
import os, signal, sys
if "pegaref.actor.child" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_terminals_ctrl_c_reaches_the_control_process_alone_which_ends_its_actors(
    serve: Serve, tmp_path: Path
) -> None:
    """Seen in an actor that has only just been started: later, it ignores the signal if it comes."""
    (tmp_path / "sitecustomize.py").write_text(STOPS_AT_ONCE)
    server = serve(ready=False, as_job=True, environment={"PYTHONPATH": str(tmp_path)})
    (actor,) = server.children()
    eventually(lambda: psutil.Process(actor).status() == psutil.STATUS_STOPPED, what="the actor has stopped")
    began = time.monotonic()
    os.killpg(server.pid, signal.SIGINT)  # what a terminal does to the job in front
    assert not pending(actor, signal.SIGINT)
    os.kill(actor, signal.SIGCONT)
    gone(server, [actor], began)


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether the signal was sent to the process and waits there, by the kernel."""
    status = Path(f"/proc/{pid}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\s+(\w+)$", status, re.MULTILINE)
    return bool(int(pending, 16) >> (number - 1) & 1)


def test_a_server_that_hangs_in_its_own_end_where_no_python_runs_ends_all_the_same(serve: Serve) -> None:
    with Breaker() as breaker:
        server = serve("--shutdown-grace=6", ready=False, environment=breaker.environment())
        children = server.children()
        with server.actor_stopped():  # so that the end lasts until the fault bites
            os.kill(server.pid, signal.SIGTERM)
            eventually(lambda: server.ready()["stage"] == "stopping", what="it is stopping")
            breaker.break_process(server.pid, "gil.hold")
            assert server.process.wait(GONE_WITHIN_S + LATE_S) == 1, server.log()
        eventually(lambda: not any(map(alive, children)), what="no child is left")
    assert "most recent call first" in server.log(), "where it hung is not told"


def test_a_server_can_be_ended_before_torch_is_loaded(serve: Serve) -> None:
    server = serve(loads=False)
    children = server.children()
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    gone(server, children, began)


async def test_a_server_whose_own_thread_hangs_ends_too(tensor: SharedTensor, instance: str) -> None:
    """Placement `thread`: what hangs is in the server's own process, and cannot be ended apart from it."""
    command = [sys.executable, "-m", "pegaref", "serve", "--http-addr=127.0.0.1:0", "--addr=127.0.0.1:0"]
    registry = {"registry": Selector(imports="pegaref.actor.tensors")}
    sites = {"empty_cache": "torch.cuda:empty_cache"}
    async with asyncio.timeout(2 * DEADLINE_S), Controller(processes=registry, sites=sites) as controller:
        launched = await controller.launch(
            [*command, "--placement=thread"],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert launched.stdout is not None
        match = LINE.match((await launched.stdout.readline()).decode())
        assert match
        await controller.wait_process("registry", timeout_s=DEADLINE_S)
        client = Client(match["grpc"], deadline_s=DEADLINE_S)
        await asyncio.to_thread(client.register, instance, {"a": tensor})
        async with controller.arm("call.stall", process="registry", params={"site": "empty_cache"}) as fault:
            stuck = asyncio.create_task(asyncio.to_thread(client.unregister, instance))
            await fault.wait_biting(timeout_s=DEADLINE_S)
            began = time.monotonic()
            os.kill(int(match["pid"]), signal.SIGTERM)
            await launched.wait()
            assert time.monotonic() - began < GONE_WITHIN_S
            with pytest.raises(ClientError):
                await stuck
        client.close()
