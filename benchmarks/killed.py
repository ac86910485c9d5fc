"""How long a broken process stays broken when the controller that broke it is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks.ticks import Ticks

FAULTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("gil.hold", {}),
    ("call.stall", {"site": "json:loads"}),
    ("call.stall", {"site": "json:loads", "gil": "held"}),
    ("process.stop", {}),
)
_WITHIN_S = 15.0


def freed_after_s(times: int, *, faults: Sequence[tuple[str, Mapping[str, str]]] = FAULTS) -> list[float]:
    """Break a process, SIGKILL the controller, wait for the process's next tick: `times` times, the faults
    in turns. Seconds from the kill to the tick; `inf` for a process that did not tick within 15 s.

    Raises RuntimeError when a process was not broken in the first place.
    """
    with _doomed() as doomed, Ticks() as ticks:
        return [_freed_after_s(doomed, ticks, *faults[number % len(faults)]) for number in range(times)]


@contextmanager
def _doomed() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.doomed"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _freed_after_s(
    doomed: subprocess.Popen[str], ticks: Ticks, fault: str, params: Mapping[str, str]
) -> float:
    assert doomed.stdin is not None
    assert doomed.stdout is not None
    doomed.stdin.write(json.dumps({"fault": fault, "params": params, "port": ticks.port}) + "\n")
    answer = doomed.stdout.readline()
    if not answer:
        raise RuntimeError(f"the controller that was to arm {fault} ended before it bit")
    pids = json.loads(answer)
    try:
        if not ticks.silent():
            raise RuntimeError(f"{fault} bites by its own account, and the process goes on ticking")
        killed_s = time.monotonic()
        os.kill(pids["controller"], signal.SIGKILL)
        tick_s = ticks.next_s(after_s=killed_s, within_s=_WITHIN_S)
        return math.inf if tick_s is None else tick_s - killed_s
    finally:
        os.kill(pids["target"], signal.SIGKILL)
