"""A server that ends by itself is said to have ended, how, and with its last words, wherever that happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scenarios.errors import TargetEnded
from scenarios.onboarding.check import check
from scenarios.server.server import serving
from scenarios.spec import target_file

pytestmark = pytest.mark.once

PROGRAM = """
import http.server, os, signal, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")
        if "dies" in sys.argv:
            print("boom: the pool has failed", file=sys.stderr, flush=True)
            threading.Timer(0.1, os._exit, (3,)).start()
        if "killed" in sys.argv:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()

if "leaves" in sys.argv and os.fork():
    time.sleep(0.5)
    os._exit(0)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("serving on port", server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""
TARGET = """
[target]
name = "brief"
command = ["{{python}}", "program.py", "{does}"]
ready = {{ {ready} }}

[[probe]]
name = "http /"
kind = "http"
url = "http://127.0.0.1:{{port}}/"

[processes]
server = {{ main = true }}
worker = {{ main = true }}
"""
ON_STDERR = "line = 'serving on port (?P<port>\\d+)'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def target(folder: Path, does: str, ready: str = ON_STDERR) -> target_file.LoadedTarget:
    path = folder / "brief.toml"
    path.write_text(TARGET.format(does=does, ready=ready))
    return target_file.load(path)


async def test_a_ready_line_on_stderr_counts(folder: Path) -> None:
    async with serving(target(folder, "stays")) as server:
        assert int(server.names["port"]) > 0


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("dies", r"ended with exit code 3 by itself, .* after it was ready; its last words: boom: the pool"),
        ("killed", r"was killed by SIGKILL .* after it was ready"),
    ],
)
async def test_a_server_that_ends_after_it_was_ready_ends_the_check(
    folder: Path, does: str, said: str
) -> None:
    with pytest.raises(TargetEnded, match=said):
        await check(target(folder, does), lambda line: None)


async def test_a_daemon_that_left_before_it_was_ready_is_told_so(folder: Path) -> None:
    never = "line = 'no such (?P<port>line)'"
    with pytest.raises(TargetEnded, match=r"ended with exit code 0 before ready and left 1 of its processes"):
        async with serving(target(folder, "leaves", never)):
            pass


async def test_a_daemon_that_left_and_serves_is_something_to_put_right(folder: Path) -> None:
    try:
        problems = (await check(target(folder, "leaves"), lambda line: None)).problems
    except TargetEnded as error:  # it left sooner than it was seen to be ready
        problems = (str(error),)
    assert any("left 1 of its processes in the background" in problem for problem in problems)


def test_a_row_says_that_the_server_ended_and_the_command_shows_its_last_lines(folder: Path) -> None:
    target(folder, "dies")
    wedge = [sys.executable, "-m", "scenarios"]

    checked = subprocess.run(
        [*wedge, "target", "check", "brief.toml"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ran = subprocess.run(
        [*wedge, "run", "--target", "brief.toml", "noop@*"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert checked.returncode == 2
    assert "| boom: the pool has failed" in checked.stderr
    assert ran.returncode == 1
    assert "the server is there: it ended with exit code 3 by itself" in ran.stdout
