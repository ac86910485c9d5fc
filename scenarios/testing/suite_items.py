"""A suite as test items, one for each scenario: what `pytest scenarios` collects.

The items share one run, spread over workers as `wedge run` spreads it. It starts with the first item, in a
thread of its own, for exactly the scenarios that were selected (`-k`, node ids). Each item waits for its own
verdict and for those of its controls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from scenarios.errors import CouldNotRun, ScenariosError
from scenarios.judge import with_controls
from scenarios.record import Report, ScenarioRecord
from scenarios.run.run import Plan, default_jobs
from scenarios.run.run import run as run_plan
from scenarios.server.needs import unmet_needs
from scenarios.spec import Scenario, suite_file
from scenarios.testing.marked_items import failure_text
from scenarios.testing.portal import Portal

log = logging.getLogger(__name__)


class SuiteCollector(pytest.File):
    """A suite's file as a collector."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each scenario of the suite."""
        try:
            loaded = suite_file.load(suite_file.find(self.config.getoption("--wedge-suite")))
        except CouldNotRun as error:
            raise self.CollectError(str(error)) from error
        for scenario in loaded.scenarios:
            yield ScenarioItem.from_parent(self, name=scenario.name, scenario=scenario)


class ScenarioItem(pytest.Item):
    """A scenario as a test."""

    def __init__(self, *, scenario: Scenario, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]  # name and parent, as pytest gives them
        self.scenario = scenario

    def runtest(self) -> None:
        """Fails with the reasons when the verdict is not pass."""
        if (reason := unmet_needs(self.scenario.target)) is not None:
            pytest.skip(reason)
        stash = self.config.stash
        if _RUN not in stash:
            items = [item for item in self.session.items if isinstance(item, ScenarioItem)]
            selected = [item.scenario for item in items if unmet_needs(item.scenario.target) is None]
            stash[_RUN] = SharedRun(_plan(self.config, selected))
        record = stash[_RUN].verdict(self.scenario)
        for title, lines in (("target log", record.target_log), ("bite evidence", record.bite.evidence)):
            if lines:
                self.add_report_section("call", title, "\n".join(lines))
        if record.verdict != "pass":
            pytest.fail(failure_text(record), pytrace=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The reasons, not a stack of the harness."""
        if isinstance(excinfo.value, ScenariosError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        """The suite's file and the scenario's name."""
        return self.path, None, self.name


class SharedRun:
    """The one run behind all items, in a separate thread; it receives the run's progress."""

    def __init__(self, plan: Plan) -> None:
        self._records: dict[str, Future[ScenarioRecord]] = {
            scenario.name: Future() for scenario in plan.scenarios
        }
        self._portal = Portal()
        self._job = self._portal.start(run_plan(plan, self))
        self._job.result.add_done_callback(self._fail_unfinished)

    def verdict(self, scenario: Scenario) -> ScenarioRecord:
        """Wait for the scenario and its controls, and judge it in their light."""
        own = self._records[scenario.name].result()
        controls = [self._records[name].result() for name in scenario.controls if name in self._records]
        return with_controls([own, *controls]).scenarios[0]

    def end(self) -> None:
        """Cancel what still runs, and wait until everything is released and ended."""
        self._job.cancel()
        self._portal.close()

    def say(self, text: str) -> None:
        """Log the line; pytest shows the log of a failing test."""
        log.info("%s", text)

    def phase(self, scenario: str, phase: str) -> None:
        """Phases are not shown."""

    def finished(self, scenario: ScenarioRecord) -> None:
        """Record the result, for which an item may wait."""
        self._records[scenario.name].set_result(scenario)

    def _fail_unfinished(self, run: Future[tuple[Report, tuple[str, ...]]]) -> None:
        """Every item waits for a result: what the run ended with is the result of those that have none."""
        error = None if run.cancelled() else run.exception()
        for record in self._records.values():
            if not record.done():
                record.set_exception(error or CouldNotRun("the run was interrupted"))


_RUN = pytest.StashKey[SharedRun]()


def end_run(config: pytest.Config) -> None:
    """End the run that the items of this session share, if one was started."""
    if (shared := config.stash.get(_RUN, None)) is not None:
        shared.end()


def _plan(config: pytest.Config, scenarios: list[Scenario]) -> Plan:
    name = config.getoption("--wedge-suite")
    return Plan(
        scenarios=tuple(scenarios),
        seed=config.getoption("--wedge-seed"),
        jobs=config.getoption("--wedge-jobs") or default_jobs(),
        suite_name=name,
        suite_file=suite_file.find(name),
        options=() if name == suite_file.DEFAULT else ("--suite", name),
    )
