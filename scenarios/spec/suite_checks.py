"""Checks of a suite file beyond its shape; problems are reported with the line and the key.

A name that matches nothing is an error and is reported with the nearest name. A name is known if one of the
suite's targets has it. A suite without targets is for any server: there a name counts as a misspelling only
if no shipped suite uses it and the target has one that is nearly the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from scenarios.errors import UnknownName, did_you_mean, nearest
from scenarios.spec.document import Document, Key, read
from scenarios.spec.overlay import shipped as shipped_targets
from scenarios.spec.scenario import Scenario
from scenarios.spec.suite import Row, Suite
from scenarios.spec.target_file import LoadedTarget

_NEARLY_THE_SAME = 0.8
_WORDS_OF_ANY_SERVER = frozenset({"server", "worker", "gpu"})
"""The processes and sites of the shipped suite `any`, which a target may do without."""


def check(document: Document, suite: Suite) -> None:
    """Check names, controls and keys that do not go together. Raises `Malformed`."""
    rows = [row.name for row in suite.row]
    if not rows:
        raise document.malformed(("row",), "there is none: give at least one [[row]]")
    for i, row in enumerate(suite.row):
        if row.name in rows[:i]:
            raise document.malformed(("row", i, "name"), f"a second row is named {row.name!r}")
        if "@" in row.name:
            raise document.malformed(("row", i, "name"), "must not hold an @: the target's name follows it")
        if row.controls_row is not None and row.controls_row not in rows:
            hint = did_you_mean(nearest(row.controls_row, rows))
            raise document.malformed(
                ("row", i, "controls_row"), f"no row is named {row.controls_row!r}{hint}"
            )
        if not row.controls and not row.because:
            raise document.malformed(
                ("row", i),
                "has no `controls`: name a target that must go dark, or say `because` there is none",
            )
        for key, problem in _problems(row):
            raise document.malformed(("row", i, *key), problem)


def _problems(row: Row) -> Iterable[tuple[Key, str]]:
    """The keys of a row that do not go together, and regular expressions that do not compile."""
    if row.traffic.starts == "said":
        yield ("traffic",), "the row's own calls start with the fault: put those that wait into `beside`"
    if any(beside.starts == "said" for beside in row.beside) and not any(
        say.when == "eventually" for say in row.says
    ):
        yield ("beside",), 'calls wait for what is said: give the row `says` with `when = "eventually"`'
    if row.flap is not None and row.bites == "on-traffic":
        yield ("flap",), 'every coming must bite by itself: it does not go with `bites = "on-traffic"`'
    if row.flap is not None and row.ends_by == "server":
        yield ("flap",), 'the harness ends every coming: it does not go with `ends_by = "server"`'
    if row.ends_by == "server" and row.stop is not None:
        yield ("stop",), 'the server cannot both end and go on: `stop` does not go with `ends_by = "server"`'
    if row.ends_by == "server" and row.process is None:
        yield ("ends_by",), "the server replaces a process: give the row the `process` that it is"
    patterns: list[tuple[Key, str | None]] = [(("traffic",), row.traffic.error)]
    patterns += [(("beside", i), beside.error) for i, beside in enumerate(row.beside)]
    patterns += [(("says", i), say.body) for i, say in enumerate(row.says)]
    for key, pattern in patterns:
        try:
            re.compile(pattern or "")
        except re.error as error:
            yield key, f"{pattern!r} is no regex: {error}"


def check_controls(document: Document, suite: Suite, scenarios: Iterable[Scenario]) -> None:
    """Every control is a scenario of the suite that must go dark. Raises `Malformed`."""
    expected = {scenario.name: scenario.expected for scenario in scenarios}
    indexes = {row.name: i for i, row in enumerate(suite.row)}
    for scenario in scenarios:
        for name in scenario.controls:
            key: Key = ("row", indexes[scenario.row.name], "controls")
            if name not in expected:
                row = name.partition("@")[0]
                near = nearest(name, [known for known in expected if known.startswith(f"{row}@")])
                raise document.malformed(key, f"no scenario is named {name!r}{did_you_mean(near)}")
            if expected[name] != "dark":
                raise document.malformed(key, f"{name} is expected to be lit: it proves nothing about others")


def check_names(document: Document, suite: Suite, known: Sequence[LoadedTarget], *, generic: bool) -> None:
    """Every process, site and target that a row names is one of these targets'. Raises `Malformed`.

    `generic`: the suite has no targets of its own.
    """
    processes = {name for loaded in known for name in loaded.spec.processes}
    sites = {name for loaded in known for name in loaded.spec.sites}
    targets = {loaded.name for loaded in known}
    for i, row in enumerate(suite.row):
        named = [("process", key, name, processes) for key, name in _processes(row)]
        named += [("site", key, name, sites) for key, name in _sites(row)]
        spoken_of = {*targets, *row.targets, *shipped_targets(), "*"}
        named += [("target", key, name, spoken_of) for key, name in _targets(row)]
        for what, key, name, has in named:
            if name not in has and (not generic or _nearly(name, has)):
                raise document.malformed(("row", i, *key), _no(what, name, has - {"*"}, targets))


def _no(what: str, name: str, has: set[str], targets: set[str]) -> str:
    whose = f"target {next(iter(targets))}" if len(targets) == 1 else "no target of the suite"
    hint = did_you_mean(nearest(name, has)) or f"; known are {', '.join(sorted(has)) or 'none'}"
    if what == "target":
        return f"no target is named {name!r}{hint}"
    return f"{whose} {'has no' if len(targets) == 1 else 'has a'} {what} named {name!r}{hint}"


def _nearly(name: str, has: Iterable[str]) -> bool:
    return name not in _WORDS_OF_ANY_SERVER and bool(get_close_matches(name, list(has), 1, _NEARLY_THE_SAME))


def _processes(row: Row) -> Iterator[tuple[Key, str]]:
    if row.process is not None:
        yield ("process",), row.process
    for i, also in enumerate(row.also):
        if also.process is not None:
            yield ("also", i, "process"), also.process


def _sites(row: Row) -> Iterator[tuple[Key, str]]:
    named: list[tuple[Key, object]] = [(("params",), row.params.get("site"))]
    named += [(("also", i, "params"), also.params.get("site")) for i, also in enumerate(row.also)]
    for key, site in named:
        if isinstance(site, str) and ":" not in site:
            yield key, site


def _targets(row: Row) -> Iterator[tuple[Key, str]]:
    for key, value in (("expect", row.expect), ("after", row.after), ("calls", row.calls)):
        if isinstance(value, dict):
            yield from (((key,), name) for name in value)


def check_expectations(suite: Suite, loaded: LoadedTarget, others: Iterable[Path]) -> None:
    """Every row named in a target's `[expect]` exists: it is one of this suite's, or of
    those of `others`. Raises `UnknownName` for what is nearly the name of a row of this suite.
    """
    rows = {row.name for row in suite.row}
    unknown = [name for name in loaded.spec.expect if name not in rows]
    if not unknown:
        return
    elsewhere = {row.name for path in others for row in read(path).convert(Suite).row}
    for name in unknown:
        near = get_close_matches(name, list(rows), 1, _NEARLY_THE_SAME)
        if name not in elsewhere and near and not name.startswith(near[0]):
            raise UnknownName(
                "row", name, rows, remedy=f"[expect] of target {loaded.name} speaks of it; `wedge list`"
            )
