"""A server has settled when nothing has changed for a while; what comes and goes by itself is no change."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from scenarios.server import settling
from scenarios.server.resources import Holding
from scenarios.server.settling import NeverSettled, Settling, wait_settled
from tests.scenarios.conftest import RunSuite


@pytest.fixture(autouse=True)
def in_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "QUIET_S", 0.4)
    monkeypatch.setattr(settling, "_LOOK_EVERY_S", 0.02)


def over_time(processes: Callable[[float], int]) -> Callable[[], Holding]:
    """What a server holds that has so many processes after so many seconds."""
    began_s = time.monotonic()

    def held() -> Holding:
        count = processes(time.monotonic() - began_s)
        return Holding(processes=Counter(map(str, range(count))))

    return held


async def test_workers_that_come_one_after_the_other_are_all_waited_for() -> None:
    found = await wait_settled(over_time(lambda s: 1 + min(3, int(s / 0.25))), 10)

    assert found.counts.processes == 4


@pytest.mark.parametrize("share", [0.2, 0.8])
async def test_a_helper_that_comes_and_goes_is_no_change_and_what_is_usual_counts(share: float) -> None:
    found = await wait_settled(over_time(lambda s: 1 + ((s / 0.2) % 1 < share)), 10)

    assert found.counts.processes == (1 if share < 0.5 else 2)


async def test_a_server_that_goes_on_changing_never_settles_and_is_told_how() -> None:
    with pytest.raises(NeverSettled, match=r"never settled: in 1 s .*processes \d+ → \d+") as told:
        await wait_settled(over_time(lambda s: 1 + int(s / 0.15)), 1)

    assert 1 < len(told.value.changes) <= 4


async def test_connections_that_are_not_judged_do_not_count_and_a_new_file_does() -> None:
    fds = Counter(["/dev/null of 1"])
    async with Settling(lambda: Holding(fds=Counter(fds)), connections=False) as quiet:
        fds["socket:[7] of 1"] += 1
        quiet.read()
        assert not quiet.disturbed()
        fds["/dev/zero of 1"] += 1
        quiet.read()
        assert quiet.disturbed()


async def test_a_worker_that_came_before_the_first_reading_is_a_change() -> None:
    two = Holding(processes=Counter(["1", "2"]))
    for before, disturbed in ((2, False), (1, True)):
        async with Settling(lambda: two, connections=False, processes=before) as quiet:
            assert quiet.disturbed() is disturbed


PROGRAM = """
import http.server, subprocess, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

def grow(most):
    for _ in range(most):
        time.sleep(0.7)
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

def help():
    while True:
        subprocess.run(["sleep", "0.2"])
        time.sleep(0.5)

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("serving on port", server.server_port, flush=True)
threading.Thread(target=grow, args=(int(sys.argv[1]),), daemon=True).start()
threading.Thread(target=help, daemon=True).start()
server.serve_forever()
"""
TARGET = """
[target]
name = "{name}"
command = ["{{python}}", "program.py", "{most}"]
ready = {{ line = 'serving on port (?P<port>\\d+)' }}
ready_within_s = 6

[[probe]]
name = "http /"
kind = "http"
url = "http://127.0.0.1:{{port}}/"
connections = ["fresh"]
"""
SUITE = """
[suite]
name = "settling"
targets = ["staggered.toml", "endless.toml"]

[[row]]
name = "noop"
fault = "noop"
expect = "lit"
because = "nothing is broken"
"""


@pytest.mark.once
async def test_what_starts_later_is_no_leak_and_a_server_that_never_settles_is_unproven(
    tmp_path: Path, run_suite: RunSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "suite.toml").write_text(SUITE)
    for name, most in (("staggered", 4), ("endless", 10_000)):
        (tmp_path / f"{name}.toml").write_text(TARGET.format(name=name, most=most))

    report, troubles = await run_suite(tmp_path / "suite.toml")

    staggered, endless = report.scenarios
    assert not troubles
    assert (staggered.verdict, staggered.reasons) == ("pass", ())
    assert staggered.leaks.before is not None
    assert staggered.leaks.before.threads >= 6
    assert endless.verdict == "unproven"
    assert "never settled: in 6 s" in endless.reasons[0]
    assert "threads" in endless.reasons[0]
