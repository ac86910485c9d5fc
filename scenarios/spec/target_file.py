"""Find target files, load them, and check what their shape alone cannot say: placeholders, names, calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from scenarios.errors import UnknownName, did_you_mean, nearest
from scenarios.spec import probes
from scenarios.spec.document import Document, Key
from scenarios.spec.overlay import read_overlaid, shipped
from scenarios.spec.placeholders import bytes_error, placeholder_names
from scenarios.spec.probes import METHOD
from scenarios.spec.target import Call, GrpcCall, HttpProbe, Launch, Target, TcpProbe

_ALWAYS = ("python", "here")
_ANY_PORT = "port:NAME"
_CALL_TEXTS = ("url", "address", "headers", "json", "body", "message", "messages", "raw")


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    """A target and the file it came from. `spec` is what the file says, laid over its base; `document` knows
    the line of each key.
    """

    path: Path
    spec: Target
    document: Document = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """The target's name."""
        return self.spec.name

    @property
    def start(self) -> Launch:
        """How the server is started, `[target]` in the file."""
        return self.spec.start

    @property
    def folder(self) -> Path:
        """The folder that `command`, `cwd`, `proto` and requirement files are relative to."""
        return self.path.parent


def find(name: str, *, beside: Path | None = None) -> Path:
    """The file of a target given as a path or as the name of a shipped one.

    `beside` is the folder that a relative path may also start from. Raises `UnknownName`.
    """
    known = shipped()
    if name in known:
        return known[name]
    for path in (Path(name), *([beside / name] if beside else [])):
        if path.suffix == ".toml" and path.is_file():
            return path.resolve()
    raise UnknownName("target", name, known, remedy=f"a .toml file, or one of {', '.join(known)}")


def load(path: Path) -> LoadedTarget:
    """Load and check a target file, laid over its base if it has one. Raises `Malformed`."""
    document = read_overlaid(path)
    target = document.convert(Target)
    _check(document, target, path.parent)
    return LoadedTarget(path, target, document)


def _check(document: Document, target: Target, folder: Path) -> None:
    ready = target.start.ready
    if ready.line is None and ready.url is None:
        raise document.malformed(("target", "ready"), "give `line`, `url` or both")
    if ready.url is not None and (problem := probes.url_problem(ready.url)):
        raise document.malformed(("target", "ready", "url"), problem)
    if not target.start.command:
        raise document.malformed(("target", "command"), "is empty: give the program and its arguments")
    if not target.probe:
        raise document.malformed(("probe",), "there is none: give at least one [[probe]] to watch")
    if not any(probe.watched for probe in target.probe):
        raise document.malformed(("probe",), "none is watched, so nothing can be judged")
    _check_unique(document, "probe", [probe.name for probe in target.probe])
    _check_unique(document, "call", [call.name for call in target.call])
    _check_unique(document, "client", [client.name for client in target.client])
    groups = _groups(document, ("target", "ready", "line"), ready.line)
    for i, probe in enumerate(target.probe):
        if isinstance(probe, HttpProbe):
            _groups(document, ("probe", i, "expect", "body"), probe.expect.body)
        elif isinstance(probe, TcpProbe):
            _groups(document, ("probe", i, "expect"), probe.expect)
        for key, problem in probes.problems(probe):
            raise document.malformed(("probe", i, *key), problem)
    check_calls(document, target.call, folder)
    _check_processes(document, target)
    _check_placeholders(document, target, groups)
    for name, site in target.sites.items():
        if not re.fullmatch(r"[\w.]+:[\w.<>]+", site):
            raise document.malformed(("sites", name), f"{site!r} is not module:qualname")
    leaks = target.leaks
    for i, pattern in enumerate(leaks.ignored_threads):
        _groups(document, ("leaks", "ignored_threads", i), pattern)
    allowed = leaks.mappings or leaks.processes or leaks.threads or leaks.fds or leaks.ignored_threads
    if allowed and not leaks.because:
        raise document.malformed(("leaks",), "growth is allowed without saying why: give `because`")


def check_ports(loaded: LoadedTarget) -> None:
    """Raises `Malformed` for a `{port:NAME}` that the server is not told of: nothing would listen there."""
    start = loaded.spec.start
    ports = [name for name in placeholder_names([start.command, start.env]) if _is_port(name)]
    groups = re.compile(start.ready.line or "").groupindex
    _check_placeholders(loaded.document, loaded.spec, groups, ports)


def check_filled(loaded: LoadedTarget, names: Mapping[str, str]) -> None:
    """Raises `Malformed` for a probe that cannot be asked with these values of its placeholders."""
    for i, probe in enumerate(loaded.spec.probe):
        for key, problem in probes.text_problems(probe, names):
            raise loaded.document.malformed(("probe", i, *key), problem)


