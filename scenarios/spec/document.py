"""TOML files checked against msgspec structs, with the file, line and key of whatever is wrong.

`msgspec.convert` knows the shapes but reports paths as text. So structs are walked here field by field, which
keeps the path as a value, and only leaves are converted by msgspec.
"""

from __future__ import annotations

import copy
import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from scenarios.errors import Malformed, did_you_mean, nearest

T = TypeVar("T", bound=msgspec.Struct)
Key = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*\[(\[)?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_ENTRY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_STRINGS = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'[^']*'")


class Position(NamedTuple):
    """Where a key stands: in which file, at which line, and what it is called there. `line` is None when no
    table around it has one either."""

    path: Path
    line: int | None
    key: Key


class Document:
    """One TOML file: its path, its raw value, and where each key stands."""

    def __init__(self, path: Path, text: str) -> None:
        """Raises `Malformed` when the text is not TOML."""
        self.path = path
        self._positions = {key: Position(path, line, key) for key, line in _lines(text).items()}
        try:
            self.raw: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Malformed(path, None, "", f"not TOML: {error}") from error

    @property
    def positions(self) -> Mapping[Key, Position]:
        """Where each key stands that has a line of its own."""
        return self._positions

    def changed(self, raw: dict[str, Any], positions: Mapping[Key, Position]) -> Document:
        """Another value under the same path, whose keys stand at these places: of this file, or of others."""
        made = copy.copy(self)
        made.raw, made._positions = raw, dict(positions)
        return made

    def position(self, key: Key) -> Position:
        """Where `key` stands, or the nearest table around it."""
        around = key
        while around:
            if found := self._positions.get(around):
                return Position(found.path, found.line, (*found.key, *key[len(around) :]))
            around = around[:-1]
        return Position(self.path, None, key)

    def malformed(self, key: Key, problem: str) -> Malformed:
        """The error for a problem at `key`, for checks that go beyond shape."""
        at = self.position(key)
        return Malformed(at.path, at.line, spell(at.key), problem)

    def convert(self, type_: type[T]) -> T:
        """The whole document as a struct. Raises `Malformed`."""
        return self._struct(self.raw, type_, ())

    def _struct(self, value: Any, type_: type[T], at: Key) -> T:
        if not isinstance(value, Mapping):
            raise self.malformed(at, f"must be a table, not {_kind(value)}")
        hints, fields = _fields(type_)
        tag = type_.__struct_config__.tag_field
        known = [*fields, tag] if tag else list(fields)
        for name in value:
            if name not in known:
                hint = did_you_mean(nearest(name, known)) or f"; known here: {', '.join(known)}"
                raise self.malformed((*at, name), f"unknown key{hint}")
        given: dict[str, Any] = {}
        for name, field in fields.items():
            if name in value:
                given[field.name] = self._value(value[name], hints[field.name], (*at, name))
            elif field.required:
                raise self.malformed(at or (*at, name), f"the key {name!r} is missing")
        return type_(**given)

    def _value(self, value: Any, hint: Any, at: Key) -> Any:
        shape = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        origin, args = get_origin(shape), get_args(shape)
        if origin in (Union, UnionType):
            structs = [a for a in args if _is_struct(a)]
            if isinstance(value, Mapping) and structs:
                return self._struct(value, self._tagged(value, structs, at), at)
        elif _is_struct(shape):
            return self._struct(value, shape, at)
        elif origin is tuple and len(args) == 2 and args[1] is Ellipsis and isinstance(value, list):
            return tuple(self._value(v, args[0], (*at, i)) for i, v in enumerate(value))
        elif origin is dict and isinstance(value, Mapping):
            return {k: self._value(v, args[1], (*at, k)) for k, v in value.items()}
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            raise self.malformed(at, str(error)) from None

    def _tagged(self, value: Mapping[str, Any], structs: list[Any], at: Key) -> Any:
        if len(structs) == 1:
            return structs[0]
        field = structs[0].__struct_config__.tag_field
        tags = {s.__struct_config__.tag: s for s in structs}
        tag = value.get(field)
        if tag is None:
            raise self.malformed(at, f"the key {field!r} is missing ({' or '.join(tags)})")
        if tag not in tags:
            hint = did_you_mean(nearest(str(tag), tags)) or f"; known: {', '.join(tags)}"
            raise self.malformed((*at, field), f"unknown {field} {tag!r}{hint}")
        return tags[tag]


def read(path: Path) -> Document:
    """Read a TOML file. Raises `Malformed` when it cannot be read or is not TOML."""
    try:
        return Document(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Malformed(path, None, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Malformed(path, None, "", f"is not UTF-8: {error.reason}") from error


def spell(key: Key) -> str:
    """`probe[0].url` for `("probe", 0, "url")`."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in key).lstrip(".")


@functools.cache
def _fields(type_: type[msgspec.Struct]) -> tuple[dict[str, Any], dict[str, msgspec.structs.FieldInfo]]:
    """What each field of a struct may hold, and the fields, both by name. It takes long to find out, and a
    suite has hundreds of tables of a few kinds.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    return get_type_hints(type_, include_extras=True), fields


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _kind(value: object) -> str:
    return {str: "a string", int: "a number", list: "an array", bool: "a truth value"}.get(
        type(value), "that"
    )


def _lines(text: str) -> dict[Key, int]:
    """Where each header and key stands (1-based). Keys inside inline tables stand at their table's line."""
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    depth = 0
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if fence is not None:
            if fence in line:
                fence = None
            continue
        if depth == 0 and (header := _HEADER.match(line)):
            table = _resolve(_parts(header[2]), counts)
            if header[1]:
                index = counts.get(table, 0)
                counts[table] = index + 1
                table = (*table, index)
            found.setdefault(table, number)
            continue
        if depth == 0 and (entry := _ENTRY.match(line)):
            found.setdefault((*table, *_parts(entry[1])), number)
        for mark in ('"""', "'''"):
            if line.count(mark) % 2:
                fence = mark
        bare = _STRINGS.sub("", line).split("#", 1)[0]
        depth = max(0, depth + sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}"))
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _resolve(parts: tuple[str, ...], counts: Mapping[Key, int]) -> Key:
    """A header's key, with the index of the current element after each array of tables it goes through."""
    key: Key = ()
    for i, part in enumerate(parts):
        key = (*key, part)
        if i < len(parts) - 1 and counts.get(key):
            key = (*key, counts[key] - 1)
    return key
