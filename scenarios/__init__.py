"""Watch a server from outside while a fault bites, and judge whether it stayed lit.

What tests of one's own import is here: the type of the pytest fixture `wedge`, the same without pytest
(`ScenarioRunner` runs what a `ScenarioRequest` asks for), target files, and what is raised. The command is
`wedge` (`scenarios.cli`), and a report's schema is `scenarios.record`.
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

_HOMES = ("errors", "spec.target_file", "testing.arguments", "testing.runner", "testing.marked_items")
"""The modules of these names, from the lightest on."""


def __getattr__(name: str) -> Any:
    # Every pytest of the environment loads the plugin, and with it this package: nothing is loaded unasked.
    if name in __all__:
        for home in _HOMES:
            if name in vars(module := import_module(f"{__name__}.{home}")):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
