"""The JSON Schema of target files, with which an editor completes keys and underlines mistakes.

`docs/target.schema.json` is generated from the structs in `scenarios.spec.target`, whose fields carry the
descriptions. A file with a `base` need not repeat the base's keys, so keys are required only without a base.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scenarios.spec.target import Target

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema as a JSON value; deterministic."""
    definitions = structs(Target)
    root = definitions.pop("Target")
    alone = {
        "required": root["required"],
        "properties": {key: _complete(value, definitions) for key, value in root["properties"].items()},
    }
    laid_over = {
        name: {**value, "required": ["name"]} for name, value in definitions.items() if _named(value)
    }
    return {
        "$schema": _DIALECT,
        **root,
        "required": ["target"],
        "if": {"not": {"required": ["base"]}},
        "then": alone,
        "title": "wedge target file",
        "description": "Everything that is special about one server: how to start, watch, use and break it.",
        "$defs": {**definitions, **laid_over},
    }


def structs(root: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """The schema of a file's struct and of each in it, by name. Every key has a description."""
    found = msgspec.json.schema(root)
    return {name: _described(value) for name, value in sorted(found["$defs"].items())}


def encoded() -> bytes:
    """The schema as it is written to a file."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2) + b"\n"


def _named(value: dict[str, Any]) -> bool:
    return "name" in value.get("required", [])


def _complete(value: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema that requires the required keys of whatever the value refers to; empty if there are none."""
    if "$ref" in value:
        found = definitions[value["$ref"].rpartition("/")[2]]
        return {"required": found["required"]} if _named(found) else {}
    if "anyOf" in value:
        return {"anyOf": [_of_kind(choice, definitions) for choice in value["anyOf"]]}
    if value.get("type") == "array" and (items := _complete(value["items"], definitions)):
        return {"items": items}
    return {}


def _of_kind(choice: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    found = definitions[choice["$ref"].rpartition("/")[2]]
    return {"properties": {"kind": found["properties"]["kind"]}, "required": found["required"]}


def _described(value: dict[str, Any]) -> dict[str, Any]:
    """The value with the struct's first paragraph as the description of `kind`, which is a tag and not a
    field."""
    properties = {key: _for_toml(inner) for key, inner in value["properties"].items()}
    about = value["description"]
    if "kind" in properties:
        properties["kind"]["description"] = " ".join(about.partition("\n\n")[0].split())
    return {**value, "properties": properties, "description": " ".join(about.split())}


def description(struct: str, key: str) -> str:
    """What a key of a target file means. Raises `KeyError` for an unknown key."""
    return str(structs(Target)[struct]["properties"][key]["description"])


def _for_toml(value: Any) -> Any:
    """The value without null, which TOML lacks, and without OpenAPI's `discriminator`, which JSON Schema
    lacks."""
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
