"""Load suites, multiply rows by targets, and select scenarios by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from scenarios.document import Document, read
from scenarios.errors import UnknownName, did_you_mean, nearest
from scenarios.suite.checks import check, check_controls
from scenarios.suite.fitting import Fitting
from scenarios.suite.model import Row, Suite
from scenarios.suite.scenario import Scenario
from scenarios.target import LoadedTarget
from scenarios.target import find as find_target
from scenarios.target import load as load_target
from scenarios.target import shipped as shipped_targets

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


def load(path: Path, target: str | None = None) -> tuple[Suite, tuple[Scenario, ...]]:
    """A suite and its scenarios, by target and then in the order of the file. `target` replaces the suite's
    targets by one.

    Raises `Malformed` and `UnknownName`.
    """
    document = read(path)
    suite = document.convert(Suite)
    check(document, suite)
    if target is not None:
        targets = [load_target(find_target(target))]
    else:
        targets = [load_target(find_target(name, beside=path.parent)) for name in suite.suite.targets]
    own = {loaded.name for loaded in targets}
    further = _further(document, suite, own) if target is None else {}
    targets += further.values()
    if not targets:
        raise document.malformed(("suite", "targets"), "is empty, and no --target was given")
    scenarios = tuple(
        fitting.scenario(suite.timing)
        for loaded in targets
        for i, row in enumerate(suite.row)
        if _meant(row, loaded, own, further)
        and _applies(document, i, row, fitting := Fitting(document, i, row, loaded))
    )
    if target is None:
        check_controls(document, suite, scenarios)
    return suite, scenarios


def _meant(row: Row, loaded: LoadedTarget, own: Collection[str], further: Mapping[str, LoadedTarget]) -> bool:
    if not row.targets:
        return loaded.name in own
    return any((further[name].name if name in further else name) == loaded.name for name in row.targets)


def _further(document: Document, suite: Suite, own: Collection[str]) -> dict[str, LoadedTarget]:
    """Targets that only rows name, as they name them. Raises `Malformed` for one that there is not."""
    found: dict[str, LoadedTarget] = {}
    for i, row in enumerate(suite.row):
        for name in row.targets:
            if name in own or name in found:
                continue
            try:
                found[name] = load_target(find_target(name, beside=document.path.parent))
            except UnknownName as error:
                hint = did_you_mean(nearest(name, [*own, *shipped_targets()]))
                raise document.malformed(
                    ("row", i, "targets"), f"no target is named {name!r}{hint}"
                ) from error
    return found


def _applies(document: Document, index: int, row: Row, fitting: Fitting) -> bool:
    """Whether the target has the sites and processes that the row names. A row that names its targets
    must fit them: raises `Malformed`."""
    missing = fitting.missing()
    if missing is not None and row.targets:
        key, problem = missing
        raise document.malformed(("row", index, *key), problem)
    return missing is None


def select(scenarios: Iterable[Scenario], patterns: Iterable[str]) -> tuple[Scenario, ...]:
    """The scenarios that any of the names or globs matches; all of them for no pattern.

    Raises `UnknownName` for a pattern that matches nothing.
    """
    scenarios = tuple(scenarios)
    patterns = tuple(patterns)
    if not patterns:
        return scenarios
    names = [scenario.name for scenario in scenarios]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownName("scenario", pattern, names, remedy="`wedge list` prints them all")
    return tuple(s for s in scenarios if any(fnmatchcase(s.name, pattern) for pattern in patterns))


def targets(path: Path) -> tuple[str, ...]:
    """The names of a suite's targets, those that only rows name included, as the suite gives them. Raises
    `Malformed`."""
    suite = read(path).convert(Suite)
    return tuple(dict.fromkeys([*suite.suite.targets, *(name for row in suite.row for name in row.targets)]))
