"""The sidecar: a process beside the controller that does to the target what must be done, and undone, from
outside.

It speaks the agent's protocol on a socket that it was started with. When the controller dies it undoes
everything, removes the controller's directory and ends: a stopped process goes on even if nobody is left who
stopped it. Run as `python -I -S -c "…" FD DIRECTORY` by the controller, in a session of its own, so that
Ctrl-C in a terminal does not end it before it has undone what it did.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys

from . import Agent, AgentThread


def main(arguments: list[str]) -> None:
    """Serve the socket of that descriptor until it ends."""
    fd, directory = int(arguments[0]), arguments[1]
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    os.set_inheritable(fd, False)
    agent = Agent(_socket.socket(fileno=fd))
    agent.hello()
    agent.serve(AgentThread())
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    sys.exit(0)
