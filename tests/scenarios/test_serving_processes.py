"""Several processes serve: a fault that is gone with its process proves nothing, and it is no matter of luck
which of them a connection leads to. On a real master with workers.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from scenarios.judge import judge
from scenarios.judge.observation import MIN_FRESH, observe
from scenarios.record import Guard, Report, Sample, ScenarioRecord, Series
from scenarios.run.processes import find_serving, identity, started_s
from tests.scenarios.test_judge import SERIES, at
from tests.scenarios.test_run import row, suite

TARGET = """
[target]
name = "{name}"
command = ["{{python}}", "{server}", "{{port:http}}", "{workers}", "{how}"]
ready = {{ url = "http://127.0.0.1:{{port:http}}/health" }}

[[probe]]
kind = "http"
name = "/health"
url = "http://127.0.0.1:{{port:http}}/health"
budget_s = 1

{calls}

[processes]
server = {{ main = true }}
registry = {{ parent = "server" }}

[sites]
gpu = "__main__:on_gpu"

[leaks]
threads = 30
processes = 9
fds = 60
because = "workers come and go, and a thread for each connection"
"""
CALL = """
[[call]]
kind = "http"
method = "GET"
name = "{0}"
url = "http://127.0.0.1:{{port:http}}/{0}"
"""
WAYS = ("exec", "end", "fork", "close")
TIMING = """
[timing]
baseline_s = 0.5
window_s = 1.5
window_max_s = 5
recover_within_s = 5
settle_within_s = 1
"""
STALL = ("bites = 'on-traffic'", "breaks = 'one'", "params = { site = 'gpu' }")
pytestmark = pytest.mark.once


def target(servers: Path, tmp_path: Path, name: str, workers: int, how: str) -> str:
    path = tmp_path / f"{name}.toml"
    calls = "".join(map(CALL.format, ("work", *WAYS)))
    server = servers / "prefork.py"
    path.write_text(TARGET.format(name=name, server=server, workers=workers, how=how, calls=calls))
    return str(path)


def guard(record: ScenarioRecord, name: str) -> Guard:
    return next(one for one in record.guards if one.name == name)


async def test_a_fault_that_ended_with_its_process_is_unproven_and_the_process_is_named(
    servers: Path, tmp_path: Path, run_suite: Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]
) -> None:
    rows = TIMING
    for how in ("stay", *WAYS):
        beside = [f"beside = [{{ call = '{how}', count = 1, calls = 'ended' }}]"] if how != "stay" else []
        work = "traffic = { call = 'work', count = 1, calls = 'ended' }"
        rows += row(how, "call.stall", "lit", *STALL, work, *beside)
    one = target(servers, tmp_path, "one", 1, "--threads")
    report, troubles = await run_suite(suite(servers, tmp_path, rows, one))
    assert not troubles
    seen = {record.name.partition("@")[0]: record for record in report.scenarios}
    held = {name: guard(record, "the fault was in what serves") for name, record in seen.items()}
    assert held["stay"].held
    assert seen["stay"].observed == "lit"
    for how, why in {
        "exec": "runs another program (exec)",
        "end": "has ended",
        "fork": "serves, is not broken, and started",
        "close": "has closed the agent's connection",
    }.items():
        assert seen[how].verdict == "unproven", (how, seen[how].guards)
        assert why in held[how].detail
        assert "after the window opened" in held[how].detail


async def test_one_of_two_processes_is_broken_every_time_and_the_verdict_is_that_of_the_sockets(
    servers: Path, tmp_path: Path, run_suite: Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]
) -> None:
    rows = TIMING + row(
        "stall", "call.stall", "lit", *STALL, "traffic = { call = 'work' }", "controls = ['own']"
    )
    rows = rows.replace("expect = 'lit'", "expect = { own = 'partial', alone = 'dark', '*' = 'lit' }")
    targets = [
        target(servers, tmp_path, "own", 2, "--own"),
        target(servers, tmp_path, "shared", 2, "--shared"),
        target(servers, tmp_path, "threads", 2, "--threads"),
        target(servers, tmp_path, "alone", 1, "--shared"),
    ]
    report, _ = await run_suite(suite(servers, tmp_path, rows, *targets))
    seen = {record.target: (record.observed, record.processes.words) for record in report.scenarios}
    half = "1 of 2 serving processes was broken"
    assert seen == {
        "own": ("partial", half),
        "shared": ("lit", half),
        "threads": ("lit", half),
        "alone": ("dark", ""),
    }
    assert report.suite.passed, [record.reasons for record in report.scenarios]
    for record in report.scenarios:
        assert judge(record).observed == record.observed


def fresh(missed: Callable[[int], bool], period_s: float = 0.1) -> list[Sample]:
    return [
        at(i * period_s, None, "cut") if missed(i) else at(i * period_s) for i in range(round(4.5 / period_s))
    ]


@pytest.mark.parametrize(
    ("missed", "observed"),
    [
        (lambda i: False, "lit"),
        (lambda i: True, "dark"),
        (lambda i: i % 2 == 0, "partial"),
        (lambda i: i < 40, "dark"),
    ],
)
def test_where_some_processes_are_broken_fresh_connections_decide(
    missed: Callable[[int], bool], observed: str
) -> None:
    kept = replace(SERIES, connection="kept")
    for stuck in (False, True):  # whichever process the kept connection leads to
        samples = {"fresh": fresh(missed), "kept": fresh((lambda i: True) if stuck else (lambda i: False))}
        found = observe({"fresh": SERIES, "kept": kept}, samples, 0.0, 2.2, 4.3, in_part=True)
        assert (found.observed, found.too_few) == (observed, ())


def test_an_endpoint_that_is_dark_makes_no_other_partial() -> None:
    both: dict[str, Series] = {"http": SERIES, "grpc": SERIES}
    samples = {"http": fresh(lambda i: False), "grpc": fresh(lambda i: True)}
    assert observe(both, samples, 0.0, 2.2, 4.3, in_part=True).observed == "dark"


def test_fewer_than_twenty_fresh_connections_tell_nothing_of_some_processes() -> None:
    samples = {"fresh": fresh(lambda i: i % 2 == 0, 0.2)}
    found = observe({"fresh": SERIES}, samples, 0.0, 2.2, 4.3, in_part=True)
    assert len(found.too_few) == 1
    assert found.fewest < MIN_FRESH


def test_a_probe_under_way_keeps_the_window_of_some_processes_open() -> None:
    found = observe({"fresh": SERIES}, {"fresh": fresh(lambda i: i == 20)}, 0.0, 2.2, 2.3, in_part=True)
    assert found.observed is None


async def test_a_child_that_only_holds_the_socket_does_not_serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    fd, port = listener.fileno(), listener.getsockname()[1]
    accepts = f"import socket; s = socket.socket(fileno={fd}); print('on', flush=True); s.accept()"
    holds = "import sys; print('on', flush=True); sys.stdin.read()"
    started = [_python(text, fd) for text in (accepts, holds)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        series = {"a": replace(SERIES, address=f"http://127.0.0.1:{port}/")}
        while True:  # until the first waits in accept
            found = await find_serving([process.pid for process in started], series)
            if found.seen_waiting:
                break
        assert found.pids == {started[0].pid}
        assert identity(started[0].pid) != identity(started[1].pid)
        assert started_s(started[0].pid) is not None
    finally:
        _end(started)
        listener.close()
    assert identity(started[0].pid) is None


def _python(text: str, fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", text], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()
