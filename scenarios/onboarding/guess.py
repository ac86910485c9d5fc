"""Guess from a Python web server's source how it starts and what it answers, without running it.

A guess saves typing in a file that a person reads at once, so it need not be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_APP = re.compile(r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)?(FastAPI|Starlette|Flask|Quart|Litestar)\(", re.M)
_ROUTE = re.compile(r"""(?:\.(get|post|put|route)|\bRoute)\(\s*["'](/[^"']*)["']""")
_HEALTH = re.compile(r"^/(?:-/|api/)?_?(?:health|live|ready|ping|up|status)", re.I)
_PARAMETER = re.compile(r"\{[^}]*\}|<[^>]*>")
_WAITS = {".item(": "torch:Tensor.item", ".tolist(": "torch:Tensor.tolist", ".cpu(": "torch:Tensor.cpu"}
_FILES = 200
_FILE_BYTES = 1 << 18
_MODULES = ("uvicorn", "gunicorn", "hypercorn", "flask", "fastapi", "django", "litestar", "bentoml")
_PORT_OPTIONS = ("--port", "-p", "--http-port")
_BIND_OPTIONS = ("--bind", "-b", "--addr", "--http-addr", "--listen")


@dataclass(frozen=True, slots=True)
class Guess:
    """`work` is a path that may make the server work, as a GET, and `gpu` a site that may wait for the GPU;
    None where none was found. `why` is for a person."""

    command: tuple[str, ...]
    health: str
    work: str | None
    gpu: str | None
    why: str


def guess(folder: Path) -> Guess:
    """A guess from the Python files in a folder and in the packages right below it."""
    for path in _sources(folder):
        text = path.read_text(encoding="utf-8", errors="replace")
        if found := _APP.search(text):
            variable, framework = found[1], found[2]
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            routes = [(route[1] or "get", route[2]) for route in _ROUTE.finditer(text)]
            health = [route for _, route in routes if _HEALTH.match(route)]
            work = [
                _PARAMETER.sub("{n}", route)
                for method, route in routes
                if method in ("get", "route") and not _HEALTH.match(route) and route != "/"
            ]
            return Guess(
                _command(framework, f"{module}:{variable}"),
                health[0] if health else "/" if any(route == "/" for _, route in routes) else "/health",
                work[0] if work else None,
                _gpu(text),
                f"{path.relative_to(folder)} makes a {framework} app",
            )
    command = ("{python}", "{here}/server.py", "--port", "{port:http}")
    return Guess(command, "/health", None, None, f"no web app was found in {folder}: `command` is an example")


def as_written(command: Sequence[str]) -> tuple[str, ...]:
    """A command as a person types it, in a target file's terms: with `{python}`, and a free port for the one
    that it names."""
    given = [argument.replace("{", "{{").replace("}", "}}") for argument in command]
    program = Path(given[0]).name
    if re.fullmatch(r"python(\d(\.\d+)?)?", program):
        given[0] = "{python}"
    elif program in _MODULES:
        given[:1] = ["{python}", "-m", program]
    for i, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        if option in _PORT_OPTIONS and equals:
            given[i] = f"{option}={{port:http}}"
        elif option in _BIND_OPTIONS and equals:
            given[i] = f"{option}={_bound(value)}"
        elif i and given[i - 1] in _PORT_OPTIONS and argument.isdigit():
            given[i] = "{port:http}"
        elif i and given[i - 1] in _BIND_OPTIONS:
            given[i] = _bound(argument)
    if program == "uvicorn" and "{port:http}" not in " ".join(given):
        given += ["--port", "{port:http}"]
    return tuple(given)


def has_workers(command: Sequence[str]) -> bool:
    """Whether the command looks like one that starts worker processes below it."""
    return "gunicorn" in command or "--workers" in command


def _gpu(text: str) -> str | None:
    """The call with which the source waits for a result of torch; None if there is none."""
    if not re.search(r"^\s*(import torch|from torch)", text, re.M):
        return None
    return next((site for mark, site in _WAITS.items() if mark in text), "torch.cuda:synchronize")


def _bound(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return f"{host}:{{port:http}}" if colon and port.isdigit() else address


def _command(framework: str, app: str) -> tuple[str, ...]:
    if framework == "Flask":
        return ("{python}", "-m", "flask", "--app", app, "run", "--port", "{port:http}")
    return ("{python}", "-m", "uvicorn", app, "--port", "{port:http}")


def _sources(folder: Path) -> Iterator[Path]:
    own = sorted(folder.glob("*.py"))
    packages = sorted(path for path in folder.glob("*/*.py") if (path.parent / "__init__.py").exists())
    for path in [*own, *packages][:_FILES]:
        if path.stat().st_size <= _FILE_BYTES:
            yield path
