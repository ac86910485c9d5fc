"""Read a stored report, with a one-line error for everything that can be wrong with the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from scenarios.errors import CouldNotRun
from scenarios.judge.histogram import Histogram, UnreadableHistogram
from scenarios.judge.observation import series_states
from scenarios.record import SCHEMA, Distribution, Report, ScenarioRecord, decode


class UnreadableReport(CouldNotRun):
    """A file that cannot be read as a report. `path` is as given, `problem` is one line."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, " ".join(problem.split())
        super().__init__(f"{path}: {self.problem}")


class _Header(msgspec.Struct):
    schema: object = None


def load(path: Path) -> Report:
    """Read a report written by `wedge run --json`. For a scenario without `states` the judge derives them.
    Raises `UnreadableReport`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableReport(path, f"cannot be read: {error.strerror or error}") from error
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
    except msgspec.ValidationError as error:
        raise UnreadableReport(path, f"is not a wedge report: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableReport(path, f"is not JSON: {error}") from error
    if schema is None:
        raise UnreadableReport(path, f'is JSON, but not a wedge report: it has no "schema": "{SCHEMA}"')
    if schema != SCHEMA:
        raise UnreadableReport(path, f"has schema {schema!r}; this version of wedge reads {SCHEMA!r}")
    try:
        report = decode(data)
    except msgspec.ValidationError as error:
        raise UnreadableReport(path, f"does not follow {SCHEMA}: {error}") from error
    for where, distribution in _distributions(report):
        try:
            Histogram.decode(distribution.hdr)
        except UnreadableHistogram as error:
            raise UnreadableReport(
                path, f"{where}: `hdr` is not a histogram of this schema: {error}"
            ) from error
    return replace(report, scenarios=tuple(map(_with_states, report.scenarios)))


def _with_states(record: ScenarioRecord) -> ScenarioRecord:
    return record if record.states else replace(record, states=series_states(record))


def _distributions(report: Report) -> Iterable[tuple[str, Distribution]]:
    """Everything in it that has a histogram, and where it stands."""
    for target, by_series in report.pooled.items():
        for series, pooled in by_series.items():
            yield f"pooled, {target}, {series}", pooled.baseline
            yield f"pooled, {target}, {series}", pooled.faulted
    for scenario in report.scenarios:
        for phase in ("baseline", "faulted", "recovered"):
            for series, latency in getattr(scenario.phases, phase).items():
                if latency.hdr:
                    yield f"{scenario.name}, {phase}, {series}", latency
