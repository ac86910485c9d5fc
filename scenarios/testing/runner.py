"""Runs scenarios one after the other, on servers that are kept from test to test while they are as good as
new."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from faults import DEFAULT_LEASE_S, Fault, FaultStatus
from scenarios.judge import with_controls
from scenarios.prober.handle import ProberHandle
from scenarios.record import ScenarioRecord
from scenarios.run.experiment import Experiment
from scenarios.run.progress import Silent
from scenarios.run.run import ServerCache
from scenarios.server.server import Server, serving
from scenarios.spec import LoadedTarget, Scenario
from scenarios.spec.placeholders import fill
from scenarios.testing.portal import Portal


class ArmedFault:
    """A fault that is in the target now."""

    def __init__(self, fault: Fault, portal: Portal) -> None:
        self._fault, self._portal = fault, portal

    def biting(self, timeout_s: float = 10.0) -> FaultStatus:
        """Wait until it can be seen from outside that it bites. Raises `faults.NeverHit`."""
        return self._portal.call(self._fault.wait_biting(timeout_s))

    def status(self) -> FaultStatus:
        """The fault's current status."""
        return self._fault.status()

    def release(self) -> FaultStatus:
        """Release the fault before the context ends; the target runs as before."""
        return self._portal.call(self._fault.release())


class RunningServer:
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
        """The process ids of the target's live processes."""
        return self._server.pids()

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that it wrote to stdout and stderr."""
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
    ) -> Iterator[ArmedFault]:
        """Arm a fault inside the context and release it at the end. Unless `process` says where, that is in
        the processes that have its `site`, or in the main one.

        It may not bite yet: a call fault waits for its call. Raises what `faults.Controller.arm` raises.
        """
        where = process or self._portal.call(self._server.having(params.get("site")))
        arming = self._server.controller.arm(
            fault, process=where, lease_s=lease_s, params=params, trigger=trigger or {}
        )
        with self._portal.within(arming) as armed:
            yield ArmedFault(armed, self._portal)

    def release_all(self) -> None:
        """Release every fault that is armed in it."""
        self._portal.call(self._server.controller.release_all())


class ScenarioRunner:
    """Runs scenarios, one at a time. The server is started when it is first needed and kept for the next
    scenario on the same target; `close` ends every process and the thread. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._portal = Portal()
        self._stack = ExitStack()
        self._holding: tuple[ProberHandle, ServerCache] | None = None

    def run(self, scenarios: tuple[Scenario, ...], *, seed: int, reproduce: str) -> ScenarioRecord:
        """Run a scenario and its controls, the controls first; the scenario's record, judged in their light.

        Raises `CouldNotRun`, and `ProberFailed`.
        """
        records = {}
        for scenario in reversed(scenarios):
            records[scenario.name] = self._run(scenario, seed, reproduce)
        found = with_controls(records.values())
        return next(record for record in found.scenarios if record.name == scenarios[0].name)

    @contextmanager
    def running(self, target: LoadedTarget) -> Iterator[RunningServer]:
        """A server of its own, for as long as the context. Raises `TargetFailed`."""
        with self._portal.within(serving(target)) as server:
            running = RunningServer(server, self._portal)
            try:
                yield running
            finally:
                running.release_all()

    def close(self) -> None:
        """End every server, the prober and the thread. Doing it again does nothing."""
        self._stack.close()
        self._portal.close()

    def _run(self, scenario: Scenario, seed: int, reproduce: str) -> ScenarioRecord:
        began_s = time.monotonic()
        if self._holding is None:
            self._holding = (
                self._stack.enter_context(self._portal.within(ProberHandle())),
                self._stack.enter_context(self._portal.within(ServerCache())),
            )
        prober, held = self._holding
        server = self._portal.call(held.server(scenario.target))
        experiment = Experiment(scenario, server, prober, seed, Silent())
        return self._portal.call(experiment.run(reproduce, began_s))
