"""Scenarios in a stranger's own tests: what stands behind the pytest plugin, usable without pytest."""

from scenarios.testing.arguments import Asked, scenarios_for
from scenarios.testing.bench import Bench
from scenarios.testing.running import Running

__all__ = ["Asked", "Bench", "Running", "scenarios_for"]
