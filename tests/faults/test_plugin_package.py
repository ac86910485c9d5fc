"""The example plugin is a package like anybody's: built, installed beside the fault layer, found and used."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from faults import Controller, UnknownFault

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "docs" / "examples" / "fault-plugin"
_WITHIN_S = 60

USE = """
import asyncio, json, sys
from faults import Controller

TARGET = "import time, sys\\nfor _ in sys.stdin: print(time.time() - time.time_ns() / 1e9, flush=True)"

async def main():
    async with Controller() as controller:
        pipe = asyncio.subprocess.PIPE
        target = await controller.launch([sys.executable, "-c", TARGET], stdin=pipe, stdout=pipe)
        await controller.wait_process("main")

        async def skew_s():
            target.stdin.write(b"now\\n")
            return float(await target.stdout.readline())

        found = [await skew_s()]
        async with controller.arm("clock.skew", params={"seconds": 60, "direction": "behind"}) as fault:
            found.append(await skew_s())
            status = await fault.wait_biting(timeout_s=10)
        found.append(await skew_s())
        print(json.dumps({"skews_s": found, "evidence": status.evidence}))

asyncio.run(asyncio.wait_for(main(), 30))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a scratch environment in which the fault layer and the plugin are installed."""
    for needed in ("pip", "hatchling"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed, and the plugin is built with it")
    directory = tmp_path_factory.mktemp("plugin")
    environment = directory / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    Path(purelib, "beside.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(directory), str(PLUGIN))
    (wheel,) = directory.glob("*.whl")
    _pip("--python", str(python), "install", str(wheel))
    return python


def _pip(*arguments: str) -> None:
    """Run pip without any index."""
    at = 2 if arguments[0] == "--python" else 0
    command = [*arguments[: at + 1], "--no-index", "--no-deps", "--quiet", *arguments[at + 1 :]]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *command], check=True, timeout=_WITHIN_S
    )


def run(python: Path, *arguments: str) -> str:
    """What a command in the scratch environment prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], check=True, capture_output=True, text=True, timeout=_WITHIN_S, env=env
    ).stdout


def test_an_installed_plugin_is_in_the_catalogue(python: Path) -> None:
    (fault,) = json.loads(run(python, "-m", "faults", "faults", "clock.skew", "--json"))
    assert (
        fault["summary"]
        == "Python's wall clock is wrong by some seconds, as after a bad time synchronisation."
    )
    assert [parameter["name"] for parameter in fault["params"]] == ["seconds", "direction"]


def test_a_plugins_fault_bites_a_real_process_and_is_released(python: Path) -> None:
    told = json.loads(run(python, "-c", USE))
    before, broken, after = told["skews_s"]
    assert abs(before) < 1
    assert abs(broken + 60) < 1
    assert abs(after) < 1
    assert told["evidence"]


async def test_where_the_plugin_is_not_installed_there_is_no_such_fault(controller: Controller) -> None:
    with pytest.raises(UnknownFault, match=r"clock\.skew"):
        controller.arm("clock.skew")
