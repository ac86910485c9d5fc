"""Real servers and real client processes for the tests: each is a child process, and ends with its block."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx

from pegaref.client import Client
from pegaref.wire.engine_pb2_grpc import EngineStub

Result = TypeVar("Result")

# An actor that never comes as far as torch, and ends with its server: for tests that give it no work.
NEVER_LOADS = """
import sys
if "pegaref.actor.child" in sys.orig_argv:
    import os
    (requests,) = (word.partition("=")[2] for word in sys.orig_argv if word.startswith("--requests-fd="))
    while os.read(int(requests), 65536):
        pass
    os._exit(0)
"""
DEADLINE_S = 60.0  # for anything that has to happen: far above what it takes, also on a busy machine
LINE = re.compile(
    r"pegaref listening http=(?P<http>\S+) grpc=(?P<grpc>\S+) pid=(?P<pid>\d+) "
    r"placement=(?P<placement>\w+) devices=(?P<devices>[\d,]+) "
    r"device_types=(?P<types>[a-z,]+)"
)


def eventually(look: Callable[[], Result], *, within_s: float = DEADLINE_S, what: str = "") -> Result:
    """The first true value that `look` returns; fails once the time is up."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {within_s} s: {what or look}"
        time.sleep(0.02)
    return found


def request(method: str, url: str, **more: Any) -> httpx.Response:
    """One request on a connection of its own, in plain HTTP: loading certificates takes 30 ms each time."""
    return httpx.request(method, url, timeout=DEADLINE_S, verify=False, trust_env=False, **more)


class Running:
    """A server that listens."""

    def __init__(self, process: subprocess.Popen[str], line: str, log: Path) -> None:
        match = LINE.fullmatch(line.rstrip("\n"))
        assert match, f"not the line of a server that listens: {line!r}\n{log.read_text()}"
        self.process = process
        self.line = line
        self.http = match["http"]
        self.grpc = match["grpc"]
        self.pid = int(match["pid"])
        self._log = log

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://{self.http}{path}"

    def get(self, path: str, **more: Any) -> httpx.Response:
        return request("GET", self.url(path), **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return request("POST", self.url(path), **more)

    def ready(self) -> dict[str, Any]:
        """What /ready says, whatever its status."""
        report: dict[str, Any] = self.get("/ready").json()
        return report

    def wait_ready(self) -> None:
        eventually(lambda: self.get("/ready").status_code == 200, what="ready")

    def instances(self) -> list[str]:
        names: list[str] = self.get("/instances").json()["instances"]
        return names

    def actor_pid(self, device: int = 0) -> int:
        return int(self.ready()["devices"][str(device)]["pid"])

    def children(self) -> list[int]:
        """Its live child processes, from the kernel."""
        return children_of(self.pid)

    def log(self) -> str:
        return self._log.read_text()

    def client(self) -> Client:
        return Client(self.grpc, deadline_s=DEADLINE_S)

    @contextlib.contextmanager
    def stub(self) -> Iterator[EngineStub]:
        with grpc.insecure_channel(self.grpc) as channel:
            yield EngineStub(channel)

    @contextlib.contextmanager
    def actor_stopped(self, device: int = 0) -> Iterator[int]:
        """The device's actor is stopped by a signal inside the block: a real wedge, seen from here."""
        pid = self.actor_pid(device)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@contextlib.contextmanager
def running(
    folder: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    ready: bool = True,
    loads: bool = True,
    as_job: bool = False,
    open_files: int | None = None,
) -> Iterator[Running]:
    """A server on free loopback ports, with its log in `folder`; killed if it does not stop by itself.

    `open_files`: it may have no more of them, for good.
    With `loads` false its actors load for ever, which spares a second of work, and it is not waited for.
    `as_job`: it leads a process group of its own, as what a shell starts in a terminal does.
    """
    log = folder / f"server-{time.monotonic_ns()}.log"
    environment = dict(environment or {})
    if not loads:
        sites = folder / "never-loads"
        sites.mkdir(exist_ok=True)
        (sites / "sitecustomize.py").write_text(NEVER_LOADS)
        paths = [str(sites), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [
        sys.executable,
        "-m",
        "pegaref",
        "serve",
        "--http-addr=127.0.0.1:0",
        "--addr=127.0.0.1:0",
        "--device-type=cpu",  # on a host with GPUs, too
        *flags,
    ]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environment},
            process_group=0 if as_job else None,
            preexec_fn=None if open_files is None else lambda: limit_open_files(open_files),
        )
    assert process.stdout is not None
    try:
        server = Running(process, process.stdout.readline(), log)
        if ready and loads:
            server.wait_ready()
        yield server
    finally:
        descendants = children_of(process.pid)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        eventually(lambda: not any(map(alive, descendants)), what="the server's children are gone")
        with process.stdout:
            more = process.stdout.read()
        assert not more, f"the server printed more than its line: {more!r}"


def limit_open_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class ClientProcess:
    """`python -m pegaref.client …`, and the one line that it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        line = process.stdout.readline()
        assert line, f"the client ended with {process.wait(DEADLINE_S)} and printed nothing"
        self.said: dict[str, Any] = json.loads(line)

    @property
    def memory(self) -> Path:
        """Its shared memory, as the kernel shows it."""
        return Path("/dev/shm", self.said["name"])

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextlib.contextmanager
def client_process(*arguments: str, stderr: int | None = None) -> Iterator[ClientProcess]:
    """A client as a process; killed at the end of the block if it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pegaref.client", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:  # closes the pipes and waits
        try:
            yield ClientProcess(process)
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
