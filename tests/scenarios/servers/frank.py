"""A server that knows how long its calls take, and says so at /ready if it is asked to: `frank.py PORT
[SECONDS]`. Without SECONDS it says ready for ever.
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UNDER_WAY: dict[int, float] = {}
ADMITS_AFTER_S = float(sys.argv[2]) if len(sys.argv) > 2 else float("inf")


def on_gpu(n: int) -> int:
    """What hangs."""
    return n * 2


class Handler(BaseHTTPRequestHandler):
    """Probes, and /work."""

    def do_GET(self) -> None:
        """Answer one request."""
        status, me = 200, id(self)
        if self.path == "/ready":
            oldest_s = min(UNDER_WAY.copy().values(), default=float("inf"))
            status = 503 if time.monotonic() - oldest_s > ADMITS_AFTER_S else 200
        elif self.path == "/work":
            UNDER_WAY[me] = time.monotonic()
            on_gpu(2)
            del UNDER_WAY[me]
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
