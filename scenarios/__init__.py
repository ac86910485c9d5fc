"""Watch a server from outside while a fault bites, and judge whether it stayed lit.

Your own tests import from here: the type of the pytest fixture `wedge`, its counterpart without pytest
(`ScenarioRunner` runs a `ScenarioRequest`), target files, and the errors. The command is `wedge`
(`scenarios.cli`), and a report's schema is `scenarios.record`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenarios.errors import (
        CouldNotRun,
        Malformed,
        ProberFailed,
        ScenariosError,
        TargetFailed,
        UnknownName,
    )
    from scenarios.spec.target_file import LoadedTarget
    from scenarios.testing.arguments import ScenarioRequest, scenarios_for
    from scenarios.testing.marked_items import Wedge
    from scenarios.testing.runner import ArmedFault, RunningServer, ScenarioRunner

__all__ = [
    "ArmedFault",
    "CouldNotRun",
    "LoadedTarget",
    "Malformed",
    "ProberFailed",
    "RunningServer",
    "ScenarioRequest",
    "ScenarioRunner",
    "ScenariosError",
    "TargetFailed",
    "UnknownName",
    "Wedge",
    "scenarios_for",
]

_HOMES = {
    **dict.fromkeys(
        ("CouldNotRun", "Malformed", "ProberFailed", "ScenariosError", "TargetFailed", "UnknownName"),
        "scenarios.errors",
    ),
    "LoadedTarget": "scenarios.spec.target_file",
    **dict.fromkeys(("ScenarioRequest", "scenarios_for"), "scenarios.testing.arguments"),
    "Wedge": "scenarios.testing.marked_items",
    **dict.fromkeys(("ArmedFault", "RunningServer", "ScenarioRunner"), "scenarios.testing.runner"),
}


def __getattr__(name: str) -> Any:
    # Every pytest in the environment loads the plugin and with it this package, so names are loaded on
    # demand.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
