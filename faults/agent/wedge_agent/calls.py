"""Intercept the calls of a Python callable, wherever it is called from, and restore it again.

A site is `module:qualname`. The attribute is replaced on its owner (a module or a class) and under every
other module's name for the same object. A module that is not imported yet is patched once it is. References
captured elsewhere (in a closure, a default, a bound method in a list) are not patched.
"""

from __future__ import annotations

import functools
import inspect
import sys
from difflib import get_close_matches

from .protocol import UNKNOWN_SITE, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Protocol

    Sync = Callable[[Callable[[], Any]], Any]
    Async = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

    class Interceptor(Protocol):
        """The interface through which calls reach a fault."""

        notes: list[str]
        details: dict[str, Any]

        def count_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            """Count a call; True if the fault is to act on it."""

        def bind_signature(self, function: object) -> None:
            """Learn the names of the arguments of what will be called. Raises Refused."""

        def undo(self, action: Callable[[], object]) -> None:
            """Have `action` called at release."""

        def fail(self, kind: str, message: str, near: list[str] | None = None) -> None:
            """Report, after arming, that the fault cannot work here."""

    Layer = tuple[Interceptor, Sync, Async]

_ABSENT = object()

_patches: dict[int, Patch] = {}


def install(site: str, layer: Layer, absent: Callable[..., Any] | None) -> None:
    """Patch `site`, now or as soon as its module is imported. Raises Refused.

    A method that the class does not have is added with `absent` as its original, if that is given.
    """
    module_name, colon, qualname = site.partition(":")
    if not (colon and module_name and qualname):
        raise Refused(UNKNOWN_SITE, "it is not of the form module:qualname")
    from .imports import imported, require_findable, when_imported

    fault = layer[0]
    module = imported(module_name)
    if module is not None:
        _patch(module, qualname, layer, absent)
        return
    require_findable(module_name)

    def patch_late(late: Any) -> None:
        try:
            _patch(late, qualname, layer, absent)
        except Refused as refusal:
            fault.fail(refusal.kind, refusal.message, refusal.near)

    fault.undo(when_imported(module_name, patch_late))
    fault.details["awaits_import"] = module_name
    fault.notes.append(f"{module_name} is not imported yet; it will be patched when it is")


def _patch(module: Any, qualname: str, layer: Layer, absent: Callable[..., Any] | None) -> None:
    fault = layer[0]
    owner, name, raw, original = _resolve(module, qualname, absent)
    patch = _patches.get(id(original))
    if patch is None or (inspect.isclass(owner) and name not in vars(owner)):
        patch = Patch(original)
    fault.bind_signature(patch.original)
    fault.undo(lambda: patch.remove(layer))
    patch.add(layer, owner, name, raw)


