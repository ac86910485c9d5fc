"""Why a process that runs Python has no agent, as far as the kernel can tell from outside."""

from __future__ import annotations

import re
from pathlib import Path

from faults import procfs
from faults.keeper import AGENT_DIRECTORY

_OLDEST = (3, 8)
_FLAGS_THAT_IGNORE = {"I": "its environment", "E": "its environment", "S": "`sitecustomize`"}
_TAKE_AN_ARGUMENT = "WXQ"
_VERSION = re.compile(r"python(\d)\.(\d+)")


def reason(pid: int) -> str:
    """What keeps the agent out of the process, in words that follow its name; the first that is found."""
    version = _version(pid)
    if version is not None and version < _OLDEST:
        return f"its Python is {version[0]}.{version[1]}, and the agent needs {_OLDEST[0]}.{_OLDEST[1]}"
    for flag in _flags(procfs.argv(pid)):
        if flag in _FLAGS_THAT_IGNORE:
            return f"it was started with -{flag}, which ignores {_FLAGS_THAT_IGNORE[flag]}"
    environment = procfs.environment(pid)
    if environment is None:
        return "its environment may not be read"
    if "WEDGE_AGENT" not in environment:
        return "it was started without WEDGE_AGENT, as a parent does that makes up its child's environment"
    if str(AGENT_DIRECTORY) not in environment.get("PYTHONPATH", "").split(":"):
        return "it was started with another PYTHONPATH, without the agent's directory"
    return "its agent has not reported: it has only just started, or closed the agent's connection"


def _version(pid: int) -> tuple[int, int] | None:
    for path in (Path(procfs.executable(pid)).name, *procfs.mapped_files(pid)):
        if match := _VERSION.search(path):
            return int(match[1]), int(match[2])
    return None


def _flags(argv: tuple[str, ...]) -> str:
    """The letters of the interpreter's own flags: those before its script, -c or -m (python(1))."""
    letters, at = "", 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-":
        if not argv[at].startswith("--"):
            for n, letter in enumerate(argv[at][1:], 1):
                if letter in "cm":
                    return letters
                letters += letter
                if letter in _TAKE_AN_ARGUMENT:
                    at += n == len(argv[at]) - 1  # the argument is the next word
                    break
        at += 1
    return letters
