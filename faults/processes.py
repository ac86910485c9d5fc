"""Finds the target's processes by selector, and says why one of them has no agent."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from faults import procfs
from faults.agent import AGENT_DIRECTORY, AGENT_VARIABLE, OLDEST_PYTHON
from faults.agent.wedge_agent.protocol import FindImported, Imported, Refused
from faults.agent_link import AgentLink
from faults.errors import FaultsError, NoSuchProcess, NotAnswered, NotOpen, ProcessGone, UnknownSelector
from faults.model import Selector

_ASK_WITHIN_S = 1.0
_LOOK_EVERY_S = 0.02
_FLAGS_THAT_IGNORE = {"I": "its environment", "E": "its environment", "S": "`sitecustomize`"}
_FLAGS_WITH_ARGUMENT = "WXQ"
_VERSION = re.compile(r"python(\d)\.(\d+)")


class Processes:
    """The connected agents, and the names of selectors for their processes.

    `launched` gives the processes that should have an agent. Nothing can connect until `is_open` is set.
    """

    def __init__(
        self, named: Mapping[str, Selector], launched: Callable[[], Iterable[int]] = tuple[int, ...]
    ) -> None:
        self.is_open = False
        self._launched = launched
        self._named = dict(named)
        for name, selector in self._named.items():
            self._check(name, selector)
        self._links: list[AgentLink] = []
        self._ever: set[int] = set()
        self._imported: dict[AgentLink, set[str]] = {}

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
        if not self.is_open:
            raise NotOpen
        give_up = time.monotonic() + timeout_s
        while not (found := await self.matching(selector)):
            if time.monotonic() >= give_up:
                seen = [str(link.info) for link in self.links]
                raise NoSuchProcess(str(selector), seen, self._without_agent(), timeout_s)
            await asyncio.sleep(_LOOK_EVERY_S)
        return found

    def _without_agent(self) -> list[str]:
        known = {link.info.pid for link in self.links}
        return [
            f"{pid} ({' '.join(procfs.argv(pid))[:80]}): {why_no_agent(pid)}"
            for pid in self._launched()
            if pid not in known and procfs.runs_python(pid)
        ]

    async def matching(self, selector: Selector) -> list[AgentLink]:
        """The agents whose processes match now; one that cannot answer counts as importing what it did
        before.
        """
        return [link for link in self.links if await self._matches(link, selector)]

    async def _matches(self, link: AgentLink, selector: Selector) -> bool:
        info = link.info
        return (
            (selector.pid is None or info.pid == selector.pid)
            and (selector.cmdline is None or re.search(selector.cmdline, " ".join(info.argv)) is not None)
            and (not selector.main or not self._ever.intersection(link.ancestors))
            and (selector.parent is None or await self._is_below(link, self._named[selector.parent]))
            and (selector.imports is None or await self._imports(link, selector.imports))
        )

    async def _is_below(self, link: AgentLink, parent: Selector) -> bool:
        above = [other for other in self.links if other.info.pid in link.ancestors]
        return any([await self._matches(other, parent) for other in above])

    async def _imports(self, link: AgentLink, module: str) -> bool:
        known = self._imported.setdefault(link, set())
        if module not in known:
            try:
                answer = await link.ask(FindImported(names=[module]), Imported, within_s=_ASK_WITHIN_S)
            except (NotAnswered, ProcessGone, Refused):
                return False
            known.update(answer.names)
        return module in known


def why_no_agent(pid: int) -> str:
    """The first reason found that keeps the agent out of the process, in words that follow the process's
    name."""
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
