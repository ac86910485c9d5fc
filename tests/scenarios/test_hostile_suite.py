"""The suite of what one client can send: the attacks are real, and the plain server goes dark of them."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest

from scenarios.record import Report
from scenarios.spec import suite_file
from scenarios.spec.loads import Clients
from scenarios.traffic.attack import ATTACKS

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]
HOSTILE = suite_file.find("hostile")


def test_every_attack_is_in_a_row_that_a_server_without_the_guard_does_not_stand() -> None:
    _, scenarios, not_run = suite_file.load(HOSTILE)
    assert not not_run
    dark = {scenario.name for scenario in scenarios if scenario.expected == "dark"}
    attacks = set()
    for scenario in scenarios:
        attacks |= {name for load in scenario.row.load if isinstance(load, Clients) for name in load.args}
        if scenario.target.name.startswith("pegaref-"):
            assert scenario.expected == "lit"
            assert scenario.row.name == "noop" or (scenario.controls and set(scenario.controls) <= dark)
    assert attacks == set(ATTACKS)


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Where an attack connects to; nothing answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield listening


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("idle", "refused")])
def test_an_attack_says_that_it_has_begun_and_ends_with_its_stdin(listener: socket.socket, name: str) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "scenarios.traffic.attack", name, "--http", address, "--grpc", address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attack:
        try:
            assert attack.stdout is not None
            assert attack.stdin is not None
            assert select.select([attack.stdout], [], [], 30)[0]
            assert json.loads(attack.stdout.readline()) == {"attack": name}
            attack.stdin.close()
            assert attack.wait(10) == 0
        finally:
            attack.kill()


async def test_one_path_that_is_no_utf8_takes_grpc_aio_dark_for_good(run_suite: RunSuite) -> None:
    report, troubles = await run_suite(HOSTILE, "path@plain-server")
    (found,) = report.scenarios
    assert troubles == ()
    assert found.observed == "dark", found.reasons
    # grpc.aio without its task can crash of the next call, and then its exit code is that of the crash.
    assert all("exit code -11" in reason for reason in found.reasons)
