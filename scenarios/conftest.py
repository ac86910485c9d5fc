"""`pytest scenarios`: the default suite, one test item a scenario. A failing scenario is a failing test."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.spec import suite_file
from scenarios.testing.suite_items import SuiteCollector, end_run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `wedge run` that apply here."""
    group = parser.getgroup("wedge")
    group.addoption("--wedge-jobs", type=int, default=None, help="scenarios at a time")
    group.addoption(
        "--wedge-suite", default=suite_file.DEFAULT, help="a suite's file or name, for the default one"
    )
    group.addoption("--wedge-seed", type=int, default=0, help="seed of probe times and random triggers")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The default suite's file stands for the suite that is run."""
    if file_path != suite_file.find(suite_file.DEFAULT):
        return None
    collected: pytest.Collector = SuiteCollector.from_parent(parent, path=file_path)
    return collected


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the run with the session, however that ends."""
    end_run(session.config)
