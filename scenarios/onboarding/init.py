"""Write a target file to start from: commented, so that it teaches, and complete, so that it can be tried."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from scenarios.errors import CouldNotRun
from scenarios.onboarding.guess import as_written, from_source, guess, has_workers
from scenarios.onboarding.schema import description
from scenarios.spec.target_file import load

TEMPLATE = Path(__file__).with_name("template.toml")


def init(
    path: Path,
    *,
    name: str | None = None,
    command: Sequence[str] = (),
    health: str | None = None,
    overwrite: bool = False,
    typed_in: Path | None = None,
) -> str:
    """Write the file; returns a sentence that says what it is based on.

    Missing arguments are guessed from the Python files beside it. `health` is a path or a URL, `typed_in` the
    folder in which the command is typed, by default that of the file. Raises `CouldNotRun` if the file exists
    already or cannot be written.
    """
    if path.suffix != ".toml":
        raise CouldNotRun(f"{path} must end in .toml, as target files do")
    if path.exists() and not overwrite:
        raise CouldNotRun(f"{path} is there already; name another file, or give --force to write over it")
    folder = path.resolve().parent
    within = typed_in.resolve() if command and typed_in is not None else folder
    guessed = guess(within)
    chosen, fixed = from_source(as_written(command) if command else guessed.command, within)
    local = _local(chosen, fixed)
    asked = health or guessed.health
    url = asked if "://" in asked else f"{local}{'' if asked.startswith('/') else '/'}{asked}"
    if "://" in asked and "{port:http}" in " ".join(chosen):
        url = re.sub(r"^(\w+://[^/:]+):\d+", r"\1:{port:http}", url)
    endpoint = re.sub(r"^\w+://[^/]*", "", url) or "/"
    values = {
        "FILE": path.name,
        "NAME": _text(name or _name(path, folder)),
        "COMMAND": "[" + ", ".join(_text(argument) for argument in chosen) + "]",
        "CWD": "# cwd = " + _text(".") if within == folder else "cwd = " + _text(_relative(within, folder)),
        "READY": _text(url),
        "PROBE": _text(f"http {endpoint}"),
        "HEALTH": _text(url),
        "CALL": _call(guessed.work, local),
        "SITES": f"[sites]\ngpu = {_text(guessed.gpu)}\n" if guessed.gpu else "",
        "WORKER": '{ parent = "server" }' if has_workers(chosen) else "{ main = true }",
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    explained = re.sub(r"@(\w+)\.(\w+)@", lambda found: description(found[1], found[2]), template)
    text = re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], explained)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CouldNotRun(f"{path} cannot be written: {error.strerror}") from error
    load(path)
    why = "as you gave it" if command else guessed.why
    if fixed is not None and health is None:
        why += f"; it names no port, and {fixed} is a guess: put right what the file says of it"
    return why


def _local(command: Sequence[str], fixed: int | None) -> str:
    """Where the server listens: at the command's free port `http`, or its first, or a port of its own."""
    names = [str(name) for argument in command for name in re.findall(r"\{port:([\w.-]+)\}", argument)]
    port = fixed if fixed is not None else "{port:" + ("http" if "http" in names else names[0]) + "}"
    return f"http://127.0.0.1:{port}"


def _relative(folder: Path, start: Path) -> str:
    return os.path.relpath(folder, start)


def _call(work: str | None, local: str) -> str:
    if work is None:
        return ""
    lines = ["[[call]]", 'name = "work"', 'kind = "http"', 'method = "GET"', f"url = {_text(local + work)}"]
    return "\n".join(lines) + "\n"


def _name(path: Path, folder: Path) -> str:
    stem = folder.name if path.stem in ("wedge", "target") else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-") or "mine"


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's too, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
