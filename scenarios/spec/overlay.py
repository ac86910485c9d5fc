"""A target file over its `base`: one document, whose keys still know the file and line they came from.

Values replace, tables merge key by key, `[[probe]]`, `[[call]]` and `[[client]]` merge by `name`, and `args`
are appended to the base's command. Paths in a base in another folder stay relative to that folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenarios.errors import did_you_mean, nearest
from scenarios.spec.document import Document, Key, Position, read
from scenarios.spec.placeholders import escape, substitute

SHIPPED = Path(__file__).resolve().parent.parent / "targets"
_NAMED = ("probe", "call", "client")
_REQUIREMENT_FILE = re.compile(r"^(\s*(?:-r|--requirement)[ =]?\s*)(.+)$")


def shipped() -> dict[str, Path]:
    """The target files that come with the harness, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_overlaid(path: Path) -> Document:
    """Read a target file and the base that it is laid over, if any, as one document. Raises `Malformed`."""
    return _resolved(path.resolve(), path, ())


def _resolved(path: Path, spelled: Path, above: tuple[Path, ...]) -> Document:
    document = read(spelled)
    if "base" in document.raw:
        base = _base(document, path.parent, (*above, path))
        start = document.raw.get("target")
        if not (isinstance(start, Mapping) and "name" in start):
            raise document.malformed(("target",), "give it a `name` of its own: its base's is taken")
        layers = _Overlay(document, _moved(base, path.parent))
        document = document.changed(layers.raw, layers.positions)
    return _with_args(document)


def _base(document: Document, folder: Path, above: tuple[Path, ...]) -> Document:
    name = document.raw["base"]
    if not isinstance(name, str):
        raise document.malformed(("base",), "must be a file's path, or the name of a shipped target")
    beside = (folder / name).resolve()
    path = beside if beside.is_file() else shipped().get(name)
    if path is None:
        near = [file.name for file in folder.glob("*.toml") if file.resolve() not in above]
        known = [*near, *shipped()]
        hint = did_you_mean(nearest(name, known)) or f"; there are {', '.join(known)}"
        raise document.malformed(("base",), f"no file {name!r} beside this one{hint}")
    if path in above:
        raise document.malformed(("base",), f"{name!r} ends up being its own base")
    return _resolved(path, path, above)


class _Overlay:
    """`top` laid over `base`: the raw value, and the place of each of its keys."""

    def __init__(self, top: Document, base: Document) -> None:
        self._top, self._base = top, base
        self.positions: dict[Key, Position] = {}
        self.raw: dict[str, Any] = self._tables(top.raw, base.raw, (), (), ())

    def _both(self, over: Any, under: Any, at: Key, top: Key, base: Key) -> Any:
        if isinstance(over, Mapping) and isinstance(under, Mapping):
            self.positions[at] = self._top.position(top)
            return self._tables(over, under, at, top, base)
        if len(at) == 1 and at[0] in _NAMED and isinstance(over, list) and isinstance(under, list):
            return self._named(over, under, at)
        return self._one(self._top, over, at, top)

    def _tables(self, over: Mapping[str, Any], under: Mapping[str, Any], at: Key, top: Key, base: Key) -> Any:
        out = {}
        for name in (*under, *(name for name in over if name not in under)):
            to, above, below = (*at, name), (*top, name), (*base, name)
            if name not in over:
                out[name] = self._one(self._base, under[name], to, below)
            elif name not in under:
                out[name] = self._one(self._top, over[name], to, above)
            else:
                out[name] = self._both(over[name], under[name], to, above, below)
        return out

    def _named(self, over: list[Any], under: list[Any], at: Key) -> list[Any]:
        """The base's entries in the base's order, changed where the top has one of the same name; then the
        new ones.
        """
        changes: dict[str, int] = {}
        for i, entry in enumerate(over):
            name = entry.get("name") if isinstance(entry, Mapping) else None
            if not isinstance(name, str):
                problem = (
                    f"the key 'name' is missing: it says which {at[0]} of {self._base.path.name} this changes"
                )
                raise self._top.malformed((*at, i), problem)
            if name in changes:
                raise self._top.malformed((*at, i, "name"), f"a second {at[0]} is named {name!r}")
            changes[name] = i
        out: list[Any] = []
        for i, entry in enumerate(under):
            change = changes.pop(entry.get("name", ""), None) if isinstance(entry, Mapping) else None
            to = (*at, len(out))
            if change is None:
                out.append(self._one(self._base, entry, to, (*at, i)))
            elif over[change].get("kind", entry.get("kind")) != entry.get("kind"):
                out.append(self._one(self._top, over[change], to, (*at, change)))  # it shares no keys
            else:
                out.append(self._both(over[change], entry, to, (*at, change), (*at, i)))
        for i in changes.values():
            out.append(self._one(self._top, over[i], (*at, len(out)), (*at, i)))
        return out

    def _one(self, document: Document, value: Any, at: Key, key: Key) -> Any:
        """A value of one of the two documents; the positions of everything in it are noted."""
        self.positions[at] = document.position(key)
        if isinstance(value, Mapping):
            return {name: self._one(document, v, (*at, name), (*key, name)) for name, v in value.items()}
        if isinstance(value, list):
            return [self._one(document, v, (*at, i), (*key, i)) for i, v in enumerate(value)]
        return value


def _with_args(document: Document) -> Document:
    """The document with `args` appended to the command. A value that is no array is left as it is: the check
    of shapes refuses it.
    """
    start = document.raw.get("target")
    if not isinstance(start, dict):
        return document
    command, args = start.get("command"), start.get("args")
    if not (isinstance(command, list) and isinstance(args, list) and all(isinstance(a, str) for a in args)):
        return document
    positions = dict(document.positions)
    for i in range(len(args)):
        positions["target", "command", len(command) + i] = document.position(("target", "args", i))
    whole = {**start, "command": [*command, *args]}
    del whole["args"]
    return document.changed({**document.raw, "target": whole}, positions)


def _moved(base: Document, folder: Path) -> Document:
    """The base as a file in another folder sees it: its paths stay relative to the base's own folder."""
    own = base.path.resolve().parent
    if own == folder:
        return base
    raw = substitute(base.raw, "here", str(own))
    start, calls = raw.get("target"), raw.get("call")
    if isinstance(start, dict):
        start["cwd"] = str(Path(escape(str(own))) / str(start.get("cwd", ".")))
        if isinstance(start.get("requires"), list):
            start["requires"] = [_requirement(entry, own) for entry in start["requires"]]
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("proto"), str):
            call["proto"] = str(own / call["proto"])
    return base.changed(raw, base.positions)


def _requirement(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, str):
        return entry
    found = _REQUIREMENT_FILE.match(entry)
    return f"{found[1]}{folder / found[2].strip()}" if found else entry
