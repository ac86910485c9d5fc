"""Load suites, check what their shape alone cannot say, multiply rows by targets, select scenarios by name.

A name that matches nothing is an error: it is reported with the nearest one, never left out in silence.
A name is known if one of the suite's targets has it. A suite without targets of its own is for servers that
it does not know: there a name is taken for a misspelling only if it is no word of the shipped suites and the
target has one that is nearly the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from scenarios.errors import CouldNotRun, UnknownName, did_you_mean, nearest
from scenarios.record import NotRun
from scenarios.spec.document import Document, Key, read
from scenarios.spec.overlay import shipped as shipped_targets
from scenarios.spec.scenario import RowOnTarget, Scenario
from scenarios.spec.suite import Row, Suite
from scenarios.spec.target_file import LoadedTarget
from scenarios.spec.target_file import find as find_target
from scenarios.spec.target_file import load as load_target

SHIPPED = Path(__file__).resolve().parent.parent / "suites"
DEFAULT = "default"
ANY = "any"
_NEARLY_THE_SAME = 0.8
_WORDS_OF_ANY_SERVER = frozenset({"server", "worker", "gpu"})
"""The processes and sites of the shipped suite `any`, which a target may do without."""


def shipped() -> dict[str, Path]:
    """The suites that come with the harness, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a suite given as a path or as the name of a shipped one. Raises `UnknownName`."""
    known = shipped()
    if name in known:
        return known[name]
    if Path(name).suffix == ".toml" and Path(name).is_file():
        return Path(name).resolve()
    raise UnknownName("suite", name, known, remedy=f"a .toml file, or one of {', '.join(known)}")


class LoadedSuite(NamedTuple):
    """A suite, its scenarios by target and then in the order of the file, and the rows that do not apply."""

    suite: Suite
    scenarios: tuple[Scenario, ...]
    not_run: tuple[NotRun, ...]


def load(path: Path, target: LoadedTarget | None = None) -> LoadedSuite:
    """Load a suite for its own targets, or for `target` instead of them.

    A row does not apply to a target that lacks the process or the site it names, nor to `target` when it is
    for others. Raises `Malformed` and `UnknownName`, also for a process, site or target that no target of the
    suite has, since it is a misspelling then.
    """
    document = read(path)
    suite = document.convert(Suite)
    _check(document, suite)
    own = _own_targets(path, suite, target)
    further = _further(document, suite, {loaded.name for loaded in own}, required=target is None or bool(own))
    chosen = [*own, *further.values()] if target is None else [target]
    if not chosen:
        raise document.malformed(("suite", "targets"), "is empty, and no --target was given")
    known = [*own, *further.values(), *(chosen if target is not None else ())]
    _check_names(document, suite, known, generic=not own)
    for loaded in chosen:
        _check_expectations(suite, loaded, shipped().values())
    scenarios: list[Scenario] = []
    not_run: list[NotRun] = []
    for loaded in chosen:
        for i, row in enumerate(suite.row):
            fitting = RowOnTarget(document, i, row, loaded)
            meant = _meant(row, loaded, own if target is None else chosen, further)
            reason = (
                f"its row is for {', '.join(row.targets)}" if not meant else _lacks(document, i, row, fitting)
            )
            if reason is None:
                scenarios.append(fitting.scenario(suite.timing))
            elif meant or target is not None:
                not_run.append(NotRun(name=f"{row.name}@{loaded.name}", target=loaded.name, reason=reason))
    if target is None:
        _check_controls(document, suite, scenarios)
    return LoadedSuite(suite, tuple(scenarios), tuple(not_run))


def _own_targets(path: Path, suite: Suite, given: LoadedTarget | None) -> list[LoadedTarget]:
    """The suite's own targets; where another one takes their place, they tell which names are known, and
    those that are not here do not matter."""
    try:
        files = [find_target(name, beside=path.parent) for name in suite.suite.targets]
        return [given if given and given.path == file else load_target(file) for file in files]
    except CouldNotRun:
        if given is None:
            raise
        return []


def _meant(
    row: Row, loaded: LoadedTarget, own: Iterable[LoadedTarget], further: Mapping[str, LoadedTarget]
) -> bool:
    if not row.targets:
        return loaded.name in {target.name for target in own}
    return any((further[name].name if name in further else name) == loaded.name for name in row.targets)


def _further(
    document: Document, suite: Suite, own: Collection[str], *, required: bool
) -> dict[str, LoadedTarget]:
    """The targets that only rows name, by the name they use. Raises `Malformed` for one that does not
    exist.
    """
    found: dict[str, LoadedTarget] = {}
    for i, row in enumerate(suite.row):
        for name in row.targets:
            if name in own or name in found:
                continue
            try:
                found[name] = load_target(find_target(name, beside=document.path.parent))
            except UnknownName as error:
                if required:
                    hint = did_you_mean(nearest(name, [*own, *shipped_targets()]))
                    problem = f"no target is named {name!r}{hint}"
                    raise document.malformed(("row", i, "targets"), problem) from error
    return found


def _lacks(document: Document, index: int, row: Row, fitting: RowOnTarget) -> str | None:
    """The site or process that the row names and the target lacks, in words. A row that names its targets
    must fit them: raises `Malformed`."""
    missing = fitting.missing()
    if missing is None:
        return None
    key, problem = missing
    if row.targets:
        raise document.malformed(("row", index, *key), problem)
    return problem


S = TypeVar("S", Scenario, NotRun)


def select(
    scenarios: Iterable[Scenario], patterns: Iterable[str], not_run: Iterable[NotRun] = ()
) -> tuple[Scenario, ...]:
    """The scenarios that any of the names or globs matches; all of them for no pattern.

    Raises `UnknownName` for a pattern that matches nothing, and `CouldNotRun` for one that matches only what
    does not apply, with the reason.
    """
    scenarios, patterns = tuple(scenarios), tuple(patterns)
    for pattern in patterns:
        if not matched(scenarios, (pattern,)):
            if others := matched(not_run, (pattern,)):
                raise CouldNotRun(f"{others[0].name} cannot be run: {others[0].reason}")
            names = [scenario.name for scenario in scenarios]
            raise UnknownName("scenario", pattern, names, remedy="`wedge list` prints them all")
    return matched(scenarios, patterns)


def matched(named: Iterable[S], patterns: Sequence[str]) -> tuple[S, ...]:
    """Those whose name any of the patterns matches; all of them for no pattern."""
    return tuple(
        one for one in named if not patterns or any(fnmatchcase(one.name, pattern) for pattern in patterns)
    )


def targets(path: Path) -> tuple[str, ...]:
    """The names of a suite's targets, those that only rows name included, as the suite gives them. Raises
    `Malformed`."""
    suite = read(path).convert(Suite)
    return tuple(dict.fromkeys([*suite.suite.targets, *(name for row in suite.row for name in row.targets)]))


def _check(document: Document, suite: Suite) -> None:
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


def _check_controls(document: Document, suite: Suite, scenarios: Iterable[Scenario]) -> None:
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
            if expected[name] == "lit":
                raise document.malformed(key, f"{name} is expected to be lit: it proves nothing about others")


def _check_names(document: Document, suite: Suite, known: Sequence[LoadedTarget], *, generic: bool) -> None:
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


def _check_expectations(suite: Suite, loaded: LoadedTarget, others: Iterable[Path]) -> None:
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