class Patch:
    """A replacement for one callable, in place while at least one fault needs it.

    Faults on the same site share it, with the last one armed outermost, so they can be released in any order.
    """

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.wrapper = self._wrapped()
        self._layers: tuple[Layer, ...] = ()
        self._places: list[tuple[Any, str, Any, Any]] = []  # owner, name, what was there, what is there now

    def _wrapped(self) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return self._through(self._layers, args, kwargs)

        async def task_wrapper(*args: Any, **kwargs: Any) -> Any:
            return await self._through_task(self._layers, args, kwargs)

        chosen: Callable[..., Any] = task_wrapper if inspect.iscoroutinefunction(self.original) else wrapper
        try:
            return functools.wraps(self.original)(chosen)
        except (AttributeError, TypeError):  # a callable object without the attributes of a function
            return chosen

    def _through(self, layers: tuple[Layer, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for at in range(len(layers) - 1, -1, -1):
            fault, sync, _ = layers[at]
            if fault.count_call(args, kwargs):
                return sync(functools.partial(self._through, layers[:at], args, kwargs))
        return self.original(*args, **kwargs)

    async def _through_task(
        self, layers: tuple[Layer, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        for at in range(len(layers) - 1, -1, -1):
            fault, _, coroutine = layers[at]
            if fault.count_call(args, kwargs):
                return await coroutine(functools.partial(self._through_task, layers[:at], args, kwargs))
        return await self.original(*args, **kwargs)

    def add(self, layer: Layer, owner: Any, name: str, raw: Any) -> None:
        """Add a fault, and put the patch in place if it is not there yet. Raises Refused."""
        self._layers = (*self._layers, layer)
        if self._places:
            return
        _patches[id(self.wrapper)] = self
        if inspect.isclass(owner):
            self._replace(owner, name, owner.__dict__.get(name, _ABSENT), _as_attribute(raw, self.wrapper))
            return
        self._replace(owner, name, self.original, self.wrapper)
        for module, alias in _names_of(self.original):
            self._replace(module, alias, self.original, self.wrapper)

    def _replace(self, owner: Any, name: str, before: Any, after: Any) -> None:
        try:
            setattr(owner, name, after)
        except (AttributeError, TypeError) as error:
            raise Refused(UNKNOWN_SITE, f"{name} cannot be replaced: {error}") from None
        self._places.append((owner, name, before, after))

    def remove(self, layer: Layer) -> None:
        """Remove a fault, and the patch with the last of them.

        Raises RuntimeError if other code has replaced the patch since; that replacement stays.
        """
        self._layers = tuple(other for other in self._layers if other is not layer)
        if self._layers:
            return
        _patches.pop(id(self.wrapper), None)
        theirs = []
        while self._places:
            owner, name, before, after = self._places.pop()
            if vars(owner).get(name, _ABSENT) is not after:
                theirs.append(name)
            elif before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        for module, alias in _names_of(
            self.wrapper
        ):  # what was imported by name while the patch was in place
            setattr(module, alias, self.original)
        if theirs:
            raise RuntimeError(f"{', '.join(theirs)} was replaced by somebody else meanwhile, and is left so")


def _names_of(value: Any) -> list[tuple[Any, str]]:
    """Every module's names for an object."""
    found = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(names, dict):
            found += [(module, name) for name, held in list(names.items()) if held is value]
    return found


def _resolve(
    module: Any, qualname: str, absent: Callable[..., Any] | None
) -> tuple[Any, str, Any, Callable[..., Any]]:
    """The owner, the attribute's name, what the owner (or its class's bases) stores, and the function in
    it.
    """
    *path, name = qualname.split(".")
    owner = module
    for at, part in enumerate(path):
        owner = _attribute(owner, part, ".".join([module.__name__, *path[:at]]))
    if absent is not None:
        if not inspect.isclass(owner):
            raise Refused(UNKNOWN_SITE, f"{'.'.join(path)} is no class")
        if not hasattr(owner, name):
            return owner, name, absent, absent
    found = _attribute(owner, name, ".".join([module.__name__, *path]))
    if not (inspect.isclass(owner) or inspect.ismodule(owner)):
        raise Refused(UNKNOWN_SITE, f"{'.'.join(path)} is an object; a site's owner is a module or a class")
    if inspect.isclass(found):
        raise Refused(
            UNKNOWN_SITE, f"{qualname} is a class; name one of its methods", [f"{qualname}.__init__"]
        )
    raw = found
    if inspect.isclass(owner):
        raw = next(vars(base)[name] for base in owner.__mro__ if name in vars(base))
    original = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    if not callable(original):
        raise Refused(UNKNOWN_SITE, f"{qualname} is a {type(original).__name__}, which cannot be called")
    return owner, name, raw, original


def _attribute(owner: Any, name: str, where: str) -> Any:
    try:
        return inspect.getattr_static(owner, name)
    except AttributeError:
        found = getattr(owner, name, _ABSENT)  # a module's __getattr__, a metaclass
        if found is not _ABSENT:
            return found
        raise Refused(UNKNOWN_SITE, f"{where} has no {name!r}", get_close_matches(name, dir(owner))) from None


def _as_attribute(raw: Any, wrapper: Callable[..., Any]) -> Any:
    """What to store in a class so that the wrapper is bound in the same way as the original."""
    if isinstance(raw, classmethod):
        return classmethod(wrapper)
    if isinstance(raw, staticmethod) or not hasattr(type(raw), "__get__"):
        return staticmethod(wrapper)
    return wrapper
