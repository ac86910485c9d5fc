"""Finds the target's processes by selector, and says why one of them has no agent.

Processes with an agent come first: one without is meant only where none with an agent matches. It can be
named as a parent, and for faults that act from outside.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from faults import procfs
from faults.agent import AGENT_DIRECTORY, AGENT_VARIABLE, OLDEST_PYTHON
from faults.agent.wedge_agent.protocol import FindImported, Imported, Refused
from faults.agent_link import AgentLink
from faults.errors import FaultsError, NoSuchProcess, NotAnswered, NotOpen, ProcessGone, UnknownSelector
from faults.model import ProcessInfo, Selector

_ASK_WITHIN_S = 1.0
_LOOK_EVERY_S = 0.02
_TOLD, _PIDS_TOLD, _SHOWN = 6, 4, 60
_FLAGS_THAT_IGNORE = {"I": "its environment", "E": "its environment", "S": "`sitecustomize`"}
_FLAGS_WITH_ARGUMENT = "WXQ"
_VERSION = re.compile(r"python(\d)\.(\d+)")
_HELPER = re.compile(r"\b(resource_tracker|forkserver|semaphore_tracker) import main\b")
_MOMENT_S = 2.0
"""A process above which there is none with an agent is the main one if it was launched itself, or has lived
for so long."""

T = TypeVar("T")


class Processes:
    """The connected agents, and the names of selectors for their processes.

    `launched` gives the processes that should have an agent, `commands` those of them that were launched
    themselves. Nothing can connect until `is_open` is set.
    """

    def __init__(
        self,
        named: Mapping[str, Selector],
        launched: Callable[[], Iterable[int]] = tuple[int, ...],
        commands: Callable[[], Iterable[int]] = tuple[int, ...],
    ) -> None:
        self.is_open = False
        self._launched, self._commands = launched, commands
        self._named: dict[str, Selector] = {}
        self.name(named)
        self._links: list[AgentLink] = []
        self._ever: set[int] = set()
        self._imported: dict[AgentLink, set[str]] = {}

    def name(self, named: Mapping[str, Selector]) -> None:
        """Add names, or change what they mean. Raises FaultsError, UnknownSelector."""
        self._named |= named
        for name, selector in named.items():
            self._check(name, selector)

    def _check(self, name: str, selector: Selector) -> None:
        if selector.cmdline is not None:
            try:
                re.compile(selector.cmdline)
            except re.error as error:
                raise FaultsError(f"selector {name!r}: cmdline is no regular expression: {error}") from None
        seen, parent = {name}, selector.parent
        while parent is not None:
            if parent not in self._named:
                raise UnknownSelector(parent, self._named)
            if parent in seen:
                raise FaultsError(
                    f"selector {name!r} is its own parent's parent; name one that is not below it"
                )
            seen.add(parent)
            parent = self._named[parent].parent

    @property
    def links(self) -> tuple[AgentLink, ...]:
        """The agents that have said hello and are still there, in that order."""
        return tuple(self._links)

    def add(self, link: AgentLink) -> None:
        """Count the process of an agent that has said hello."""
        if link not in self._links:
            self._links.append(link)
            self._ever.add(link.info.pid)

    def remove(self, link: AgentLink) -> None:
        """Forget the process of an agent whose connection has ended."""
        if link in self._links:
            self._links.remove(link)
        self._imported.pop(link, None)

    def selector(self, wanted: str | int | Selector | None) -> Selector:
        """The selector for `wanted`: itself, a name, a pid, or None for the main process. Raises
        UnknownSelector.
        """
        if wanted is None:
            return Selector(main=True)
        if isinstance(wanted, int):
            return Selector(pid=wanted)
        if isinstance(wanted, Selector):
            self._check("the selector", wanted)
            return wanted
        if wanted in self._named:
            return self._named[wanted]
        if wanted == "main":
            return Selector(main=True)
        raise UnknownSelector(wanted, [*self._named, "main"])

    async def wait_matching(self, selector: Selector, *, timeout_s: float) -> list[AgentLink]:
        """The agents whose processes match, as soon as there is one. Raises NoSuchProcess, NotOpen."""
        return await self._wait(self.matching, selector, timeout_s)

    async def wait_processes(self, selector: Selector, *, timeout_s: float) -> list[ProcessInfo]:
        """The processes that match, with an agent or without. Raises NoSuchProcess, NotOpen."""
        return await self._wait(self.matching_processes, selector, timeout_s)

    async def _wait(
        self, matching: Callable[[Selector], Awaitable[list[T]]], selector: Selector, timeout_s: float
    ) -> list[T]:
        if not self.is_open:
            raise NotOpen
        give_up = time.monotonic() + timeout_s
        while not (found := await matching(selector)):
            if time.monotonic() >= give_up:
                seen = tell_apart((link.info.pid, _title(link.info)) for link in self.links)
                without = await self._matching_without_agent(selector)
                raise NoSuchProcess(str(selector), seen, self._without_agent(without), timeout_s)
            await asyncio.sleep(_LOOK_EVERY_S)
        return found

    def _without_agent(self, matching: Iterable[ProcessInfo]) -> list[str]:
        """The processes that match, or else all that run Python, each with why it has no agent."""
        known = {link.info.pid for link in self.links}
        pids = [process.pid for process in matching] or [
            pid for pid in self._launched() if pid not in known and procfs.runs_python(pid)
        ]
        return [f"{pid} ({_shortened(' '.join(procfs.argv(pid)))}): {why_no_agent(pid)}" for pid in pids]

    async def matching(self, selector: Selector) -> list[AgentLink]:
        """The agents whose processes match now; one that cannot answer counts as importing what it did
        before.
        """
        return [link for link in self.links if await self._matches(link.info, link, selector)]

    async def matching_processes(self, selector: Selector) -> list[ProcessInfo]:
        """The processes that match now: those with an agent or, where there are none, those without."""
        if with_agent := await self.matching(selector):
            return [link.info for link in with_agent]
        return await self._matching_without_agent(selector)

    async def _matching_without_agent(self, selector: Selector) -> list[ProcessInfo]:
        known = {link.info.pid for link in self.links}
        found = [process for pid in self._launched() if pid not in known and (process := _described(pid))]
        return [process for process in found if await self._matches(process, None, selector)]

    async def _matches(self, process: ProcessInfo, link: AgentLink | None, selector: Selector) -> bool:
        return (
            (selector.pid is None or process.pid == selector.pid)
            and (selector.cmdline is None or any(re.search(selector.cmdline, t) for t in _titles(process)))
            and (selector.main is None or self._is_main(process, link) is selector.main)
            and (selector.pid is not None or not _is_helper(process, selector.cmdline))
            and (selector.port is None or procfs.listens(process.pid, selector.port))
            and (selector.parent is None or await self._is_below(process, link, self._named[selector.parent]))
            and (
                selector.imports is None or (link is not None and await self._imports(link, selector.imports))
            )
        )

    def _is_main(self, process: ProcessInfo, link: AgentLink | None) -> bool:
        launched_itself = process.pid in self._commands()
        if link is None:  # a wrapper (a shell, a launcher) is not what it starts
            return launched_itself and not any(process.pid in other.ancestors for other in self.links)
        if self._ever.intersection(link.ancestors):
            return False
        return launched_itself or procfs.age_s(process.started) >= _MOMENT_S

    async def _is_below(self, process: ProcessInfo, link: AgentLink | None, parent: Selector) -> bool:
        above = link.ancestors if link is not None else procfs.ancestors(process.pid)
        return any(other.pid in above for other in await self.matching_processes(parent))

    async def _imports(self, link: AgentLink, module: str) -> bool:
        known = self._imported.setdefault(link, set())
        if module not in known:
            try:
                answer = await link.ask(FindImported(names=[module]), Imported, within_s=_ASK_WITHIN_S)
            except (NotAnswered, ProcessGone, Refused):
                return False
            known.update(answer.names)
        return module in known


def _described(pid: int) -> ProcessInfo | None:
    """A process as the kernel knows it; None if it has ended."""
    found = procfs.stat(pid)
    if found is None:
        return None
    return ProcessInfo(pid, found.ppid, procfs.argv(pid), "", found.started, procfs.executable(pid))


def _title(process: ProcessInfo) -> str:
    """What ps(1) shows of it; what it was started with if it has ended."""
    return " ".join(procfs.argv(process.pid) or process.argv) or process.executable


def _titles(process: ProcessInfo) -> tuple[str, ...]:
    return " ".join(process.argv), _title(process), procfs.name(process.pid)


def _is_helper(process: ProcessInfo, cmdline: str | None) -> bool:
    """Whether it is a helper of multiprocessing, unless the selector names it. What the fork server forks has
    the fork server's own command line, and is no helper."""
    found = _HELPER.search(" ".join(process.argv))
    if found is None or (cmdline is not None and found[1] in cmdline):
        return False
    return found[1] != "forkserver" or procfs.argv(process.ppid) != process.argv


