"""`prefork.py PORT WORKERS [--own] [--threads]`: a master that keeps so many workers.

The workers take turns at one listening socket, or (`--own`) have one each (SO_REUSEPORT). Each answers one
request at a time, or (`--threads`) each in a thread. GET /HOW has the worker that gets it do something to
itself soon after: `exec` itself anew, `end`, `fork` a child that serves beside it, or `close` the agent's
connection.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

PORT, WORKERS = int(sys.argv[1]), int(sys.argv[2])
SOON_S = 0.3
LISTENERS: list[socket.socket] = []
"""The one that this worker serves."""


def on_gpu() -> None:
    """What hangs."""


class Handler(BaseHTTPRequestHandler):
    """/work, what a worker does to itself, and anything else."""

    def do_GET(self) -> None:
        """Answer one request."""
        how = self.path[1:]
        if how == "work":
            on_gpu()
        elif how in ("exec", "end", "fork", "close"):
            threading.Thread(target=change, args=(how, LISTENERS[0]), daemon=True).start()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def change(how: str, listener: socket.socket) -> None:
    """What the worker does to itself."""
    time.sleep(SOON_S)
    if how == "exec":
        listener.set_inheritable(True)
        os.environ["LISTENER"] = str(listener.fileno())
        os.execv(sys.executable, [sys.executable, *sys.argv])
    elif how == "end":
        os._exit(0)
    elif how == "fork":
        if os.fork() == 0:
            serve(listener)
    else:
        for fd in Path("/proc/self/fd").iterdir():
            with suppress(OSError), socket.socket(fileno=os.dup(int(fd.name))) as connection:
                if connection.family == socket.AF_UNIX:
                    connection.shutdown(socket.SHUT_RDWR)


def listening() -> socket.socket:
    """A new listening socket."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", PORT))
    made.listen(128)
    return made


def serve(listener: socket.socket) -> None:
    """Serve from the socket, for ever."""
    kind = ThreadingHTTPServer if "--threads" in sys.argv else HTTPServer
    server = kind(("127.0.0.1", PORT), Handler, bind_and_activate=False)
    server.socket.close()
    listener.setblocking(False)
    server.socket = listener
    LISTENERS[:] = [listener]
    server.serve_forever()


def main() -> None:
    """The master: start workers, and another one for each that ends."""
    shared = None if "--own" in sys.argv else listening()
    workers: set[int] = set()

    def end(*_: object) -> None:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        while len(workers) < WORKERS:
            if (pid := os.fork()) == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                serve(shared or listening())
            workers.add(pid)
        workers.discard(os.wait()[0])


if "LISTENER" in os.environ:
    serve(socket.socket(fileno=int(os.environ["LISTENER"])))
main()
