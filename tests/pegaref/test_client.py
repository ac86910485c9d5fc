"""The client: it shares memory, says so in one line, starts without gRPC or torch, and leaves nothing."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pegaref.client import Client, ClientError, SharedTensor
from pegaref.wrapper import SharedMemory, decode_wrapper
from tests.pegaref.running import DEADLINE_S, Running, client_process, eventually

needs_torch = pytest.mark.torch


def memory_of(tensor: SharedTensor) -> Path:
    return Path("/dev/shm", tensor.name)


def test_shared_memory_exists_until_it_is_closed_and_closing_twice_is_harmless() -> None:
    tensor = SharedTensor(1000)
    memory = memory_of(tensor)
    assert memory.stat().st_size == 1000
    tensor.close()
    tensor.close()
    assert not memory.exists()


def test_its_bytes_are_those_of_the_object() -> None:
    with SharedTensor(8) as tensor:
        tensor.buffer[:3] = b"abc"
        assert memory_of(tensor).read_bytes()[:3] == b"abc"


def test_closed_memory_has_no_bytes() -> None:
    with SharedTensor(8) as tensor:
        pass
    with pytest.raises(ValueError, match="not shared any more"):
        _ = tensor.buffer


def test_its_wrapper_names_it_as_a_tensor_of_bytes() -> None:
    with SharedTensor(64) as tensor:
        assert decode_wrapper(tensor.wrapper) == SharedMemory(
            name=tensor.name, nbytes=64, dtype="uint8", shape=(64,)
        )


def test_nothing_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SharedTensor(0)


def test_share_says_one_line_and_ends_with_its_standard_input() -> None:
    with client_process("share", "--layers", "3", "--bytes", "500") as client:
        said = client.said
        assert (said["layers"], said["bytes"], said["pid"]) == (3, 500, client.process.pid)
        wrapper = decode_wrapper(base64.b64decode(said["wrapper"]))
        assert isinstance(wrapper, SharedMemory)
        assert (wrapper.name, wrapper.nbytes) == (client.memory.name, 500)
        assert client.memory.stat().st_size == 500
        client.close_stdin()
        assert client.process.wait(DEADLINE_S) == 0
        assert not client.memory.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_share_ends_at_a_signal_and_removes_its_memory(number: signal.Signals) -> None:
    with client_process("share") as client:
        client.process.send_signal(number)
        assert client.process.wait(DEADLINE_S) == 0
        assert not client.memory.exists()


def test_the_memory_of_a_killed_client_is_removed() -> None:
    with client_process("share", stderr=subprocess.DEVNULL) as client:
        client.process.kill()
        eventually(lambda: not client.memory.exists(), what="its memory is removed")


def test_share_loads_neither_grpc_nor_torch() -> None:
    probe = (
        "import sys; from pegaref.client.cli import main\n"
        "try: main(['share'])\n"
        "finally: print(sorted({'grpc', 'torch', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", probe],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["share", "--bytes", "0"], 2, "x>=1"),
        (["hold", "--instance", "a"], 2, "--addr"),
        (["hold", "--addr", "127.0.0.1:1", "--instance", "a"], 1, "UNAVAILABLE"),
        (["hold", "--addr", "127.0.0.1:1", "--instance", "a", "--no-session"], 1, "UNAVAILABLE"),
    ],
)
def test_what_fails_is_one_line_on_stderr(arguments: list[str], code: int, words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pegaref.client", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


@needs_torch
def test_hold_registers_in_a_session_and_leaves_nothing(server: Running, instance: str) -> None:
    arguments = ("--addr", server.grpc, "--instance", instance, "--layers", "2", "--device", "1")
    with client_process("hold", *arguments) as client:
        assert (client.said["instance"], client.said["registered"]) == (instance, 2)
        answer = server.get("/instances").json()
        (context,) = [context for context in answer["contexts"] if context["instance"] == instance]
        assert (context["device"], context["tensors"], context["generation"] > 0) == (1, 2, True)
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(DEADLINE_S) == 0
        assert not client.memory.exists()
    assert instance not in server.instances()


@needs_torch
def test_hold_without_a_session_registers_too_and_unregisters(server: Running, instance: str) -> None:
    with client_process("hold", "--addr", server.grpc, "--instance", instance, "--no-session") as client:
        answer = server.get("/instances").json()
        (context,) = [context for context in answer["contexts"] if context["instance"] == instance]
        assert context["generation"] == 0
        client.close_stdin()
        assert client.process.wait(DEADLINE_S) == 0
    assert instance not in server.instances()


@needs_torch
def test_hold_ends_with_an_error_when_it_is_superseded(server: Running, instance: str) -> None:
    with client_process(
        "hold", "--addr", server.grpc, "--instance", instance, stderr=subprocess.PIPE
    ) as client:
        with server.client() as other, other.session(instance):
            assert client.process.wait(DEADLINE_S) == 1
        assert client.process.stderr is not None
        assert "superseded" in client.process.stderr.read()
        assert not client.memory.exists()


@needs_torch
def test_errors_have_the_statuss_name_and_the_servers_words(server: Running, tensor: SharedTensor) -> None:
    with server.client() as client, pytest.raises(ClientError) as caught:
        client.register("", {"a": tensor})
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", "instance_id: must not be empty")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ClientError) as caught:
        client.health()
    assert caught.value.code == "UNAVAILABLE"


@needs_torch
def test_a_session_ends_with_its_block(server: Running, instance: str) -> None:
    with server.client() as client:
        with client.session(instance) as session:
            assert not session.wait_ended(0.05)
        assert session.wait_ended(DEADLINE_S)
        assert session.failure is None


@needs_torch
def test_a_client_killed_while_it_registers_leaves_nothing(
    serve: Callable[..., Running], instance: str
) -> None:
    server = serve()  # with its usual patience: what it takes for wedged it refuses at once
    arguments = ("--addr", server.grpc, "--instance", instance, "--retry")
    registering = 'pegaref_commands_in_flight{device="0",operation="register"} 1.0'
    with server.actor_stopped() as actor:
        with client_process("hold", *arguments, stderr=subprocess.DEVNULL) as client:
            assert (client.said["instance"], client.said["registering"]) == (instance, 1)
            eventually(lambda: registering in server.get("/metrics").text, what="it registers")
            client.process.kill()
            client.process.wait(DEADLINE_S)
        eventually(lambda: not client.memory.exists(), what="its memory is removed")
    maps = Path(f"/proc/{actor}/maps")
    eventually(lambda: "commands_in_flight{" not in server.get("/metrics").text, what="nothing runs any more")
    eventually(lambda: client.memory.name not in maps.read_text(), what="the actor let go of it")
    assert instance not in server.instances()


@needs_torch
def test_with_retry_hold_prints_that_it_registers_and_then_that_it_has(
    server: Running, instance: str
) -> None:
    with client_process("hold", "--addr", server.grpc, "--instance", instance, "--retry") as client:
        assert client.process.stdout is not None
        assert json.loads(client.process.stdout.readline())["registered"] == 1
        assert instance in server.instances()


@needs_torch
def test_the_memory_of_a_client_killed_with_its_session_is_let_go_of(server: Running, instance: str) -> None:
    maps = Path(f"/proc/{server.actor_pid()}/maps")
    with client_process(
        "hold", "--addr", server.grpc, "--instance", instance, stderr=subprocess.DEVNULL
    ) as client:
        assert client.memory.name in maps.read_text()
        client.process.kill()
        eventually(lambda: client.memory.name not in maps.read_text(), what="the actor let go of it")
    eventually(lambda: instance not in server.instances(), what="its instance is gone")
