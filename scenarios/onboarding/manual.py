"""The reference page of target files, `docs/target-file.md`, made from the structs and the descriptions of
their fields:

python -m scenarios.onboarding.manual > docs/target-file.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from scenarios.onboarding.schema import structs
from scenarios.spec.target import Target

_HEADER = """\
# The target file

Everything that is special about one server, as TOML. `wedge target init` writes one to start from,
`wedge target check` tries one, and [the schema](target.schema.json) (`wedge target schema`) lets an editor
complete and check it.

Text may hold placeholders, filled in when it is used:

| placeholder | stands for | where |
|---|---|---|
| `{python}` | the interpreter of the environment made for `requires`, or of `wedge` itself | everywhere |
| `{here}` | the folder of the target file | everywhere |
| `{port:NAME}` | a free port on 127.0.0.1, the same wherever NAME stands | everywhere |
| `{GROUP}` | a named group of the ready line | in probes, calls and clients |
| `{CLIENT.KEY}` | a key of the line that a client printed | in calls |
| `{n}` | the number of the call, from 1 | in calls |
| `{{` and `}}` | plain braces | everywhere |

Paths are relative to the target file. Seconds may have a fraction.

## Variants: `base`

A server in another configuration is a file of a few lines, laid over the first:

```toml
base = "wedge.toml"

[target]
name = "mine-with-4-workers"
args = ["--workers", "4"]
```

`base` is the path of a target file, or the name of one that comes with `wedge`. Values replace those of the
base; tables (`[target.env]`, `[sites]`, a call's `message`) merge key by key; a `[[probe]]`, `[[call]]` or
`[[client]]` changes the base's of the same `name`, or is added (one of another `kind` takes its place).
`args` go behind the base's command. A base in another folder keeps its own `{here}`, `cwd`, `proto` and
requirement files, and a base may have a base. Only `name` must be given anew. What is wrong is told with
the file and the line that say it.
"""

_SECTIONS = {
    "Launch": "`[target]`",
    "Ready": "`ready`, in `[target]`",
    "HttpProbe": '`[[probe]]` with `kind = "http"`',
    "ExpectedAnswer": "`expect`, in a `[[probe]]`",
    "GrpcProbe": '`[[probe]]` with `kind = "grpc"`',
    "TcpProbe": '`[[probe]]` with `kind = "tcp"`',
    "HttpCall": '`[[call]]` with `kind = "http"`',
    "GrpcCall": '`[[call]]` with `kind = "grpc"`',
    "Client": "`[[client]]`",
    "ProcessSelector": "a value in `[processes]`: what must hold, all of it",
    "LeakAllowance": "`[leaks]`",
}
_PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def page() -> str:
    """The page, as it is written to a file."""
    definitions = structs()
    defaults = _defaults()
    parts = [_HEADER, "## The tables\n", *_tables(definitions["Target"]["properties"]), ""]
    for struct, title in _SECTIONS.items():
        parts += [f"## {title}\n", *_keys(definitions[struct], defaults[struct]), ""]
    return "\n".join(parts).rstrip() + "\n"


def _tables(described: dict[str, Any]) -> Iterator[str]:
    yield "| table | what it is |"
    yield "|---|---|"
    for field in msgspec.structs.fields(Target):
        name = field.encode_name
        if name == "base":
            yield f"| `base` | {described[name]['description']} |"
            continue
        header = f"[[{name}]]" if name in ("probe", "call", "client") else f"[{name}]"
        yield f"| `{header}` | {described[name]['description']} |"


def _keys(value: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    required = value.get("required", [])
    yield "| key | value | without it | meaning |"
    yield "|---|---|---|---|"
    for key, inner in value["properties"].items():
        default = "must be there" if key in required else _spelled(defaults.get(key))
        yield f"| `{key}` | {_type(inner)} | {default} | {inner['description']} |"


def _type(value: dict[str, Any]) -> str:
    if "enum" in value:
        return " or ".join(f'`"{choice}"`' for choice in value["enum"])
    if "anyOf" in value:
        return " or ".join(_type(choice) for choice in value["anyOf"])
    if value.get("type") == "array":
        return f"array of {_type(value.get('items', {}))}"
    if "$ref" in value or value.get("type") == "object":
        return "table"
    return _PLAIN.get(str(value.get("type")), "anything")


def _defaults() -> dict[str, dict[str, Any]]:
    """The default of every key that has a plain one, by struct and key."""
    definitions = msgspec.json.schema(Target)["$defs"]
    return {
        struct: {key: inner["default"] for key, inner in value["properties"].items() if "default" in inner}
        for struct, value in definitions.items()
    }


def _spelled(default: Any) -> str:
    if default is None or isinstance(default, dict) or default in ([], (), ""):
        return ""
    if isinstance(default, list | tuple):
        return f"`[{', '.join(_spelled(item).strip('`') for item in default)}]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default:g}`"


if __name__ == "__main__":
    sys.stdout.write(page())
