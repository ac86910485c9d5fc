"""Which of the target's processes is which."""

from __future__ import annotations

import re
from collections.abc import Mapping

from faults.agents import AgentLink
from faults.errors import FaultsError, NotAnswered, ProcessGone, UnknownSelector
from faults.model import Selector

_ASK_WITHIN_S = 1.0


class Processes:
    """The agents that are connected, and the names by which their processes are asked for."""

    def __init__(self, named: Mapping[str, Selector]) -> None:
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
        """An agent has said hello."""
        if link not in self._links:
            self._links.append(link)
            self._ever.add(link.info.pid)

    def remove(self, link: AgentLink) -> None:
        """Its connection has ended."""
        if link in self._links:
            self._links.remove(link)
        self._imported.pop(link, None)

    def selector(self, wanted: str | int | Selector | None) -> Selector:
        """The selector that is meant: itself, by its name, by a pid, or the main process. Raises
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
                answer = await link.ask({"do": "imported", "names": [module]}, within_s=_ASK_WITHIN_S)
            except (NotAnswered, ProcessGone):
                return False
            known.update(answer["names"])
        return module in known
