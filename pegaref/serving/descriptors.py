"""File descriptors: every connection needs one, and a server that has none left answers nobody."""

import contextlib
import logging
import os
import resource

logger = logging.getLogger(__name__)

RESERVE = 32  # enough for the new connections of every probe
_WANTED = 65_536
_SPARE = 64 + RESERVE  # for the actors, the logs, and what a handler may open


def raise_limit() -> int:
    """Raise this process's limit on open files as far as allowed, to 65,536 at most; returns the new
    limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft if soft != resource.RLIM_INFINITY else _WANTED


def connections_within(descriptors: int, wanted: int) -> tuple[int, int]:
    """How many connections HTTP may have, and how many descriptors gRPC: twice as many, and some to spare."""
    http = max(8, (descriptors - _SPARE) // 3)
    if http < wanted:
        logger.warning(
            "only %d open files are allowed: at most %d HTTP connections; raise it with ulimit -n",
            descriptors,
            http,
        )
    return min(http, wanted), 2 * http


class Reserve:
    """Descriptors kept in reserve. They are closed when no others are left, and opened again afterwards.

    So a new probe is answered whatever has taken the other descriptors.
    """

    def __init__(self) -> None:
        self._held = _open_up_to(RESERVE)

    @property
    def is_held(self) -> bool:
        """Whether the reserve is there, so that there are descriptors to spare."""
        return bool(self._held)

    def check(self, needed: int = 1) -> None:
        """Close the reserve if there are not so many others. Cheap: called before each accept."""
        if not self._held:
            return
        others = list[int]()
        try:
            while len(others) < needed:
                others.append(os.dup(self._held[0]))
            _close(others)
        except OSError:
            _close(others)
            logger.error("no file descriptor is left: the last %d are closed", len(self._held))
            self.close()

    def refill(self) -> int:
        """Refill the reserve if possible; called every quarter of a second.

        Returns how many connections should be closed now to leave descriptors for probes.
        """
        self.check()
        if self._held:
            return 0
        free = _open_up_to(2 * RESERVE)
        if len(free) == 2 * RESERVE:
            logger.warning("there are file descriptors again")
            self._held = free[:RESERVE]
            _close(free[RESERVE:])
            return 0
        _close(free)
        return max(0, RESERVE // 2 - len(free))

    def close(self) -> None:
        """Close the reserve."""
        _close(self._held)
        self._held = []


def _open_up_to(count: int) -> list[int]:
    opened: list[int] = []
    with contextlib.suppress(OSError):
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return opened


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
