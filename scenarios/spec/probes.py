"""What about a probe could not be asked as it is written.

A file is refused for it as soon as it is known: when the file is loaded, or, for what a placeholder brings,
when the server has started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from scenarios.address import BadAddress, check_header, http_url, place
from scenarios.spec.document import Key
from scenarios.spec.placeholders import bytes_error, fill
from scenarios.spec.target import CommandProbe, GrpcProbe, HttpProbe, Probe, TcpProbe

TEXTS = ("url", "address", "send", "headers", "json", "body", "command")
"""The keys of a probe that may hold placeholders."""

METHOD = re.compile(r"/?[\w.]+/\w+")
"""`package.Service/Method`."""

_UNKNOWN = "\ue000"
_HEAD = re.compile(r"(?:[^:/?#]*://)?[^/?#]*")
_MOST_COMMANDS = 64
"""Commands of one probe that may run at a time, when every one of them hangs."""


class _StandIns(dict[str, str]):
    """A value for every placeholder while none is known: a port, a folder, or something unknown."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "1" if name.startswith("port:") else {"here": "/here"}.get(name, _UNKNOWN)


def problems(probe: Probe) -> Iterator[tuple[Key, str]]:
    """What is wrong in the file: the key within the probe, and the problem in words."""
    if not probe.connections:
        yield ("connections",), 'is empty: give "fresh", "kept" or both'
    match probe:
        case HttpProbe():
            yield from _of_http(probe)
        case TcpProbe():
            yield from _of_tcp(probe)
        case GrpcProbe():
            if probe.method is not None and not METHOD.fullmatch(probe.method):
                yield ("method",), f"{probe.method!r} is not package.Service/Method"
        case CommandProbe():
            if not probe.command or not probe.command[0]:
                yield ("command",), "is empty: give the program and its arguments"
            if 1.5 * probe.budget_s > _MOST_COMMANDS * probe.period_s:
                yield (
                    ("period_s",),
                    f"more than {_MOST_COMMANDS} commands would run at a time when they hang: raise it",
                )
    yield from text_problems(probe, _StandIns())


def text_problems(probe: Probe, names: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    """What is wrong with the probe's texts when their placeholders have these values."""
    if isinstance(probe, CommandProbe):
        return
    if isinstance(probe, HttpProbe):
        yield from _problem("url", _checkable_url(fill(probe.url, names)), http_url)
        for name, value in probe.headers.items():
            yield from _problem(
                ("headers", name), fill(value, names).replace(_UNKNOWN, "x"), partial(check_header, name)
            )
    if probe.address is not None and _UNKNOWN not in (at := fill(probe.address, names)):
        yield from _problem("address", at, place)


def _of_http(probe: HttpProbe) -> Iterator[tuple[Key, str]]:
    if not re.fullmatch(r"[A-Z][A-Z-]*", probe.method) or probe.method == "CONNECT":
        yield ("method",), f"{probe.method!r} is not GET, HEAD, POST, … in capitals"
    for key in ("json", "body"):
        if getattr(probe, key) is not None and probe.method in ("GET", "HEAD"):
            yield (key,), f'a {probe.method} has no body: give `method = "POST"`, or whichever takes it'
    if probe.json is not None and probe.body is not None:
        yield ("body",), "is beside `json`; give one of them"
    if probe.body is not None and (wrong := bytes_error(probe.body)):
        yield ("body",), wrong
    if probe.address is not None and not probe.address.startswith(("unix:", "{")):
        yield ("address",), "is for a unix socket, unix:/PATH; `url` has host and port"
    if probe.method == "HEAD" and probe.expect.body is not None:
        yield ("expect", "body"), "the answer to a HEAD has no body"
    if not probe.expect.status:
        yield ("expect", "status"), "is empty: give the statuses that are good"
    names = [name.lower() for name in probe.headers]
    for name in probe.headers:
        if names.count(name.lower()) > 1:
            yield ("headers", name), "stands there twice: the case of its letters makes no difference"


def _of_tcp(probe: TcpProbe) -> Iterator[tuple[Key, str]]:
    if probe.send and probe.expect is None:
        yield ("send",), "nobody waits for what comes back; give `expect`"
    if "kept" in probe.connections and not probe.send:
        yield (
            ("connections",),
            "a kept connection shows nothing unless something is sent over it; give `send` and `expect`",
        )
    if wrong := bytes_error(probe.send):
        yield ("send",), wrong


def url_problem(url: str) -> str | None:
    """What is wrong with a URL whose placeholders are not known yet, in words."""
    return next(
        (problem for _, problem in _problem("url", _checkable_url(fill(url, _StandIns())), http_url)), None
    )


def _problem(key: str | Key, text: str, check: Callable[[str], Any]) -> Iterator[tuple[Key, str]]:
    try:
        check(text)
    except BadAddress as error:
        yield (key,) if isinstance(key, str) else key, str(error)


def _checkable_url(url: str) -> str:
    """The URL with something harmless in place of what is not known yet."""
    found = _HEAD.match(url)
    assert found is not None
    head = "http://127.0.0.1" if _UNKNOWN in found[0] else found[0]
    return head + url[found.end() :].replace(_UNKNOWN, "x")
