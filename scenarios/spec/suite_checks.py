"""What must hold in a suite file whatever its targets are, told with the line and the key."""

from __future__ import annotations

import re
from collections.abc import Iterable

from scenarios.errors import did_you_mean, nearest
from scenarios.spec.document import Document, Key
from scenarios.spec.scenario import Scenario
from scenarios.spec.suite import Row, Suite


def check(document: Document, suite: Suite) -> None:
    """Raises `Malformed`."""
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
    """Keys that do not go together, or a regex that is none."""
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
