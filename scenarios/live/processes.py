"""The target's processes as rows: which names select each, and what the kernel says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from scenarios.server.server import Server

_STATES = {
    psutil.STATUS_RUNNING: "R running",
    psutil.STATUS_SLEEPING: "S sleeping",
    psutil.STATUS_DISK_SLEEP: "D waits on a device",
    psutil.STATUS_STOPPED: "T stopped",
    psutil.STATUS_TRACING_STOP: "t traced",
    psutil.STATUS_ZOMBIE: "Z ended",
    psutil.STATUS_DEAD: "X ended",
}
MAIN = "main"

ProcessRef = str | int
"""Where a fault is armed: a selector's name, or a process that no name selects, by its number."""


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process. `refs` are the ways to choose it; without an agent only by name, from outside."""

    pid: int
    names: tuple[str, ...]
    agent: bool
    state: str
    threads: int
    command: str

    @property
    def refs(self) -> tuple[ProcessRef, ...]:
        """Its names, or its process id where it has none."""
        return self.names or ((self.pid,) if self.agent else ())


async def read_processes(server: Server) -> tuple[ProcessRow, ...]:
    """Every live process of the target now."""
    named: list[str] = list(server.target.spec.processes) or [MAIN]
    selected = {name: await server.matching(name) for name in named}
    agents = {info.pid for info in server.controller.processes()}
    rows = []
    for pid in server.pids():
        names = tuple(name for name, pids in selected.items() if pid in pids)
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                state = _STATES.get(process.status(), process.status())
                rows.append(
                    ProcessRow(
                        pid, names, pid in agents, state, process.num_threads(), _command(process.cmdline())
                    )
                )
        except psutil.Error:  # it ended just now
            continue
    return tuple(rows)


def process_refs(rows: Sequence[ProcessRow]) -> tuple[ProcessRef, ...]:
    """Every place that a fault can be armed in, in the target's order. Of names that select the same
    processes only the last: what comes after `main` says more of a process than that it is the first.
    """
    by_pids: dict[tuple[int, ...], ProcessRef] = {}
    for place in dict.fromkeys(place for row in rows for place in row.refs):
        by_pids[tuple(row.pid for row in rows if place in row.refs)] = place
    return tuple(by_pids.values())


def _command(argv: Sequence[str]) -> str:
    return " ".join([Path(argv[0]).name, *argv[1:]]) if argv else ""
