"""A target that runs for a test: where it is, and how to break it and give it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from faults import DEFAULT_LEASE_S, Fault, FaultStatus
from scenarios.server.server import Server
from scenarios.spec.placeholders import fill
from scenarios.testing.portal import Portal


class Armed:
    """A fault that is in the target now."""

    def __init__(self, fault: Fault, portal: Portal) -> None:
        self._fault, self._portal = fault, portal

    def biting(self, timeout_s: float = 10.0) -> FaultStatus:
        """Wait until it can be seen from outside that it bites. Raises `faults.NeverHit`."""
        return self._portal.call(self._fault.biting(timeout_s))

    def status(self) -> FaultStatus:
        """How it is right now."""
        return self._fault.status()

    def release(self) -> FaultStatus:
        """Give the target back before the context ends."""
        return self._portal.call(self._fault.release())


class Running:
    """A server that a test started. `names` are the target's placeholders with their values."""

    def __init__(self, server: Server, portal: Portal) -> None:
        self._server, self._portal = server, portal
        self._faults = ExitStack()

    @property
    def names(self) -> Mapping[str, str]:
        """`port:http`, the named groups of the ready line, and whatever else the target file gives."""
        return dict(self._server.names)

    @property
    def pids(self) -> tuple[int, ...]:
        """Its live processes."""
        return self._server.pids()

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that it wrote."""
        return tuple(self._server.log)

    def fill(self, text: str) -> str:
        """`text` with the target's placeholders filled in, as `"http://127.0.0.1:{port:http}/health"`.

        Raises `CouldNotRun` for a placeholder that the target does not have.
        """
        return str(fill(text, self._server.names))

    @contextmanager
    def armed(
        self,
        fault: str,
        *,
        process: str | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        trigger: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Iterator[Armed]:
        """The fault is in the target inside the context, and gone after it.

        It may not bite yet: a call fault waits for its call. Raises what `faults.Controller.arm` raises.
        """
        arming = self._server.controller.arm(
            fault, process=process, lease_s=lease_s, params=params, trigger=trigger or {}
        )
        with self._portal.within(arming) as armed:
            yield Armed(armed, self._portal)

    def release_all(self) -> None:
        """Take every fault out of it."""
        self._portal.call(self._server.controller.release_all())
