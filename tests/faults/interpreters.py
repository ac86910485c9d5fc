"""The Pythons on this machine that a target may run on, and the reason for each that is not here."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")


@functools.cache
def interpreter(version: str) -> str | None:
    """A Python of that version: pyenv's newest, or one on the PATH; None when there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [*sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    candidates = [str(path) for path in found]
    if on_path := shutil.which(f"python{version}"):
        candidates.append(on_path)
    return next((candidate for candidate in candidates if _reports(candidate, version)), None)


def _reports(program: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run(
        [program, "-E", "-s", "-S", "-c", code], capture_output=True, text=True, timeout=30
    )
    return asked.stdout.strip() == version


def reason(version: str) -> str:
    """Why a test of that version is skipped."""
    return f"no Python {version} here: neither pyenv nor the PATH has one"
