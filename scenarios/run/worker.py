"""A lane: one prober and one target, whose server is kept from scenario to scenario while it is as good
as new.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from scenarios.errors import CouldNotRun, ProberFailed
from scenarios.judge.verdict import proof
from scenarios.prober import ProberHandle
from scenarios.record.model import Scenario as Record
from scenarios.run.experiment import Experiment
from scenarios.run.facts import Facts
from scenarios.run.held import Held
from scenarios.run.progress import Progress
from scenarios.spec import Scenario

log = logging.getLogger(__name__)


class Lane:
    """Runs scenarios of one target, one after the other."""

    def __init__(self, seed: int, progress: Progress, reproduce: Callable[[Scenario], str]) -> None:
        self._seed, self._progress, self._reproduce = seed, progress, reproduce
        self.troubles: list[str] = []

    async def run(self, scenarios: Iterable[Scenario]) -> list[Record]:
        """Run them all. What cannot run is unproven, and its reason is in `troubles`."""
        records: list[Record] = []
        # Those that leave nothing to go on with come last, so that no server is started for their sake.
        ordered = sorted(scenarios, key=lambda scenario: scenario.destroys)
        async with ProberHandle() as probing, Held(self._progress.say) as held:
            for scenario in ordered:
                records.append(await self._one(scenario, held, probing))
        return records

    async def _one(self, scenario: Scenario, held: Held, probing: ProberHandle) -> Record:
        began_s = time.monotonic()
        try:
            self._progress.phase(scenario.name, "start")
            server = await held.server(scenario.target)
            experiment = Experiment(scenario, server, probing, self._seed, self._progress)
            return await experiment.run(self._reproduce(scenario), began_s)
        except (CouldNotRun, ProberFailed) as error:
            log.info("%s could not run: %s", scenario.name, error)
            if str(error) not in self.troubles:
                self.troubles.append(str(error))
            facts = Facts(scenario, self._seed, began_s)
            facts.guards.append(proof("could run", False, str(error)))
            record = facts.record(self._reproduce(scenario))
            self._progress.finished(record)
            return record
