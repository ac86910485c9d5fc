"""One server for all who can share it, more for those who need other flags, and shared memory that goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from pegaref.client import SharedTensor
from tests.pegaref.running import Running, eventually, running
from tests.pegaref.stalls import Stall

Serve = Callable[..., Running]

_numbers = count()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready server for all files: placement process, devices 0 and 1, quick to see a wedge."""
    folder = tmp_path_factory.mktemp("server")
    with running(folder, "--devices=0,1", "--wedge-after=0.5") as server:
        yield server


@pytest.fixture
def server(shared_server: Running) -> Iterator[Running]:
    """The server that tests share, each of which gives it back ready, with its first actors and empty."""
    yield shared_server
    shared_server.wait_ready()
    eventually(lambda: holds(shared_server) == (0, 0), within_s=10.0, what="nothing is registered or open")
    devices = shared_server.ready()["devices"]
    assert {number: device["epoch"] for number, device in devices.items()} == {"0": 1, "1": 1}


def holds(server: Running) -> tuple[int, int]:
    """The contexts and the sessions that the server has."""
    told = server.get("/instances").json()
    return len(told["contexts"]), told["sessions"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers with other flags; they end with the test."""
    with ExitStack() as servers:

        def start(*flags: str, **more: object) -> Running:
            return servers.enter_context(running(tmp_path, *flags, **more))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def tensor() -> Iterator[SharedTensor]:
    """Shared memory of this process."""
    with SharedTensor(4096) as tensor:
        yield tensor


@pytest.fixture
def instance() -> str:
    """A name that no other test of this run uses."""
    return f"instance-{next(_numbers)}"


@pytest.fixture
def stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stall]:
    """Can make `empty_cache` block in the actors that start from now on."""
    made = Stall(tmp_path, monkeypatch)
    yield made
    made.close()
