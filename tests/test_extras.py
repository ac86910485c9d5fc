"""The server, and the judge with the fault layer, install without each other's packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from pegaref import cli as server_cli
from scenarios.errors import WEDGE_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_IMPORTED = {"py-spy", "uvloop"}  # a program, and a loop that is used where it is installed
WEDGE = "from scenarios.cli import main; main()"
PEGAREF = "from pegaref.cli import main; main()"
BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = {argv!r}
{code}
"""


def distributions(extra: str) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].replace("_", "-") for requirement in EXTRAS[extra]}


def modules(extra: str) -> set[str]:
    """What the extra's distributions are imported as."""
    wanted = distributions(extra) - NOT_IMPORTED
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if wanted & {owner.lower().replace("_", "-") for owner in owners} and not module.startswith("_")
    }


def run(code: str, blocked: set[str], *argv: str) -> subprocess.CompletedProcess[str]:
    """The code in a process that has none of these packages."""
    whole = BLOCKED.format(blocked=blocked, code=code, argv=["command", *argv])
    return subprocess.run(
        [sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_commands_know_what_their_extras_install() -> None:
    assert set(WEDGE_PACKAGES) == modules("wedge")
    assert set(server_cli._SERVER_PACKAGES) == modules("server")


@pytest.mark.parametrize("argv", [("run", "noop"), ("list",), ("watch", "--http", "http://127.0.0.1:1")])
def test_wedge_without_its_packages_says_what_to_install(argv: tuple[str, ...]) -> None:
    done = run(WEDGE, modules("wedge"), *argv)

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"wedge: \w+ is not installed here: pip install 'pegaref\[wedge\]'\n", done.stderr)


def test_the_fault_layers_commands_and_the_help_need_no_package_of_the_judge() -> None:
    for argv in (("-h",), ("exec", "--quiet", "true"), ("faults", "gil.hold")):
        done = run(WEDGE, modules("wedge"), *argv)
        assert (done.returncode, done.stderr) == (0, "")


def test_serving_without_the_servers_packages_says_what_to_install() -> None:
    done = run(PEGAREF, modules("server"), "serve")

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"pegaref: \w+ is not installed here: pip install 'pegaref\[server\]'\n", done.stderr)


def test_the_judge_needs_nothing_that_only_the_server_needs() -> None:
    only = modules("server") - modules("wedge") | {"uvloop"}
    done = run(WEDGE, only, "list", "noop@pegaref-inline")

    assert (done.returncode, done.stderr) == (0, "")


def test_the_server_needs_nothing_that_only_the_judge_needs() -> None:
    only = modules("wedge") - modules("server") - {"anyio"}  # which starlette needs
    done = run("import pegaref.server", only)

    assert (done.returncode, done.stderr) == (0, "")