def tell_apart(processes: Iterable[tuple[int, str]]) -> list[str]:
    """Processes, given with their titles, in a few words each that show what differs: without the words that
    all begin with and, where there are many, those that differ only in numbers together.
    """
    given = [(pid, title.split(" ")) for pid, title in processes]
    groups: dict[str, list[tuple[int, list[str]]]] = {}
    for pid, words in given:
        words[0] = Path(words[0]).name
        kind = re.sub(r"\d+", "0", " ".join(words)) if len(given) > _TOLD else str(pid)
        groups.setdefault(kind, []).append((pid, words))
    columns = zip(*(words for _, words in given), strict=False)
    same = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    told = []
    for group in list(groups.values())[:_TOLD]:
        more = f" and {len(group) - _PIDS_TOLD} more" if len(group) > _PIDS_TOLD else ""
        words = group[0][1]
        title = " ".join(["…", *words[same:]] if len(given) > 1 and same > 1 else words)
        told.append(f"{', '.join(str(pid) for pid, _ in group[:_PIDS_TOLD])}{more} ({_shortened(title)})")
    return [*told, *([f"{len(groups) - _TOLD} more"] if len(groups) > _TOLD else [])]


def _shortened(title: str) -> str:
    return title if len(title) <= _SHOWN else f"{title[: _SHOWN - 1]}…"


