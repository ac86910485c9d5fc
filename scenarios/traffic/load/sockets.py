"""Connections as the kernel has them (/proc/net/tcp, proc(5)): from outside of both of their ends."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_ESTABLISHED = "01"
_LOCAL, _REMOTE, _STATE, _INODE = 1, 2, 3, 9


class Ends(NamedTuple):
    """`established`: our ends. `accepted`: the server's ends that it has taken from its backlog, None when
    the server's ends are not to be seen from here."""

    established: int
    accepted: int | None


def count(server_port: int, our_ports: Collection[int]) -> Ends:
    """The established connections between these ports of ours and the server's port, on this machine.

    By port, each once: a table that changes while it is read tells some sockets twice.
    """
    ours: set[int] = set()
    theirs: set[int] = set()
    accepted: set[int] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # a machine without IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[_STATE] != _ESTABLISHED:
                    continue
                local, remote = _port(fields[_LOCAL]), _port(fields[_REMOTE])
                if remote == server_port and local in our_ports:
                    ours.add(local)
                elif local == server_port and remote in our_ports:
                    theirs.add(remote)
                    if fields[_INODE] != "0":  # what waits in the backlog belongs to no file yet
                        accepted.add(remote)
    return Ends(len(ours), len(accepted) if theirs else None)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
