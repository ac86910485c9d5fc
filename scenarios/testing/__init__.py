"""Scenarios in users' own tests: the code behind the pytest plugin, also usable without pytest."""

from scenarios.testing.arguments import ScenarioRequest, scenarios_for
from scenarios.testing.runner import RunningServer, ScenarioRunner

__all__ = ["RunningServer", "ScenarioRequest", "ScenarioRunner", "scenarios_for"]
