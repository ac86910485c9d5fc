"""File descriptors: every connection needs one, and a server without any left answers nobody."""

import logging
import resource

log = logging.getLogger(__name__)

_WANTED = 65_536
_SPARE = 64  # for the actors, the logs, and what a handler may open


def raise_limit() -> int:
    """Raise this process's limit on open files as far as it goes, up to 65,536; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft if soft != resource.RLIM_INFINITY else _WANTED


def connections_within(descriptors: int, wanted: int) -> int:
    """How many HTTP connections leave gRPC twice as many, and some to spare."""
    room = max(8, (descriptors - _SPARE) // 3)
    if room < wanted:
        log.warning(
            "only %d open files are allowed: at most %d HTTP connections; raise it with ulimit -n",
            descriptors,
            room,
        )
    return min(room, wanted)
