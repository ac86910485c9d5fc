"""The private directory of a controller: where its sockets are, and how others find them."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from faults import procfs
from faults.errors import FaultsError

AGENT_SOCKET = "agent.sock"
CONTROL_SOCKET = "control.sock"
_SOCKET_PATH_LIMIT_BYTES = 100  # sun_path has 108 bytes (unix(7)); the longest name here takes 13


def root() -> Path:
    """The directory that holds the directories of this user's controllers, 0700; made if need be.

    Raises FaultsError when it is there but somebody else could reach into it.
    """
    own = os.environ.get("XDG_RUNTIME_DIR")
    path = (
        Path(own) / "faults"
        if own and Path(own).is_dir()
        else Path(tempfile.gettempdir()) / f"faults-{os.getuid()}"
    )
    if len(os.fsencode(path)) + 32 > _SOCKET_PATH_LIMIT_BYTES:
        path = Path("/tmp") / f"faults-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FaultsError(f"{path} is not a directory that only this user can open; remove it and try again")
    return path


def create() -> Path:
    """A new private directory, named for this process; those that dead controllers left are removed on the
    way.
    """
    for left in sessions(live=False):
        shutil.rmtree(left, ignore_errors=True)
    path = root() / f"{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(3)}"
    path.mkdir(mode=0o700)
    return path


def sessions(*, live: bool = True) -> list[Path]:
    """The directories of this user's controllers that run, or of those that do not any more."""
    found = []
    for path in sorted(root().iterdir()):
        pid, _, rest = path.name.partition("-")
        if pid.isdigit() and path.is_dir():
            running = str(_started(int(pid))) == rest.partition("-")[0]
            if running == live:
                found.append(path)
    return found


def _started(pid: int) -> int:
    found = procfs.stat(pid)
    return found.started if found else 0
