"""Names in a suite that nothing answers to are misspelled: told with the nearest, never left out in silence.

A name is known if one of the suite's targets has it. A suite without targets of its own is for servers that
it does not know: there a name is taken for misspelled only if it is no word of the shipped suites and the
target has one that is nearly the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from scenarios.errors import UnknownName, did_you_mean, nearest
from scenarios.spec.document import Document, Key, read
from scenarios.spec.overlay import shipped as shipped_targets
from scenarios.spec.suite import Row, Suite
from scenarios.spec.target_file import LoadedTarget

_NEARLY_THE_SAME = 0.8
_WORDS_OF_ANY_SERVER = frozenset({"server", "worker", "gpu"})
"""The processes and sites of the shipped suite `any`, which a target may do without."""


def check_names(document: Document, suite: Suite, known: Sequence[LoadedTarget], *, generic: bool) -> None:
    """Every process, site and target that a row names is one of these targets'. Raises `Malformed`.

    `generic`: the suite has no targets of its own.
    """
    processes = {name for loaded in known for name in loaded.target.processes}
    sites = {name for loaded in known for name in loaded.target.sites}
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
    """What a target's own `[expect]` says of rows is said of rows that there are: of this suite's, or of
    those of `others`. Raises `UnknownName` for what is nearly the name of a row of this suite.
    """
    rows = {row.name for row in suite.row}
    unknown = [name for name in loaded.target.expect if name not in rows]
    if not unknown:
        return
    elsewhere = {row.name for path in others for row in read(path).convert(Suite).row}
    for name in unknown:
        near = get_close_matches(name, list(rows), 1, _NEARLY_THE_SAME)
        if name not in elsewhere and near and not name.startswith(near[0]):
            raise UnknownName(
                "row", name, rows, remedy=f"[expect] of target {loaded.name} speaks of it; `wedge list`"
            )
