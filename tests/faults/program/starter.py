"""A program that starts others, which work without end.

Run as `python starter.py`. For each line of standard input it starts one in that way (fork, spawn,
forkserver, script, module); at the line `end` it ends it and says `ended`.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from typing import Any


def work() -> int:
    """What a fault is armed at before there is such a function."""
    return 1


def go_on() -> None:
    """Work for as long as the longest test may last."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        work()
        time.sleep(0.01)


def start(way: str) -> Any:
    """Something that has `terminate`."""
    if way in ("script", "module"):
        how = ["-m", "starter"] if way == "module" else ["starter.py"]
        return subprocess.Popen([sys.executable, *how, "work"])
    context: Any = multiprocessing.get_context(way)
    child = context.Process(target=go_on)
    child.start()
    return child


def main() -> None:
    """Start and end what standard input says."""
    child: Any = None
    for line in sys.stdin:
        if line.strip() == "end":
            child.terminate()
            child.wait() if isinstance(child, subprocess.Popen) else child.join()
            print("ended", flush=True)
        else:
            child = start(line.strip())


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        go_on()
    else:
        main()
