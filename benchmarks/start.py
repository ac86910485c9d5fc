"""How soon a server answers after exec, while torch still loads in its actor."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import servers, shots
from benchmarks.figures import Section

FLOOR = "import asyncio, grpc.aio, starlette.applications, uvicorn, uvloop"


def _first_health_s() -> tuple[float, float]:
    """Seconds from exec to the first /health 200, and to /ready 200."""
    with servers.listening() as server:
        if shots.status(server.http_port, "/health") != 200:
            raise RuntimeError("/health was not 200")
        lit_s = time.perf_counter() - server.exec_at
        servers.until_ready(server)
        return lit_s, time.perf_counter() - server.exec_at


def _imports_s() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", FLOOR], check=True)
    return time.perf_counter() - begun


def run(*, rounds: int) -> Section:
    """Start the server `rounds` times, beside an interpreter that only imports the same libraries."""
    floor, lit, ready = [], [], []
    for _ in range(rounds):
        floor.append(_imports_s())
        first, whole = _first_health_s()
        lit.append(first)
        ready.append(whole)
    section = Section(
        "Start",
        f"Median of {rounds} starts. The floor is an interpreter that imports grpc.aio, starlette, uvicorn "
        "and uvloop, and ends.",
    )
    section.add("exec to the first `/health` 200", statistics.median(lit), "s", limit=0.6)
    section.add("floor: imports alone", statistics.median(floor), "s")
    section.add("first `/health` / floor", statistics.median(lit) / statistics.median(floor), "×")
    section.add("exec to `/ready` 200 (torch loaded in the actor)", statistics.median(ready), "s")
    return section
