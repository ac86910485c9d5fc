"""The sidecar: a process beside the controller that acts on the target from outside, and undoes that.

It speaks the agent's protocol on the socket that it was started with. When the controller dies it undoes
everything, removes the controller's directory and exits, so a stopped process runs on even then. The
controller runs it as `python -I -S -c "…" FD DIRECTORY`, in a separate session, so that Ctrl-C in a terminal
does not end it before it has undone its faults.
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
