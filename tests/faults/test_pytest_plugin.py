"""The fixture in a separate test project."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
from pathlib import Path

INSTALLED = any(point.name == "faults" for point in importlib.metadata.entry_points(group="pytest11"))
PROJECT = textwrap.dedent(
    """
    import os
    import sys
    from pathlib import Path

    import pytest

    from faults import Selector


    @pytest.mark.asyncio
    async def test_a_target_is_broken_and_left_to_the_fixture(fault_controller):
        launched = await fault_controller.launch([sys.executable, "-c", "import time; time.sleep(60)"])
        async with fault_controller.arm("gil.hold", process=Selector(cmdline="time.sleep")) as fault:
            assert (await fault.wait_biting(10)).inside == 1
        Path("pid").write_text(str(launched.pid))
    """
)


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_mine.py").write_text(PROJECT)
    plugin = [] if INSTALLED else ["-p", "faults.pytest_plugin"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *more],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_test_gets_an_open_controller_and_what_it_launched_is_ended(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_without_pytest_asyncio_the_fixture_says_what_is_missing(tmp_path: Path) -> None:
    hidden = tmp_path / "conftest.py"
    hidden.write_text(
        "import importlib, importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'pytest_asyncio' else find(name)\n"
        "plugin = importlib.reload(importlib.import_module('faults.pytest_plugin'))\n"
        "importlib.util.find_spec = find\n"
        "fault_controller = plugin.fault_controller\n"
    )
    done = run(tmp_path, "-p", "no:asyncio", "-W", "ignore::pytest.PytestUnknownMarkWarning")
    assert done.returncode == 1
    assert "pip install pytest-asyncio" in done.stdout
