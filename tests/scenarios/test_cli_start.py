"""What a command of `wedge` loads before it does anything: every call of it pays for that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scenarios.cli import cli
from scenarios.errors import WEDGE_PACKAGES

HEAVY = WEDGE_PACKAGES | {"grpc", "google"}
LOADED: dict[str, set[str]] = {
    "--help": set(),
    "arm --help": set(),
    "report --help": {"hdrh", "pyhdrh", "rich"},
    "run --help": {"hdrh", "psutil", "pyhdrh", "rich"},
}
MAIN = """
import sys
from scenarios.cli import main
try:
    main()
except SystemExit:
    print("LOADED", *sys.modules)
"""


@pytest.mark.parametrize("argv", LOADED)
def test_a_command_loads_no_package_that_it_may_not_need(argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *argv.split()], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.partition("LOADED ")[2].split()}

    assert {"click", "faults"} <= loaded
    assert loaded & HEAVY <= LOADED[argv]


def test_the_list_of_commands_shows_each_as_it_describes_itself() -> None:
    for name, listed in cli.commands.items():
        itself = listed.make_context(name, [], resilient_parsing=True).command
        assert listed.get_short_help_str(1000) == itself.get_short_help_str(1000), name
