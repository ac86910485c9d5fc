"""`/metrics` beside the `/health` of an earlier tree, and what scrapers do to `/health`."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import servers, shots
from benchmarks.figures import Latencies, Section, alternate

_DEVICES: Final = (1, 2, 8)
_SCRAPERS: Final = 8
_WRK_S: Final = 3


def run(*, rounds: int, baseline: Path | None = None) -> Section:
    """Compare the two for 1, 2 and 8 devices, once every route and every kind of command has been seen.

    The floor is the `/health` of this tree, or of the one under `baseline`.
    """
    root = Path.cwd() if baseline is None else baseline
    section = Section(
        "Scrapes",
        "Kept-alive connections, in alternating batches on servers of the same run; every route, every "
        "kind of command and more than one outcome have been seen. The floor is `/health` "
        + ("of the same tree" if baseline is None else "of an earlier tree")
        + ". Scrapers ask for `/metrics` without a pause, each in a process of its own, while `/health` is "
        "timed: on a machine with few cores they take those, too.",
    )
    with servers.pegaref(root=root) as earlier:
        for devices in _DEVICES:
            flags = f"--devices={','.join(str(number) for number in range(devices))}"
            with servers.pegaref(flags) as server:
                _see_everything(server)
                _compare(section, server, earlier, devices, rounds)
                if devices == max(_DEVICES):
                    _scraped(section, server, rounds)
                for name, port in (("/health, floor", earlier.http_port), ("/metrics", server.http_port)):
                    _wrk(section, f"{devices} devices, {name}", port, name.partition(",")[0])
        _h2load(section, earlier)
    return section


def _compare(
    section: Section, server: servers.Server, earlier: servers.Server, devices: int, rounds: int
) -> None:
    taken = alternate(
        {
            "floor": shots.kept(earlier.http_port, "/health"),
            "health": shots.kept(server.http_port, "/health"),
            "metrics": shots.kept(server.http_port, "/metrics"),
        },
        rounds=rounds,
        batch=200,
    )
    size = len(shots.text(server.http_port, "/metrics"))
    floor = taken["floor"].p50_ms
    what = f"{devices} device{'s' if devices > 1 else ''}"
    section.add(
        f"{what}: `/health`, floor, p50", floor * 1e3, "µs", note=f"p99 {taken['floor'].p99_ms * 1e3:.0f} µs"
    )
    section.add(f"{what}: `/metrics`, p50", taken["metrics"].p50_ms * 1e3, "µs", note=f"{size:,} bytes")
    section.add(f"{what}: `/metrics` / floor", taken["metrics"].p50_ms / floor, "×", limit=2.5)
    section.add(f"{what}: `/health` / floor", taken["health"].p50_ms / floor, "×", limit=1.1)


def _scraped(section: Section, server: servers.Server, rounds: int) -> None:
    """`/health` alone and beside scrapers, in turns."""
    shot = shots.kept(server.http_port, "/health")
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(max(3, rounds // 5)):
        alone += alternate({"alone": shot}, rounds=2, batch=200)["alone"].samples_s
        with _scrapers(server.http_port):
            beside += alternate({"beside": shot}, rounds=2, batch=200)["beside"].samples_s
    before, with_scrapers = Latencies(tuple(alone)), Latencies(tuple(beside))
    section.add(
        f"`/health` p99 beside {_SCRAPERS} scrapers / alone",
        with_scrapers.p99_ms / before.p99_ms,
        "×",
        limit=1.5,
        note=f"{with_scrapers.p99_ms:.3g} ms; alone {before.p99_ms:.3g} ms",
    )


@contextlib.contextmanager
def _scrapers(port: int) -> Iterator[None]:
    code = (
        "from benchmarks import shots\n"
        f"shot = shots.kept({port}, '/metrics')\n"
        "shot(); print(flush=True)\n"
        "while True: shot()\n"
    )
    with contextlib.ExitStack() as running:
        for _ in range(_SCRAPERS):
            process = running.enter_context(
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            )
            running.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def _see_everything(server: servers.Server) -> None:
    """Ask for every route and method, with more than one outcome; register, drop and clear everywhere."""
    from pegaref.client import Client, ClientError, SharedTensor

    for path in (
        "/health",
        "/livez",
        "/ready",
        "/readyz",
        "/metrics",
        "/instances",
        "/operations/x",
        "/nothing",
    ):
        shots.status(server.http_port, path)
    devices = [
        int(number)
        for number in re.findall(r'device_ready{device="(\d+)"}', shots.text(server.http_port, "/metrics"))
    ]
    shots.grpc_health(server.grpc_address)()
    with SharedTensor(4096) as tensor, Client(server.grpc_address, deadline_s=30) as client:
        session = client.session("bench")
        for device in devices:
            client.register("bench", {"a": tensor}, device_id=device)
            with contextlib.suppress(ClientError):
                client.register("bench", {"a": tensor}, device_id=device)  # ALREADY_EXISTS
        client.unregister("bench")
        session.close()
    for path in ("/instances/cleanup?id=nobody", "/instances/cleanup", "/cache/memory/cleanup"):
        shots.text(server.http_port, path, method="POST")


def _wrk(section: Section, what: str, port: int, path: str) -> None:
    if shutil.which("wrk") is None:
        return
    for connections in (1, 8):
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{_WRK_S}s", "--latency", f"http://127.0.0.1:{port}{path}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        p50, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", done).groups()  # type: ignore[union-attr]
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1])  # type: ignore[index]
        factor = {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]
        section.add(
            f"wrk, {connections} connections, {what}, p50",
            float(p50) * factor,
            "µs",
            note=f"{rate:,.0f} requests/s",
        )


def _h2load(section: Section, server: servers.Server) -> None:
    """gRPC's own load is not HTTP/1.1's: h2load with `--h1` checks wrk's figure of `/health`."""
    if shutil.which("h2load") is None:
        return
    done = subprocess.run(
        ["h2load", "--h1", "-c1", "-n20000", f"http://127.0.0.1:{server.http_port}/health"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms)", done)
    if mean is not None:
        section.add(
            "h2load, 1 connection, `/health`, floor, mean",
            float(mean[1]) * (1e3 if mean[2] == "ms" else 1),
            "µs",
        )
