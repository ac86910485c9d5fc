"""Runs scenarios one after the other, on servers that are kept from test to test while they are as good as
new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from scenarios.judge import with_controls
from scenarios.prober import ProberHandle
from scenarios.record import ScenarioRecord
from scenarios.run.experiment import Experiment
from scenarios.run.progress import Silent
from scenarios.run.worker import ServerCache
from scenarios.server.server import serving
from scenarios.spec import LoadedTarget, Scenario
from scenarios.testing.portal import Portal
from scenarios.testing.running import Running


class Bench:
    """Opened when first used; `close` ends every process and the thread. Not for two threads at once."""

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
    def running(self, target: LoadedTarget) -> Iterator[Running]:
        """A server of its own, for as long as the context. Raises `TargetFailed`."""
        with self._portal.within(serving(target)) as server:
            running = Running(server, self._portal)
            try:
                yield running
            finally:
                running.release_all()

    def close(self) -> None:
        """End everything. Doing it again does nothing."""
        self._stack.close()
        self._portal.close()

    def _run(self, scenario: Scenario, seed: int, reproduce: str) -> ScenarioRecord:
        began_s = time.monotonic()
        if self._holding is None:
            self._holding = (
                self._stack.enter_context(self._portal.within(ProberHandle())),
                self._stack.enter_context(self._portal.within(ServerCache())),
            )
        prober, servers = self._holding
        server = self._portal.call(servers.server(scenario.target))
        experiment = Experiment(scenario, server, prober, seed, Silent())
        return self._portal.call(experiment.run(reproduce, began_s))
