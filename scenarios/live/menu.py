"""The faults of the catalogue that fit a target, each with a single key."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faults import FaultInfo
from scenarios.spec import Target

RESERVED = "cCnpqrw?"
_FAMILIAR = {
    "gil.hold": ("g", "GIL"),
    "call.stall": ("s", "stall"),
    "process.stop": ("t", "stop"),
    "process.kill": ("k", "kill"),
    "call.delay": ("d", "delay"),
    "call.raise": ("e", "error"),
    "call.drop": ("v", "drop"),
    "call.corrupt": ("x", "corrupt"),
    "loop.block": ("l", "loop"),
    "object.finalizer_stall": ("z", "finaliser"),
    "process.starve": ("h", "starve"),
    "fd.exhaust": ("f", "fds"),
    "memory.pressure": ("m", "memory"),
    "gil.contend": ("G", "contend"),
    "cuda.stream_stall": ("u", "GPU stream"),
    "noop": ("i", "noop"),
    "call.count": ("o", "count"),
}


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """A key and the fault that it arms in the selected process; with `sites`, at one of them."""

    key: str
    word: str
    fault: FaultInfo
    params: Mapping[str, Any] = field(default_factory=dict)
    sites: tuple[str, ...] = ()

    def at(self, site: str | None) -> dict[str, Any]:
        """The parameters, with the site filled in."""
        return {**self.params, "site": site} if site is not None else dict(self.params)


def menu(catalogue: Iterable[FaultInfo], target: Target) -> tuple[MenuEntry, ...]:
    """The faults that fit, in the order of their importance; those of plugins last, under the keys left.

    A fault fits if it needs no parameter except a site that the target file names. Its variant with the GIL
    held has the same letter in upper case.
    """
    rank = list(_FAMILIAR)
    known = sorted(catalogue, key=lambda fault: rank.index(fault.name) if fault.name in rank else len(rank))
    entries: list[MenuEntry] = []
    for fault in known:
        if (sites := _sites(fault, target)) is None:
            continue
        key, word = _FAMILIAR.get(fault.name) or (_free(fault, entries), fault.name)
        if not key:
            continue
        entries.append(MenuEntry(key, word, fault, {}, sites))
        if any(p.name == "gil" and "held" in p.choices for p in fault.params):
            entries.append(MenuEntry(key.upper(), f"{word}, GIL held", fault, {"gil": "held"}, sites))
    return tuple(entries)


def bar(entries: Sequence[MenuEntry]) -> list[str]:
    """The menu in a few characters per entry: `s/S stall`, with both cases of the letter."""
    big = {entry.key for entry in entries if entry.params.get("gil") == "held"}
    return [
        f"{entry.key}{'/' + entry.key.upper() if entry.key.upper() in big else ''} {entry.word}"
        for entry in entries
        if entry.key not in big
    ]


def _sites(fault: FaultInfo, target: Target) -> tuple[str, ...] | None:
    """The names of the sites it may act on, none where it needs no site; None where it does not fit."""
    if not set(fault.needs) <= set(target.start.needs):  # no target has a relay: the probes go past it
        return None
    required = [parameter for parameter in fault.params if parameter.required]
    if any(parameter.type != "site" for parameter in required):
        return None
    if not required:
        return ()
    of_classes = fault.site_kind == "class"
    return tuple(name for name, site in target.sites.items() if _is_class(site) is of_classes) or None


def _is_class(site: str) -> bool:
    """Whether a site is a class, judged by its spelling: `torch:Tensor` is, `torch.cuda:empty_cache` is
    not."""
    return site.rpartition(":")[2].rpartition(".")[2][:1].isupper()


def _free(fault: FaultInfo, entries: Sequence[MenuEntry]) -> str:
    taken = {*RESERVED, *(key for key, _ in _FAMILIAR.values()), *(entry.key for entry in entries)}
    taken |= {key.upper() for key, _ in _FAMILIAR.values()}
    wanted = [*fault.name.partition(".")[2], *string.ascii_letters]
    return next((letter for letter in wanted if letter.isalpha() and letter not in taken), "")