def why_no_agent(pid: int) -> str:
    """The first reason found that keeps the agent out of the process, in words that follow the process's
    name."""
    if not procfs.runs_python(pid):
        return "it runs no Python; only faults that act from outside (process.*) reach it"
    version = _version(pid)
    if version is not None and version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"its Python is {version[0]}.{version[1]}, and the agent needs {oldest}"
    for flag in _flags(procfs.argv(pid)):
        if flag in _FLAGS_THAT_IGNORE:
            return f"it was started with -{flag}, which ignores {_FLAGS_THAT_IGNORE[flag]}"
    environment = procfs.environment(pid)
    if environment is None:
        return "its environment may not be read"
    if AGENT_VARIABLE not in environment:
        return (
            f"it was started without {AGENT_VARIABLE}, as a parent does that makes up its child's environment"
        )
    if str(AGENT_DIRECTORY) not in environment.get("PYTHONPATH", "").split(":"):
        return "it was started with another PYTHONPATH, without the agent's directory"
    return "its agent has not reported: it has only just started, or closed the agent's connection"


def _version(pid: int) -> tuple[int, int] | None:
    for path in (Path(procfs.executable(pid)).name, *procfs.mapped_files(pid)):
        if match := _VERSION.search(path):
            return int(match[1]), int(match[2])
    return None


def _flags(argv: tuple[str, ...]) -> str:
    """The letters of the interpreter's own flags: those before its script, -c or -m (python(1))."""
    letters, at = "", 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-":
        if not argv[at].startswith("--"):
            for n, letter in enumerate(argv[at][1:], 1):
                if letter in "cm":
                    return letters
                letters += letter
                if letter in _FLAGS_WITH_ARGUMENT:
                    at += n == len(argv[at]) - 1  # the argument is the next word
                    break
        at += 1
    return letters
