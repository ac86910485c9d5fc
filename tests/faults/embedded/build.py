"""Compile the C server against one of the Pythons on this machine."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "server.c"
_ASK = """
import json, sysconfig
names = ("LIBDIR", "LDLIBRARY", "LIBS", "SYSLIBS")
print(json.dumps([sysconfig.get_path("include")] + [sysconfig.get_config_var(name) or "" for name in names]))
"""
_WITHIN_S = 120


@dataclass(frozen=True, slots=True)
class Parts:
    """What an interpreter was installed with: the directory of its headers, its library, what that needs."""

    include: Path
    library: Path
    needs: tuple[str, ...]


@functools.cache
def parts(python: str) -> Parts:
    """What there is to compile and link against, by that interpreter's own account."""
    asked = subprocess.run(
        [python, "-c", _ASK], check=True, capture_output=True, text=True, timeout=_WITHIN_S
    )
    include, directory, library, libs, syslibs = json.loads(asked.stdout)
    return Parts(Path(include), Path(directory, library), tuple(f"{libs} {syslibs}".split()))


def why_not(python: str) -> str | None:
    """The reason why it cannot be compiled here; None when it can."""
    if _compiler() is None:
        return "no C compiler here (gcc or cc)"
    found = parts(python)
    if not (found.include / "Python.h").is_file():
        return f"{python} came without its headers (Python.h)"
    if not found.library.is_file():
        return f"{python} came without {found.library.name}, to link against"
    return None


def _compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def build(directory: Path, python: str) -> Path:
    """The program, made in `directory`; `why_not` must have had no objection."""
    program = directory / "embedded-server"
    found = parts(python)
    command = [
        _compiler() or "cc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(program),
        f"-isystem{found.include}", str(found.library), f"-Wl,-rpath,{found.library.parent}", "-Wl,-E",
        *found.needs, "-lpthread",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=_WITHIN_S)
    return program
