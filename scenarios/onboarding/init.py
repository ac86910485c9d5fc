"""Write a target file to start from: commented, so that it teaches, and complete, so that it can be tried."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from scenarios.errors import CouldNotRun
from scenarios.onboarding.guess import as_written, guess, has_workers
from scenarios.onboarding.schema import description
from scenarios.spec.target_file import load

TEMPLATE = Path(__file__).with_name("template.toml")
_LOCAL = "http://127.0.0.1:{port:http}"


def init(
    path: Path,
    *,
    name: str | None = None,
    command: Sequence[str] = (),
    health: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write the file; returns a sentence that says what it is based on.

    Missing arguments are guessed from the Python files beside it. `health` is a path or a URL. Raises
    `CouldNotRun` if the file exists already or cannot be written.
    """
    if path.suffix != ".toml":
        raise CouldNotRun(f"{path} must end in .toml, as target files do")
    if path.exists() and not overwrite:
        raise CouldNotRun(f"{path} is there already; name another file, or give --force to write over it")
    folder = path.resolve().parent
    guessed = guess(folder)
    chosen = as_written(command) if command else guessed.command
    asked = health or guessed.health
    url = asked if "://" in asked else f"{_LOCAL}{'' if asked.startswith('/') else '/'}{asked}"
    if "://" in asked and "{port:http}" in " ".join(chosen):
        url = re.sub(r"^(\w+://[^/:]+):\d+", r"\1:{port:http}", url)
    endpoint = re.sub(r"^\w+://[^/]*", "", url) or "/"
    values = {
        "FILE": path.name,
        "NAME": _text(name or _name(path, folder)),
        "COMMAND": "[" + ", ".join(_text(argument) for argument in chosen) + "]",
        "READY": _text(url),
        "PROBE": _text(f"http {endpoint}"),
        "HEALTH": _text(url),
        "CALL": _call(guessed.work),
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
    return "as you gave it" if command else guessed.why


def _call(work: str | None) -> str:
    if work is None:
        return ""
    lines = ["[[call]]", 'name = "work"', 'kind = "http"', 'method = "GET"', f"url = {_text(_LOCAL + work)}"]
    return "\n".join(lines) + "\n"


def _name(path: Path, folder: Path) -> str:
    stem = folder.name if path.stem in ("wedge", "target") else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-") or "mine"


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's too, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
