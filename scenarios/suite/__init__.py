"""Suites: which faults on which targets, and what must be seen."""

from scenarios.suite.load import ANY, DEFAULT, find, load, matched, select, shipped, targets
from scenarios.suite.model import Row, Suite, Timing
from scenarios.suite.scenario import Scenario

__all__ = [
    "ANY",
    "DEFAULT",
    "Row",
    "Scenario",
    "Suite",
    "Timing",
    "find",
    "load",
    "matched",
    "select",
    "shipped",
    "targets",
]
