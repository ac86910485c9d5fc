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
_BIND_OPTIONS = ("--bind", "-b", "--addr", "--address", "--http-addr", "--listen", "-l")
_FLAGS = ("-u", "-v", "--verbose", "-q", "--quiet", "--debug", "--reload")
_PORT_OPTION = re.compile(r"--?(?:([A-Za-z][\w-]*?)[-._])?port", re.I)
_ADDRESS = re.compile(r"(?:[\w.-]*:|\[[\da-f:]+\]:)?(\d{2,5})")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_DEFAULTS = {
    "uvicorn": ("--port", "{port:http}"),
    "granian": ("--port", "{port:http}"),
    "fastapi": ("--port", "{port:http}"),
    "flask": ("--port", "{port:http}"),
    "vllm": ("--port", "{port:http}"),
    "streamlit": ("--server.port", "{port:http}"),
    "gunicorn": ("--bind", "127.0.0.1:{port:http}"),
    "hypercorn": ("--bind", "127.0.0.1:{port:http}"),
    "http.server": ("{port:http}",),
}
"""What tells a server its port, where the command does not."""

_PORT_IN_SOURCE = re.compile(r"""\bport["']?\s*[=:,]\s*(\d{4,5})\b|\(["'][\w.]*["'],\s*(\d{4,5})\)""", re.I)
_PORT_IN_ENVIRONMENT = re.compile(r"""(?:environ(?:\.get)?[\[(]|getenv\()\s*["']PORT["']""")
_USUAL_PORT = 8000


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
    """A command as a person types it, in a target file's terms: the same words, with a free port for each
    that it names.

    An option that names a port of its own kind (`--grpc-port`) has a port of its own; where none names one, a
    bare number or the end of HOST:PORT is it. A server that is known to have a default port is told another.
    """
    if _ASSIGNMENT.match(command[0]):  # as a shell takes it: PORT=8000 ./serve
        command = ["env", *command]
    given = [_literal(argument) for argument in command]
    for i, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        if equals and (name := _port_named(option)):
            given[i] = f"{option}={_number(value, name)}"
        elif equals and option in _BIND_OPTIONS:
            given[i] = f"{option}={_bound(value)}"
        elif i and (name := _port_named(given[i - 1])):
            given[i] = _number(argument, name)
        elif i and given[i - 1] in _BIND_OPTIONS:
            given[i] = _number(_bound(argument), "http")
    if not _has_port(given):
        bare = [i for i, argument in enumerate(given) if i and _is_bare_port(given[i - 1], argument)]
        for i in bare[-1:]:
            given[i] = _number(_bound(given[i]), "http")
    if not _has_port(given):
        words = {Path(argument).name for argument in given[:3]}
        given += next((list(more) for server, more in _DEFAULTS.items() if server in words), [])
    return tuple(given)


def from_source(command: Sequence[str], folder: Path) -> tuple[tuple[str, ...], int | None]:
    """Where the command names no port: the command with a free one in PORT, if the Python file that it runs
    reads that; else the port that stands in the file, or 8000."""
    if _has_port(command):
        return tuple(command), None
    for argument in command:
        path = folder / argument
        if path.suffix == ".py" and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if _PORT_IN_ENVIRONMENT.search(text):
                return ("env", "PORT={port:http}", *command), None
            found = _PORT_IN_SOURCE.search(text)
            return tuple(command), int(found[1] or found[2]) if found else _USUAL_PORT
    return tuple(command), _USUAL_PORT


def _literal(argument: str) -> str:
    """The argument with plain braces doubled; those of a target file's own placeholders stay."""
    doubled = argument.replace("{", "{{").replace("}", "}}")
    return re.sub(r"\{(\{(?:python|here|port:[\w.-]+)\})\}", r"\1", doubled)


def _has_port(given: Sequence[str]) -> bool:
    return any("{port:" in argument for argument in given)


def _port_named(option: str) -> str:
    """What the port of this option is for, as a placeholder's name; empty where it names no port."""
    if option in ("-p", "PORT"):
        return "http"
    found = _PORT_OPTION.fullmatch(option)
    if found is None:
        return ""
    kind = (found[1] or "http").lower()
    return "http" if kind in ("http", "server", "web", "app", "api", "listen", "bind") else kind


def _number(value: str, name: str) -> str:
    return f"{{port:{name}}}" if value.isdigit() else value


def _is_bare_port(before: str, argument: str) -> bool:
    if before.startswith("-") and before != "-m" and "=" not in before and before not in _FLAGS:
        return False  # the value of an option that has nothing to do with ports
    found = _ADDRESS.fullmatch(argument)
    return found is not None and (int(found[1]) in (80, 443) or 1024 <= int(found[1]) <= 65535)


def has_workers(command: Sequence[str]) -> bool:
    """Whether the command looks like one that starts worker processes below it."""
    program = {Path(argument).name for argument in command[:3]}
    for i, argument in enumerate(command):
        option, equals, value = argument.partition("=")
        if option in ("--workers", "-w"):
            count = value if equals else command[i + 1] if i + 1 < len(command) else ""
            return count != "1" or "gunicorn" in program
    return "gunicorn" in program


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
