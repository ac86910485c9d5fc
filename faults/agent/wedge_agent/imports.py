"""Notice when a module has been imported, without importing anything."""

from __future__ import annotations

import sys
import time
from difflib import get_close_matches
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

from .protocol import UNKNOWN_SITE, Refused
from .unpatched import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any, Callable

    Callback = Callable[[Any], None]

_IMPORT_WITHIN_S = 5.0

_waiting: dict[str, list[Callback]] = {}


def imported(name: str) -> Any:
    """The module, waiting for a thread that is importing it just now; None if nobody has imported it, or
    only for the case that it is used (`importlib.util.LazyLoader`).
    """
    give_up = time.monotonic() + _IMPORT_WITHIN_S
    while True:
        module = sys.modules.get(name)
        if _is_lazy(module):
            return None
        if not is_initializing(module):
            return module
        if time.monotonic() > give_up:
            raise Refused(
                UNKNOWN_SITE, f"{name} is still being imported after {_IMPORT_WITHIN_S:g} s; try again"
            )
        sleep(0.01)


def _is_lazy(module: Any) -> bool:
    return (type(module).__module__, type(module).__name__) == ("importlib.util", "_LazyModule")


def is_initializing(module: Any) -> bool:
    """Whether the module is in sys.modules but has not run to its end yet."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Finder:
    """First on sys.meta_path while a callback waits: it lets the other finders find the module, and learns
    when the module has been executed.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is not _Finder and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    _tell_after(spec)
                    return spec
        return None


def _tell_after(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    if not hasattr(loader, "exec_module"):
        return
    if isinstance(loader, type):  # built-in and frozen modules share one class as their loader
        spec.loader = loader = type(loader.__name__, (loader,), {})  # type: ignore[assignment]
    run = loader.exec_module

    def exec_module(module: Any) -> None:
        del loader.exec_module
        run(module)
        for callback in list(_waiting.get(spec.name, [])):
            callback(module)

    loader.exec_module = staticmethod(exec_module) if isinstance(loader, type) else exec_module


def when_imported(name: str, callback: Callback) -> Callable[[], None]:
    """Call `callback` with module `name` whenever it has been imported, or run again by `importlib.reload`;
    returns how to call that off.
    """
    _waiting.setdefault(name, []).append(callback)
    lazy = sys.modules.get(name)
    if _is_lazy(lazy):
        _tell_after(object.__getattribute__(lazy, "__spec__"))
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)

    def call_off() -> None:
        callbacks = _waiting.get(name, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            _waiting.pop(name, None)
        if not _waiting and _Finder in sys.meta_path:
            sys.meta_path.remove(_Finder)

    return call_off


def require_findable(name: str) -> None:
    """Raise Refused unless an import of `name` would find it; imports nothing to find
    out.
    """
    source_of(name)


def source_of(name: str) -> str | None:
    """The file that an import of `name` would run, or ran; None where there is none. Raises as above."""
    path: Any = None
    source = None
    parts = name.split(".")
    for depth, part in enumerate(parts, 1):
        whole = ".".join(parts[:depth])
        module = sys.modules.get(whole)
        if module is not None and not _is_lazy(module):
            path, source = getattr(module, "__path__", None), getattr(module, "__file__", None)
        else:
            spec = None
            for finder in (BuiltinImporter, FrozenImporter, PathFinder):
                spec = spec or finder.find_spec(whole, path)
            if spec is None:
                raise Refused(UNKNOWN_SITE, f"there is no module {whole!r}", _modules_like(whole, part))
            path, source = spec.submodule_search_locations, spec.origin
        if path is None and depth < len(parts):
            raise Refused(UNKNOWN_SITE, f"{whole!r} is a module, not a package: it has no {parts[depth]!r}")
    return source


def _modules_like(whole: str, part: str) -> list[str]:
    import pkgutil

    parent = whole.rpartition(".")[0]
    known = [name for name in sys.modules if name.rpartition(".")[0] == parent]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if not parent or path:
        known += [(parent + "." if parent else "") + found.name for found in pkgutil.iter_modules(path)]
    return get_close_matches(whole, known)
