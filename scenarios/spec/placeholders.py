"""Text in a target file: placeholders (`{python}`, `{port:NAME}`, `{CLIENT.KEY}`, …), which are filled or
refused, and bytes.
"""

from __future__ import annotations

import base64
import binascii
import random
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from scenarios.errors import CouldNotRun, did_you_mean, nearest

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.:-]*)\}")
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10_000
_TRIES = 32
_BASE64 = "base64:"


class UnknownPlaceholder(CouldNotRun):
    """An unknown placeholder, with the names that exist."""

    def __init__(self, name: str, known: Mapping[str, str]) -> None:
        hint = did_you_mean(nearest(name, known)) or f"; there are {', '.join(sorted(known))}"
        super().__init__(f"unknown placeholder {{{name}}}{hint}")


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with every placeholder in its strings (and in strings inside tables and arrays) filled.

    Raises `UnknownPlaceholder`.
    """
    if isinstance(value, str):
        return _FIELD.sub(lambda found: _replacement(found, names), value)
    if isinstance(value, Mapping):
        return {key: fill(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [fill(inner, names) for inner in value]
    return value


def substitute(value: Any, name: str, text: str) -> Any:
    """`value` with one placeholder replaced by plain text; all others stay to be filled."""
    if isinstance(value, str):
        return _FIELD.sub(lambda found: escape(text) if found[1] == name else found[0], value)
    if isinstance(value, Mapping):
        return {key: substitute(inner, name, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner, name, text) for inner in value]
    return value


def escape(text: str) -> str:
    """Plain text, escaped so that `fill` returns it unchanged."""
    return text.replace("{", "{{").replace("}", "}}")


def placeholder_names(value: Any) -> Iterator[str]:
    """The names of all placeholders in `value`, in order, with repeats."""
    if isinstance(value, str):
        yield from (found[1] for found in _FIELD.finditer(value) if found[1])
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from placeholder_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from placeholder_names(inner)


def free_ports(value: Any) -> dict[str, str]:
    """A free loopback port for every `{port:NAME}` used in `value`, by placeholder name.

    The port is free now and not reserved. It is none of those that the kernel gives to outgoing connections,
    so only another server may take it before the target does. A target that can bind port 0 and print what it
    got has no such race.
    """
    names = sorted({name for name in placeholder_names(value) if name.startswith("port:")})
    with ExitStack() as bound:
        return {name: str(bound.enter_context(_bound()).getsockname()[1]) for name in names}


def _bound() -> socket.socket:
    """A socket on a free port below those of outgoing connections; on any free one where there is none."""
    below = range(_LOWEST_PORT, int(_OUTGOING.read_text().split()[0]))
    for port in random.SystemRandom().sample(below, k=min(_TRIES, len(below))):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    return socket.create_server(("127.0.0.1", 0))


def _replacement(found: re.Match[str], names: Mapping[str, str]) -> str:
    if found[0] in ("{{", "}}"):
        return found[0][0]
    if found[1] not in names:
        raise UnknownPlaceholder(found[1], names)
    return names[found[1]]


def parse_bytes(text: str) -> bytes:
    """`base64:…`, or text that stands for its UTF-8. Raises `CouldNotRun`."""
    if not text.startswith(_BASE64):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    except binascii.Error as error:
        raise CouldNotRun(f"{text[:60]!r} is not base64: {error}") from None


def bytes_error(text: str) -> str | None:
    """What is wrong with the spelling of these bytes, None if nothing is. Text with placeholders is not
    checked: its bytes are known once they are filled.
    """
    if any(placeholder_names(text)):
        return None
    try:
        parse_bytes(text)
    except CouldNotRun as error:
        return str(error)
    return None
