"""The JSON Schema of target files, for editors: completion, and a line under what is wrong while it is typed.

`docs/target.schema.json` is what this makes of the structs in `scenarios.target.model`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scenarios.target.model import Target
from scenarios.target.reference import words

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema as a JSON value, the same for the same model."""
    found = msgspec.json.schema(Target)
    definitions = {name: _described(name, value) for name, value in sorted(found["$defs"].items())}
    root = definitions.pop("Target")
    return {
        "$schema": _DIALECT,
        **root,
        "title": "wedge target file",
        "description": "Everything that is special about one server: how to start, watch, use and break it.",
        "$defs": definitions,
    }


def encoded() -> bytes:
    """The schema as it is written to a file."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2) + b"\n"


def _described(struct: str, value: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for key, inner in value["properties"].items():
        properties[key] = {**_for_toml(inner)}
        if said := words(struct, key):
            properties[key]["description"] = said
    out = {**value, "properties": properties}
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    return out


def _for_toml(value: Any) -> Any:
    """Without what TOML cannot say (null), and without OpenAPI's `discriminator`, which is no JSON Schema."""
    if isinstance(value, list):
        return [_for_toml(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _for_toml(inner) for key, inner in value.items() if key != "discriminator"}
    if "default" in kept and (kept["default"] is None or isinstance(kept["default"], dict)):
        del kept["default"]
    alternatives = [a for a in kept.get("anyOf", []) if a != {"type": "null"}]
    if len(alternatives) == 1:
        del kept["anyOf"]
        kept.update(alternatives[0])
    elif alternatives:
        kept["anyOf"] = alternatives
    return kept
