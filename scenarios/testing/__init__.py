"""Scenarios in a stranger's own tests: what stands behind the pytest plugin, usable without pytest."""

from scenarios.testing.arguments import ScenarioRequest, scenarios_for
from scenarios.testing.runner import RunningServer, ScenarioRunner

__all__ = ["RunningServer", "ScenarioRequest", "ScenarioRunner", "scenarios_for"]
