"""Start the subject and the floors as processes of their own, and end them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import shots

LISTENING = re.compile(r"pegaref listening http=(\S+):(\d+) grpc=(\S+) pid=(\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """A running `pegaref serve`."""

    http_port: int
    grpc_address: str
    pid: int
    exec_at: float


@contextmanager
def floor(kind: str) -> Iterator[int]:
    """Run a floor (`raw` or `grpc`); yields its port."""
    command = [sys.executable, "-m", "benchmarks.floors", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def listening(*flags: str, root: Path | None = None) -> Iterator[Server]:
    """Run `pegaref serve` of the tree under `root`, or of this one, on free ports; yields once it listens.

    The devices of this tree's server are host memory, on a host with GPUs too.
    """
    command = [
        sys.executable,
        "-m",
        "pegaref",
        "serve",
        "--http-addr",
        "127.0.0.1:0",
        "--addr",
        "127.0.0.1:0",
        *(("--device-type", "cpu") if root is None else ()),
        *flags,
    ]
    exec_at = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=root,
        env=None if root is None else {**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            match = LISTENING.match(line)
            if match is None:
                raise RuntimeError(f"`{' '.join(command)}` did not say that it listens: {line!r}")
            yield Server(int(match[2]), match[3], int(match[4]), exec_at)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def until_ready(server: Server, *, within_s: float = 60.0) -> None:
    """Wait until `/ready` is 200, which is when torch is loaded in the actor."""
    deadline = time.monotonic() + within_s
    while shots.status(server.http_port, "/ready") != 200:
        if time.monotonic() > deadline:
            raise RuntimeError(f"/ready was not 200 within {within_s:g} s")
        time.sleep(0.02)


@contextmanager
def pegaref(*flags: str, root: Path | None = None) -> Iterator[Server]:
    """Run `pegaref serve` on free ports until it is ready."""
    with listening(*flags, root=root) as server:
        until_ready(server)
        yield server
