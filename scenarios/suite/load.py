"""Load suites, multiply rows by targets, and select scenarios by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from scenarios.document import Document, read
from scenarios.errors import UnknownName, did_you_mean, nearest
from scenarios.suite.model import Row, Suite
from scenarios.suite.scenario import Scenario
from scenarios.target import LoadedTarget
from scenarios.target import find as find_target
from scenarios.target import load as load_target

SHIPPED = Path(__file__).resolve().parent.parent / "suites"
DEFAULT = "default"
ANY = "any"
V = TypeVar("V")


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
    """A suite and its scenarios, in the order of the file. `target` replaces the suite's targets by one.

    Raises `Malformed` and `UnknownName`.
    """
    document = read(path)
    suite = document.convert(Suite)
    _check(document, suite)
    if target is not None:
        targets = [load_target(find_target(target))]
    else:
        targets = [load_target(find_target(name, beside=path.parent)) for name in suite.suite.targets]
    if not targets:
        raise document.malformed(("suite", "targets"), "is empty, and no --target was given")
    scenarios = tuple(
        _scenario(document, suite, i, row, loaded)
        for loaded in targets
        for i, row in enumerate(suite.row)
        if applies(row, loaded)
    )
    return suite, scenarios


def applies(row: Row, loaded: LoadedTarget) -> bool:
    """Whether the row is meant for the target, and the target has the site and the process it names."""
    target = loaded.target
    if row.targets and loaded.name not in row.targets:
        return False
    site = row.params.get("site")
    if isinstance(site, str) and ":" not in site and site not in target.sites:
        return False
    return row.process is None or row.process in target.processes


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


def _scenario(document: Document, suite: Suite, index: int, row: Row, loaded: LoadedTarget) -> Scenario:
    target = loaded.target
    calls = {call.name: call for call in target.call}
    wanted = row.traffic.call
    if row.traffic.count and wanted is not None and wanted not in calls:
        hint = did_you_mean(nearest(wanted, calls)) or f"; it has {', '.join(calls) or 'none'}"
        raise document.malformed(
            ("row", index, "traffic"), f"target {loaded.name} has no call named {wanted!r}{hint}"
        )
    call = None
    if row.traffic.count and calls:
        call = calls[wanted] if wanted is not None else next(iter(calls.values()))
    expected = target.expect.get(row.name) or _per_target(row.expect, loaded.name)
    if expected is None:
        raise document.malformed(
            ("row", index, "expect"),
            f'nothing is expected of target {loaded.name}: give it a value, or "*" for any other',
        )
    return Scenario(
        name=f"{row.name}@{loaded.name}",
        row=row,
        target=loaded,
        expected=expected,
        after=_per_target(row.after, loaded.name) or "recovers",
        calls=_per_target(row.calls, loaded.name) or row.traffic.calls,
        call=call,
        controls=tuple(
            f"{row.controls_row or row.name}@{control}" for control in row.controls if expected == "lit"
        ),
        timing=suite.timing,
    )


def _per_target(value: V | Mapping[str, V], target: str) -> V | None:
    if isinstance(value, Mapping):
        return value.get(target, value.get("*"))
    return value


def _check(document: Document, suite: Suite) -> None:
    rows = [row.name for row in suite.row]
    if not rows:
        raise document.malformed(("row",), "there is none: give at least one [[row]]")
    for i, row in enumerate(suite.row):
        if row.name in rows[:i]:
            raise document.malformed(("row", i, "name"), f"a second row is named {row.name!r}")
        if "@" in row.name:
            raise document.malformed(("row", i, "name"), "must not hold an @: the target's name follows it")
        if row.traffic.count < 0:
            raise document.malformed(("row", i, "traffic"), "count must be 0 or more")
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


def targets(path: Path) -> tuple[str, ...]:
    """The names of a suite's own targets, as the suite gives them. Raises `Malformed`."""
    return read(path).convert(Suite).suite.targets
