"""A program in which every fault finds something to break, in a process started in one of several ways.

Run as `python market.py WAY`, of plain, fork, spawn, forkserver, exec; ends with its standard input. The
process that has the stalls prints {"open": PID, "port": PORT} once, PORT being where it echoes, and
{"tick": monotonic nanoseconds} every 10 ms.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socketserver
import subprocess
import sys
import threading
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import workshop

_EVERY_S = 0.005


def say(**message: Any) -> None:
    """One line of JSON."""
    os.write(1, (json.dumps(message) + "\n").encode())


def tick() -> None:
    """Show that Python runs here."""
    while True:
        say(tick=time.monotonic_ns())
        time.sleep(2 * _EVERY_S)


def order() -> None:
    """Call what a fault may break, whatever it does; let an object die now and then."""
    while True:
        try:
            workshop.work(1)
        except Exception:  # noqa: BLE001  # a fault may have it raise anything
            time.sleep(_EVERY_S)
        workshop.Machine()
        time.sleep(_EVERY_S)
        del workshop.made[:]


async def talk() -> None:
    """Keep an event loop running, which says nothing and does nothing."""
    await asyncio.Event().wait()


class Echo(socketserver.BaseRequestHandler):
    """Sends back what comes."""

    def handle(self) -> None:
        try:
            while received := self.request.recv(4096):
                self.request.sendall(received)
        except ConnectionError:
            return


def open_market() -> None:
    """Start all of it in threads; says where."""
    echo = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    echo.daemon_threads = True
    for stall in (tick, order, lambda: asyncio.run(talk()), echo.serve_forever):
        threading.Thread(target=stall, daemon=True).start()
    say(open=os.getpid(), port=echo.server_address[1])


def serve() -> None:
    """Be the market until killed, or until the process that started it has gone."""
    parent = os.getppid()
    open_market()
    while os.getppid() == parent:
        time.sleep(0.1)


def main(way: str) -> None:
    """Start the market in that way."""
    if way == "plain":
        open_market()
    elif way == "fork":
        if os.fork() == 0:
            serve()
            os._exit(0)
    elif way == "exec":
        subprocess.Popen([sys.executable, os.path.abspath(__file__), "plain"])
    else:
        multiprocessing.set_start_method(way)
        multiprocessing.Process(target=serve, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
