"""The tables of keys in `docs/target-file.md` and `docs/suite-file.md`, made from the structs:

python -m scenarios.onboarding.manual docs/target-file.md docs/suite-file.md

A table stands below the comment `<!-- keys: STRUCT -->`, up to the next blank line; below `<!-- tables -->`
are all tables of a target file. Everything else on a page is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenarios.onboarding.schema import structs
from scenarios.spec.suite import Suite
from scenarios.spec.target import Target

_MARKED = re.compile(r"^<!-- (?:keys: (\w+)|tables) -->\n(?:.+\n)*", re.MULTILINE)
_PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def with_tables(page: str) -> str:
    """The page with every marked table regenerated. Raises `KeyError` for an unknown struct."""
    known = structs(Target) | structs(Suite)

    def table(found: re.Match[str]) -> str:
        lines = _keys(known[found[1]]) if found[1] else _tables(known["Target"]["properties"])
        return "\n".join([found[0].partition("\n")[0], *lines]) + "\n"

    return _MARKED.sub(table, page)


def _tables(properties: dict[str, Any]) -> Iterator[str]:
    yield "| table | what it is |"
    yield "|---|---|"
    for name, value in properties.items():
        header = name if name == "base" else f"[[{name}]]" if value.get("type") == "array" else f"[{name}]"
        yield f"| `{header}` | {value['description']} |"


def _keys(struct: dict[str, Any]) -> Iterator[str]:
    required = struct.get("required", [])
    yield "| key | value | without it | meaning |"
    yield "|---|---|---|---|"
    for key, value in struct["properties"].items():
        default = "must be there" if key in required else _spelled(value.get("default"))
        yield f"| `{key}` | {_type(value)} | {default} | {value['description']} |"


def _type(value: dict[str, Any]) -> str:
    if "enum" in value:
        return " or ".join(f'`"{choice}"`' for choice in value["enum"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(choice) for choice in value["anyOf"]))
    if value.get("type") == "array":
        return f"array of {_type(value.get('items', {}))}"
    if "$ref" in value or value.get("type") == "object":
        return "table"
    return _PLAIN.get(str(value.get("type")), "anything")


def _spelled(default: Any) -> str:
    if default is None or default in ([], (), ""):
        return ""
    if isinstance(default, list | tuple):
        return f"`[{', '.join(_spelled(item).strip('`') for item in default)}]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default:g}`"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