def _check_unique(document: Document, table: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise document.malformed((table, i, "name"), f"a second {table} is named {name!r}")


def _groups(document: Document, key: Key, pattern: str | None) -> tuple[str, ...]:
    try:
        return tuple(re.compile(pattern or "").groupindex)
    except re.error as error:
        raise document.malformed(key, f"not a regular expression: {error}") from None


def _check_processes(document: Document, target: Target) -> None:
    for name, selector in target.processes.items():
        at: Key = ("processes", name)
        if not any(value is not None and value != "" for value in msgspec.structs.astuple(selector)):
            raise document.malformed(at, "selects nothing: give cmdline, imports, parent, port or main")
        if isinstance(selector.port, str) and not re.search(r"\{|^\d+$", selector.port):
            raise document.malformed(
                (*at, "port"), f"{selector.port!r} is no port: give a number, or {{port:NAME}}"
            )
        if selector.parent is not None and selector.parent not in target.processes:
            raise document.malformed((*at, "parent"), f"no process is named {selector.parent!r}")
        _groups(document, (*at, "cmdline"), selector.cmdline)


def _check_placeholders(
    document: Document, target: Target, groups: Iterable[str], ports: Iterable[str] = (_ANY_PORT,)
) -> None:
    owners = [client.name for client in target.client if client.when == "server"]
    after_start = {*_ALWAYS, *groups, *ports}

    def check(key: Key, names: set[str], clients: Iterable[str] = ()) -> None:
        _known(document, key, _at(document.raw, key), names, clients)

    for setting in ("command", "env", "cwd"):
        check(("target", setting), {*_ALWAYS, _ANY_PORT})
    check(("target", "ready", "url"), after_start)
    for name in target.processes:
        check(("processes", name, "port"), after_start)
    for i, client in enumerate(target.client):
        extra = set() if client.when == "server" else {"n"}
        there = owners[: owners.index(client.name)] if client.when == "server" else owners
        for setting in ("command", "env"):
            check(("client", i, setting), after_start | extra, there)
    for i, _ in enumerate(target.probe):
        for setting in probes.TEXTS:
            check(("probe", i, setting), after_start)
    for i, _ in enumerate(target.call):
        for setting in _CALL_TEXTS:
            check(("call", i, setting), {*after_start, "n"}, owners)


def _is_port(name: str) -> bool:
    return name.startswith("port:")


def _at(raw: Any, key: Key) -> Any:
    """The value at `key`, None where there is none."""
    for part in key:
        if isinstance(part, str):
            raw = raw.get(part)
        elif raw is not None:
            raw = raw[part]
        if raw is None:
            return None
    return raw


def _known(document: Document, key: Key, value: Any, names: set[str], clients: Iterable[str]) -> None:
    """Every placeholder in the value is one of these names, a port, or a key of one of these clients."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _known(document, (*key, name), inner, names, clients)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _known(document, (*key, i), inner, names, clients)
    else:
        for name in placeholder_names(value):
            owner = name.partition(".")[0]
            if name in names or ("." in name and owner in clients) or (_is_port(name) and _ANY_PORT in names):
                continue
            if _is_port(name) and not any(map(_is_port, names)):
                raise document.malformed(key, f"no {{{name}}} is in the command or env of [target]")
            hint = did_you_mean(nearest(name, names)) or f"; there are {', '.join(sorted(names))}"
            raise document.malformed(key, f"unknown placeholder {{{name}}}{hint}")


def check_calls(document: Document, calls: Iterable[Call], folder: Path) -> None:
    """Raises `Malformed`. A `.proto` is sought in `folder`."""
    by_name = {call.name: call for call in calls}
    for i, call in enumerate(by_name.values()):
        for key, problem in _problems(call, by_name, folder):
            raise document.malformed(("call", i, key), problem)


def _problems(call: Call, by_name: Mapping[str, Call], folder: Path) -> Iterator[tuple[str, str]]:
    for key, other in (("needs", call.needs), ("undo", call.undo)):
        if other is not None and other not in by_name:
            hint = did_you_mean(nearest(other, by_name)) or f"; calls: {', '.join(by_name)}"
            yield key, f"no call is named {other!r}{hint}"
    seen, walk = {call.name}, call.needs
    while walk is not None:
        if walk in seen:
            yield "needs", f"{call.name!r} ends up needing itself"
        seen.add(walk)
        walk = by_name[walk].needs
    if call.hold_s and call.until == "end":
        yield (
            "hold_s",
            'nothing is left to hold after the end; give `until = "headers"` or `"message"` with it',
        )
    if isinstance(call, GrpcCall):
        yield from _of_grpc(call, folder)


def _of_grpc(call: GrpcCall, folder: Path) -> Iterator[tuple[str, str]]:
    if not METHOD.fullmatch(call.method):
        yield "method", f"{call.method!r} is not package.Service/Method"
    if call.proto is not None and not (folder / call.proto).is_file():
        yield "proto", f"no such file: {folder / call.proto}"
    if call.messages and call.message:
        yield "messages", "is beside `message`; give one of them"
    if call.raw is not None:
        for key in ("proto", "message", "messages", "answer"):
            if getattr(call, key):
                yield key, f"says what `raw` bytes are not: leave out `{key}` or `raw`"
        if problem := bytes_error(call.raw):
            yield "raw", problem
    if call.answer and call.until == "headers":
        yield "answer", 'headers hold no answer; give `until = "message"`'
