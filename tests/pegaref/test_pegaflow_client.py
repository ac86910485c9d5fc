"""PegaFlow's own client, from its wheel (8 MB; no torch, no GPU), talks to pegaref as to its own server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pegaref.client import SharedTensor
from pegaref.config import PEGAFLOW_VERSION
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S

pytestmark = [pytest.mark.torch, pytest.mark.once]

WHEEL = f"pegaflow-llm-cu13=={PEGAFLOW_VERSION}"
INSTALL_WITHIN_S = 60

# The client is a Rust extension with threads of its own: it has a process of its own.
CLIENT = """
import json, sys, urllib.request
from pegaflow.pegaflow import EngineRpcClient, PegaFlowError

grpc, http, wrapper = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])

def instances():
    with urllib.request.urlopen(f"http://{http}/instances") as answer:
        state = json.load(answer)
    return [state["sessions"], [(one["tensors"], one["bytes"]) for one in state["contexts"]]]

def register(name, backend):
    return client.register_context_batch(
        name, "space", 0, 0, 1, 1, 0, ["K", "V"], [wrapper, wrapper], [4, 4], [1024, 512], [0, 2048], [1, 2],
        backend, True, layer_group_ids=[0, 1])

def refused(call):
    try:
        return repr(call())
    except PegaFlowError as error:
        return str(error)

client = EngineRpcClient(f"http://{grpc}")
said = {"health": client.health()}
client.start_session_watcher("one", "space", 1, 1)
said["register"] = [register("one", "kernel"), register("two", "direct")]
said["registered"] = instances()
said["twice"] = refused(lambda: register("one", "kernel"))
said["save"] = refused(lambda: client.save("one", 0, 0, 0, [("K", [0], [b"hash"])]))
said["release"] = refused(lambda: client.release(b"lease"))
said["unregister"] = [client.unregister_context(name)[0] for name in ("one", "two")]
said["unregistered"] = instances()
said["shutdown"] = client.shutdown()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client's package."""
    folder = tmp_path_factory.mktemp("pegaflow")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", f"--target={folder}", WHEEL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{WHEEL} was not installed within {INSTALL_WITHIN_S} s")
    if done.returncode:
        pytest.skip(f"{WHEEL} cannot be installed here: {(done.stderr.splitlines() or ['?'])[-1]}")
    return folder


def test_every_call_that_is_built_does_what_the_client_expects(
    wheel: Path, serve: Serve, tensor: SharedTensor
) -> None:
    server = serve("--client-version=equal")
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, server.grpc, server.http, tensor.wrapper.hex()],
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["health"][0] is True
    assert [ok for ok, _ in said["register"]] == [True, True]
    assert said["registered"] == [1, [[2, 8192], [2, 8192]]]
    assert "is registered" in said["twice"]
    assert "pegaflow.Engine/Save is not built in pegaref" in said["save"]
    assert "pegaflow.Engine/Release is not built in pegaref" in said["release"]
    assert (said["unregister"], said["unregistered"]) == ([True, True], [1, []])
    assert said["shutdown"][0] is True
    assert server.process.wait(DEADLINE_S) == 0
