"""Load suites, multiply rows by targets, and select scenarios by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from scenarios.errors import CouldNotRun, UnknownName, did_you_mean, nearest
from scenarios.record import NotRun
from scenarios.spec.document import Document, read
from scenarios.spec.overlay import shipped as shipped_targets
from scenarios.spec.scenario import RowOnTarget, Scenario
from scenarios.spec.suite import Row, Suite
from scenarios.spec.suite_checks import check, check_controls, check_expectations, check_names
from scenarios.spec.target_file import LoadedTarget
from scenarios.spec.target_file import find as find_target
from scenarios.spec.target_file import load as load_target

SHIPPED = Path(__file__).resolve().parent.parent / "suites"
DEFAULT = "default"
ANY = "any"


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
    check(document, suite)
    own = _own_targets(path, suite, target)
    further = _further(document, suite, {loaded.name for loaded in own}, required=target is None or bool(own))
    chosen = [*own, *further.values()] if target is None else [target]
    if not chosen:
        raise document.malformed(("suite", "targets"), "is empty, and no --target was given")
    known = [*own, *further.values(), *(chosen if target is not None else ())]
    check_names(document, suite, known, generic=not own)
    for loaded in chosen:
        check_expectations(suite, loaded, shipped().values())
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
        check_controls(document, suite, scenarios)
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
