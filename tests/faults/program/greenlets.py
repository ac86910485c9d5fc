# ruff: noqa: E402
"""A program of greenlets, with everything patched: it works, and says what it holds.

Run as `python greenlets.py`; prints {"hubs": …, "threads": …} for each byte of standard input, and
{"work": n} every 10 ms.
"""

from gevent import monkey

monkey.patch_all()

import gc
import json
import os
import sys
import threading
import time

import gevent
from gevent.hub import Hub
from gevent.os import tp_read


def work(value: int) -> int:
    """What a fault is armed at."""
    return value


class Dying:
    """Its objects die."""


def go_on() -> None:
    """Work, whatever comes of it."""
    while True:
        try:
            work(1)
        except RuntimeError:
            time.sleep(0)
        Dying()
        print(json.dumps({"work": time.monotonic_ns()}), flush=True)
        time.sleep(0.01)


gevent.spawn(go_on)
print(json.dumps({"pid": os.getpid()}), flush=True)
while tp_read(sys.stdin.fileno(), 1):
    found = {
        "hubs": sum(type(one) is Hub for one in gc.get_objects()),
        "threads": [thread.name for thread in threading.enumerate()],
    }
    print(json.dumps(found), flush=True)
