"""YAML tables that know their line: what a `Document` is for TOML, for the few YAML files that are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from scenarios.errors import Malformed, did_you_mean, nearest
from scenarios.spec.document import Key, spell

_INT = "tag:yaml.org,2002:int"
_NULL = "tag:yaml.org,2002:null"


class Table:
    """One mapping of a YAML file. Keys that are absent and keys that are null are the same."""

    def __init__(self, path: Path, node: yaml.MappingNode, key: Key) -> None:
        self._path, self._node, self._key = path, node, key

    @property
    def line(self) -> int:
        """Where it begins, 1-based."""
        return int(self._node.start_mark.line) + 1

    def malformed(self, key: Key, problem: str) -> Malformed:
        """The error for a problem with `key` of this table, or with the table itself."""
        node = self._find(str(key[0])) if key else None
        line = int(node.start_mark.line) + 1 if node is not None else self.line
        return Malformed(self._path, line, spell((*self._key, *key)), problem)

    def has(self, name: str) -> bool:
        """Whether the key is there and not null."""
        return self._find(name) is not None

    def only(self, *known: str) -> None:
        """Raises `Malformed` for a key that is none of these."""
        for key, _ in self._node.value:
            if key.value not in known:
                hint = did_you_mean(nearest(key.value, known)) or f"; known here: {', '.join(known)}"
                line = int(key.start_mark.line) + 1
                raise Malformed(self._path, line, spell((*self._key, key.value)), f"unknown key{hint}")

    def text(self, name: str) -> str | None:
        """A scalar as it is written. Raises `Malformed` for a table or an array."""
        node = self._find(name)
        if node is None:
            return None
        if not isinstance(node, yaml.ScalarNode):
            raise self.malformed((name,), "must be a single value")
        return str(node.value)

    def number(self, name: str, *, least: int) -> int | None:
        """A whole number of at least `least`. Raises `Malformed`."""
        node = self._find(name)
        if node is None:
            return None
        if isinstance(node, yaml.ScalarNode) and node.tag == _INT:
            value = int(yaml.safe_load(node.value))
            if value >= least:
                return value
        raise self.malformed((name,), f"must be a whole number of at least {least}")

    def table(self, name: str) -> Table | None:
        """The table under the key. Raises `Malformed` for anything else."""
        node = self._find(name)
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            raise self.malformed((name,), "must be a table")
        return Table(self._path, node, (*self._key, name))

    def each(self, name: str) -> Iterator[Table]:
        """The tables in the array under the key; none where there is no such key. Raises `Malformed`."""
        node = self._find(name)
        if node is None:
            return
        if not isinstance(node, yaml.SequenceNode):
            raise self.malformed((name,), "must be an array")
        for i, item in enumerate(node.value):
            if not isinstance(item, yaml.MappingNode):
                raise Malformed(
                    self._path,
                    int(item.start_mark.line) + 1,
                    spell((*self._key, name, i)),
                    "must be a table",
                )
            yield Table(self._path, item, (*self._key, name, i))

    def within(self, *names: str) -> Iterator[Table]:
        """The tables in arrays under any of these keys, at any depth below this one."""
        for key, value in self._node.value:
            if key.value in names and isinstance(value, yaml.SequenceNode):
                yield from self.each(key.value)
            elif isinstance(value, yaml.MappingNode):
                yield from Table(self._path, value, (*self._key, key.value)).within(*names)
            elif isinstance(value, yaml.SequenceNode):
                for i, item in enumerate(value.value):
                    if isinstance(item, yaml.MappingNode):
                        yield from Table(self._path, item, (*self._key, key.value, i)).within(*names)

    def _find(self, name: str) -> yaml.Node | None:
        for key, value in self._node.value:
            if key.value == name:
                return None if value.tag == _NULL else value
        return None
