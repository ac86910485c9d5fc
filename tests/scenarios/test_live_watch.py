"""`wedge watch` without a terminal: lines on change, JSON, its errors, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

WEDGE = [sys.executable, "-m", "scenarios"]
WITHIN_S = 60


class Tiny:
    """The small server, without wedge around it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "tiny.py")], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        found = re.search(r"http=(\S+) grpc=(\S+)", self.process.stdout.readline())
        assert found is not None
        self.http, self.grpc = found[1], found[2]

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def tiny(servers: Path) -> Iterator[Tiny]:
    server = Tiny(servers)
    yield server
    server.close()


def watching(*arguments: str) -> subprocess.Popen[str]:
    watch = subprocess.Popen(
        [*WEDGE, "watch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    threading.Timer(WITHIN_S, watch.kill).start()
    return watch


@pytest.fixture
def _no_timer_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


pytestmark = pytest.mark.usefixtures("_no_timer_left")


def line(watch: subprocess.Popen[str]) -> str:
    assert watch.stdout is not None
    return watch.stdout.readline()


def test_darkness_and_its_end_are_one_line_each(tiny: Tiny, servers: Path) -> None:
    watch = watching("--target", f"{servers}/tiny-loop.toml", "--set", f"http={tiny.http}",
                     "--set", f"grpc={tiny.grpc}")  # fmt: skip
    names = {"http /health", "http /metrics", "grpc health"}
    assert {re.split(r" |: ", line(watch), maxsplit=1)[1].strip() for _ in names} == {
        f"{n}: lit" for n in names
    }
    tiny.process.send_signal(signal.SIGSTOP)
    dark = {line(watch).strip()[9:] for _ in names}
    assert {told.partition(":")[0] for told in dark} == names
    assert all(": lit → dark (no answer for 2." in told for told in dark)
    tiny.process.send_signal(signal.SIGCONT)
    assert all(": dark → lit (after " in line(watch) for _ in names)
    watch.send_signal(signal.SIGINT)
    rest, errors = watch.communicate(timeout=WITHIN_S)
    assert (watch.returncode, rest, errors) == (0, "", "")


def test_json_is_one_object_a_second_until_the_time_is_up(tiny: Tiny) -> None:
    watch = watching("--http", f"{tiny.http}/health", "--grpc", tiny.grpc, "--for", "3.5s", "--json")
    told, errors = watch.communicate(timeout=WITHIN_S)
    assert (watch.returncode, errors) == (0, "")
    objects = [json.loads(text) for text in told.splitlines()]
    assert len(objects) == 3
    assert [round(o["elapsed_s"]) for o in objects] == [1, 2, 3]
    last = objects[-1]
    assert last["lit"] is True
    assert [e["name"] for e in last["endpoints"]] == ["http /health", "grpc health"]
    for endpoint in last["endpoints"]:
        assert endpoint["state"] in ("lit", "missed")
        assert endpoint["p50_ms"] > 0
        assert endpoint["ok"] > 10
        assert endpoint["dark_s"] is None


def test_a_server_that_is_not_there_is_dark(tiny: Tiny) -> None:
    tiny.process.kill()
    tiny.process.wait()
    watch = watching("--http", f"{tiny.http}/health", "--for", "4s")
    told, _ = watch.communicate(timeout=WITHIN_S)
    assert watch.returncode == 0
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d http /health: dark \(no answer for 2.\d s; the last probe: refused\)\n", told
    )


def test_a_reader_that_has_seen_enough_ends_it(tiny: Tiny) -> None:
    watch = watching("--http", f"{tiny.http}/health", "--json")
    assert line(watch)
    assert watch.stdout is not None
    assert watch.stderr is not None
    watch.stdout.close()
    assert watch.wait(timeout=WITHIN_S) == 0
    assert watch.stderr.read() == ""
    watch.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to watch: give --target FILE|NAME, --http URL, --grpc HOST:PORT or --tcp HOST:PORT"),
        (["--target", "pegaref-inline"], "give --set http=HOST:PORT --set grpc=HOST:PORT"),
        (["--target", "pegaref-inline", "--set", "http=127.0.0.1:1"], "need {grpc}, known only once it runs"),
        (
            ["--target", "pegaref-inline", "--set", "http=a:1", "--set", "grpc=a:1", "--set", "htp=a:1"],
            "--set htp: no endpoint of pegaref-inline uses {htp}; did you mean http?",
        ),
        (["--target", "pegaref-inline", "--set", "http"], "write NAME=VALUE"),
        (["--set", "http=127.0.0.1:1"], "there is no --target"),
        (["--target", "pegaref-inlin"], "did you mean pegaref-inline"),
        (["--http", "ftp://127.0.0.1"], "'ftp://127.0.0.1' is no http:// or https:// URL"),
        (["--http", "127.0.0.1:port"], "names no port from 1 to 65535"),
        (["--grpc", "127.0.0.1"], "'127.0.0.1' names no port from 1 to 65535: write HOST:PORT"),
        (["--http", "a:1/x", "--http", "a:1/x"], "is asked for twice"),
        (["--http", "a:1/x", "--for", "soon"], "'soon' is no length of time"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched_exits_2_with_one_clear_line(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [*WEDGE, "watch", *arguments], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len([text for text in done.stderr.splitlines() if says in text]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pegaref-inlin"], "did you mean pegaref-inline"),
        (["pegaref-inline", "--lease", "400s"], "a lease of 400 s is refused"),
        (
            ["pegaref-inline"],
            "`wedge shell` needs a terminal; without one use `wedge exec`, `wedge arm` and `wedge watch`",
        ),
    ],
)
def test_a_shell_that_cannot_be_opened_exits_2_with_one_clear_line(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [*WEDGE, "shell", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("wedge: ")
    assert len(done.stderr.splitlines()) == 1
