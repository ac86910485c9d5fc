"""A process to break: it sends the time (CLOCK_MONOTONIC, nanoseconds) to a local port every two
milliseconds, from an event loop, and between two ticks calls `json.loads` and lets a `Thing` die.

Run as `python ticker.py PORT`; with `--told` it sends the time once for each byte that it reads instead,
which is the least that waking a process takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time

_EVERY_S = 0.002


class Thing:
    """It has no finaliser; a fault may give it one."""


async def _tick(line: socket.socket) -> None:
    while True:
        line.send(b"%d" % time.monotonic_ns())
        json.loads("0")
        Thing()
        await asyncio.sleep(_EVERY_S)


def main() -> None:
    """Tick until ended, or until nobody listens any more."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.connect(("127.0.0.1", int(sys.argv[1])))
    try:
        if "--told" in sys.argv:
            while os.read(0, 1):
                line.send(b"%d" % time.monotonic_ns())
        else:
            asyncio.run(_tick(line))
    except ConnectionRefusedError:
        return


if __name__ == "__main__":
    main()
