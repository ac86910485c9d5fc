"""Pins: what a target is known to do under a row, written into the `[expect]` of its file, with date and
reason.

A file is somebody's own: only the lines of `[expect]` change, and whatever else is in it, comments and
layout, stays as it was. The new text is read again before it is written, and has to say what was meant and
nothing else.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from scenarios.errors import CouldNotRun
from scenarios.spec.target import Pin

_HEADER = re.compile(r"""\s*\[\s*(expect|"expect"|'expect')\s*\]\s*(#.*)?""")
_ANY_HEADER = re.compile(r"\s*\[.*\]\s*(#.*)?")
_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*=""")


class CannotPin(CouldNotRun):
    """The file's `[expect]` cannot be changed line by line; the message has the lines to write by hand."""


def own_pins(path: Path) -> dict[str, Any]:
    """The `[expect]` of the file itself, without that of its base."""
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("expect", {})
    return dict(found) if isinstance(found, Mapping) else {}


def pin(path: Path, changes: Mapping[str, Pin | None]) -> None:
    """Write pins (by row) into the target file; None takes one out. Raises `CannotPin`."""
    with path.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = changed(before, changes, path)
    if after != before:
        part = path.with_name(f".{path.name}.part")
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(after)
        shutil.copymode(path, part)
        part.replace(path)


def changed(text: str, changes: Mapping[str, Pin | None], path: Path) -> str:
    """The text of a target file with these pins. Raises `CannotPin`; `path` is for its message."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if _HEADER.fullmatch(line.rstrip("\r\n"))), None)
    left = {row: _line(row, wanted) + end for row, wanted in changes.items() if wanted is not None}
    if start is None:
        gap = end if lines else ""
        body = [*_ended(lines, end), *([gap, f"[expect]{end}", *left.values()] if left else [])]
    else:
        stop = next(
            (i for i in range(start + 1, len(lines)) if _ANY_HEADER.fullmatch(lines[i].rstrip("\r\n"))),
            len(lines),
        )
        kept: list[str] = []
        for line in _ended(lines[start + 1 : stop], end):
            row = _row(line)
            if row not in changes:
                kept.append(line)
            elif row in left:
                kept.append(left.pop(row)[: -len(end)] + _comment(line))
        last = max((i + 1 for i, line in enumerate(kept) if line.strip()), default=0)
        kept[last:last] = left.values()
        body = [*_ended(lines[: start + 1], end), *kept, *lines[stop:]]
    after = "".join(body)
    _check(text, after, changes, path)
    return after


def _check(before: str, after: str, changes: Mapping[str, Pin | None], path: Path) -> None:
    wanted = tomllib.loads(before)
    expect = dict(wanted.get("expect", {}))
    for row, one in changes.items():
        expect.pop(row, None)
        if one is not None:
            expect[row] = tomllib.loads(_line("x", one))["x"]
    wanted["expect"] = expect
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = {}
    found.setdefault("expect", {})
    if found != wanted:
        lines = [_line(row, one) for row, one in changes.items() if one is not None]
        lines += [f"(take out) {row}" for row, one in changes.items() if one is None]
        raise CannotPin(
            f"{path}: [expect] is no table with a line for each row, so nothing was changed; make it one, "
            f"with {'; '.join(lines)}"
        )


def _ended(lines: list[str], end: str) -> list[str]:
    """The lines, the last of them ended too."""
    if lines and not lines[-1].endswith(("\n", "\r")):
        return [*lines[:-1], lines[-1] + end]
    return lines


def _comment(line: str) -> str:
    """The comment behind the value of a line, with the end of the line."""
    for found in re.finditer(r"\s*#", line):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads(line[: found.start()])
            return line[found.start() :]
    return line[len(line.rstrip()) :]


def _row(line: str) -> str | None:
    """The row that the line is for."""
    found = _KEY.match(line)
    if found is None:
        return None
    quoted, literal, bare = found.groups()
    return json.loads(f'"{quoted}"') if quoted is not None else literal if literal is not None else bare


def _line(row: str, one: Pin) -> str:
    since = (one.since or date.today()).isoformat()
    named, because = (
        json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") for text in (row, one.because)
    )
    return f'{named} = {{ seen = "{one.seen}", since = {since}, because = {because} }}'
