"""The judge's own errors, as one tree. Every message names the remedy or the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

WEDGE_PACKAGES = frozenset(
    ["anyio", "grpc_tools", "h11", "hdrh", "httptools", "httpx", "jinja2", "psutil", "pyhdrh", "rich", "yaml"]
)
"""What the extra `wedge` installs, by the names that are imported."""


_LINES_SHOWN = 6


class ScenariosError(Exception):
    """Anything the judge raises on purpose. The message is one line fit for a terminal."""


class CouldNotRun(ScenariosError):
    """The run cannot start or continue, and reached no verdict: exit code 2."""


class Malformed(CouldNotRun):
    """An invalid TOML file. `line` is 1-based, None if unknown; `key` is dotted."""

    def __init__(self, path: Path, line: int | None, key: str, problem: str) -> None:
        self.path, self.line, self.key, self.problem = path, line, key, problem
        place = f"{path}:{line}" if line else str(path)
        super().__init__(f"{place}: {key}: {problem}" if key else f"{place}: {problem}")


class UnknownName(CouldNotRun):
    """A scenario, target, suite or call that does not exist. `nearest` are the names it may have meant."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, remedy: str) -> None:
        self.what, self.name = what, name
        self.nearest = nearest(name, known)
        super().__init__(f"no {what} named {name!r}{did_you_mean(self.nearest)} ({remedy})")


class TargetFailed(CouldNotRun):
    """The target did not start, or a client beside it did not. `log` is the end of what it wrote, `detail`
    the problem with the last line of that.
    """

    def __init__(self, target: str, problem: str, log: Iterable[str] = ()) -> None:
        self.target, self.problem, self.log = target, problem, tuple(log)
        last = next((line.strip() for line in reversed(self.log) if line.strip()), "")
        self.detail = problem + (f"; its last words: {last}" if last else "")
        super().__init__(f"target {target}: {self.detail}")

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of the log, for below the message; none where it has said no more than one."""
        lines = tuple(line for line in self.log if line.strip())[-_LINES_SHOWN:]
        return lines if len(lines) > 1 else ()


class TargetEnded(TargetFailed):
    """The target ended by itself, or its command left for the background before it was ready."""


class SetupFailed(ScenariosError):
    """A call that had to succeed (set-up, warm-up, verification) did not; the scenario is unproven."""


class ProberFailed(ScenariosError):
    """The prober's process ended, or stopped reporting, so nothing can be said about the target."""


def missing_package(error: ModuleNotFoundError) -> str | None:
    """The package of the extra `wedge` that is not installed; None where something else could not be
    imported.
    """
    package = (error.name or "").partition(".")[0]
    return package if package in WEDGE_PACKAGES else None


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three known names that `name` may have been meant to be, best first."""
    return tuple(difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5))


def did_you_mean(names: tuple[str, ...]) -> str:
    """`; did you mean a or b?`, or '' without similar names."""
    return f"; did you mean {' or '.join(names)}?" if names else ""


class CallFailed(ScenariosError):
    """The call ended without its expected answer; the message is the server's."""
