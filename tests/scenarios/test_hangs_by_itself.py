"""A server that hangs for good with nothing broken in it is watched, vouches for others, and says where it
stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.conftest import RunSuite

pytestmark = pytest.mark.once

PROGRAM = """
import http.server, sys, threading, time

LOCK = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/work" and "hangs" in sys.argv:
            LOCK.acquire()
            keep_the_lock()
        with LOCK:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

def keep_the_lock():
    time.sleep(3600)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("serving on port", server.server_port, flush=True)
server.serve_forever()
"""
TARGET = """
[target]
name = "{name}"
command = ["{{python}}", "program.py", "{name}"]
ready = {{ line = 'serving on port (?P<port>\\d+)' }}

[[probe]]
name = "http /"
kind = "http"
url = "http://127.0.0.1:{{port}}/"
connections = ["fresh"]

[[call]]
name = "work"
kind = "http"
method = "GET"
url = "http://127.0.0.1:{{port}}/work"
"""
SUITE = """
[suite]
name = "lock"
targets = ["good.toml", "hangs.toml"]

[timing]
settle_within_s = 2

[[row]]
name = "one-call"
fault = "noop"
traffic = { count = 1 }
calls = { hangs = "pending", "*" = "answered" }
expect = { hangs = "dark", "*" = "lit" }
controls = ["hangs"]
"""


async def test_it_is_dark_with_its_stacks_and_is_a_control(tmp_path: Path, run_suite: RunSuite) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "suite.toml").write_text(SUITE)
    for name in ("good", "hangs"):
        (tmp_path / f"{name}.toml").write_text(TARGET.format(name=name))

    report, troubles = await run_suite(tmp_path / "suite.toml")

    good, hangs = report.scenarios
    assert not troubles
    assert (hangs.observed, hangs.verdict, hangs.reasons) == ("dark", "pass", ())
    assert (good.observed, good.verdict, good.reasons) == ("lit", "pass", ())
    assert "in keep_the_lock" in "".join(stack.text for stack in hangs.stacks)
    assert good.stacks == ()
