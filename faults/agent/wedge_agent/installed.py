"""A fault at a site, from arming to release: what the site names is patched as soon as there is any of it."""

from __future__ import annotations

import os
import sys
from types import FunctionType

from .calls import ReplacedCode, ReplacedName
from .imports import when_imported
from .protocol import Refused
from .sites import Site, copies, remarks, unpicklers
from .unpatched import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .calls import Accepts, Layer, Patch
    from .sites import Found

_ABSENT = object()
_LOCK_WAITS_S = 0.5


def install(site: str, layer: Layer, absent: Callable[..., Any] | None) -> None:
    """Patch all that `site` names, now and as soon as there is more of it. Raises Refused.

    A method that the class does not have is added with `absent` as its original, if that is given.
    """
    installed = Installed(Site(site, absent), layer)
    layer[0].undo(installed.remove)
    installed.begin()


class Installed:
    """One fault at one site: the patches that it is in, and how there come to be more of them."""

    def __init__(self, site: Site, layer: Layer) -> None:
        self._site, self._layer, self._fault = site, layer, layer[0]
        self._patches: list[Patch] = []
        self._places: dict[tuple[int, str], tuple[Any, str, object]] = {}  # owner, name, what was found there
        self._undo: list[Callable[[], object]] = []
        self._over = False

    def begin(self) -> None:
        """Patch what there is. Raises Refused."""
        found = self._site.find()
        for one in found:
            self._fault.notes += remarks(one)
        with _lock:
            for one in found:
                self._add(one)
            self._undo.append(when_imported(self._site.module, self.look_again))
            self._watch_pickles()
            if not found:
                self._wait()

    def _wait(self) -> None:
        """Tell that there is nothing of it yet, and what is waited for."""
        module, awaits_main = self._site.module, self._site.awaits_main()
        self._fault.details["awaits_import"] = module
        if self._site.is_of_main():
            waits = self._site.waits_for_pickle
            why = "does not have it; a pickle may bring it" if waits else "has not defined it yet"
            self._fault.notes.append(f"{module} {why}; it will be patched when it is there")
        else:
            self._fault.notes.append(f"{module} is not imported yet; it will be patched when it is")
        if awaits_main:
            self._watch_multiprocessing()
            self._fault.look_again = self.look_again
        self.look_again()  # it may have come meanwhile

    def look_again(self, module: Any = None) -> None:
        """Patch what has come since, in that module if one is given. Where it has come without what the site
        names, the fault fails.
        """
        with _lock:
            if self._over:
                return
            awaits_main = (
                self._site.awaits_main()
            )  # before it is looked at, so that it cannot come in between
            try:
                found = self._site.by_attributes(module)
                for one in found:
                    self._add(one)
            except Refused as refused:
                if self._patches or awaits_main or self._site.waits_for_pickle:
                    return
                self._fault.fail(refused.kind, refused.message, refused.near)
            else:
                awaits_main = awaits_main and not found
            if not awaits_main:
                self._fault.look_again = None

    def _add(self, found: Found) -> None:
        if found.function is None:
            self._join(ReplacedName.at(found), None, found.original)
            return
        if found.owner is not None:
            held = vars(found.owner).get(found.name, _ABSENT)
            self._places[id(found.owner), found.name] = (found.owner, found.name, held)
        for function in [found.function, *copies(found.function)]:
            self._join(ReplacedCode.of(function), found.accepts, function)

    def _join(self, patch: Patch, accepts: Accepts, called: object) -> None:
        if patch in self._patches:
            return
        self._fault.bind_signature(called)
        self._patches.append(patch)
        patch.add(self._layer, accepts)

    def _watch_pickles(self) -> None:
        """Look at every function that comes out of a pickle which holds its code."""
        for complete in unpicklers():
            self._watch(complete, lambda args: self._look_at(args[0]))

    def _look_at(self, made: Any) -> None:
        with _lock:
            if self._over or type(made) is not FunctionType or not self._site.names(made):
                return
            try:
                self._join(ReplacedCode.of(made), None, made)
            except Refused as refused:
                self._fault.fail(refused.kind, refused.message, refused.near)

    def _watch_multiprocessing(self) -> None:
        """Look again when a child of spawn or forkserver has been given its `__main__`."""

        def watch(module: Any) -> None:
            prepare = getattr(module, "prepare", None)
            if type(prepare) is FunctionType and not self._over:
                self._watch(prepare, lambda _: self.look_again())

        name = "multiprocessing.spawn"
        self._undo.append(when_imported(name, watch))
        watch(sys.modules.get(name))

    def _watch(self, function: FunctionType, then: Callable[[tuple[Any, ...]], object]) -> None:
        patch = ReplacedCode.of(function)
        patch.watch(then)
        self._undo.append(lambda: patch.unwatch(then))

    def remove(self) -> None:
        """Take the fault out of the way.

        Raises RuntimeError when somebody else has replaced a patch since; that is left as it is.
        """
        theirs = []
        with _lock:
            self._over = True
            self._fault.look_again = None
            while self._undo:
                self._undo.pop()()
            while self._patches:
                theirs += self._patches.pop().remove(self._layer)
            for owner, name, held in self._places.values():
                if vars(owner).get(name, _ABSENT) is not held:
                    theirs.append(name)
            self._places.clear()
        if theirs:
            raise RuntimeError(f"{', '.join(theirs)} was replaced by somebody else meanwhile, and is left so")


class _Lock:
    """Held around every change to what is patched; not waited for without an end, and forgotten by a forked
    child, in which who had it does not exist.
    """

    def __init__(self) -> None:
        self._pid, self._lock = os.getpid(), RLock()
        self._mine: list[bool] = []

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            _Lock.__init__(self)
        mine = self._lock.acquire(timeout=_LOCK_WAITS_S)
        self._mine.append(mine)

    def __exit__(self, *_: object) -> None:
        if self._mine.pop():
            self._lock.release()


_lock = _Lock()
